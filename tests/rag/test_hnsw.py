"""The graph: recall, deletes, duplicates, filters, files, and the same links for any number of threads."""

import hashlib
import threading

import numpy as np
import pytest
from elsewhere import digest_of
from polmrs import rag
from polmrs.errors import UsageError
from rag.made import best, clustered, filled, recall, scores

METRICS = ["ip", "cosine", "l2"]
CODES = ["bf16", "int8"]


def digest():
    """Hits of graphs, and the bytes of one in a file."""
    state = hashlib.sha256()
    for codes in CODES:
        index = filled(clustered(900, 30), kind=rag.HNSW(m=6, ef_construction=40, codes=codes))
        index.add(range(800, 1000), clustered(200, 30, seed=2))
        index.delete(range(600))
        hits = index.search(clustered(60, 30, seed=1), 10)
        state.update(np.stack(hits.ids).tobytes() + np.stack(hits.scores).tobytes())
    return state.hexdigest()


@pytest.mark.method("rag.index")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("codes", CODES)
def test_a_walk_finds_what_numpy_finds_and_scores_it_exactly(metric, codes):
    vectors, asked = clustered(4000, 64), clustered(100, 64, seed=1)
    index = filled(vectors, metric=metric, kind=rag.HNSW(codes=codes))
    wanted, every = best(metric, asked, vectors, 10), scores(metric, asked, vectors)
    assert recall(index.search(asked, 10), wanted) >= 0.98
    hits = index.search(asked, 10, effort=400)
    assert recall(hits, wanted) >= 0.998
    for row, (ids, found) in enumerate(zip(hits.ids, hits.scores, strict=True)):
        assert np.array_equal(found, every[row, ids])
        assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("codes", CODES)
def test_more_effort_finds_more(codes):
    vectors, asked = clustered(3000, 48), clustered(100, 48, seed=1)
    index = filled(vectors, kind=rag.HNSW(m=4, ef_construction=20, codes=codes))
    wanted = best("cosine", asked, vectors, 10)
    found = [recall(index.search(asked, 10, effort=effort), wanted) for effort in (10, 40, 400)]
    assert found[0] + 0.02 < found[1] < found[2]
    assert found[2] > 0.97


@pytest.mark.parametrize("metric", METRICS)
def test_every_vector_finds_itself(metric):
    vectors = clustered(2000, 24)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = filled(vectors, metric=metric, kind=rag.HNSW(m=8)).search(vectors, 1)
    assert (np.concatenate(hits.ids) == np.arange(2000)).mean() >= 0.998


def test_rows_that_come_one_by_one_or_in_parts_are_found_as_well():
    vectors, asked = clustered(1500, 32), clustered(100, 32, seed=1)
    wanted = best("cosine", asked, vectors, 10)
    for sizes in ([1] * 1500, [100] * 15, [1499, 1]):
        index = rag.Index(32, kind=rag.HNSW())
        ends = np.cumsum(sizes)
        for first, last in zip(ends - sizes, ends, strict=True):
            index.add(range(first, last), vectors[first:last])
        assert recall(index.search(asked, 10), wanted) >= 0.985


def test_copies_neither_swallow_a_search_nor_hide_each_other():
    """A thousand copies of one text beside other texts: the sink of graphs that link copies to copies."""
    vectors = clustered(2000, 32)
    vectors[500:1500] = vectors[500]
    others = np.r_[0:500, 1500:2000]
    index = filled(vectors, kind=rag.HNSW(m=8))
    hits = index.search(vectors[others], 1)
    assert (np.concatenate(hits.ids) == others).mean() >= 0.998
    hits = index.search(vectors[500], 1000)
    assert sorted(hits.ids.tolist()) == list(range(500, 1500))
    index.delete(range(500, 1499))
    assert index.search(vectors[500], 1).ids.tolist() == [1499]
    index.delete(range(400))
    assert index.search(vectors[500], 1).ids.tolist() == [1499]


