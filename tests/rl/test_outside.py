"""Numbers of other libraries, as facts.

torchtune: the tables of its own tests (`tests/torchtune/rlhf/test_rewards.py`, torchtune 0.6), written out.
verl 0.9.1: its functions of `verl/trainer/ppo/core_algos.py`, run in float64 on the batches below with torch 2.15.
NeMo-RL: the tables and the inputs of `tests/unit/algorithms/test_utils.py` and `test_gae.py` (August 2026); for the
latter, the recurrence that stands in the test, run on its inputs. TRL 1.16.0: the formula of its GRPO trainer with its
own `nanstd`. prime-rl: the tables of `tests/unit/orchestrator/test_advantage.py` (2026).
"""

import numpy as np
import polmrs.rl as rl
import pytest

# One batch for verl: two prompts, six answers of these lengths.
LENGTHS = [2, 4, 1, 3, 3, 2]
GROUPS = ["a", "b", "a", "b", "b", "a"]
SCORES = np.array([1.0, 0.0, 0.5, 0.25, 1.0, 0.0])
WHITE = 1e-7  # verl's masked mean adds 1e-8 to the count


def close(ours, theirs, atol=2e-10):
    assert np.allclose(ours, theirs, rtol=0, atol=atol)


def test_torchtune_returns_in_closed_form():
    # test_estimate_returns: gamma .9, lambda .95, a reward and a value of 1 on the last of four tokens
    x = np.array([0.0, 0.0, 0.0, 1.0])
    g, lam = 0.9, 0.95
    _, returns = rl.gae(x, x, np.array([0, 4]), gamma=g, lam=lam)
    close(returns, [g**3 * lam**2, g**2 * lam, g, 1.0])


@pytest.mark.parametrize("mask", [None, np.array([True, True, True, False])])
def test_torchtune_whitened_advantages(mask):
    # test_estimate_advantages_with_whitening and _with_masks: the mean is added again after scaling
    x = np.array([0.0, 0.0, 0.0, 1.0])
    g, lam = 0.9, 0.95
    plain, _ = rl.gae(x, x, np.array([0, 4]), gamma=g, lam=lam)
    ours = rl.whiten(plain, mask, center=False)
    kept = (np.array([g**3 * lam**2, g**2 * lam, g, 1.0]) - x)[:3] if mask is not None else plain
    expected = (kept - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-8) + kept.mean()
    close(ours, np.append(expected, 0.0) if mask is not None else expected)


def test_torchtune_masked_mean_and_variance():
    # TestMaskedMean, TestMaskedVar
    seen = rl.moments(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1, 1, 1, 0, 0], bool))
    assert (seen.mean, seen.variance()) == (2.0, 1.0)


def test_torchtune_kl_shaped_rewards():
    # TestGetRewards: kl_coeff .5
    logp = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.7, 0.8])
    ref = np.array([0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
    ours = rl.kl_shaped_rewards(np.array([1.0, 2.0, 3.0]), logp, ref, np.array([0, 3, 6, 9]), beta=0.5)
    close(ours, [0.05, 0.05, 1.05, 0.1, 0.1, 2.1, 0.15, 0.15, 3.15], atol=1e-15)


def test_verl_gae_over_observations():
    # The batch of test_multi_turn_compute_gae_advantage_return, with gamma .9, lambda .8 and fixed observation values.
    rewards = np.array([0.0, 0.0, 0.1, 0.1, 0.1, 0.0, 0.0, 0.1, 1.0, 0.0, 0.0])
    values = np.array([5.0, 0.3, 4.0, 5.0, 6.0, -3.0, 0.7, 7.0, 9.0, 0.0, 0.0])
    mask = np.array([0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0], bool)
    advantages, returns = rl.gae(rewards, values, np.array([0, 11]), gamma=0.9, lam=0.8, mask=mask)
    close(returns[mask], [3.46534912, 3.424096, 3.1168, 2.44, 1.0])
    whitened = rl.whiten(advantages, mask)
    expected = [1.0170778173, 0.6612310988, 0.2144646184, -0.3585793093, -1.5341942372]
    close(whitened[mask], expected, atol=WHITE)


def test_verl_grpo():
    ours = rl.group_advantages(SCORES, GROUPS, eps=1e-6)
    close(ours, [0.999998, -0.8006392306, 0.0, -0.3202556922, 1.1208949228, -0.999998])


def test_verl_leave_one_out():
    close(rl.leave_one_out(SCORES, GROUPS), [0.75, -0.625, 0.0, -0.25, 0.875, -0.75])


def test_verl_opo():
    close(rl.opo(SCORES, LENGTHS, GROUPS), [0.5, -0.375, 0.0, -0.125, 0.625, -0.5])


def test_verl_pass_at_the_whole_group():
    # grpo_passk without the division by std: pass@k with k = n, and the paper's sum over samples instead of our mean
    close(rl.passk_advantages(SCORES, GROUPS, k=3) / 3, [0.5, 0.0, 0.0, 0.0, 0.75, 0.0])


def test_verl_reinforce_plus_plus_baseline():
    ours = rl.reinforce_pp_baseline(SCORES, LENGTHS, GROUPS)
    close(
        ours,
        [1.1828883027, -0.8716019074, 0.0622572791, -0.3112863955, 1.36966014, -1.0583737446],
        atol=WHITE,
    )


def test_verl_reinforce_plus_plus():
    rewards = np.concatenate([[0.0] * (n - 1) + [s] for n, s in zip(LENGTHS, SCORES, strict=True)])
    cu_seqlens = np.cumsum([0, *LENGTHS])
    advantages, returns = rl.reinforce_pp(rewards, cu_seqlens, gamma=0.9)
    close(returns, [0.9, 1.0, 0, 0, 0, 0, 0.5, 0.2025, 0.225, 0.25, 0.81, 0.9, 1.0, 0, 0])
    low = -0.9228416131
    first = [1.2297910928, 1.4689725045, low, low, low, low, 0.2730654457]
    second = [-0.4384992543, -0.3846834366, -0.3248880837, 1.0145278222, 1.2297910928, 1.4689725045, low, low]
    close(advantages, first + second, atol=WHITE)


def test_verl_lets_a_group_of_one_keep_its_reward():
    close(rl.group_advantages(np.array([0.7]), [0], alone="reward"), [0.7])  # verl: 0.7 / (1 + 1e-6)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.5, 0.0, -0.25, -2.0]),
        ("k2", [0.125, 0.0, 0.03125, 2.0]),
        ("k3", [0.1065306597, 0.0, 0.0340254167, 4.3890560989]),
        ("abs", [0.5, 0.0, 0.25, 2.0]),
    ],
)
def test_verl_kl_penalties(estimator, expected):
    logp, ref = np.array([-1.0, -2.0, -0.5, -3.0]), np.array([-1.5, -2.0, -0.25, -1.0])
    close(rl.kl_estimate(logp, ref, estimator=estimator), expected)


