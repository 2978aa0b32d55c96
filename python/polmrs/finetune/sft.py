r"""Supervised fine-tuning: next-token cross-entropy over the tokens that count.

$$L = -\frac{\sum_t w_t \left[(1 - \epsilon) \log p_t + \epsilon \frac{1}{V} \sum_v \log p_{t,v}\right]}{\sum_t w_t}$$

Which tokens count, and how much, is in the batch: completions only, the assistant's messages only, weighted messages, or all
of a document. Both sums run over the whole optimizer step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from polmrs.data.ragged import Batch
from polmrs.errors import ConfigError
from polmrs.models import Policy

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class SFT:
    """Cross-entropy of weighted tokens; with ``noise``, NEFTune (arXiv:2310.05914).

    >>> SFT(label_smoothing=0.1).coefficients
    {'nll': 0.9, 'uniform': 0.1}
    """

    label_smoothing: float = 0.0
    """ε, the share of the uniform distribution in each target."""
    noise: float = 0.0
    """NEFTune's alpha, 5 to 15 in the paper; 0 for none. Drawn anew in every pass, so steps then depend on their cut."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"sft.label_smoothing: {self.label_smoothing} is not in [0, 1)")
        if self.noise < 0:
            raise ConfigError(f"sft.noise: {self.noise} is not 0 or more")

    @property
    def coefficients(self) -> dict[str, float]:
        """Of the two terms; without smoothing there is one."""
        smooth = self.label_smoothing
        return {"nll": 1 - smooth, "uniform": smooth} if smooth else {}

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """The sum of token weights, for each term."""
        total = float(batch.weights.sum(dtype=torch.float64))
        return {"nll": total, "uniform": total} if self.label_smoothing else {"nll": total}

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """Weighted sums of negative log-probabilities."""
        with policy.embedding_noise(self.noise):
            stats = policy.stats(batch, with_mean=bool(self.label_smoothing))
        terms = {"nll": weighted(stats.logp, batch.weights)}
        if self.label_smoothing:
            terms["uniform"] = weighted(stats.mean_logp, batch.weights)
        return terms


def weighted(logps: Tensor, weights: Tensor) -> Tensor:
    r"""$$-\sum_t w_t \log p_t$$ in float64.

    >>> weighted(torch.tensor([-1.0, -2.0]), torch.tensor([0.0, 1.0])).item()
    2.0
    """
    return -(logps.double() * weights).sum()
