"""V-trace over a ragged batch."""

from __future__ import annotations

from polmrs import _core
from polmrs._arrays import A, flat, flat_if, mask_bytes, offsets, output
from polmrs._tensor import Array
from polmrs.rl.generalized_advantage import Holes


def vtrace(
    log_ratios: A,
    rewards: A,
    values: A,
    cu_seqlens: Array,
    *,
    gamma: float,
    lam: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    mask: Array | None = None,
    bootstrap: A | None = None,
    holes: Holes = "carry",
    out: tuple[A, A] | None = None,
) -> tuple[A, A]:
    r"""Off-policy advantages and value targets by V-trace (Espeholt et al., arXiv:1802.01561, eq. 1, remark 2).

    With $\rho_t = \min(\bar\rho, \pi/\mu)$ and $c_t = \lambda\min(\bar c, \pi/\mu)$,

    $$ v_t = V_t + \rho_t (r_t + \gamma V_{t+1} - V_t) + \gamma c_t (v_{t+1} - V_{t+1}), \quad
       A_t = \rho_t (r_t + \gamma v_{t+1} - V_t) $$

    On policy (all ratios 1) with ``lam=1`` the targets are the returns of ``gae`` with ``lam=1``.

    Args:
        log_ratios: [tokens], log pi - log mu: the trained policy over the one that sampled; float32 or float64.
        rewards: [tokens], of the same type.
        values: [tokens], the critic's V.
        cu_seqlens: [sequences + 1], int32 or int64.
        gamma: Discount in [0, 1].
        lam: Lambda of the trace, in [0, 1].
        rho_bar: Limit of the importance weight of a temporal difference: it sets the fixed point.
        c_bar: Limit of the weight of the trace, at most ``rho_bar``: it sets the speed.
        mask: [tokens], bool or uint8, false on holes.
        bootstrap: [sequences], V after the last token, 0 if the sequence ended.
        holes: The convention for holes (the table is in ``gae``); under ``decay`` a hole's log-ratio counts as 0 too.
        out: Two arrays to write into, instead of new ones.

    Returns:
        Advantages and value targets, [tokens] each; 0 on holes.

    Raises:
        ArrayError: An array has another type, length or layout, or offsets decrease.
        NonFiniteError: A number outside the holes is NaN or infinite.
        UsageError: A setting lies outside its range.

    >>> import numpy as np
    >>> zeros = np.zeros(3)
    >>> advantages, targets = vtrace(zeros, np.array([0.0, 0.0, 1.0]), zeros + 0.5, np.array([0, 3]), gamma=1.0)
    >>> targets
    array([1., 1., 1.])
    >>> advantages
    array([0.5, 0.5, 0.5])
    """
    rewards_flat = flat("rewards", rewards)
    advantages, advantages_flat = output("out[0]", None if out is None else out[0], rewards, rewards_flat)
    targets, targets_flat = output("out[1]", None if out is None else out[1], rewards, rewards_flat)
    _core.rl.vtrace(
        [flat("log_ratios", log_ratios), rewards_flat, flat("values", values)],
        offsets(cu_seqlens),
        mask_bytes("mask", mask),
        flat_if("bootstrap", bootstrap),
        gamma,
        lam,
        rho_bar,
        c_bar,
        holes,
        [advantages_flat, targets_flat],
    )
    return advantages, targets
