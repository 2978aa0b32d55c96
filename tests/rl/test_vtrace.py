"""V-trace: the twin, and what it is on policy."""

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import NonFiniteError, UsageError
from rl import twin
from rl.batches import batches, holes, spoiled, unit


@given(batches(columns=3), unit, unit, st.sampled_from([(1.0, 1.0), (2.0, 0.5), (np.inf, np.inf)]), holes)
def test_vtrace_is_the_plain_loop(batch, gamma, lam, limits, convention):
    settings = {"gamma": gamma, "lam": lam, "rho_bar": limits[0], "c_bar": limits[1], "holes": convention}
    batched = {"mask": batch.mask, "bootstrap": batch.bootstrap}
    ours = rl.vtrace(*batch.columns, batch.cu_seqlens, **settings, **batched)
    theirs = twin.vtrace(*batch.columns, batch.cu_seqlens, **settings, **batched)
    # exp may differ in its last place; what it weighs is as large as the sequence's largest product of ratios.
    for mine, its in zip(ours, theirs, strict=True):
        bound = 1e-13 * max(1.0, np.abs(its).max(initial=0.0)) + (
            1e-6 * np.abs(its) if batch.dtype == np.float32 else 0
        )
        assert (np.abs(mine - its) <= bound).all()


@given(batches(), unit, unit)
def test_on_policy_it_is_gae(batch, gamma, lam):
    rewards, values = (column.astype(np.float64) for column in batch.columns)
    settings = {"gamma": gamma, "mask": batch.mask}
    _, targets = rl.vtrace(np.zeros_like(rewards), rewards, values, batch.cu_seqlens, lam=lam, **settings)
    _, returns = rl.gae(rewards, values, batch.cu_seqlens, lam=lam, **settings)
    assert np.allclose(targets, returns, rtol=1e-12, atol=1e-12)


@given(batches(columns=3, masked=True), st.sampled_from(["carry", "decay", "reset"]))
def test_what_stands_in_a_hole_never_matters(batch, convention):
    settings = {"gamma": 0.9, "holes": convention, "mask": batch.mask}
    clean = rl.vtrace(*batch.columns, batch.cu_seqlens, **settings)
    dirty = rl.vtrace(*(spoiled(c, batch.mask, np.nan) for c in batch.columns), batch.cu_seqlens, **settings)
    for one, other in zip(clean, dirty, strict=True):
        assert np.array_equal(one, other)


def test_a_ratio_beyond_the_limit_counts_as_the_limit():
    rewards, values, cu_seqlens = np.ones(2), np.zeros(2), np.array([0, 2])
    limited = rl.vtrace(np.full(2, 5.0), rewards, values, cu_seqlens, gamma=1.0)
    on_policy = rl.vtrace(np.zeros(2), rewards, values, cu_seqlens, gamma=1.0)
    assert np.array_equal(limited, on_policy)


def test_the_trace_may_not_reach_further_than_the_difference():
    with pytest.raises(UsageError, match=r"c_bar: 2 is not in \[0, 1\]"):
        rl.vtrace(np.zeros(1), np.zeros(1), np.zeros(1), np.array([0, 1]), gamma=1.0, c_bar=2.0)


def test_a_nan_is_named():
    with pytest.raises(NonFiniteError, match=r"log_ratios\[1\]: NaN"):
        rl.vtrace(np.array([0.0, np.nan]), np.zeros(2), np.zeros(2), np.array([0, 2]), gamma=1.0)
