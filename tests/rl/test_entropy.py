"""The adaptive entropy coefficient: the formula over each prefix, both directions, the warning."""

import logging

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import NonFiniteError, UsageError
from rl import twin
from rl.batches import batches


@given(batches(columns=1), st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from(["as_printed", "inverse"]))
def test_each_token_weighs_by_the_variance_of_the_rewards_before_it(batch, beta, mode):
    (rewards,) = batch.columns
    ends = np.ones(len(rewards), bool) if batch.mask is None else np.asarray(batch.mask, bool)
    expected = np.full(len(rewards), 0.01)
    for tokens in twin.sequences(batch.cu_seqlens):
        for t in tokens:
            seen = [float(rewards[s]) for s in tokens if s <= t and ends[s]]
            if seen:
                expected[t] = 0.01 * np.exp((-beta if mode == "as_printed" else beta) * np.var(seen))
    ours = rl.adaptive_entropy(
        rewards, batch.cu_seqlens, alpha=0.01, beta=beta, mode=mode, step_ends=batch.mask
    )
    assert np.allclose(ours, expected, rtol=1e-6 if batch.dtype == np.float32 else 1e-11, atol=0)


def test_the_two_directions_start_at_alpha_and_part():
    rewards, cu_seqlens = np.array([0.0, 1.0, 0.0]), np.array([0, 3])
    printed = rl.adaptive_entropy(rewards, cu_seqlens, alpha=0.1, beta=2.0)
    inverse = rl.adaptive_entropy(rewards, cu_seqlens, alpha=0.1, beta=2.0, mode="inverse")
    assert printed[0] == inverse[0] == 0.1
    assert printed[1] < 0.1 < inverse[1]
    assert np.allclose(printed * inverse, 0.01)


def test_rewards_that_never_vary_are_warned_of(caplog):
    rewards = np.array([0.0, 0.0, 1.0, 0.0, 1.0])
    ends = np.array([0, 0, 1, 0, 1], bool)
    with caplog.at_level(logging.WARNING, "polmrs"):
        weights = rl.adaptive_entropy(rewards, np.array([0, 3, 5]), alpha=0.1, beta=2.0, step_ends=ends)
    assert (weights == 0.1).all()
    assert "every weight is alpha = 0.1" in caplog.text
    caplog.clear()
    rl.adaptive_entropy(rewards, np.array([0, 3, 5]), alpha=0.1, beta=2.0)
    assert not caplog.text


def test_what_is_out_of_range_is_refused():
    with pytest.raises(UsageError, match="alpha: -1 is not a finite number, 0 or more"):
        rl.adaptive_entropy(np.ones(1), np.array([0, 1]), alpha=-1.0, beta=1.0)
    with pytest.raises(NonFiniteError, match=r"rewards\[0\]: NaN"):
        rl.adaptive_entropy(np.array([np.nan]), np.array([0, 1]), alpha=1.0, beta=1.0)
