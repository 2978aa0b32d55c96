"""Leave-one-out, OPO and MaxRL: the twin, the paper's form, the properties that name them."""

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import ArrayError
from rl import twin
from rl.batches import grouped

binary = st.sampled_from([0.0, 1.0])


@given(grouped())
def test_leave_one_out_is_the_plain_loop_bit_for_bit(batch):
    rewards, groups = batch

    def advantages(r, _):
        mean, n = twin.add(r) / len(r), float(len(r))
        return [(x - mean) * (n / (n - 1.0)) for x in r]

    ours = rl.leave_one_out(rewards, groups)
    assert np.array_equal(ours, twin.by_group(rewards, groups, advantages).astype(rewards.dtype))


@given(grouped())
def test_leave_one_out_subtracts_the_mean_of_the_others(batch):
    rewards, groups = batch[0].astype(np.float64), batch[1]

    def advantages(r, _):
        return [x - (sum(r) - x) / (len(r) - 1) for x in r]

    assert np.allclose(
        rl.leave_one_out(rewards, groups), twin.by_group(rewards, groups, advantages), atol=1e-12
    )


@given(grouped(), st.data())
def test_opo_is_the_plain_loop_bit_for_bit(batch, data):
    rewards, groups = batch
    lengths = data.draw(st.lists(st.integers(0, 50), min_size=len(groups), max_size=len(groups)))

    def advantages(r, samples):
        total = float(sum(lengths[i] for i in samples))
        weighted = twin.add(lengths[i] * x for x, i in zip(r, samples, strict=True))
        return [x - weighted / total if total else 0.0 for x in r]

    ours = rl.opo(rewards, lengths, groups)
    assert np.array_equal(ours, twin.by_group(rewards, groups, advantages).astype(rewards.dtype))


def test_opo_with_equal_lengths_is_the_plain_mean():
    rewards = np.array([1.0, 0.0, 0.0, 1.0, 0.5])
    groups = [0, 0, 0, 1, 1]
    assert np.array_equal(
        rl.opo(rewards, [4] * 5, groups), rl.group_advantages(rewards, groups, scale="none")
    )


@given(grouped(rewards=binary))
def test_maxrl_is_the_plain_loop_bit_for_bit(batch):
    rewards, groups = batch

    def advantages(r, _):
        mean = twin.add(r) / len(r)
        return [(x - mean) / mean for x in r]

    ours = rl.maxrl(rewards, groups)
    assert np.array_equal(ours, twin.by_group(rewards, groups, advantages).astype(rewards.dtype))


def test_maxrl_is_the_mean_score_of_right_answers():
    # Theorem 2: the mean over samples of A_i S_i is the mean of S over right answers, less the mean of S.
    random = np.random.default_rng(0)
    rewards, scores = (random.random(10) < 0.3).astype(float), random.normal(size=10)
    advantages = rl.maxrl(rewards, [0] * 10)
    assert np.isclose((advantages * scores).mean(), scores[rewards == 1].mean() - scores.mean())


def test_conventions_hold_for_every_baseline():
    rewards = np.array([0.7, np.nan, 1.0, 0.0])
    groups = [0, 1, 2, 2]
    assert rl.leave_one_out(rewards, groups).tolist() == [0.0, 0.0, 1.0, -1.0]
    assert rl.leave_one_out(rewards, groups, alone="reward").tolist() == [0.7, 0.0, 1.0, -1.0]
    assert rl.opo(rewards, [1] * 4, groups, alone="reward").tolist() == [0.7, 0.0, 0.5, -0.5]


def test_what_a_baseline_cannot_take_is_refused():
    with pytest.raises(ArrayError, match=r"rewards\[1\]: 0.5 is not 0 or 1; MaxRL divides"):
        rl.maxrl(np.array([1.0, 0.5]), [0, 0])
    with pytest.raises(ArrayError, match=r"lengths\[1\]: -1 is negative"):
        rl.opo(np.ones(2), [1, -1], [0, 0])
    with pytest.raises(ArrayError, match="lengths: 1 elements, but rewards has 2"):
        rl.opo(np.ones(2), [1], [0, 0])
