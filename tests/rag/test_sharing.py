"""An index that many use at once: threads beside a writer, forked processes, processes that map one file, Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from polmrs import rag
from rag.made import KINDS, clustered, filled

EVERY = [*KINDS, rag.HNSW(m=6, ef_construction=30), rag.IVF(lists=9, probes=9)]


@pytest.mark.parametrize("kind", EVERY, ids=str)
def test_readers_beside_a_writer_see_whole_states(kind, tmp_path):
    """A state has `state` as metadata and in the length of all its vectors, so a mixture of two would show."""
    index = rag.Index(16, metric="ip", kind=kind)
    vectors = clustered(400, 16)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.add(range(400), vectors, [{"state": 1}] * 400)
    index.save(tmp_path / "a")
    torn, stop, reads = [], threading.Event(), [0]

    def read(seed):
        asked = vectors[seed]
        while not stop.is_set():
            hits = index.search(asked, 400)
            own = dict(zip(hits.ids.tolist(), hits.scores.tolist(), strict=True))
            ratios = {
                round(own[row] / float(vectors[row] @ asked))
                for row in (seed, (seed + 7) % 400)
                if row in own
            }
            if len(own) not in (380, 400) or len(ratios) != 1:
                torn.append((len(own), ratios))
            reads[0] += 1

    readers = [threading.Thread(target=read, args=(seed,)) for seed in (3, 50, 99)]
    for reader in readers:
        reader.start()
    for state in range(2, 12):
        index.delete(range(200, 220))
        index.add(range(400), state * vectors, [{"state": state}] * 400)
        index.sync()
    stop.set()
    for reader in readers:
        reader.join()
    assert not torn
    assert reads[0] > 0
    opened = rag.Index.open(tmp_path / "a")
    assert len(opened) == 400
    assert opened.metadata([7]) == [{"state": 11}]


def test_an_index_is_as_it_was_while_an_addition_is_linked():
    vectors, seen = clustered(4000, 64), []
    index = filled(vectors[:1000], kind=rag.HNSW())

    def look(*_):
        seen.append((len(index), index.search(vectors[7], 1).ids.tolist()))

    index.add(range(1000, 4000), vectors[1000:], progress=look)
    assert seen
    assert seen[0] == (1000, [7])
    assert len(index) == 4000


@pytest.mark.parametrize("kind", EVERY, ids=str)
def test_a_forked_process_searches_and_adds(kind):
    vectors = clustered(600, 16)
    index = filled(vectors, kind=kind)
    wanted = np.stack(index.search(vectors[:100], 3).scores)  # on threads, which the child does not have
    child = os.fork()
    if child == 0:
        code = 1
        try:
            index.add(range(600, 700), clustered(100, 16, seed=1))
            index.delete(range(600, 700))
            code = 0 if np.array_equal(np.stack(index.search(vectors[:100], 3).scores), wanted) else 2
        finally:
            os._exit(code)
    for _ in range(600):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(index) == 600


READER = """
import sys, numpy as np
from polmrs import rag
index = rag.Index.open(sys.argv[1], mmap=True)
asked = np.load(sys.argv[2])
for line in sys.stdin:
    print(" ".join(map(str, np.concatenate(index.search(asked, 5).ids).tolist())), flush=True)
"""


def test_processes_share_a_mapped_file_that_is_added_to_and_replaced(tmp_path):
    vectors, asked = clustered(900, 24), clustered(20, 24, seed=1)
    index = filled(vectors[:600], kind=rag.Quantized())
    index.save(tmp_path / "a")
    np.save(tmp_path / "asked.npy", asked)
    command = [sys.executable, "-c", READER, tmp_path / "a", tmp_path / "asked.npy"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    def answer(reader):
        reader.stdin.write("go\n")
        reader.stdin.flush()
        return [int(word) for word in reader.stdout.readline().split()]

    def now():
        return np.concatenate(index.search(asked, 5).ids).tolist()

    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as two:
        before = now()
        assert answer(one) == answer(two) == before
        index.add(range(600, 750), vectors[600:750])
        index.sync()
        assert answer(one) == before
        index.add(range(750, 900), vectors[750:])
        index.save(tmp_path / "a")
        assert answer(one) == answer(two) == before
        with subprocess.Popen(command, **pipes) as three:
            assert answer(three) == now()
            three.stdin.close()
        one.stdin.close()
        two.stdin.close()


STOPPED = """
import numpy as np
from polmrs import rag
index = rag.Index(64, kind=rag.HNSW())
vectors = np.random.default_rng(0).standard_normal((40_000, 64), np.float32)
index.add(range(300), vectors[:300])
print("ready", flush=True)
try:
    index.add(range(40_000), vectors)
except KeyboardInterrupt:
    ids = index.search(vectors[:300], 1).ids
    print("stopped", len(index), np.concatenate(ids).tolist() == list(range(300)), flush=True)
"""


def test_ctrl_c_stops_an_addition_and_leaves_the_index_as_it_was():
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline().split() == ["stopped", "300", "True"]
