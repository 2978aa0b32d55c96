"""Pass@k advantages against the definition: a walk over every subset."""

import math
from itertools import combinations

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import ArrayError, UsageError
from rl import twin
from rl.batches import grouped


def best(rewards):
    return max(rewards, default=0.0)


def pkpo(rewards, k):
    """Equation 33 of arXiv:2505.15201, times n, subset by subset."""
    n = len(rewards)
    if n < k:
        return [0.0] * n
    gains = [0.0] * n
    for subset in combinations(range(n), k):
        for i in subset:
            gains[i] += best(rewards[j] for j in subset) - best(rewards[j] for j in subset if j != i)
    return [n * gain / math.comb(n, k) for gain in gains]


def training(rewards, k):
    """GRPO with ddof 0 over all subsets; a sample takes the mean over its subsets."""
    n = len(rewards)
    if n < k:
        return [0.0] * n
    subsets = list(combinations(range(n), k))
    tops = np.array([best(rewards[j] for j in subset) for subset in subsets])
    if tops.std() == 0:
        return [0.0] * n
    normal = (tops - tops.mean()) / tops.std()
    return [float(np.mean([a for a, s in zip(normal, subsets, strict=True) if i in s])) for i in range(n)]


@given(grouped(max_size=14), st.integers(2, 6))
def test_the_advantage_is_the_gain_over_all_subsets(batch, k):
    rewards, groups = (
        batch[0].astype(np.float64) + 10.0,
        batch[1],
    )  # shifted: the best of no rewards counts as 0
    ours = rl.passk_advantages(rewards, groups, k=k)
    theirs = twin.by_group(rewards, groups, lambda r, _: pkpo(r, k))
    assert np.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@given(grouped(rewards=st.sampled_from([0.0, 1.0]), max_size=14), st.integers(1, 6))
def test_the_closed_form_of_passk_training_is_grpo_over_all_subsets(batch, k):
    rewards, groups = batch[0].astype(np.float64), batch[1]
    ours = rl.passk_training_advantages(rewards, groups, k=k)
    theirs = twin.by_group(rewards, groups, lambda r, _: training(r, k))
    assert np.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@given(grouped(missing=False, max_size=40), st.integers(2, 30))
def test_it_is_never_negative_and_does_not_see_a_shift(batch, k):
    rewards, groups = batch[0].astype(np.float64), batch[1]
    plain = rl.passk_advantages(rewards, groups, k=k)
    assert (plain >= 0).all()
    assert np.allclose(rl.passk_advantages(rewards + 100.0, groups, k=k), plain, atol=1e-9)


def test_with_k_equal_to_the_group_only_the_best_moves():
    advantages = rl.passk_advantages(np.array([0.25, 1.0, 0.5]), [0, 0, 0], k=3)
    assert advantages.tolist() == [0.0, 3 * 0.5, 0.0]


def test_at_k_one_passk_training_is_grpo():
    rewards = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    grpo = rl.group_advantages(rewards, [0] * 5, ddof=0, eps=0.0)
    assert np.allclose(rl.passk_training_advantages(rewards, [0] * 5, k=1), grpo, atol=1e-14)


def test_it_is_an_unbiased_gradient_of_the_best_of_k():
    # A policy over three answers with logits theta: E[sum A_i dlog p / n] is the derivative of E[best of k].
    answers, k, n = np.array([0.0, 0.3, 1.0]), 2, 4
    logits = np.array([0.2, -0.1, 0.4])
    p = np.exp(logits) / np.exp(logits).sum()

    def objective(p):
        draws = np.stack(np.meshgrid(*[range(3)] * k), -1).reshape(-1, k)
        return sum(p[d].prod() * answers[d].max() for d in draws)

    expected = np.zeros(3)
    for draw in np.stack(np.meshgrid(*[range(3)] * n), -1).reshape(-1, n):
        advantages = rl.passk_advantages(answers[draw], [0] * n, k=k)
        score = np.eye(3)[draw] - p
        expected += p[draw].prod() * (advantages[:, None] * score).mean(0)
    step = 1e-6
    for i in range(3):
        up, down = logits.copy(), logits.copy()
        up[i] += step
        down[i] -= step
        slope = (objective(np.exp(up) / np.exp(up).sum()) - objective(np.exp(down) / np.exp(down).sum())) / (
            2 * step
        )
        assert np.isclose(expected[i], slope, atol=1e-8)


def test_a_k_that_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="k: 1 is not 2 or more; at k = 1 nothing is left to subtract"):
        rl.passk_advantages(np.ones(2), [0, 0], k=1)
    with pytest.raises(ArrayError, match=r"rewards\[0\]: 0.5 is not 0 or 1; pass@k training"):
        rl.passk_training_advantages(np.array([0.5]), [0], k=1)
