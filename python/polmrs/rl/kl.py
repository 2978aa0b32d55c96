"""Per-token KL estimates, and the KL-shaped reward."""

from __future__ import annotations

from typing import Literal, TypeAlias

from polmrs import _core
from polmrs._arrays import A, flat, mask_bytes, offsets, output, view
from polmrs._tensor import Array

Estimator: TypeAlias = Literal["k1", "k2", "k3", "abs"]


def kl_estimate(
    logp: A, ref_logp: A, mask: Array | None = None, *, estimator: Estimator = "k3", out: A | None = None
) -> A:
    r"""For each sampled token, an estimate of KL(pi || ref) (Schulman, "Approximating KL divergence", 2020).

    With d = log pi - log ref:

    | ``estimator`` | value            | over samples of pi                                      |
    |---------------|------------------|---------------------------------------------------------|
    | ``k1``        | d                | unbiased, of high variance, may be negative             |
    | ``k2``        | d^2 / 2          | biased, of low variance; its gradient is that of the KL |
    | ``k3``        | exp(-d) - 1 + d  | unbiased, of low variance, never negative; GRPO's       |
    | ``abs``       | absolute d       | a distance, no estimate of the KL                       |

    ``k3`` is computed without cancellation: it keeps its digits where the policies are close. Nothing is clamped (verl
    clamps d to 20 and k3 to 10).

    Args:
        logp: Any shape, log pi of the sampled tokens; float32 or float64.
        ref_logp: log ref of the same tokens.
        mask: Of the same shape, bool or uint8, false on holes.
        estimator: The estimator.
        out: An array to write into, instead of a new one.

    Returns:
        Of the shape, kind and type of ``logp``; 0 on holes.

    Raises:
        ArrayError: An array has another type, length or layout.
        NonFiniteError: A difference outside the holes is NaN or infinite.

    >>> import numpy as np
    >>> kl_estimate(np.array([-1.0, -2.0]), np.array([-1.5, -2.0]), estimator="k3").round(4)
    array([0.1065, 0.    ])
    """
    policy = view("logp", logp)
    estimates, estimates_flat = output("out", out, logp, policy)
    _core.rl.kl_tokens(
        policy, view("ref_logp", ref_logp), mask_bytes("mask", mask), estimator, estimates_flat
    )
    return estimates


def kl_shaped_rewards(
    scores: A,
    logp: A,
    ref_logp: A,
    cu_seqlens: Array,
    *,
    beta: float = 0.02,
    mask: Array | None = None,
    estimator: Estimator = "k1",
    out: A | None = None,
) -> A:
    r"""Per-token rewards of RLHF: a KL penalty everywhere, and the score at the end (survey eq. 13; arXiv:2203.02155).

    $$ r_t = -\beta\, \mathrm{kl}_t + [t \text{ is the last token}]\; \mathrm{score} $$

    The last token is the last one that the mask keeps. The default beta is InstructGPT's.

    Args:
        scores: [sequences], the reward model's, float32 or float64.
        logp: [tokens], log pi of the sampled tokens.
        ref_logp: [tokens], log ref of the same tokens.
        cu_seqlens: [sequences + 1], int32 or int64.
        beta: Strength of the penalty, 0 or more.
        mask: [tokens], bool or uint8, false on holes.
        estimator: The KL estimator.
        out: An array to write into, instead of a new one.

    Returns:
        [tokens], of the kind and type of ``logp``; 0 on holes.

    Raises:
        ArrayError: An array has another type, length or layout, or a sequence without a token has a score other than 0,
            which would be lost.
        NonFiniteError: A score, or a difference outside the holes, is NaN or infinite.
        UsageError: ``beta`` is negative.

    >>> import numpy as np
    >>> scores, logp, ref = np.array([1.0]), np.array([-1.0, -1.0]), np.array([-1.5, -1.25])
    >>> kl_shaped_rewards(scores, logp, ref, np.array([0, 2]), beta=0.5)
    array([-0.25 ,  0.875])
    """
    policy = flat("logp", logp)
    rewards, rewards_flat = output("out", out, logp, policy)
    _core.rl.kl_shaped_rewards(
        flat("scores", scores),
        policy,
        flat("ref_logp", ref_logp),
        offsets(cu_seqlens),
        mask_bytes("mask", mask),
        estimator,
        beta,
        rewards_flat,
    )
    return rewards
