"""Flat and quantized indexes against a few lines of numpy."""

import threading

import numpy as np
import pytest
from elsewhere import digest_of
from hypothesis import given
from hypothesis import strategies as st
from polmrs import rag
from polmrs.errors import ArrayError, NonFiniteError, UsageError
from rag.made import KINDS, best, clustered, digest, few_by_few, filled, recall, scores

METRICS = ["ip", "cosine", "l2"]


@pytest.mark.method("rag.index")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("queries", [1, 3, 17])
def test_flat_finds_what_numpy_finds(metric, queries):
    vectors, asked = clustered(700, 48), clustered(queries, 48, seed=1)
    hits = filled(vectors, metric=metric, kind=rag.Flat()).search(asked, 10)
    wanted = best(metric, asked, vectors, 10)
    assert np.array_equal(np.stack(hits.ids), wanted)
    assert np.array_equal(
        np.stack(hits.scores), np.take_along_axis(scores(metric, asked, vectors), wanted, 1)
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_quantized_misses_hardly_anything_and_scores_exactly(metric, bits):
    vectors, asked = clustered(5000, 96), clustered(200, 96, seed=1)
    index = filled(vectors, metric=metric, kind=rag.Quantized(bits=bits))
    wanted, every = best(metric, asked, vectors, 10), scores(metric, asked, vectors)
    for hits in (index.search(asked, 10), few_by_few(index, asked, 10)):
        assert recall(hits, wanted) >= 0.998
        for row, (ids, found) in enumerate(zip(hits.ids, hits.scores, strict=True)):
            assert np.array_equal(found, every[row, ids])
            assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("dim", [1, 5, 37, 130])
def test_any_length_will_do(kind, dim):
    vectors, asked = clustered(300, dim), clustered(20, dim, seed=1)
    hits = filled(vectors, metric="l2", kind=kind).search(asked, 5)
    assert recall(hits, best("l2", asked, vectors, 5)) >= 0.97


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_a_stored_vector_finds_itself(kind, metric):
    vectors = clustered(400, 40)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = filled(vectors, metric=metric, kind=kind).search(vectors, 1)
    assert np.concatenate(hits.ids).tolist() == list(range(400))


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_narrow_storage_is_exact_for_what_is_stored(storage):
    torch = pytest.importorskip("torch")
    vectors, asked = clustered(300, 33), clustered(9, 33, seed=1)
    stored = torch.from_numpy(vectors).to(getattr(torch, storage)).float().numpy()
    for kind in (rag.Flat(storage=storage), rag.Quantized(storage=storage, bits=8)):
        index = filled(vectors, metric="l2", kind=kind)
        assert np.array_equal(index.vectors([7, 3]), stored[[7, 3]])
        assert np.array_equal(np.stack(index.search(asked, 7).ids), best("l2", asked, stored, 7))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_tensors_of_any_float_type_come_in(dtype):
    torch = pytest.importorskip("torch")
    given_ = torch.from_numpy(clustered(50, 16)).to(getattr(torch, dtype))
    index = rag.Index(16, metric="ip", kind=rag.Flat())
    index.add(torch.arange(50), given_)
    assert np.array_equal(index.vectors(range(50)), given_.float().numpy())
    assert index.search(given_[3], 50).ids.shape == (50,)


def test_a_batch_answers_as_its_queries_do_alone():
    vectors, asked = clustered(2000, 64), clustered(40, 64, seed=1)
    for kind in KINDS:
        index = filled(vectors, kind=kind)
        together = index.search(asked, 10)
        for row, query in enumerate(asked):
            alone = index.search(query, 10)
            if kind == rag.Quantized():  # signs, which may miss what the 8-bit codes of a batch do not
                assert (together.scores[row] >= alone.scores).all()
            else:
                assert np.array_equal(alone.ids, together.ids[row])
                assert np.array_equal(alone.scores, together.scores[row])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_batch_misses_nothing_that_its_parts_find(kind):
    vectors, asked = clustered(2000, 64), clustered(40, 64, seed=1)
    index = filled(vectors, kind=kind)
    whole = index.search(asked, 10)
    for size in (8, 13):  # both are batches, so nothing changes
        parts = [index.search(asked[first : first + size], 10) for first in range(0, 40 - size, size)]
        ids = np.concatenate([hits.ids for hits in parts])
        assert np.array_equal(ids, np.stack(whole.ids)[: len(ids)])


@given(st.data())
def test_add_replaces_and_delete_forgets(data):
    """The twin is a dictionary."""
    kind = data.draw(st.sampled_from(KINDS))
    index, twin = rag.Index(3, metric="ip", kind=kind), {}
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for _ in range(data.draw(st.integers(1, 6))):
        ids = data.draw(st.lists(st.sampled_from("abcdefgh"), max_size=6))
        if data.draw(st.booleans()):
            vectors = rng.integers(-9, 9, (len(ids), 3)).astype(np.float32)
            index.add(ids, vectors)
            twin.update(zip(ids, vectors, strict=True))
        else:
            assert index.delete(ids) == len(twin.keys() & set(ids))
            twin = {name: vector for name, vector in twin.items() if name not in ids}
        assert len(index) == len(twin)
        query = rng.standard_normal(3).astype(np.float32)
        hits = index.search(query, 20)
        assert set(hits.ids) == twin.keys()
        for name, score in zip(hits.ids, hits.scores, strict=True):
            assert score == np.float32(query.astype(np.float64) @ twin[name].astype(np.float64))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_deleted_is_never_found_and_the_living_move_together(kind):
    vectors = clustered(3000, 24)
    index = filled(vectors, metric="l2", kind=kind)
    before = index.stats()["bytes"]
    for first in range(0, 2600, 200):
        index.delete(range(first, first + 200))
        hits = index.search(vectors[first : first + 50], 3)
        assert min(map(min, hits.ids)) >= first + 200
    assert len(index) == 400
    assert index.stats()["bytes"] < before / 3
    assert recall(index.search(vectors[2600:], 1), np.arange(2600, 3000)[:, None]) >= 0.99


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_order_of_insertion_changes_nothing(kind):
    vectors, asked = clustered(1500, 32), clustered(30, 32, seed=1)
    order = np.random.default_rng(0).permutation(1500)
    one = filled(vectors, kind=kind).search(asked, 10)
    two = filled(vectors[order], ids=order, kind=kind).search(asked, 10)
    for left, right in zip(one.scores, two.scores, strict=True):
        assert (
            np.mean(left == right) >= 0.9 if isinstance(kind, rag.Quantized) else np.array_equal(left, right)
        )


def test_equal_scores_come_in_the_order_of_insertion():
    vectors = np.repeat(clustered(5, 8), 100, axis=0)
    for kind in KINDS:
        hits = filled(vectors, kind=kind).search(vectors[250], 30)
        assert hits.ids.tolist() == list(range(200, 230))


def test_fewer_vectors_than_k_are_fewer_hits():
    index = rag.Index(4)
    assert index.search(np.ones(4, np.float32), 5).ids.tolist() == []
    assert [len(ids) for ids in index.search(np.ones((3, 4), np.float32), 5).ids] == [0, 0, 0]
    index.add(["a", "b"], np.eye(2, 4, dtype=np.float32))
    hits = index.search(np.array([1, 0.5, 0, 0], np.float32), 5)
    assert hits.ids == ["a", "b"]
    assert index.search(np.array([1, 0.5, 0, 0], np.float32), 5, min_score=0.5).ids == ["a"]


def test_zero_vectors_and_duplicates_are_no_trouble():
    vectors = np.zeros((100, 12), np.float32)
    for kind in KINDS:
        for metric in METRICS:
            hits = filled(vectors, kind=kind, metric=metric).search(np.zeros(12, np.float32), 7)
            assert hits.scores.tolist() == [0] * 7


def test_bad_input_says_what_is_wrong():
    index = rag.Index(4)
    index.add(["a"], np.ones((1, 4), np.float32))
    with pytest.raises(ArrayError, match=r"vectors: shape \(1, 5\) is not \[n, 4\]"):
        index.add(["b"], np.ones((1, 5), np.float32))
    with pytest.raises(ArrayError, match=r"vectors: shape \(2, 4\) is not \(1, 4\) for 1 ids"):
        index.add(["b"], np.ones((2, 4), np.float32))
    with pytest.raises(NonFiniteError, match=r"vectors\[0, 2\]: NaN is not a finite number"):
        index.add(["b"], np.array([[1, 2, np.nan, 4]], np.float32))
    with pytest.raises(ArrayError, match=r"vectors\[0\]: norm .* is above 1e18"):
        index.add(["b"], np.full((1, 4), 3e18, np.float32))
    with pytest.raises(NonFiniteError, match=r"queries\[0, 0\]: inf"):
        index.search(np.array([np.inf, 0, 0, 0], np.float32))
    with pytest.raises(UsageError, match="this index has strings for ids, got integers"):
        index.add([1], np.ones((1, 4), np.float32))
    with pytest.raises(UsageError, match="'b' is not in the index"):
        index.vectors(["a", "b"])
    with pytest.raises(UsageError, match=r"ids: 1\.5 "):
        index.delete([1.5])
    for odd in ([2**70], [-(2**63) - 1], np.array([2**63], np.uint64), [np.uint64(2**63)]):
        with pytest.raises(UsageError, match=r"ids: -?\d+ is not in \[-2\^63, 2\^63\)"):
            index.delete(odd)
    with pytest.raises(UsageError, match="k: 0"):
        index.search(np.ones(4, np.float32), 0)
    with pytest.raises(UsageError, match="metric: 'dot' is not one of 'ip', 'cosine', 'l2'"):
        rag.Index(4, metric="dot")
    with pytest.raises(UsageError, match="dim: 0"):
        rag.Index(0)
    with pytest.raises(UsageError, match="bits: 2"):
        rag.Index(4, kind=rag.Quantized(bits=2))
    with pytest.raises(UsageError, match="margin: 0"):
        rag.Index(4, kind=rag.Quantized(margin=0))
    assert (len(index), "a" in index, "b" in index) == (1, True, False)


@pytest.mark.parametrize(
    "environment",
    [
        {"POLMRS_SIMD": "avx2"},
        {"POLMRS_SIMD": "scalar"},
        {"POLMRS_NUM_THREADS": "1"},
        {"POLMRS_NUM_THREADS": "5"},
    ],
    ids=str,
)
def test_instruction_sets_and_threads_change_no_bit(environment):
    assert digest_of("rag.made", **environment) == digest()


def test_readers_beside_a_writer_see_whole_states():
    """Every vector of a state has the same score, so a mixture of two would show."""
    index = rag.Index(8, metric="ip")
    ones = np.ones((300, 8), np.float32)
    index.add(range(300), ones)
    torn, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            hits = index.search(ones[0], 300)
            if len(hits.scores) != 300 or len(set(hits.scores.tolist())) != 1:
                torn.append(hits.scores)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for state in range(2, 60):
        index.add(range(300), state * ones)
    stop.set()
    for reader in readers:
        reader.join()
    assert not torn


@pytest.mark.parametrize("kind", [*KINDS[1:], rag.HNSW(), rag.HNSW(codes="bf16"), rag.IVF()], ids=str)
@pytest.mark.parametrize("metric", METRICS)
def test_estimates_are_near_the_scores_and_look_at_codes_alone(kind, metric):
    vectors, asked = clustered(2000, 64), clustered(40, 64, seed=1)
    index = filled(vectors, kind=kind, metric=metric)
    wanted, every = best(metric, asked, vectors, 10), scores(metric, asked, vectors)
    hits = index.search(asked, 10, rescore=False, effort=500)
    assert recall(hits, wanted) >= (0.85 if "bits=4" in str(kind) else 0.97)
    tolerance = 0.3 if "bits=4" in str(kind) else 0.03
    for row, (ids, found) in enumerate(zip(hits.ids, hits.scores, strict=True)):
        assert (np.diff(found) <= 0).all()
        assert np.allclose(found, every[row, ids], atol=tolerance * np.abs(every[row]).max())


def test_flat_has_no_estimates():
    index = filled(clustered(300, 20), kind=rag.Flat())
    one, two = (index.search(clustered(5, 20, seed=1), 10, rescore=rescore) for rescore in (True, False))
    assert np.array_equal(np.stack(one.scores), np.stack(two.scores))


def test_recall_on_real_embeddings(data):
    folder = data / "minilm"
    if not folder.is_dir():
        pytest.skip("no minilm embeddings in the folder of test data")
    vectors, asked = (np.load(folder / f"{name}_f16.npy").astype(np.float32) for name in ("docs", "queries"))
    wanted = np.stack(filled(vectors, kind=rag.Flat()).search(asked, 10).ids)
    for bits, floor, floor_alone in ((1, 0.9999, 0.999), (4, 0.999, 0.999), (8, 0.9999, 0.9999)):
        index = filled(vectors, kind=rag.Quantized(bits=bits))
        assert recall(index.search(asked, 10), wanted) >= floor, bits
        assert recall(few_by_few(index, asked, 10), wanted) >= floor_alone, bits
