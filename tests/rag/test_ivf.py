"""Lists around centres: recall, filters, growth, files, and more data than memory may hold."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from elsewhere import digest_of
from polmrs import rag
from polmrs.errors import UsageError
from rag.made import best, clustered, filled, recall, scores

METRICS = ["ip", "cosine", "l2"]


def digest():
    """Hits of lists that were made, added to, and thinned out."""
    index = filled(clustered(3000, 33), kind=rag.IVF(probes=8), metric="l2")
    index.add(range(2900, 3300), clustered(400, 33, seed=2))
    index.delete(range(0, 3000, 3))
    hits = index.search(clustered(60, 33, seed=1), 10)
    state = np.concatenate(hits.ids).tobytes() + np.concatenate(hits.scores).tobytes()
    return hashlib.sha256(state).hexdigest()


@pytest.mark.method("rag.index")
@pytest.mark.parametrize("metric", METRICS)
def test_lists_find_what_numpy_finds_and_score_it_exactly(metric):
    vectors, asked = clustered(6000, 64), clustered(100, 64, seed=1)
    index = filled(vectors, metric=metric, kind=rag.IVF())
    wanted, every = best(metric, asked, vectors, 10), scores(metric, asked, vectors)
    assert recall(index.search(asked, 10), wanted) >= 0.95
    hits = index.search(asked, 10, effort=1000)
    assert recall(hits, wanted) >= 0.995
    for row, (ids, found) in enumerate(zip(hits.ids, hits.scores, strict=True)):
        assert np.array_equal(found, every[row, ids])
        assert (np.diff(found) <= 0).all()


def test_more_probes_find_more():
    vectors, asked = clustered(4000, 48), clustered(100, 48, seed=1)
    index = filled(vectors, kind=rag.IVF(lists=100))
    wanted = best("cosine", asked, vectors, 10)
    found = [recall(index.search(asked, 10, effort=effort), wanted) for effort in (1, 8, 100)]
    assert found[0] + 0.1 < found[1] < found[2]
    assert found[2] >= 0.995


@pytest.mark.parametrize("kind", [rag.IVF(), rag.IVF(lists=1), rag.IVF(lists=5000, probes=1)], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_a_stored_vector_finds_itself(kind, metric):
    vectors = clustered(1000, 40)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = filled(vectors, metric=metric, kind=kind).search(vectors, 1)
    assert np.concatenate(hits.ids).tolist() == list(range(1000))


def test_rows_that_come_in_parts_are_found_as_well():
    vectors, asked = clustered(3000, 32), clustered(100, 32, seed=1)
    wanted = best("cosine", asked, vectors, 10)
    index = rag.Index(32, kind=rag.IVF(probes=16))
    for first in range(0, 3000, 70):
        index.add(range(first, min(first + 70, 3000)), vectors[first : first + 70])
    assert recall(index.search(asked, 10), wanted) >= 0.9
    index.delete(range(1600))
    assert len(index) == 1400
    wanted = 1600 + best("cosine", asked, vectors[1600:], 10)
    assert recall(index.search(asked, 10), wanted) >= 0.9


@pytest.mark.parametrize("share", [0.004, 0.05, 0.3])
def test_a_filter_has_k_hits_if_k_pass(share):
    vectors, asked = clustered(4000, 32), clustered(50, 32, seed=1)
    passes = np.random.default_rng(0).random(4000) < share
    index = rag.Index(32, kind=rag.IVF(probes=16))
    index.add(range(4000), vectors, [{"in": bool(one)} for one in passes])
    hits = index.search(asked, 10, filter={"in": True})
    rows = np.flatnonzero(passes)
    wanted = rows[best("cosine", asked, vectors[rows], 10)]
    assert all(len(ids) == 10 and passes[ids].all() for ids in hits.ids)
    assert recall(hits, wanted) >= 0.9
    assert all(len(ids) == len(rows) for ids in index.search(asked, 4000, filter={"in": True}).ids)


def test_copies_and_zeros_are_no_trouble():
    vectors = np.repeat(clustered(5, 8), 200, axis=0)
    index = filled(vectors, kind=rag.IVF())
    assert index.search(vectors[450], 30).ids.tolist() == list(range(400, 430))
    for metric in METRICS:
        hits = filled(np.zeros((300, 8), np.float32), metric=metric, kind=rag.IVF()).search(np.zeros(8), 5)
        assert hits.scores.tolist() == [0] * 5


@pytest.mark.parametrize(
    "environment",
    [{"POLMRS_NUM_THREADS": "1"}, {"POLMRS_NUM_THREADS": "5"}, {"POLMRS_SIMD": "scalar"}],
    ids=str,
)
def test_threads_and_instruction_sets_change_no_bit(environment):
    assert digest_of("rag.test_ivf", **environment) == digest()


def test_an_addition_that_is_stopped_adds_nothing():
    vectors = np.tile(clustered(6000, 128), (10, 1))
    index = filled(vectors[:6000], kind=rag.IVF(lists=50))

    def stop(done, total):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        index.add(range(5000, 60_000), vectors[5000:], progress=stop)
    assert len(index) == 6000
    assert np.concatenate(index.search(vectors[:6000], 1).ids).tolist() == list(range(6000))


def test_parameters_out_of_range_are_refused():
    for kind, message in [
        (rag.IVF(lists=0), "lists: 0 is not in 1"),
        (rag.IVF(probes=0), "probes: 0"),
        (rag.IVF(margin=-1), "margin: -1"),
    ]:
        with pytest.raises(UsageError, match=message):
            rag.Index(4, kind=kind)


SMALL = """
import resource, sys
import numpy as np
from polmrs import rag
path, limit = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(1)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(2 * limit, np.uint8)
except MemoryError:
    print("no memory")
index = rag.Index.open(path, mmap=True)
asked = rng.standard_normal((50, index.dim)).astype(np.float32)
hits = index.search(asked, 10)
print(" ".join(map(str, np.concatenate(hits.ids).tolist())))
"""


def test_a_file_that_is_larger_than_memory_may_be_is_searched_from_disk(tmp_path):
    """`RLIMIT_DATA` bounds all memory that is not a file's, the interpreter's own included, to half of the file."""
    vectors = np.random.default_rng(0).standard_normal((40_000, 768), np.float32)
    index = filled(vectors, kind=rag.IVF(lists=64))
    index.save(tmp_path / "a")
    size = (tmp_path / "a").stat().st_size
    asked = np.random.default_rng(1).standard_normal((50, 768)).astype(np.float32)
    wanted = np.concatenate(index.search(asked, 10).ids).tolist()
    child = subprocess.run(
        [sys.executable, "-c", SMALL, tmp_path / "a", str(size // 2)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert child.stdout.split() == ["no", "memory", *map(str, wanted)], child.stderr


def test_recall_of_lists_on_real_embeddings(data):
    folder = data / "minilm"
    if not folder.is_dir():
        pytest.skip("no minilm embeddings in the folder of test data")
    vectors, asked = (np.load(folder / f"{name}_f16.npy").astype(np.float32) for name in ("docs", "queries"))
    index = filled(vectors, metric="ip", kind=rag.IVF())
    wanted = np.stack(filled(vectors, metric="ip", kind=rag.Flat()).search(asked, 10).ids)
    assert recall(index.search(asked, 10), wanted) >= 0.95
    assert recall(index.search(asked, 10, effort=256), wanted) >= 0.998
