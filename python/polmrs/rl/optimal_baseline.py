"""Advantages against the length-weighted baseline: OPO."""

from __future__ import annotations

from collections.abc import Sequence

from polmrs import _core
from polmrs._arrays import A, GroupIds, flat, group_ids, integers, output
from polmrs._tensor import Array
from polmrs.rl.group_relative import Alone, Missing


def opo(
    rewards: A,
    lengths: Array | Sequence[int],
    groups: GroupIds,
    *,
    missing: Missing = "exclude",
    alone: Alone = "zero",
    out: A | None = None,
) -> A:
    r"""Rewards less the baseline of least gradient variance (OPO; Hao et al., arXiv:2505.23585).

    $$ A_i = r_i - \frac{\sum_j l_j r_j}{\sum_j l_j} $$

    It is optimal where the squared norm of a sample's gradient grows with its length.

    Args:
        rewards: [samples], float32 or float64; NaN where an answer could not be scored.
        lengths: [samples], tokens of each response, such as ``np.diff(cu_seqlens)``.
        groups: [samples], the prompt of each sample.
        missing: What NaN rewards mean, as in ``group_advantages``.
        alone: The advantage of a group's only scored sample, as there.
        out: An array to write into, instead of a new one.

    Returns:
        [samples], of the kind and type of ``rewards``.

    Raises:
        ArrayError: An array has another type, length or layout, or a length is negative.
        NonFiniteError: A reward is infinite, or NaN under ``refuse``.

    >>> import numpy as np
    >>> opo(np.array([1.0, 0.0]), [30, 10], [0, 0])
    array([ 0.25, -0.75])
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out", out, rewards, rewards_flat)
    counts = integers("lengths", lengths)
    _core.rl.opo(rewards_flat, counts, group_ids(groups), missing, alone, advantages_flat)
    return advantages
