"""Rank fusion and MMR against their formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs import rag
from polmrs.errors import ArrayError, UsageError

NAMES = list("abcdefgh")
rankings = st.lists(
    st.lists(st.tuples(st.sampled_from(NAMES), st.floats(-9, 9, width=32)), unique_by=lambda hit: hit[0]),
    min_size=1,
    max_size=4,
)


def ranked(hits):
    hits = sorted(hits, key=lambda hit: -hit[1])
    return rag.Hits([name for name, _ in hits], np.array([score for _, score in hits], np.float32))


@pytest.mark.method("rag.bm25")
@given(rankings)
def test_rrf_adds_one_over_sixty_and_the_rank(made):
    all_ = [ranked(hits) for hits in made]
    fused = rag.fuse(*all_)
    wanted = {
        name: sum(1 / (60 + hits.ids.index(name) + 1) for hits in all_ if name in hits.ids)
        for hits in all_
        for name in hits.ids
    }
    assert set(fused.ids) == set(wanted)
    assert np.allclose(fused.scores, [wanted[name] for name in fused.ids], rtol=1e-6)
    assert (np.diff(fused.scores) <= 0).all()


@given(rankings, st.sampled_from(["min-max", "z-score"]))
def test_a_weighted_sum_scales_each_ranking_first(made, scale):
    all_ = [ranked(hits) for hits in made]
    weights = tuple(1.0 + at for at in range(len(all_)))
    fused = rag.fuse(*all_, fusion=rag.WeightedSum(weights=weights, scale=scale))
    wanted = dict.fromkeys([name for hits in all_ for name in hits.ids], 0.0)
    for weight, hits in zip(weights, all_, strict=True):
        x = hits.scores.astype(float)
        if len(x) == 0:
            continue
        if scale == "min-max":
            x = (x - x.min()) / np.ptp(x) if np.ptp(x) > 0 else np.ones_like(x)
            absent = 0
        else:
            x = (x - x.mean()) / x.std() if x.std() > 0 else np.zeros_like(x)
            absent = x.min()
        for name in wanted:
            wanted[name] += weight * (x[hits.ids.index(name)] if name in hits.ids else absent)
    assert np.allclose(fused.scores, [wanted[name] for name in fused.ids], atol=1e-5)
    assert len(fused.ids) == len(wanted)


def test_batches_are_fused_query_by_query_and_cut():
    one = rag.Hits(
        [np.array([1, 2]), np.array([], np.int64)], [np.ones(2, np.float32), np.ones(0, np.float32)]
    )
    two = rag.Hits([np.array([2, 3]), np.array([9])], [np.ones(2, np.float32), np.ones(1, np.float32)])
    fused = rag.fuse(one, two, k=2)
    assert [ids.tolist() for ids in fused.ids] == [[2, 1], [9]]
    assert fused.scores[0].dtype == np.float32
    assert rag.fuse(one, two, k=2, fusion=rag.RRF(weights=(0, 1))).ids[0].tolist() == [2, 3]


def greedy(relevance, vectors, k, balance):
    """MMR by its definition."""
    x = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    picked = []
    while len(picked) < k:
        left = [one for one in range(len(x)) if one not in picked]
        similar = {one: max((x[one] @ x[j] for j in picked), default=0) for one in left}
        first = not picked
        picked.append(
            max(
                left,
                key=lambda one: (
                    relevance[one] if first else balance * relevance[one] - (1 - balance) * similar[one]
                ),
            )
        )
    return picked


@pytest.mark.parametrize("balance", [0, 0.3, 0.7, 1])
def test_mmr_picks_what_its_definition_picks(balance):
    rng = np.random.default_rng(3)
    vectors, relevance = rng.standard_normal((40, 6)), rng.random(40)
    assert rag.mmr(relevance, vectors, 15, balance=balance).tolist() == greedy(
        relevance, vectors, 15, balance
    )


def test_mmr_of_little_is_all_of_it():
    assert rag.mmr([0.1, 0.3], np.eye(2), 9).tolist() == [1, 0]
    assert rag.mmr([], np.empty((0, 4)), 9).tolist() == []
    assert rag.mmr([0.5, 0.5], np.zeros((2, 3)), 2).tolist() == [0, 1]


def test_equal_scores_are_zero_after_scaling():
    [hits] = [rag.WeightedSum(scale="z-score")([(["a", "b", "c"], np.full(3, 0.1))])]
    assert list(hits[1]) == [0, 0, 0]


def test_what_cannot_be_fused_is_refused():
    one = rag.Hits(["a"], np.ones(1, np.float32))
    with pytest.raises(UsageError, match="nothing to fuse"):
        rag.fuse()
    with pytest.raises(UsageError, match="different numbers of queries"):
        rag.fuse(one, rag.Hits([["a"]], [np.ones(1, np.float32)]))
    with pytest.raises(UsageError, match="weights: 2 for 1 rankings"):
        rag.fuse(one, fusion=rag.RRF(weights=(1, 2)))
    with pytest.raises(UsageError, match="weights: -1 is not at least 0"):
        rag.WeightedSum(weights=(-1,))
    with pytest.raises(UsageError, match="scale: 'softmax' is not one of"):
        rag.WeightedSum(scale="softmax")
    with pytest.raises(UsageError, match=r"balance: 2 is not in \[0, 1\]"):
        rag.mmr([1], np.eye(1), 1, balance=2)
    with pytest.raises(ArrayError, match=r"vectors: shape \(2, 2\) is not \[1, dim\]"):
        rag.mmr([1], np.eye(2), 1)
