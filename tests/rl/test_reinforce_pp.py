"""REINFORCE++ and its baseline form are what they are made of."""

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import ArrayError
from rl.batches import batches, grouped


@given(batches(columns=1), st.sampled_from([0.9, 1.0]))
def test_advantages_are_whitened_returns(batch, gamma):
    (rewards,) = batch.columns
    kept = len(rewards) if batch.mask is None else int(np.asarray(batch.mask, bool).sum())
    if kept == 1:
        return
    advantages, returns = rl.reinforce_pp(rewards, batch.cu_seqlens, gamma=gamma, mask=batch.mask)
    assert np.array_equal(
        returns, rl.discounted_returns(rewards, batch.cu_seqlens, gamma=gamma, mask=batch.mask)
    )
    assert np.array_equal(advantages, rl.whiten(returns, batch.mask))


@given(grouped(), st.data())
def test_the_baseline_form_whitens_as_if_each_token_stood_there(batch, data):
    rewards, groups = batch
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=len(groups), max_size=len(groups)))
    scored = ~np.isnan(rewards)
    if sum(length for length, here in zip(lengths, scored, strict=True) if here) < 2:
        return
    ours = rl.reinforce_pp_baseline(rewards, lengths, groups)
    centred = rl.group_advantages(rewards.astype(np.float64), groups, scale="none")
    tokens = rl.whiten(np.repeat(centred, lengths), np.repeat(scored, lengths))
    firsts = np.cumsum([0, *lengths])[:-1]
    assert ours.dtype == rewards.dtype
    assert np.allclose(ours, tokens[firsts], rtol=1e-6, atol=1e-6 if rewards.dtype == np.float32 else 1e-9)
    assert not ours[~scored].any()


def test_a_batch_too_small_to_whiten_is_refused():
    with pytest.raises(ArrayError, match="a variance of ddof 1 needs more"):
        rl.reinforce_pp(np.ones(1), np.array([0, 1]))
