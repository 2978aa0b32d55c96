"""GAE: the twin, the holes, bootstrapping, two lambdas."""

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rl import twin
from rl.batches import batches, holes, spoiled, unit


@given(batches(), unit, unit, st.none() | unit, holes)
def test_gae_is_the_plain_loop_bit_for_bit(batch, gamma, lam, lam_value, convention):
    rewards, values = batch.columns
    settings = {"gamma": gamma, "lam": lam, "lam_value": lam_value, "holes": convention}
    batched = {"mask": batch.mask, "bootstrap": batch.bootstrap}
    ours = rl.gae(rewards, values, batch.cu_seqlens, **settings, **batched)
    theirs = twin.gae(rewards, values, batch.cu_seqlens, **settings, **batched)
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.dtype == batch.dtype
        assert np.array_equal(mine, its.astype(batch.dtype))


@given(batches(masked=True), unit, st.sampled_from(["carry", "decay", "reset"]))
def test_what_stands_in_a_hole_never_matters(batch, lam, convention):
    rewards, values = batch.columns
    settings = {
        "gamma": 0.9,
        "lam": lam,
        "holes": convention,
        "mask": batch.mask,
        "bootstrap": batch.bootstrap,
    }
    clean = rl.gae(rewards, values, batch.cu_seqlens, **settings)
    for filler in (np.nan, np.inf, 1e30):
        dirty = [spoiled(column, batch.mask, filler) for column in batch.columns]
        for one, other in zip(clean, rl.gae(*dirty, batch.cu_seqlens, **settings), strict=True):
            assert np.array_equal(one, other)
            assert not other[~np.asarray(batch.mask, bool)].any()


@given(batches(), unit, unit, holes)
def test_float32_is_the_float64_result_rounded_once(batch, gamma, lam, convention):
    settings = {"gamma": gamma, "lam": lam, "holes": convention, "mask": batch.mask}
    wide = [column.astype(np.float64) for column in batch.columns]
    narrow = [column.astype(np.float32) for column in batch.columns]  # drawn as float32 numbers: exact
    for one, other in zip(
        rl.gae(*narrow, batch.cu_seqlens, **settings),
        rl.gae(*wide, batch.cu_seqlens, **settings),
        strict=True,
    ):
        assert np.array_equal(one, other.astype(np.float32))


def test_lambda_one_gives_the_discounted_return_and_lambda_zero_the_temporal_difference():
    rewards, values = np.array([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 2.0])
    cu_seqlens = np.array([0, 3])
    _, returns = rl.gae(rewards, values, cu_seqlens, gamma=0.5, lam=1.0)
    assert np.allclose(returns, rl.discounted_returns(rewards, cu_seqlens, gamma=0.5), atol=1e-15)
    advantages, _ = rl.gae(rewards, values, cu_seqlens, gamma=0.5, lam=0.0)
    assert advantages.tolist() == [1.0 + 0.5 * -1.0 - 0.5, 2.0 + 0.5 * 2.0 + 1.0, 3.0 - 2.0]


def test_a_truncated_sequence_is_the_front_of_a_longer_one():
    rewards, values = np.arange(6.0), np.linspace(1, 2, 6)
    whole, _ = rl.gae(rewards, values, np.array([0, 6]), gamma=0.9, lam=0.0)
    front, _ = rl.gae(
        rewards[:4], values[:4], np.array([0, 4]), gamma=0.9, lam=0.0, bootstrap=values[4:5].copy()
    )
    assert np.array_equal(front, whole[:4])


def test_carry_is_the_sequence_without_its_holes():
    random = np.random.default_rng(0)
    rewards, values = random.normal(size=(2, 20))
    mask = random.random(20) < 0.6
    full = rl.gae(rewards, values, np.array([0, 20]), gamma=0.9, lam=0.8, mask=mask)
    kept = rl.gae(rewards[mask], values[mask], np.array([0, mask.sum()]), gamma=0.9, lam=0.8)
    for one, other in zip(full, kept, strict=True):
        assert np.array_equal(one[mask], other)


def test_reset_is_a_sequence_for_each_run_between_holes():
    random = np.random.default_rng(1)
    rewards, values = random.normal(size=(2, 9))
    mask = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1], bool)
    whole, _ = rl.gae(rewards, values, np.array([0, 9]), gamma=0.9, lam=0.8, mask=mask, holes="reset")
    runs, _ = rl.gae(rewards[mask], values[mask], np.array([0, 2, 5, 6]), gamma=0.9, lam=0.8)
    assert np.array_equal(whole[mask], runs)


def test_the_four_conventions_differ_where_there_are_holes():
    rewards, values = np.array([0.0, 1.0, 0.3, 1.0]), np.array([0.5, 0.6, 0.4, 0.8])
    mask = np.array([1, 1, 0, 1], bool)
    answers = {
        tuple(rl.gae(rewards, values, np.array([0, 4]), gamma=0.9, lam=0.8, mask=mask, holes=name)[0])
        for name in ("carry", "decay", "ignore", "reset")
    }
    assert len(answers) == 4


def test_out_is_written_and_handed_back():
    rewards, values = np.ones(4, np.float32), np.zeros(4, np.float32)
    out = (np.empty(4, np.float32), np.empty(4, np.float32))
    got = rl.gae(rewards, values, np.array([0, 4]), gamma=1.0, lam=1.0, out=out)
    assert got[0] is out[0]
    assert got[1] is out[1]
    assert out[0].tolist() == [4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize("name", ["gamma", "lam", "lam_value"])
def test_a_discount_beyond_one_is_refused(name):
    settings = {"gamma": 1.0, "lam": 1.0, name: 1.5}
    with pytest.raises(rl_error("UsageError"), match=rf"{name}: 1.5 is not in \[0, 1\]"):
        rl.gae(np.ones(1), np.ones(1), np.array([0, 1]), **settings)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("rewards", r"rewards\[3\]: NaN"),
        ("values", r"values\[3\]: NaN"),
        ("bootstrap", r"bootstrap\[1\]: NaN"),
    ],
)
@pytest.mark.parametrize("convention", ["carry", "decay", "ignore", "reset"])
def test_a_nan_that_counts_is_named(which, message, convention):
    arrays = {"rewards": np.ones(5), "values": np.ones(5), "bootstrap": np.ones(3)}
    arrays[which][1 if which == "bootstrap" else 3] = np.nan
    mask = np.array([1, 1, 0, 1, 1], bool)
    with pytest.raises(rl_error("NonFiniteError"), match=message):
        rl.gae(
            arrays["rewards"],
            arrays["values"],
            np.array([0, 2, 5, 5]),
            gamma=0.0,
            lam=0.0,
            mask=mask if which != "bootstrap" else None,
            bootstrap=arrays["bootstrap"],
            holes=convention,
        )


def rl_error(name):
    import polmrs.errors

    return getattr(polmrs.errors, name)
