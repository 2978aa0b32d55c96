r"""Reward models from ratings of single answers, ``per_sequence["score"]``.

| class        | loss of an answer                                                                     |
|--------------|---------------------------------------------------------------------------------------|
| `Regression` | $$(r - s)^2$$                                                                         |
| `Likert`     | $$-\log [\sigma(r - \theta_s) - \sigma(r - \theta_{s+1})]$$: levels s = 0 ... n - 1 between thresholds, $$\theta_0 = -\infty$$, $$\theta_n = \infty$$ (McCullagh's proportional odds, 1980) |

A Likert scale is ordered but not evenly spaced; its thresholds are learned with the reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid, softplus

from polmrs.align.reward import rewards_of
from polmrs.data.ragged import Batch
from polmrs.errors import ArrayError, ConfigError
from polmrs.models import Policy

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Squared error of the reward.

    >>> Regression()
    Regression()
    """

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """The number of answers."""
        return {"squared_error": float(len(batch))}

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """The sum over answers."""
        rewards = rewards_of(policy, batch)
        return {"squared_error": (rewards - _scores(batch).to(rewards.dtype)).square().sum()}


class Thresholds(nn.Module):
    """Levels - 1 rising thresholds: the first, and the softplus of each step up; evenly spaced around 0 to begin with.

    >>> Thresholds(4)().tolist()
    [-1.0, 0.0, 1.0]
    """

    def __init__(self, levels: int, raters: int = 0) -> None:
        """As many thresholds as there are places between levels; an offset of 0 for each rater."""
        super().__init__()
        self.first = nn.Parameter(torch.tensor(-(levels - 2) / 2, dtype=torch.float64))
        one = torch.tensor(1.0, dtype=torch.float64).expm1().log()  # softplus of it is 1
        self.steps = nn.Parameter(one.repeat(levels - 2))
        self.offsets = nn.Parameter(torch.zeros(raters, dtype=torch.float64)) if raters else None

    def forward(self) -> Tensor:
        """[levels - 1] float64, rising."""
        return torch.cat([self.first[None], self.first + softplus(self.steps).cumsum(0)])


@dataclass(frozen=True, kw_only=True)
class Likert:
    """Ordinal regression on levels 0 to ``levels`` - 1; the thresholds are the objective's own weights.

    >>> Likert(levels=5).coefficients
    {'accuracy': 0.0}
    """

    levels: int = 5
    raters: int = 0
    """Raters 0 to n - 1 of ``per_sequence["rater"]``, each with a learned offset to the reward; 0 to not tell them apart."""

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ConfigError(f"likert.levels: {self.levels} is not 2 or more")

    @property
    def coefficients(self) -> dict[str, float]:
        """Accuracy, the share of answers put between the right thresholds, is only measured."""
        return {"accuracy": 0.0}

    def init(self, policy: Policy) -> Thresholds:
        """The thresholds."""
        return Thresholds(self.levels, self.raters)

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """The number of answers."""
        return {"ordinal": float(len(batch)), "accuracy": float(len(batch))}

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """The sum over answers."""
        rewards, levels = rewards_of(policy, batch).double(), _scores(batch)
        if (
            bool((levels != levels.round()).any())
            or int(levels.min()) < 0
            or int(levels.max()) >= self.levels
        ):
            raise ArrayError(
                f"score: {levels.tolist()} are not all whole numbers from 0 to {self.levels - 1}"
            )
        thresholds: Tensor = state()
        if self.raters:
            if "rater" not in batch.per_sequence:
                raise ArrayError('likert: the batch lacks per_sequence["rater"]')
            rewards = rewards + state.offsets[batch.per_sequence["rater"]]
        return {
            "ordinal": -ordinal_logp(rewards, thresholds, levels.long()).sum(),
            "accuracy": ((rewards[:, None] > thresholds).sum(1) == levels).sum(),
        }


def ordinal_logp(rewards: Tensor, thresholds: Tensor, levels: Tensor) -> Tensor:
    r"""$$\log [\sigma(r - \theta_s) - \sigma(r - \theta_{s+1})]$$ of [n] rewards, without cancellation.

    From $$\sigma(a) - \sigma(b) = \sigma(a) \sigma(-b) (1 - e^{b - a})$$.

    >>> ordinal_logp(torch.zeros(1), torch.tensor([0.0]), torch.tensor([1])).exp().item()
    0.5
    """
    above = levels > 0
    below = levels < len(thresholds)
    a = rewards - thresholds[(levels - 1).clamp_min(0)]
    b = rewards - thresholds[levels.clamp_max(len(thresholds) - 1)]
    found = torch.where(above, logsigmoid(a), 0.0) + torch.where(below, logsigmoid(-b), 0.0)
    gap = torch.where(above & below, b - a, -1.0)
    return found + torch.where(above & below, (-torch.expm1(gap)).log(), 0.0)


def _scores(batch: Batch) -> Tensor:
    if "score" not in batch.per_sequence:
        raise ArrayError('reward: the batch lacks per_sequence["score"]')
    return batch.per_sequence["score"]
