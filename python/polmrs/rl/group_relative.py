"""Group-relative advantages: GRPO, Dr.GRPO, DGPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, overload

from polmrs import _core
from polmrs._arrays import A, GroupIds, flat, group_ids, output
from polmrs._tensor import Array

Scale: TypeAlias = Literal["std", "mad", "none"]
Missing: TypeAlias = Literal["exclude", "refuse"]
Alone: TypeAlias = Literal["zero", "reward"]


@dataclass(frozen=True, kw_only=True)
class GroupStats:
    """What a batch of groups holds. A group teaches something only if it is none of empty, alone and flat."""

    groups: int
    samples: int
    missing: int
    """Samples whose reward is NaN."""
    empty: int
    """Groups without a scored sample."""
    alone: int
    """Groups with one scored sample."""
    flat: int
    """Groups of two or more whose scored rewards are all equal."""
    reward_mean: float
    """Mean of the scored rewards; NaN if there are none."""

    @property
    def live(self) -> int:
        """Groups with a signal."""
        return self.groups - self.empty - self.alone - self.flat


@overload
def group_advantages(
    rewards: A,
    groups: GroupIds,
    *,
    scale: Scale = ...,
    ddof: int = ...,
    eps: float = ...,
    missing: Missing = ...,
    alone: Alone = ...,
    stats: Literal[False] = ...,
    out: A | None = ...,
) -> A: ...
@overload
def group_advantages(
    rewards: A,
    groups: GroupIds,
    *,
    scale: Scale = ...,
    ddof: int = ...,
    eps: float = ...,
    missing: Missing = ...,
    alone: Alone = ...,
    stats: Literal[True],
    out: A | None = ...,
) -> tuple[A, GroupStats]: ...
def group_advantages(
    rewards: A,
    groups: GroupIds,
    *,
    scale: Scale = "std",
    ddof: int = 1,
    eps: float = 1e-4,
    missing: Missing = "exclude",
    alone: Alone = "zero",
    stats: bool = False,
    out: A | None = None,
) -> A | tuple[A, GroupStats]:
    r"""Rewards relative to the other samples of the same prompt (GRPO outcome form; arXiv:2402.03300, section 4.1.2).

    $$ A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{scale}(r) + \varepsilon} $$

    | ``scale`` | divides by                                              | method                        |
    |-----------|---------------------------------------------------------|-------------------------------|
    | ``std``   | the standard deviation, ``n - ddof`` below it, plus eps | GRPO                          |
    | ``mad``   | the mean absolute deviation from the mean, plus eps     | DGPO (arXiv:2601.20614)       |
    | ``none``  | 1                                                       | Dr.GRPO (arXiv:2503.20783)    |

    The paper gives neither ddof nor eps. Ours are TRL's (1, 1e-4); verl and NeMo-RL take 1e-6, OpenRLHF 1e-9. A group
    whose rewards are all equal gets exactly 0, whatever rounding would make of it.

    Args:
        rewards: [samples], float32 or float64; NaN where an answer could not be scored.
        groups: [samples], the prompt of each sample: integers, strings or anything hashable, in any order.
        scale: The divisor.
        ddof: 0 or 1.
        eps: Added to the divisor.
        missing: ``exclude`` leaves NaN rewards out of the group's statistics and gives them 0; ``refuse`` is an error.
        alone: The advantage of a group's only scored sample: ``zero`` (TRL, prime-rl) or its ``reward`` (verl).
        stats: Whether to return a ``GroupStats`` too.
        out: An array to write into, instead of a new one.

    Returns:
        [samples], of the kind and type of ``rewards``; with ``stats``, also the counts.

    Raises:
        ArrayError: An array has another type, length or layout.
        NonFiniteError: A reward is infinite, or NaN under ``refuse``.
        UsageError: ``ddof`` or ``eps`` lies outside its range.

    >>> import numpy as np
    >>> rewards = np.array([1.0, 0.0, 3.0, 1.0, float("nan"), 1.0])
    >>> advantages, seen = group_advantages(rewards, [7, 2, 7, 2, 2, 5], eps=0.0, stats=True)
    >>> advantages.round(3)
    array([-0.707, -0.707,  0.707,  0.707,  0.   ,  0.   ])
    >>> seen.groups, seen.missing, seen.alone, seen.live
    (3, 1, 1, 2)
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out", out, rewards, rewards_flat)
    counted = _core.rl.group_advantages(
        rewards_flat, group_ids(groups), scale, ddof, eps, missing, alone, advantages_flat
    )
    if not stats:
        return advantages
    count, samples, missing_count, empty, alone_count, flat_count, total = counted
    scored = samples - missing_count
    return advantages, GroupStats(
        groups=count,
        samples=samples,
        missing=missing_count,
        empty=empty,
        alone=alone_count,
        flat=flat_count,
        reward_mean=total / scored if scored else float("nan"),
    )


def group_stats(rewards: Array, groups: GroupIds) -> GroupStats:
    """The counts of a batch of groups, whatever the estimator.

    Args:
        rewards: [samples], float32 or float64; NaN where an answer could not be scored.
        groups: [samples], the prompt of each sample.

    Raises:
        ArrayError: An array has another type, length or layout.
        NonFiniteError: A reward is infinite.

    >>> import numpy as np
    >>> group_stats(np.array([1.0, 1.0, 0.0, 1.0]), [0, 0, 1, 1]).flat
    1
    """
    return group_advantages(rewards, groups, scale="none", stats=True)[1]