@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [(1.0, 1.0, [0.9, 0.3, 0.2]), (1.0, 0.8, [0.808, 0.26, 0.2]), (0.99, 1.0, [0.8821, 0.29, 0.2])],
)
def test_nemo_rl_gae_carries_over_a_hole(gamma, lam, expected):
    # test_gae_effective_lambda_and_fallback: the value in the hole is 999
    mask = np.array([1, 0, 1, 1], bool)
    rewards, values = np.array([0.3, 0.0, -0.2, 1.0]), np.array([0.2, 999.0, 0.5, 0.8])
    advantages, returns = rl.gae(rewards, values, np.array([0, 4]), gamma=gamma, lam=lam, mask=mask)
    close(advantages[mask], expected, atol=1e-12)
    close(returns[mask], np.array(expected) + values[mask], atol=1e-12)


def test_nemo_rl_leave_one_out_baselines():
    # test_calculate_baseline_and_std_per_prompt_basic
    rewards = np.arange(1.0, 7.0)
    baselines = np.array([2.5, 2.0, 1.5, 5.5, 5.0, 4.5])
    close(rl.leave_one_out(rewards, [0, 0, 0, 1, 1, 1]), rewards - baselines, atol=1e-14)


def test_trl_grpo_leaves_out_what_could_not_be_scored():
    nan = float("nan")
    rewards = np.array([1.0, 0.0, nan, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, nan, nan, 1.0])
    expected = [0.99980004, -0.99980004, 0, 0, 0, 0, 0, 0, -0.7070067953, 0, 0, 0.7070067953]
    close(rl.group_advantages(rewards, np.repeat([0, 1, 2], 4)), expected)


def test_prime_rl_advantages():
    assert rl.group_advantages(np.array([1.0, 0.0, 0.5, 0.5]), [0, 0, 1, 1], scale="none").tolist() == [
        0.5,
        -0.5,
        0,
        0,
    ]
    assert rl.maxrl(np.array([1.0, 0.0, 0.0, 0.0]), [0] * 4).tolist() == [3.0, -1.0, -1.0, -1.0]
    assert not rl.maxrl(np.zeros(2), [0, 0]).any()
    assert not rl.maxrl(np.ones(2), [0, 0]).any()
    close(rl.opo(np.array([1.0, 0.0]), [100, 10], [0, 0]), [1 - 100 / 110, -100 / 110], atol=1e-15)


def test_open_instruct_and_openrlhf_over_holes():
    # Their loops, run on these numbers: open-instruct with zeros in the holes, OpenRLHF with anything.
    mask = np.array([1, 1, 0, 0, 1, 1], bool)
    rewards, values = np.array([0.0, 1.0, 9.0, 9.0, 0.0, 1.0]), np.array([0.5, 0.6, 9.0, 9.0, 0.7, 0.8])
    settings = {"gamma": 0.9, "lam": 0.8, "mask": mask}
    reset, _ = rl.gae(rewards, values, np.array([0, 6]), holes="reset", **settings)
    close(reset[mask], [0.328, 0.4, 0.164, 0.2], atol=1e-12)
    decay, _ = rl.gae(rewards, values, np.array([0, 6]), holes="decay", **settings)
    close(decay[mask], [0.60721936384, 0.787804672, 0.164, 0.2], atol=1e-11)
