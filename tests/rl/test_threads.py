"""Threads, forks, the GIL and instruction sets: the same bits, and nobody waits."""

import hashlib
import multiprocessing
import subprocess
import threading
import time

import numpy as np
import polmrs.rl as rl
import pytest
from elsewhere import digest_of


def batch(tokens=900_000):
    random = np.random.default_rng(7)
    lengths = random.integers(0, 3000, 2 * tokens // 3000)
    lengths[-1] += tokens - lengths.sum() if lengths.sum() < tokens else 0
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    n = int(cu_seqlens[-1])
    columns = [random.normal(size=n).astype(np.float32) for _ in range(3)]
    return columns, cu_seqlens, random.random(n) < 0.8


def digest():
    """One hash over what every kernel that uses threads or vectors makes of a large batch."""
    (a, b, c), cu_seqlens, mask = batch()
    small = np.clip(c, -1, 1)
    seen = hashlib.sha256()
    for holes in ("carry", "decay", "ignore", "reset"):
        settings = {"gamma": 0.99, "mask": mask, "holes": holes}
        for out in rl.gae(a, b, cu_seqlens, lam=0.9, lam_value=1.0, **settings):
            seen.update(out)
        seen.update(rl.discounted_returns(a, cu_seqlens, **settings))
        for out in rl.vtrace(small, a, b, cu_seqlens, **settings):
            seen.update(out)
    for x in (a, a.astype(np.float64)):
        seen.update(rl.whiten(x, mask))
        seen.update(repr(rl.moments(x)).encode())
        for estimator in ("k1", "k2", "k3", "abs"):
            seen.update(rl.kl_estimate(x, b.astype(x.dtype), mask, estimator=estimator))
    return seen.hexdigest()


def test_one_thread_and_many_give_the_same_bits():
    assert len({digest_of("rl.test_threads", POLMRS_NUM_THREADS=str(n)) for n in (1, 2, 3, 8)}) == 1


def test_every_instruction_set_gives_the_same_bits():
    assert len({digest_of("rl.test_threads", POLMRS_SIMD=name) for name in ("avx512", "avx2", "scalar")}) == 1


def test_a_pool_of_no_threads_is_refused_where_threads_are_wanted():
    with pytest.raises(subprocess.CalledProcessError) as failed:
        digest_of("rl.test_threads", POLMRS_NUM_THREADS="none")
    assert "POLMRS_NUM_THREADS: 'none' is not a number of threads" in failed.value.stderr


def _in_child(connection):
    connection.send(digest())


def test_a_forked_child_computes_after_its_parent_did():
    expected = digest()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(theirs,))
    child.start()
    assert ours.poll(120), "the child waits for threads that it does not have"
    assert ours.recv() == expected
    child.join(10)
    assert child.exitcode == 0


def test_another_python_thread_goes_on_during_a_call():
    rewards = np.ones(20_000_000, np.float32)
    cu_seqlens = np.array([0, len(rewards)])
    out = np.empty_like(rewards)
    span = []

    def call():
        begun = time.perf_counter()
        rl.discounted_returns(rewards, cu_seqlens, gamma=0.5, out=out)
        span.extend((begun, time.perf_counter()))

    worker = threading.Thread(target=call)
    worker.start()
    ticks = []
    while worker.is_alive():
        ticks.append(time.perf_counter())
    worker.join()
    begun, ended = span
    quarter = (ended - begun) / 4
    inside = sum(begun + quarter < tick < ended - quarter for tick in ticks)
    print(f"{inside} ticks in the middle half of a call of {ended - begun:.3f} s")
    assert inside > 10  # with the GIL held there would be none
