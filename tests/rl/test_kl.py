"""KL estimators and the KL-shaped reward: accuracy, masks, the score's place."""

import math

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import ArrayError, NonFiniteError, UsageError
from rl.batches import batches, spoiled

kinds = st.sampled_from(["k1", "k2", "k3", "abs"])


def twin(d, estimator):
    return {
        "k1": lambda: d,
        "k2": lambda: 0.5 * (d * d),
        "k3": lambda: np.expm1(-d) + d,
        "abs": lambda: np.abs(d),
    }[estimator]()


@given(batches(), kinds)
def test_estimates_are_the_formulas(batch, estimator):
    logp, ref = batch.columns
    d = logp.astype(np.float64) - ref.astype(np.float64)
    if batch.mask is not None:
        d = np.where(np.asarray(batch.mask, bool), d, 0.0)
    expected = twin(d, estimator)
    ours = rl.kl_estimate(logp, ref, batch.mask, estimator=estimator)
    assert ours.dtype == batch.dtype
    if estimator == "k3":
        slack = 1e-15 * (1 + np.abs(d) + np.exp(-d)) + (1e-7 * expected if batch.dtype == np.float32 else 0)
        assert (np.abs(ours - expected) <= slack).all()
    else:
        assert np.array_equal(ours, expected.astype(batch.dtype))


@pytest.mark.parametrize("d", [1e-9, -1e-7, 3e-5, -1e-3, 0.02, 0.3, -0.5, 3.0, -7.0, 40.0, -300.0])
def test_k3_keeps_its_digits_near_and_far(d):
    (ours,) = rl.kl_estimate(np.array([d]), np.zeros(1))
    small = sum((-d) ** k / math.factorial(k) for k in range(2, 25))
    exact = small if abs(d) < 0.7 else math.expm1(-d) + d
    assert abs(ours - exact) <= 2e-15 * exact


@given(st.floats(-600, 600))
def test_k3_is_never_negative(d):
    assert rl.kl_estimate(np.array([d]), np.zeros(1))[0] >= 0


@given(batches(masked=True), kinds)
def test_what_stands_in_a_hole_never_matters(batch, estimator):
    clean = rl.kl_estimate(*batch.columns, batch.mask, estimator=estimator)
    dirty = rl.kl_estimate(
        *(spoiled(c, batch.mask, np.nan) for c in batch.columns), batch.mask, estimator=estimator
    )
    assert np.array_equal(clean, dirty)
    assert not np.signbit(dirty[~np.asarray(batch.mask, bool)]).any()


def test_k1_and_k3_estimate_the_same_divergence():
    random = np.random.default_rng(0)
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    tokens = random.choice(3, 400_000, p=p)
    exact = (p * np.log(p / q)).sum()
    for estimator in ("k1", "k3"):
        assert (
            abs(rl.kl_estimate(np.log(p)[tokens], np.log(q)[tokens], estimator=estimator).mean() - exact)
            < 0.005
        )


@given(batches(), kinds, st.sampled_from([0.0, 0.02, 1.5]), st.data())
def test_the_shaped_reward_is_the_penalty_and_the_score_on_the_last_token(batch, estimator, beta, data):
    logp, ref = batch.columns
    mask = np.ones(len(logp), bool) if batch.mask is None else np.asarray(batch.mask, bool)
    n = len(batch.cu_seqlens) - 1
    scores = np.array(
        data.draw(st.lists(st.sampled_from([-1.0, 0.0, 2.5]), min_size=n, max_size=n)), batch.dtype
    )
    expected = np.where(
        mask, -beta * rl.kl_estimate(logp.astype(float), ref.astype(float), estimator=estimator), 0.0
    )
    lost = False
    for i in range(n):
        tokens = [t for t in range(batch.cu_seqlens[i], batch.cu_seqlens[i + 1]) if mask[t]]
        if tokens:
            expected[tokens[-1]] += scores[i]
        lost |= not tokens and scores[i] != 0
    settings = {"beta": beta, "mask": batch.mask, "estimator": estimator}
    if lost:
        with pytest.raises(ArrayError, match="has no token outside the mask to carry its score"):
            rl.kl_shaped_rewards(scores, logp, ref, batch.cu_seqlens, **settings)
        return
    ours = rl.kl_shaped_rewards(scores, logp, ref, batch.cu_seqlens, **settings)
    assert np.array_equal(ours, expected.astype(batch.dtype))


def test_what_makes_no_reward_is_refused():
    one, offsets = np.zeros(1), np.array([0, 1])
    with pytest.raises(NonFiniteError, match=r"logp\[0\] - ref_logp\[0\]: -inf - 0 is not a finite number"):
        rl.kl_estimate(np.array([-np.inf]), one)
    with pytest.raises(NonFiniteError, match=r"scores\[0\]: NaN"):
        rl.kl_shaped_rewards(np.array([np.nan]), one, one, offsets)
    with pytest.raises(UsageError, match="beta: -1 is not a finite number, 0 or more"):
        rl.kl_shaped_rewards(one, one, one, offsets, beta=-1.0)
    with pytest.raises(UsageError, match="estimator: 'k4' is not one of 'k1', 'k2', 'k3', 'abs'"):
        rl.kl_estimate(one, one, estimator="k4")