@pytest.mark.parametrize("codes", CODES)
def test_deleting_keeps_the_rest_within_reach(codes):
    vectors = clustered(4000, 32)
    index = filled(vectors, metric="l2", kind=rag.HNSW(m=8, codes=codes))
    rng, alive = np.random.default_rng(0), np.arange(4000)
    before = index.stats()["bytes"]
    for _ in range(4):
        gone = rng.choice(alive, len(alive) // 3, replace=False)
        assert index.delete(gone) == len(gone)
        alive = np.setdiff1d(alive, gone)
        hits = index.search(vectors[:300], 10)
        assert set(np.concatenate(hits.ids).tolist()) <= set(alive.tolist())
        wanted = alive[best("l2", vectors[:300], vectors[alive], 10)]
        assert recall(hits, wanted) >= 0.97
    assert index.stats()["bytes"] < before / 2
    assert sorted(index.search(vectors[0], len(alive)).ids.tolist()) == alive.tolist()


def test_a_whole_region_may_go():
    vectors = clustered(3000, 16, clusters=3)
    index = filled(vectors, kind=rag.HNSW(m=4, ef_construction=30))
    near = index.search(vectors[0], 1400, effort=3000).ids
    index.delete(near)
    index.delete(range(0, 3000, 2))
    alive = sorted(set(range(1, 3000, 2)) - set(near.tolist()))
    assert sorted(index.search(vectors[0], 3000).ids.tolist()) == alive


@pytest.mark.parametrize("share", [0.003, 0.05, 0.3, 0.8])
def test_a_filter_has_k_hits_if_k_pass(share):
    vectors, asked = clustered(3000, 32), clustered(50, 32, seed=1)
    passes = np.random.default_rng(0).random(3000) < share
    index = rag.Index(32, kind=rag.HNSW(ef_search=40))
    index.add(range(3000), vectors, [{"in": bool(one)} for one in passes])
    hits = index.search(asked, 10, filter={"in": True})
    rows = np.flatnonzero(passes)
    wanted = rows[best("cosine", asked, vectors[rows], 10)]
    assert all(len(ids) == wanted.shape[1] and passes[ids].all() for ids in hits.ids)
    assert recall(hits, wanted) >= 0.95


def test_all_are_found_if_all_are_wanted():
    vectors = clustered(1200, 20)
    index = filled(vectors, metric="ip", kind=rag.HNSW(m=3, ef_construction=8))
    assert sorted(index.search(vectors[0], 1200).ids.tolist()) == list(range(1200))


@pytest.mark.parametrize("threads", ["1", "5"])
@pytest.mark.parametrize("simd", ["scalar", "avx512"])
def test_the_graph_is_the_same_for_any_number_of_threads(threads, simd):
    assert digest_of("rag.test_hnsw", POLMRS_NUM_THREADS=threads, POLMRS_SIMD=simd) == digest()


def test_the_seed_chooses_the_layers_and_the_file_is_the_same_each_time(tmp_path):
    for number, seed in enumerate([1, 1, 2]):
        filled(clustered(600, 16), kind=rag.HNSW(m=4, seed=seed)).save(tmp_path / str(number))
    files = [(tmp_path / str(number)).read_bytes() for number in range(3)]
    assert files[0] == files[1] != files[2]


def test_an_addition_that_is_stopped_adds_nothing():
    vectors = clustered(3000, 32)
    index = filled(vectors[:500], kind=rag.HNSW(m=8))
    calls = []

    def stop(done, total):
        calls.append((done, total))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        index.add(range(200, 2700), vectors[500:], progress=stop)
    assert calls
    assert 0 < calls[0][0] <= calls[0][1] == 2500 * 32 * 4
    assert len(index) == 500
    hits = index.search(vectors[:500], 1)
    assert np.concatenate(hits.ids).tolist() == list(range(500))
    index.add(range(500, 3000), vectors[500:])
    assert recall(index.search(vectors, 1), np.arange(3000)[:, None]) >= 0.998


def test_a_first_addition_that_is_stopped_leaves_an_empty_index():
    vectors = clustered(3000, 32)
    index = rag.Index(dim=32, kind=rag.HNSW(m=8))

    def stop(*_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        index.add(range(3000), vectors, progress=stop)
    assert len(index) == 0
    index.add(range(500), vectors[:500])
    assert np.concatenate(index.search(vectors[:500], 1).ids).tolist() == list(range(500))


@pytest.mark.parametrize("more", [{}, {"ef_construction": 20}])
def test_a_batch_of_near_twins_is_within_reach(more):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 32), np.float32)
    topic = rng.standard_normal(32) + 0.01 * rng.standard_normal((250, 32))
    index = filled(rows, kind=rag.HNSW(**more))
    index.add(range(4000, 4250), topic.astype(np.float32))
    found = index.search(topic.astype(np.float32), 1, effort=250)
    assert np.concatenate(found.ids).tolist() == list(range(4000, 4250))


