"""Leave-one-out advantages: RLOO."""

from __future__ import annotations

from polmrs import _core
from polmrs._arrays import A, GroupIds, flat, group_ids, output
from polmrs.rl.group_relative import Alone, Missing


def leave_one_out(
    rewards: A, groups: GroupIds, *, missing: Missing = "exclude", alone: Alone = "zero", out: A | None = None
) -> A:
    r"""Rewards less the mean reward of the prompt's other samples (RLOO; Ahmadian et al., arXiv:2402.14740, section 3.3).

    $$ A_i = r_i - \frac{1}{n-1}\sum_{j \ne i} r_j = \frac{n}{n-1}\,(r_i - \bar r) $$

    Args:
        rewards: [samples], float32 or float64; NaN where an answer could not be scored.
        groups: [samples], the prompt of each sample.
        missing: What NaN rewards mean, as in ``group_advantages``.
        alone: The advantage of a group's only scored sample, as there.
        out: An array to write into, instead of a new one.

    Returns:
        [samples], of the kind and type of ``rewards``.

    Raises:
        ArrayError: An array has another type, length or layout.
        NonFiniteError: A reward is infinite, or NaN under ``refuse``.

    >>> import numpy as np
    >>> leave_one_out(np.array([1.0, 2.0, 3.0, 4.0]), [0, 0, 0, 1])
    array([-1.5,  0. ,  1.5,  0. ])
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out", out, rewards, rewards_flat)
    _core.rl.leave_one_out(rewards_flat, group_ids(groups), missing, alone, advantages_flat)
    return advantages
