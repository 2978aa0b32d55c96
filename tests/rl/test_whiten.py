"""Moments and whitening: the twin, merging, masks."""

from functools import reduce

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import ArrayError, NonFiniteError
from rl import twin
from rl.batches import batches


@given(batches(columns=1))
def test_moments_are_the_twin_bit_for_bit(batch):
    (x,) = batch.columns
    seen = rl.moments(x, batch.mask)
    assert (seen.n, seen.mean, seen.m2) == twin.moments(x, batch.mask)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [None, 0.0, 0.6])
def test_moments_of_many_blocks_are_the_twin_bit_for_bit(dtype, share):
    random = np.random.default_rng(0)
    x = (random.normal(3.0, 2.0, 3 * 65_536 + 1_234)).astype(dtype)
    mask = None if share is None else random.random(len(x)) < share
    seen = rl.moments(x, mask)
    assert (seen.n, seen.mean, seen.m2) == twin.moments(x, mask)
    kept = x.astype(np.float64) if mask is None else x[mask].astype(np.float64)
    if len(kept):
        assert np.isclose(seen.variance(), kept.var(ddof=1), rtol=1e-12)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=20), min_size=1, max_size=6))
def test_ranks_together_are_one_rank(parts):
    merged = reduce(rl.Moments.merge, [rl.moments(np.array(part)) for part in parts])
    whole = rl.moments(np.array([x for part in parts for x in part]))
    assert merged.n == whole.n
    assert np.isclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    assert np.isclose(merged.m2, whole.m2, rtol=1e-9, atol=1e-9)


@given(batches(columns=1), st.booleans(), st.sampled_from([0.0, 1.0]))
def test_whitening_is_the_formula_bit_for_bit(batch, center, ddof):
    (x,) = batch.columns
    n, mean, m2 = twin.moments(x, batch.mask)
    if 0 < n <= ddof:
        with pytest.raises(ArrayError, match="elements outside the mask, but a variance of ddof"):
            rl.whiten(x, batch.mask, ddof=ddof)
        return
    scale = 1.0 / np.sqrt(m2 / (n - ddof) + 1e-8) if n else 0.0
    expected = (x.astype(np.float64) - mean) * scale + (0.0 if center else mean)
    if batch.mask is not None:
        expected = np.where(np.asarray(batch.mask, bool), expected, 0.0)
    assert np.array_equal(rl.whiten(x, batch.mask, ddof=ddof, center=center), expected.astype(batch.dtype))


def test_what_stands_in_a_hole_never_matters():
    x, mask = np.array([1.0, np.nan, 3.0, np.inf]), np.array([1, 0, 1, 0], bool)
    assert rl.whiten(x, mask, eps=0.0, ddof=0).tolist() == [-1.0, 0.0, 1.0, 0.0]


def test_two_ranks_whiten_like_one():
    x = np.random.default_rng(0).normal(size=100)
    whole = rl.whiten(x)
    both = rl.moments(x[:30]).merge(rl.moments(x[30:]))
    halves = np.concatenate([rl.whiten(x[:30].copy(), moments=both), rl.whiten(x[30:].copy(), moments=both)])
    assert np.allclose(halves, whole, rtol=1e-13, atol=1e-13)


def test_any_shape_is_kept():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert rl.whiten(x, np.ones((3, 4), bool)).shape == (3, 4)


def test_a_mask_that_keeps_nothing_gives_zeros():
    assert not rl.whiten(np.ones(5), np.zeros(5, bool)).any()


def test_what_cannot_be_whitened_is_refused():
    with pytest.raises(
        ArrayError, match="x: 1 elements outside the mask, but a variance of ddof 1 needs more"
    ):
        rl.whiten(np.ones(1))
    with pytest.raises(ArrayError, match="the variance is 0 and eps is 0; take eps > 0"):
        rl.whiten(np.ones(3), eps=0.0)
    with pytest.raises(NonFiniteError, match=r"x\[1\]: inf"):
        rl.whiten(np.array([1.0, np.inf]))
