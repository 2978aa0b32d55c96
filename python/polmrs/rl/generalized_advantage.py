"""Generalized advantage estimation over a ragged batch."""

from __future__ import annotations

from typing import Literal, TypeAlias

from polmrs import _core
from polmrs._arrays import A, flat, flat_if, mask_bytes, offsets, output
from polmrs._tensor import Array

Holes: TypeAlias = Literal["carry", "decay", "ignore", "reset"]


def gae(
    rewards: A,
    values: A,
    cu_seqlens: Array,
    *,
    gamma: float,
    lam: float,
    lam_value: float | None = None,
    mask: Array | None = None,
    bootstrap: A | None = None,
    holes: Holes = "carry",
    out: tuple[A, A] | None = None,
) -> tuple[A, A]:
    r"""Advantages and returns by GAE (Schulman et al., arXiv:1506.02438, eq. 11, 12 and 16).

    $$ \delta_t = r_t + \gamma V_{t+1} - V_t, \quad A_t = \delta_t + \gamma\lambda A_{t+1}, \quad G_t = A_t + V_t $$

    After the last token of a sequence, V is its bootstrap value and A is 0. A hole is a token that the mask leaves
    out, such as tool output in the middle of a response. Libraries differ on it, silently; with the state (A, V) that
    a token hands to the one before it, at a hole t:

    | ``holes``  | A becomes                            | V becomes | its reward and value | as in                    |
    |------------|--------------------------------------|-----------|----------------------|--------------------------|
    | ``carry``  | A: time stands still                 | V         | are not looked at    | verl, NeMo-RL, AReaL     |
    | ``decay``  | gamma V + gamma lam A                | 0         | count as 0           | OpenRLHF                 |
    | ``ignore`` | r_t + gamma V - V_t + gamma lam A    | V_t       | count                | TRL <= 1.12, ROLL        |
    | ``reset``  | 0: the tokens before it end there    | 0         | are not looked at    | open-instruct, zero holes |

    Both results are 0 on holes. Whatever stands in a hole changes nothing, except under ``ignore``.

    Args:
        rewards: [tokens], float32 or float64.
        values: [tokens], the critic's V, of the same type.
        cu_seqlens: [sequences + 1], int32 or int64: sequence i is the tokens ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]``.
        gamma: Discount in [0, 1]; 1 is usual for language models.
        lam: Lambda of the advantages, in [0, 1]; PPO uses 0.95.
        lam_value: Lambda of the returns, ``lam`` if not given; VAPO (arXiv:2504.05118) takes 1.
        mask: [tokens], bool or uint8, false on holes.
        bootstrap: [sequences], V after the last token of a truncated sequence, 0 for a finished one.
        holes: The convention for holes.
        out: Two arrays to write into, instead of new ones.

    Returns:
        Advantages and returns, [tokens] each, of the kind and type of ``rewards``.

    Raises:
        ArrayError: An array has another type, length or layout, or offsets decrease.
        NonFiniteError: A reward or value outside the holes is NaN or infinite.
        UsageError: ``gamma`` or a lambda lies outside [0, 1].

    >>> import numpy as np
    >>> rewards = np.array([0.0, 1.0, 0.0, 0.0, 1.0])
    >>> values = np.array([0.5, 0.5, 0.2, 0.2, 0.2])
    >>> advantages, returns = gae(rewards, values, np.array([0, 2, 5]), gamma=1.0, lam=0.5)
    >>> advantages
    array([0.25, 0.5 , 0.2 , 0.4 , 0.8 ])
    >>> returns
    array([0.75, 1.  , 0.4 , 0.6 , 1.  ])
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out[0]", None if out is None else out[0], rewards, rewards_flat)
    returns, returns_flat = output("out[1]", None if out is None else out[1], rewards, rewards_flat)
    _core.rl.gae(
        rewards_flat,
        flat("values", values),
        offsets(cu_seqlens),
        mask_bytes("mask", mask),
        flat_if("bootstrap", bootstrap),
        gamma,
        lam,
        lam if lam_value is None else lam_value,
        holes,
        advantages_flat,
        returns_flat,
    )
    return advantages, returns
