"""Discounted returns: the twin, the holes."""

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import NonFiniteError
from rl import twin
from rl.batches import batches, holes, spoiled, unit


@given(batches(columns=1), unit, holes)
def test_returns_are_the_plain_loop_bit_for_bit(batch, gamma, convention):
    settings = {"gamma": gamma, "holes": convention, "mask": batch.mask, "bootstrap": batch.bootstrap}
    ours = rl.discounted_returns(batch.columns[0], batch.cu_seqlens, **settings)
    theirs = twin.discounted_returns(batch.columns[0], batch.cu_seqlens, **settings)
    assert ours.dtype == batch.dtype
    assert np.array_equal(ours, theirs.astype(batch.dtype))


@given(batches(columns=1, masked=True), st.sampled_from(["carry", "decay", "reset"]))
def test_what_stands_in_a_hole_never_matters(batch, convention):
    (rewards,) = batch.columns
    settings = {"gamma": 0.9, "holes": convention, "mask": batch.mask}
    clean = rl.discounted_returns(rewards, batch.cu_seqlens, **settings)
    dirty = rl.discounted_returns(spoiled(rewards, batch.mask, np.nan), batch.cu_seqlens, **settings)
    assert np.array_equal(clean, dirty)


def test_gamma_one_is_the_sum_from_each_token_on():
    rewards = np.arange(1.0, 6.0)
    returns = rl.discounted_returns(rewards, np.array([0, 2, 5]), gamma=1.0)
    assert returns.tolist() == [3.0, 2.0, 12.0, 9.0, 5.0]


def test_a_long_sum_keeps_its_digits_in_float32():
    rewards = np.full(2_000_000, 0.1, np.float32)
    returns = rl.discounted_returns(rewards, np.array([0, len(rewards)]), gamma=1.0)
    exact = np.float64(np.float32(0.1)) * len(rewards)
    assert abs(returns[0] - exact) / exact < 1e-7  # a float32 running sum is off by 1e-2 here


def test_a_nan_is_named():
    with pytest.raises(NonFiniteError, match=r"rewards\[2\]: NaN is not a finite number"):
        rl.discounted_returns(np.array([1.0, 1.0, np.nan]), np.array([0, 1, 3]), gamma=0.9)
