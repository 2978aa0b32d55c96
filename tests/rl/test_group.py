"""Group-relative advantages, outcome and process form."""

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import ArrayError, NonFiniteError, UsageError
from rl import twin
from rl.batches import batches, grouped, numbers

scales = st.sampled_from(["std", "mad", "none"])


@given(grouped(), scales, st.sampled_from([0, 1]), st.sampled_from([0.0, 1e-6, 1e-4]))
def test_outcome_advantages_are_the_plain_loop_bit_for_bit(batch, scale, ddof, eps):
    rewards, groups = batch
    ours = rl.group_advantages(rewards, groups, scale=scale, ddof=ddof, eps=eps)
    theirs = twin.by_group(rewards, groups, lambda r, _: twin.normalised(r, scale, ddof, eps))
    assert ours.dtype == rewards.dtype
    assert np.array_equal(ours, theirs.astype(rewards.dtype))


@given(grouped(missing=False), st.randoms(use_true_random=False))
def test_groups_may_be_named_anything_in_any_order(batch, random):
    rewards, groups = batch
    plain = rl.group_advantages(rewards, groups)
    assert np.array_equal(rl.group_advantages(rewards, np.array(groups, np.int32)), plain)
    assert np.array_equal(rl.group_advantages(rewards, [f"prompt {g}" for g in groups]), plain)
    assert np.array_equal(rl.group_advantages(rewards, np.array([str(g) for g in groups], object)), plain)
    order = list(range(len(groups)))
    random.shuffle(order)
    moved = rl.group_advantages(rewards[order], [groups[i] for i in order])
    assert np.allclose(moved, plain[order], rtol=1e-6, atol=1e-6)  # another order of adding


@given(grouped(missing=False), st.floats(0.5, 4), st.floats(-4, 4))
def test_a_scaled_and_shifted_reward_teaches_the_same(batch, factor, shift):
    rewards, groups = batch[0].astype(np.float64), batch[1]
    rewards = np.round(rewards, 2)
    plain = rl.group_advantages(rewards, groups, eps=0.0)
    moved = rl.group_advantages(rewards * factor + shift, groups, eps=0.0)
    assert np.allclose(plain, moved, rtol=1e-6, atol=1e-6)


@given(grouped())
def test_the_counts_add_up(batch):
    rewards, groups = batch
    _, seen = rl.group_advantages(rewards, groups, stats=True)
    scored = {
        g: [r for r, h in zip(rewards, groups, strict=True) if g == h and not np.isnan(r)] for g in groups
    }
    assert seen == rl.group_stats(rewards, groups) or np.isnan(seen.reward_mean)
    assert seen.groups == len(scored)
    assert seen.samples == len(rewards)
    assert seen.missing == np.isnan(rewards).sum()
    assert seen.empty == sum(len(r) == 0 for r in scored.values())
    assert seen.alone == sum(len(r) == 1 for r in scored.values())
    assert seen.flat == sum(len(r) > 1 and len(set(r)) == 1 for r in scored.values())
    assert seen.live == sum(len(set(r)) > 1 for r in scored.values())
    if seen.missing < seen.samples:
        assert np.isclose(seen.reward_mean, np.nanmean(rewards.astype(np.float64)), rtol=1e-12, atol=1e-12)


def test_equal_rewards_give_exactly_zero_whatever_eps():
    # In float64, (0.1 + 0.1 + 0.1) / 3 is not 0.1; without eps, the quotient of two roundings would be about 1.
    for scale in ("std", "mad", "none"):
        assert not rl.group_advantages(np.full(3, 0.1), [0, 0, 0], scale=scale, eps=0.0).any()


def test_the_only_sample_of_a_group_follows_the_convention():
    rewards = np.array([0.7, 1.0, 0.0])
    assert rl.group_advantages(rewards, [0, 1, 1], scale="none").tolist() == [0.0, 0.5, -0.5]
    assert rl.group_advantages(rewards, [0, 1, 1], scale="none", alone="reward").tolist() == [0.7, 0.5, -0.5]


