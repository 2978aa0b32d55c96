"""Trajectory pruning: the rule, and why it refuses negative values."""

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import ArrayError, NonFiniteError, UsageError
from rl import twin
from rl.batches import batches


@given(batches(columns=1), st.sampled_from([0.1, 0.5, 0.99, 1.0]))
def test_a_path_stops_where_its_value_falls_below_a_share_of_its_best(batch, ratio):
    values = np.abs(batch.columns[0])
    ends = np.ones(len(values), bool) if batch.mask is None else np.asarray(batch.mask, bool)
    kept, pruned = rl.trajectory_pruning(values, batch.cu_seqlens, ratio=ratio, step_ends=batch.mask)
    assert (kept.dtype, pruned.dtype) == (np.int64, np.bool_)
    for i, tokens in enumerate(twin.sequences(batch.cu_seqlens)):
        steps = [t for t in tokens if ends[t]]
        low = [t for t in steps if float(values[t]) < ratio * max(float(values[s]) for s in steps if s <= t)]
        assert pruned[i] == bool(low)
        assert kept[i] == (low[0] - tokens[0] + 1 if low else len(tokens))


def test_values_that_only_rise_are_never_pruned():
    kept, pruned = rl.trajectory_pruning(np.array([0.1, 0.2, 0.2, 0.9]), np.array([0, 4]), ratio=1.0)
    assert (kept.tolist(), pruned.tolist()) == ([4], [False])


def test_a_negative_value_is_refused_and_the_reason_given():
    with pytest.raises(
        ArrayError, match=r"values\[1\]: -0.5 is negative: .* every path is stopped; pass values through"
    ):
        rl.trajectory_pruning(np.array([0.1, -0.5]), np.array([0, 2]), ratio=0.5)


def test_holes_may_hold_anything():
    values, ends = np.array([0.5, np.nan, -3.0, 0.4]), np.array([1, 0, 0, 1], bool)
    kept, pruned = rl.trajectory_pruning(values, np.array([0, 4]), ratio=0.5, step_ends=ends)
    assert (kept.tolist(), pruned.tolist()) == ([4], [False])


def test_a_share_out_of_range_and_a_nan_are_refused():
    for ratio in (0.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match=r"ratio: .* is not in \(0, 1\]"):
            rl.trajectory_pruning(np.ones(1), np.array([0, 1]), ratio=ratio)
    with pytest.raises(NonFiniteError, match=r"values\[0\]: NaN"):
        rl.trajectory_pruning(np.array([np.nan]), np.array([0, 1]), ratio=0.5)
