r"""Value heads: a scalar for every token, on the hidden states of a policy, learned from returns.

$$L = \frac{1}{2 \sum_t w_t} \sum_t w_t \max\left[(V_t - R_t)^2, (\mathrm{clip}(V_t, V^{old}_t \pm c) - R_t)^2\right]$$

the value loss of PPO2; without clipping, half the squared error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polmrs.data.ragged import Batch
from polmrs.errors import ArrayError, ConfigError
from polmrs.models import Policy

Tensor = torch.Tensor


class ValueHead(nn.Module):
    """A linear map from hidden states [..., D] to values [...], 0 to begin with.

    >>> ValueHead(4)(torch.ones(3, 4)).tolist()
    [0.0, 0.0, 0.0]
    """

    def __init__(self, width: int, dtype: torch.dtype | None = None) -> None:
        """Weights of zero, so that the first advantages are the returns."""
        super().__init__()
        self.linear = nn.Linear(width, 1, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values of hidden states."""
        values: Tensor = self.linear(hidden)[..., 0]
        return values


@dataclass(frozen=True, kw_only=True)
class Value:
    """Regression of values on ``per_token["return"]``; clipped around ``per_token["value"]`` if asked for.

    >>> Value(clip=0.2).clip
    0.2
    """

    clip: float | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ConfigError(f"value.clip: {self.clip} is not above 0")

    def init(self, policy: Policy) -> ValueHead:
        """The head."""
        return ValueHead(policy.config.hidden_size, policy.plain.dtype)

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """The sum of token weights."""
        return {"value": float(batch.weights.sum(dtype=torch.float64))}

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """The weighted sum over tokens."""
        if "return" not in batch.per_token:
            raise ArrayError('value: the batch lacks per_token["return"]')
        values: Tensor = state(policy.hidden(batch))
        returns = batch.per_token["return"].to(values.dtype)
        error = (values - returns).square()
        if self.clip is not None:
            old = batch.per_token["value"].to(values.dtype)
            error = torch.maximum(error, (values.clamp(old - self.clip, old + self.clip) - returns).square())
        return {"value": (error * batch.weights).sum(dtype=torch.float64) / 2}
