"""The adaptive entropy coefficient of the survey's eq. 22."""

from __future__ import annotations

import logging
from typing import Literal

from polmrs import _core
from polmrs._arrays import A, flat, mask_bytes, offsets, output
from polmrs._tensor import Array

_log = logging.getLogger("polmrs")


def adaptive_entropy(
    rewards: A,
    cu_seqlens: Array,
    *,
    alpha: float,
    beta: float,
    mode: Literal["as_printed", "inverse"] = "as_printed",
    step_ends: Array | None = None,
    out: A | None = None,
) -> A:
    r"""The weight of the entropy bonus at each token, from the spread of the rewards so far (survey eq. 22).

    $$ \lambda_t = \alpha \exp(-\beta\, \mathrm{Var}(R(\tau_{1:t}))) $$

    Var is the population variance of the rewards of the trajectory up to token t, 0 before the second. The equation and
    the sentence below it disagree: as printed, a steady trajectory explores more; the sentence wants more exploration
    where rewards vary, which ``inverse`` does, with exp(+beta Var). It is the survey's own, no part of DeepSeek-R1.

    With one reward at the end of a trajectory the variance is always 0 and the weight always alpha: a warning is logged.

    Args:
        rewards: [tokens], float32 or float64.
        cu_seqlens: [sequences + 1], int32 or int64.
        alpha: The weight at variance 0.
        beta: How fast it changes, per squared unit of reward.
        mode: The sign of the exponent.
        step_ends: [tokens], bool or uint8: the tokens that carry a reward, all if not given. Others keep the weight.
        out: An array to write into, instead of a new one.

    Returns:
        [tokens], of the kind and type of ``rewards``; no gradient flows through it.

    Raises:
        ArrayError: An array has another type, length or layout, or offsets decrease.
        NonFiniteError: A reward that counts is NaN or infinite.
        UsageError: ``alpha`` or ``beta`` is negative.

    >>> import numpy as np
    >>> adaptive_entropy(np.array([0.0, 2.0, 1.0]), np.array([0, 3]), alpha=0.01, beta=1.0).round(5)
    array([0.01   , 0.00368, 0.00513])
    """
    rewards_flat = flat("rewards", rewards)
    weights, weights_flat = output("out", out, rewards, rewards_flat)
    varied = _core.rl.adaptive_entropy(
        rewards_flat,
        offsets(cu_seqlens),
        mask_bytes("step_ends", step_ends),
        alpha,
        beta,
        mode,
        weights_flat,
    )
    if not varied and weights_flat.size:
        _log.warning(
            "adaptive_entropy: no sequence has rewards that vary, so every weight is alpha = %g", alpha
        )
    return weights
