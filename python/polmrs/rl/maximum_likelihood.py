"""Advantages of maximum-likelihood reinforcement learning: MaxRL."""

from __future__ import annotations

from polmrs import _core
from polmrs._arrays import A, GroupIds, flat, group_ids, output
from polmrs.rl.group_relative import Missing


def maxrl(rewards: A, groups: GroupIds, *, missing: Missing = "exclude", out: A | None = None) -> A:
    r"""Advantages that raise the likelihood of a right answer, not its rate (Tajwar et al., arXiv:2602.02710, alg. 1).

    $$ A_i = \frac{r_i - \bar r}{\bar r} $$

    The paper derives it for answers that are right or wrong, so rewards other than 0 and 1 are refused. A prompt without
    a right answer gets 0; there is no eps.

    Args:
        rewards: [samples], 0 or 1, float32 or float64; NaN where an answer could not be scored.
        groups: [samples], the prompt of each sample.
        missing: What NaN rewards mean, as in ``group_advantages``.
        out: An array to write into, instead of a new one.

    Returns:
        [samples], of the kind and type of ``rewards``.

    Raises:
        ArrayError: An array has another type, length or layout, or a reward is not 0 or 1.
        NonFiniteError: A reward is NaN under ``refuse``.

    >>> import numpy as np
    >>> maxrl(np.array([1.0, 0.0, 0.0, 0.0]), [0, 0, 0, 0])
    array([ 3., -1., -1., -1.])
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out", out, rewards, rewards_flat)
    _core.rl.maxrl(rewards_flat, group_ids(groups), missing, advantages_flat)
    return advantages