def test_no_effort_is_too_large():
    vectors = clustered(300, 16)
    hits = filled(vectors, kind=rag.HNSW(m=4)).search(vectors, 3, effort=2**60)
    assert np.stack(hits.ids)[:, 0].tolist() == list(range(300))


def test_readers_beside_a_writer_see_whole_graphs():
    vectors = clustered(1000, 16)
    index = filled(vectors[:200], kind=rag.HNSW(m=6, ef_construction=30))
    wrong, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            hits = index.search(vectors[:20], 5)
            if any(
                len(ids) != 5 or (np.diff(found) > 0).any()
                for ids, found in zip(hits.ids, hits.scores, strict=True)
            ):
                wrong.append(hits)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for first in range(200, 1000, 20):
        index.add(range(first, first + 20), vectors[first : first + 20])
        index.delete([first - 150, first - 140])
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_parameters_out_of_range_are_refused():
    for kind, message in [
        (rag.HNSW(m=1), "m: 1 is not in 2..=256"),
        (rag.HNSW(ef_construction=0), "ef_construction: 0"),
        (rag.HNSW(ef_search=0), "ef_search: 0"),
        (rag.HNSW(codes="int4"), "int4"),
        (rag.HNSW(seed=-1), "-1"),
    ]:
        with pytest.raises(UsageError, match=message):
            rag.Index(4, kind=kind)
    with pytest.raises(UsageError, match="effort: 0"):
        rag.Index(4, kind=rag.HNSW()).search(np.ones(4, np.float32), effort=0)


def test_a_mapped_graph_finds_without_its_vectors_in_about_a_third_of_the_memory_of_vectors_and_links(
    tmp_path,
):
    vectors, asked = clustered(4000, 384), clustered(100, 384, seed=1)
    index = filled(vectors, kind=rag.HNSW())
    index.save(tmp_path / "a")
    beside_vectors = index.stats()["bytes"] - vectors.nbytes
    in_f32 = vectors.nbytes + 4 * 2 * rag.HNSW().m * len(vectors)  # as in faiss and hnswlib
    assert beside_vectors <= 0.35 * in_f32
    mapped = rag.Index.open(tmp_path / "a", mmap=True)
    assert mapped.stats()["bytes"] < 0.01 * in_f32
    wanted = best("cosine", asked, vectors, 10)
    assert recall(mapped.search(asked, 10, rescore=False, effort=128), wanted) >= 0.98


def test_recall_of_graphs_on_real_embeddings(data):
    folder = data / "minilm"
    if not folder.is_dir():
        pytest.skip("no minilm embeddings in the folder of test data")
    every, asked = (np.load(folder / f"{name}_f16.npy").astype(np.float32) for name in ("docs", "queries"))
    for codes, rows, least in [("bf16", 5000, (0.985, 0.998, 0.99)), ("int8", 20_000, (0.98, 0.998, 0.988))]:
        vectors = every[:rows]
        wanted = np.stack(filled(vectors, metric="ip", kind=rag.Flat()).search(asked, 10).ids)
        index = filled(vectors, metric="ip", kind=rag.HNSW(codes=codes))
        assert recall(index.search(asked, 10), wanted) >= least[0], codes
        assert recall(index.search(asked, 10, effort=300), wanted) >= least[1], codes
        assert recall(index.search(asked, 10, rescore=False, effort=128), wanted) >= least[2], codes
