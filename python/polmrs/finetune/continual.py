r"""Continual pre-training on a domain, with a share of general text replayed against forgetting (arXiv:2403.08763).

The survey's $$M_{target} = F_{adapt}(M_{source})$$ (eq. 31): next-token training on domain text, the learning rate warmed up
again and decayed again (``Schedule(shape="cosine", warmup=0.01)``), and a few percent of each step from what the model
knew. The loss is that of ``SFT`` over both; the two are measured apart, so domain gain and forgetting both show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from polmrs.data.epochs import Epochs
from polmrs.data.ragged import Batch
from polmrs.errors import ConfigError
from polmrs.finetune.sft import weighted
from polmrs.models import Policy

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Continual:
    """Cross-entropy of all tokens; ``domain`` and ``replay`` are its parts, by ``per_sequence["replay"]``.

    >>> Continual().coefficients
    {'domain': 0.0, 'replay': 0.0}
    """

    @property
    def coefficients(self) -> dict[str, float]:
        """The parts are only measured."""
        return {"domain": 0.0, "replay": 0.0}

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """Token weights: all, of the domain, of what is replayed."""
        replayed = _replayed(batch)
        parts = (batch.weights, batch.weights * ~replayed, batch.weights * replayed)
        return dict(zip(TERMS, (float(part.sum(dtype=torch.float64)) for part in parts), strict=True))

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """Negative log-probabilities: all, of the domain, of what is replayed."""
        logps, replayed = policy.logps(batch), _replayed(batch)
        parts = (batch.weights, batch.weights * ~replayed, batch.weights * replayed)
        return dict(zip(TERMS, (weighted(logps, part) for part in parts), strict=True))


TERMS = ("nll", "domain", "replay")


class Replayed:
    """Batches of domain examples in which a share comes from general ones; a position is that of both.

    The share holds over steps: of 20 examples at 5 % one is replayed, of 10 one in every other step.

    >>> domain, general = ([Batch.of([[i, i]]) for i in range(4)] for _ in range(2))
    >>> stream = Replayed(domain, general, share=0.25, batch=4)
    >>> [int(one.per_sequence["replay"]) for one in next(stream)]
    [0, 0, 0, 1]
    """

    def __init__(
        self,
        domain: Sequence[Batch],
        general: Sequence[Batch],
        *,
        share: float = 0.05,
        batch: int,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        """Begins; the default share is the paper's for a weak shift of distribution.

        Args:
            domain: What is learned.
            general: What is replayed.
            share: Of the examples of a step that are general.
            batch: Examples of one optimizer step, over all ranks.
            seed: Of both orders.
            shuffle: Whether to draw orders.

        Raises:
            ConfigError: The share is not in (0, 1).
        """
        if not 0 < share < 1:
            raise ConfigError(f"replay.share: {share} is not in (0, 1)")
        self.share, self.batch, self._step = share, batch, 0
        self._domain, self._general = (
            Epochs(domain, batch=1, seed=seed, shuffle=shuffle),
            Epochs(general, batch=1, seed=seed + 1, shuffle=shuffle),
        )

    def __iter__(self) -> Iterator[list[Batch]]:
        """Itself."""
        return self

    def __next__(self) -> list[Batch]:
        """The examples of the next step, domain first."""
        before, after = (int(step * self.batch * self.share + 1e-9) for step in (self._step, self._step + 1))
        self._step += 1
        count = after - before
        drawn = [(self._domain, 0)] * (self.batch - count) + [(self._general, 1)] * count
        return [marked(next(stream)[0], mark) for stream, mark in drawn]

    def state_dict(self) -> dict[str, Any]:
        """The positions."""
        return {
            "step": self._step,
            "domain": self._domain.state_dict(),
            "general": self._general.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes there."""
        self._step = state["step"]
        self._domain.load_state_dict(state["domain"])
        self._general.load_state_dict(state["general"])


def marked(example: Batch, replay: int) -> Batch:
    """An example as one of the domain, 0, or a replayed one, 1.

    >>> marked(Batch.of([[1, 2]]), 1).per_sequence["replay"]
    tensor([1])
    """
    return replace(
        example, per_sequence={**example.per_sequence, "replay": torch.full((len(example),), replay)}
    )


def _replayed(batch: Batch) -> Tensor:
    if "replay" not in batch.per_sequence:
        raise ConfigError('continual: the batch lacks per_sequence["replay"]; draw batches from Replayed')
    return batch.per_sequence["replay"].bool()[batch.sequence]
