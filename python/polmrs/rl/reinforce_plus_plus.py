"""Advantages of REINFORCE++ and of its form with a group baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polmrs._arrays import A, GroupIds, flat, group_ids, integers, made
from polmrs._tensor import Array
from polmrs.rl.generalized_advantage import Holes
from polmrs.rl.group_relative import Alone, group_advantages
from polmrs.rl.returns import discounted_returns
from polmrs.rl.whitening import Moments, whiten


def reinforce_pp(
    rewards: A,
    cu_seqlens: Array,
    *,
    gamma: float = 1.0,
    mask: Array | None = None,
    holes: Holes = "carry",
    ddof: float = 1.0,
    eps: float = 1e-8,
) -> tuple[A, A]:
    r"""Discounted returns, whitened over all tokens of the batch (REINFORCE++; Hu et al., arXiv:2501.03262).

    $$ G_t = r_t + \gamma G_{t+1}, \qquad A_t = (G_t - \mathrm{mean}(G)) / \sqrt{\mathrm{var}(G) + \varepsilon} $$

    The KL penalty belongs into the rewards: ``kl_shaped_rewards`` with ``estimator="k1"``. With several ranks, whiten
    over all of them: ``whiten(discounted_returns(...), moments=merged)``.

    Args:
        rewards: [tokens], float32 or float64.
        cu_seqlens: [sequences + 1], int32 or int64.
        gamma: Discount in [0, 1].
        mask: [tokens], bool or uint8, false on holes.
        holes: The convention for holes (the table is in ``gae``).
        ddof: Taken off the count in the variance.
        eps: Added to the variance.

    Returns:
        Advantages and returns, [tokens] each; 0 on holes.

    Raises:
        ArrayError: An array has another type, length or layout, or fewer than two tokens count.
        NonFiniteError: A reward outside the holes is NaN or infinite.
        UsageError: ``gamma`` lies outside [0, 1].

    >>> import numpy as np
    >>> advantages, returns = reinforce_pp(np.array([0.0, 1.0, 0.0, 0.0]), np.array([0, 2, 4]), eps=0.0)
    >>> returns
    array([1., 1., 0., 0.])
    >>> advantages.round(3)
    array([ 0.866,  0.866, -0.866, -0.866])
    """
    returns = discounted_returns(rewards, cu_seqlens, gamma=gamma, mask=mask, holes=holes)
    return whiten(returns, mask, ddof=ddof, eps=eps), returns


def reinforce_pp_baseline(
    rewards: A,
    lengths: Array | Sequence[int],
    groups: GroupIds,
    *,
    alone: Alone = "zero",
    ddof: float = 1.0,
    eps: float = 1e-8,
) -> A:
    r"""Rewards less the group's mean, whitened over all tokens of the batch (REINFORCE++ w/ baseline; arXiv:2501.03262).

    $$ A'_i = r_i - \mathrm{mean}_{\mathrm{group}}(r), \qquad A_i = (A'_i - \mu) / \sqrt{\sigma^2 + \varepsilon} $$

    with mean and variance over tokens: sample i counts ``lengths[i]`` times. Samples with a NaN reward count not at all
    and get 0. One advantage for each sample: it is the same for all its tokens.

    Args:
        rewards: [samples], float32 or float64; NaN where an answer could not be scored.
        lengths: [samples], tokens of each response.
        groups: [samples], the prompt of each sample.
        alone: What a group's only scored sample brings, as in ``group_advantages``.
        ddof: Taken off the count of tokens in the variance.
        eps: Added to the variance.

    Returns:
        [samples], of the kind and type of ``rewards``.

    Raises:
        ArrayError: An array has another type, length or layout, or fewer than two tokens count.
        NonFiniteError: A reward is infinite.

    >>> import numpy as np
    >>> reinforce_pp_baseline(np.array([1.0, 0.0, 1.0, 0.0]), [1, 1, 1, 1], [0, 0, 1, 1], ddof=0, eps=0.0)
    array([ 1., -1.,  1., -1.])
    """
    scores = flat("rewards", rewards)
    wide = scores.astype(np.float64)
    centred = group_advantages(wide, group_ids(groups), scale="none", alone=alone)
    scored = ~np.isnan(wide)
    weights = np.where(scored, integers("lengths", lengths), 0).astype(np.float64)
    n = float(weights.sum())
    mean = float((weights * centred).sum()) / n if n else 0.0
    m2 = float((weights * (centred - mean) ** 2).sum())
    whitened = whiten(centred, scored, moments=Moments(n=n, mean=mean, m2=m2), ddof=ddof, eps=eps)
    return made(whitened.astype(scores.dtype), rewards)[0]
