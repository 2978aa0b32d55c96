"""Threads, forks and instruction sets: the same bits, and nobody waits."""

import hashlib
import multiprocessing
import threading
import time

import numpy as np
from data.made import documents, instructions
from elsewhere import digest_of
from polmrs import data


def digest():
    """One hash over what every kernel that uses threads or vectors makes of a large input."""
    seen = hashlib.sha256()
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 3000, 1600)
    tokens = data.TokenStore.flat(
        rng.integers(0, 50000, int(lengths.sum())).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)])
    )
    rows = rng.permutation(len(tokens))
    batch = data.collate_pairs(tokens, prompts=rows, chosen=rows[::-1].copy(), rejected=np.roll(rows, 1))
    for array in (batch.ids, batch.target, batch.cu_seqlens):
        seen.update(array)
    texts = documents(600)
    pairs, jaccard = data.near_pairs(texts, threshold=0.4)
    seen.update(pairs)
    seen.update(jaccard)
    seen.update(data.near_duplicates(texts, threshold=0.6).first)
    seen.update(data.rouge_l(texts, texts[::-1], stemmer=True).fmeasure)
    seen.update(data.novel(instructions(300)).partner)
    seen.update(repr(data.contamination(texts, texts[:50], n=5, least=5)).encode())
    for plan in (
        data.pack(lengths, 4096, seed=1),
        data.balance(lengths, 7),
        data.token_batches(lengths, 9000, seed=2),
    ):
        seen.update(plan.order)
        seen.update(plan.bounds)
    return seen.hexdigest()


def test_one_thread_and_many_and_every_instruction_set_give_the_same_bits():
    settings = [{"POLMRS_NUM_THREADS": n} for n in ("1", "2", "5")] + [{"POLMRS_SIMD": "scalar"}]
    assert len({digest_of("data.test_threads", **setting) for setting in settings}) == 1


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
    texts = instructions(2500)
    span = []

    def call():
        begun = time.perf_counter()
        data.novel(texts, prune=False)
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