def test_mad_makes_every_live_group_weigh_the_same():
    rewards = np.array([1.0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
    advantages = rl.group_advantages(rewards, np.repeat([0, 1], 8), scale="mad", eps=0.0)
    assert np.allclose(np.abs(advantages).reshape(2, 8).sum(1), 8)  # DGPO: the sum of |A| is the group's size


def test_a_missing_reward_can_be_refused_and_an_infinite_one_always_is():
    with pytest.raises(NonFiniteError, match=r"rewards\[1\]: NaN"):
        rl.group_advantages(np.array([1.0, np.nan]), [0, 0], missing="refuse")
    with pytest.raises(NonFiniteError, match=r"rewards\[0\]: inf"):
        rl.group_advantages(np.array([np.inf, 1.0]), [0, 0])


def test_settings_out_of_range_are_refused():
    rewards = np.ones(2)
    with pytest.raises(UsageError, match="scale: 'var' is not one of 'std', 'mad', 'none'"):
        rl.group_advantages(rewards, [0, 0], scale="var")
    with pytest.raises(UsageError, match="ddof: 2 is not 0 or 1"):
        rl.group_advantages(rewards, [0, 0], ddof=2)
    with pytest.raises(UsageError, match="eps: -1 is not a finite number, 0 or more"):
        rl.group_advantages(rewards, [0, 0], eps=-1.0)
    with pytest.raises(ArrayError, match="groups: 3 elements, but rewards has 2"):
        rl.group_advantages(rewards, [0, 0, 0])
    with pytest.raises(ArrayError, match="groups: expected a flat array of whole numbers, got float64"):
        rl.group_advantages(rewards, np.zeros(2))


def process_twin(rewards, step_ends, cu_seqlens, groups, scale, ddof, eps):
    out = np.zeros(len(rewards))
    runs = twin.sequences(cu_seqlens)
    for group in dict.fromkeys(groups):
        mine = [tokens for tokens, g in zip(runs, groups, strict=True) if g == group]
        steps = [t for tokens in mine for t in tokens if step_ends[t]]
        values = [float(rewards[t]) for t in steps]
        if len(set(values)) < 2:
            continue
        normal = dict(zip(steps, twin.normalised(values, scale, ddof, eps), strict=True))
        for tokens in mine:
            later = 0.0
            for t in reversed(tokens):
                later += normal.get(t, 0.0)
                out[t] = later
    return out


@given(batches(columns=1, masked=True), st.data(), scales)
def test_process_advantages_are_the_plain_loop_bit_for_bit(batch, data, scale):
    (rewards,) = batch.columns
    n = len(batch.cu_seqlens) - 1
    groups = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    settings = {"scale": scale, "ddof": 1, "eps": 1e-4}
    ours = rl.process_advantages(rewards, batch.mask, batch.cu_seqlens, groups, **settings)
    theirs = process_twin(rewards, batch.mask, batch.cu_seqlens, groups, **settings)
    assert np.array_equal(ours, theirs.astype(rewards.dtype))
    dirty = np.where(np.asarray(batch.mask, bool), rewards, np.nan).astype(rewards.dtype)
    again = rl.process_advantages(dirty, batch.mask, batch.cu_seqlens, groups, **settings)
    assert np.array_equal(ours, again)  # only step ends are looked at


def test_one_step_at_the_end_is_outcome_supervision():
    rewards = np.array([0.0, 1.0, 0.0, 0.0, 0.5])
    ends = np.array([0, 1, 0, 0, 1], bool)
    process = rl.process_advantages(rewards, ends, np.array([0, 2, 5]), [0, 0])
    outcome = rl.group_advantages(np.array([1.0, 0.5]), [0, 0])
    assert np.array_equal(process, np.repeat(outcome, [2, 3]))


def test_a_step_that_was_not_scored_adds_nothing():
    rewards = np.array([1.0, np.nan, 0.0])
    ends = np.ones(3, bool)
    advantages = rl.process_advantages(rewards, ends, np.array([0, 2, 3]), [0, 0], scale="none")
    assert advantages.tolist() == [0.5, 0.0, -0.5]


@given(st.lists(numbers, min_size=2, max_size=20))
def test_advantages_of_a_group_add_up_to_zero(rewards):
    advantages = rl.group_advantages(np.array(rewards), [0] * len(rewards))
    assert abs(advantages.sum()) < 1e-9 * max(1.0, np.abs(advantages).sum())
