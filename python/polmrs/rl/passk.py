"""Advantages that raise pass@k: the best of k samples instead of the average one."""

from __future__ import annotations

from polmrs import _core
from polmrs._arrays import A, GroupIds, flat, group_ids, output
from polmrs.rl.group_relative import Missing


def passk_advantages(
    rewards: A, groups: GroupIds, *, k: int, missing: Missing = "exclude", out: A | None = None
) -> A:
    r"""An unbiased gradient of the expected best of k (PKPO; Walder and Karkhanis, arXiv:2505.15201, eq. 33).

    $$ A_i = \frac{n}{\binom{n}{k}} \sum_{|I| = k,\, i \in I}
       \Big( \max_{j \in I} r_j - \max_{j \in I \setminus i} r_j \Big) $$

    Any real rewards. The paper adds over samples; the factor n is ours, for means over samples as everywhere here.
    With k = n only the best sample moves, by its lead over the second (arXiv:2503.19595), times n.

    Args:
        rewards: [samples], float32 or float64; NaN where an answer could not be scored.
        groups: [samples], the prompt of each sample. A group with fewer than k scored samples gets 0.
        k: The size of the subsets, 2 or more; at 1 nothing is left to subtract: use ``leave_one_out``.
        missing: What NaN rewards mean, as in ``group_advantages``.
        out: An array to write into, instead of a new one.

    Returns:
        [samples], of the kind and type of ``rewards``; never negative.

    Raises:
        ArrayError: An array has another type, length or layout.
        NonFiniteError: A reward is infinite, or NaN under ``refuse``.
        UsageError: ``k`` is less than 2.

    >>> import numpy as np
    >>> passk_advantages(np.array([1.0, 0.0, 0.0, 0.0]), [0, 0, 0, 0], k=2)
    array([2., 0., 0., 0.])
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out", out, rewards, rewards_flat)
    _core.rl.passk_advantages(rewards_flat, group_ids(groups), k, missing, advantages_flat)
    return advantages


def passk_training_advantages(
    rewards: A, groups: GroupIds, *, k: int, missing: Missing = "exclude", out: A | None = None
) -> A:
    r"""GRPO over all subsets of k samples, in closed form (Pass@k Training; Chen et al., arXiv:2508.10751).

    A subset's reward is that of its best sample, its advantage is normalised over all subsets, and a sample takes the
    mean over the subsets that hold it. With $n_0$ wrong samples of n:

    $$ \bar R = 1 - \binom{n_0}{k} \Big/ \binom{n}{k}, \quad \sigma = \sqrt{\bar R(1 - \bar R)}, \quad
       A_{\mathrm{right}} = \frac{1 - \bar R}{\sigma}, \quad
       A_{\mathrm{wrong}} = \frac{1 - \bar R - \binom{n_0 - 1}{k - 1} / \binom{n - 1}{k - 1}}{\sigma} $$

    Where every subset holds a right answer, or none does, the group gets 0.

    Args:
        rewards: [samples], 0 or 1, float32 or float64; NaN where an answer could not be scored.
        groups: [samples], the prompt of each sample. A group with fewer than k scored samples gets 0.
        k: The size of the subsets, 1 or more; 1 is GRPO with ``ddof=0, eps=0``.
        missing: What NaN rewards mean, as in ``group_advantages``.
        out: An array to write into, instead of a new one.

    Returns:
        [samples], of the kind and type of ``rewards``.

    Raises:
        ArrayError: An array has another type, length or layout, or a reward is not 0 or 1.
        NonFiniteError: A reward is NaN under ``refuse``.
        UsageError: ``k`` is less than 1.

    >>> import numpy as np
    >>> passk_training_advantages(np.array([1.0, 0.0, 0.0, 0.0]), [0, 0, 0, 0], k=2).round(3)
    array([ 1.   , -0.333, -0.333, -0.333])
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out", out, rewards, rewards_flat)
    _core.rl.passk_training_advantages(rewards_flat, group_ids(groups), k, missing, advantages_flat)
    return advantages
