"""Discounted returns over a ragged batch."""

from __future__ import annotations

from polmrs import _core
from polmrs._arrays import A, flat, flat_if, mask_bytes, offsets, output
from polmrs._tensor import Array
from polmrs.rl.generalized_advantage import Holes


def discounted_returns(
    rewards: A,
    cu_seqlens: Array,
    *,
    gamma: float,
    mask: Array | None = None,
    bootstrap: A | None = None,
    holes: Holes = "carry",
    out: A | None = None,
) -> A:
    r"""The reward to go of each token (REINFORCE; Williams 1992).

    $$ G_t = r_t + \gamma G_{t+1} $$

    After the last token of a sequence, G is its bootstrap value. At a hole, ``carry`` hands G on as it is, ``decay``
    discounts it, ``ignore`` discounts it and adds the hole's reward, ``reset`` forgets it (the table is in ``gae``).

    Args:
        rewards: [tokens], float32 or float64.
        cu_seqlens: [sequences + 1], int32 or int64.
        gamma: Discount in [0, 1].
        mask: [tokens], bool or uint8, false on holes.
        bootstrap: [sequences], the return after the last token, 0 if the sequence ended.
        holes: The convention for holes.
        out: An array to write into, instead of a new one.

    Returns:
        [tokens], of the kind and type of ``rewards``; 0 on holes.

    Raises:
        ArrayError: An array has another type, length or layout, or offsets decrease.
        NonFiniteError: A reward outside the holes is NaN or infinite.
        UsageError: ``gamma`` lies outside [0, 1].

    >>> import numpy as np
    >>> discounted_returns(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 3, 4]), gamma=0.5)
    array([0.25, 0.5 , 1.  , 1.  ])
    """
    rewards_flat = flat("rewards", rewards)
    returns, returns_flat = output("out", out, rewards, rewards_flat)
    _core.rl.discounted_returns(
        rewards_flat,
        offsets(cu_seqlens),
        mask_bytes("mask", mask),
        flat_if("bootstrap", bootstrap),
        gamma,
        holes,
        returns_flat,
    )
    return returns
