"""Search by meaning and by words at once: the fusion of two searches, and nothing else."""

import numpy as np
import pytest
from polmrs import rag
from polmrs.errors import UsageError
from rag.test_bm25 import texts


def embed(given):
    """Letters counted, which is meaning enough here."""
    return np.array([[text.count(str(digit)) + 0.1 for digit in range(10)] for text in given], np.float32)


def both(n=300, **settings):
    made = rag.Hybrid(rag.Index(10, kind=rag.Flat()), rag.BM25(), embed=embed, **settings)
    documents = texts(n)
    made.add([f"d{one}" for one in range(n)], documents, [{"even": one % 2 == 0} for one in range(n)])
    return made, documents


@pytest.mark.method("rag.retrieve-read")
@pytest.mark.parametrize("fusion", [None, rag.RRF(k=10), rag.WeightedSum(weights=(0.3, 0.7))])
def test_hits_are_the_fusion_of_both_searches(fusion):
    made, _ = both(fusion=fusion, depth=20)
    queries = ["w1 w20 w3", "w101 w7"]
    for filter in (None, {"even": True}):
        hits = made.search(queries, 5, filter=filter)
        parts = (
            made.index.search(embed(queries), 20, filter=filter),
            made.bm25.search(queries, 20, filter=filter),
        )
        wanted = rag.fuse(*parts, fusion=fusion, k=5)
        assert hits.ids == wanted.ids
        assert all(np.array_equal(one, two) for one, two in zip(hits.scores, wanted.scores, strict=True))
        alone = made.search(queries[1], 5, filter=filter)
        assert alone.ids == hits.ids[1]


def test_words_are_found_where_no_vector_is():
    made, _ = both(20)
    words = rag.Hybrid(rag.Index(10), made.bm25, embed=embed)
    assert words.search("w1").ids == made.bm25.search("w1").ids
    assert words.search(["w1", "w2"]).ids == made.bm25.search(["w1", "w2"]).ids


def test_more_hits_than_the_depth_may_be_asked_for():
    made, _ = both(depth=1)
    assert len(made.search("w1", 40).ids) == 40


def test_what_is_deleted_or_replaced_is_so_in_both():
    made, _ = both(20)
    assert made.delete(["d1", "d2"]) == 2
    assert made.delete(filter={"even": True}) == 9
    assert len(made) == len(made.index) == 9
    made.add(["d3"], ["unseen words"], vectors=np.ones((1, 10), np.float32))
    assert made.search("unseen", 1, vectors=np.ones(10, np.float32)).ids == ["d3"]


def test_vectors_must_come_from_somewhere():
    made = rag.Hybrid(rag.Index(2), rag.BM25())
    with pytest.raises(UsageError, match="vectors: none given"):
        made.add(["a"], ["b"])
    made.add(["a"], ["some words"], vectors=np.ones((1, 2), np.float32))
    with pytest.raises(UsageError, match="vectors: none given"):
        made.search("words")
    assert made.search("words", vectors=np.ones(2, np.float32)).ids == ["a"]
    with pytest.raises(UsageError, match="depth: 0"):
        rag.Hybrid(rag.Index(2), rag.BM25(), depth=0)


def test_what_one_index_would_refuse_is_added_to_neither():
    made, _ = both(5)
    for ids, documents, metadata in [
        (["a", "b"], ["one"], None),
        (["a"], [None], None),
        ([7], ["one"], None),
        (["a"], ["one"], [{"$x": 1}]),
    ]:
        with pytest.raises(UsageError):
            made.add(ids, documents, metadata, vectors=np.ones((len(ids), 10), np.float32))
        assert len(made) == len(made.index) == 5
