"""Group-relative advantages from step rewards: the process form of GRPO."""

from __future__ import annotations

from polmrs import _core
from polmrs._arrays import A, GroupIds, flat, group_ids, mask_bytes, offsets, output
from polmrs._tensor import Array
from polmrs.rl.group_relative import Scale


def process_advantages(
    rewards: A,
    step_ends: Array,
    cu_seqlens: Array,
    groups: GroupIds,
    *,
    scale: Scale = "std",
    ddof: int = 1,
    eps: float = 1e-4,
    out: A | None = None,
) -> A:
    r"""Step rewards normalised over the group, summed from each token on (arXiv:2402.03300, section 4.1.3).

    $$ \tilde r_j = \frac{r_j - \mathrm{mean}(R)}{\mathrm{scale}(R) + \varepsilon}, \qquad
       A_t = \sum_{j:\, \mathrm{end}(j) \ge t} \tilde r_j $$

    R holds the rewards of all steps of all samples of the prompt. Tokens after the last step get 0. A step whose reward
    is NaN was not scored: it is left out of R and adds nothing. Where all of R is equal, the group gets 0.

    Args:
        rewards: [tokens], float32 or float64; looked at only on step ends.
        step_ends: [tokens], bool or uint8, true on the last token of a step.
        cu_seqlens: [samples + 1], int32 or int64.
        groups: [samples], the prompt of each sample.
        scale: The divisor, as in ``group_advantages``.
        ddof: 0 or 1.
        eps: Added to the divisor.
        out: An array to write into, instead of a new one.

    Returns:
        [tokens], of the kind and type of ``rewards``.

    Raises:
        ArrayError: An array has another type, length or layout, or offsets decrease.
        NonFiniteError: A step's reward is infinite.
        UsageError: ``ddof`` or ``eps`` lies outside its range.

    >>> import numpy as np
    >>> rewards = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    >>> step_ends = np.array([False, True, False, True, False])
    >>> process_advantages(rewards, step_ends, np.array([0, 2, 5]), ["p", "p"], scale="none")
    array([-1., -1.,  1.,  1.,  0.])
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out", out, rewards, rewards_flat)
    _core.rl.process_advantages(
        rewards_flat,
        mask_bytes("step_ends", step_ends),
        offsets(cu_seqlens),
        group_ids(groups),
        scale,
        ddof,
        eps,
        advantages_flat,
    )
    return advantages
