r"""Classification: a linear head on the last hidden state (eq. 11; BERT, arXiv:1810.04805).

$$L = -\frac{1}{N} \sum_{i=1}^{N} \sum_{c=1}^{C} y_{i,c} \log p_{i,c}$$
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from polmrs.data.ragged import Batch
from polmrs.errors import ArrayError, ConfigError
from polmrs.models import Policy

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Cross-entropy over C classes of ``per_sequence["class"]``: [B] class numbers, or [B, C] probabilities.

    The policy has a head of C outputs: ``load(..., head=Scores(outputs=C))``. A decoder is read at the last token that
    counts, an encoder as its model does.

    >>> Classification().coefficients
    {'accuracy': 0.0}
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"classification.label_smoothing: {self.label_smoothing} is not in [0, 1)")

    @property
    def coefficients(self) -> dict[str, float]:
        """Accuracy is only measured."""
        return {"accuracy": 0.0}

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """The number of sequences."""
        return {"cross_entropy": float(len(batch)), "accuracy": float(len(batch))}

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """Sums over sequences."""
        logits = policy.scores(batch)
        if "class" not in batch.per_sequence:
            raise ArrayError('classification: the batch lacks per_sequence["class"]')
        wanted = batch.per_sequence["class"]
        if wanted.is_floating_point():
            wanted = wanted.to(logits.dtype)
            best = wanted.argmax(-1)
        else:
            best = wanted = wanted.long()
            if int(wanted.min()) < 0 or int(wanted.max()) >= logits.shape[1]:
                raise ArrayError(f"class: {wanted.tolist()} are not all from 0 to {logits.shape[1] - 1}")
        loss = cross_entropy(logits, wanted, reduction="sum", label_smoothing=self.label_smoothing)
        return {"cross_entropy": loss, "accuracy": (logits.argmax(-1) == best).sum()}
