"""A list of examples, over and over: a fresh order for every epoch, cut into the batches of optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from polmrs.data.ragged import Batch
from polmrs.errors import ConfigError, UsageError


class Epochs:
    """Iterates over lists of ``batch`` examples; without ``epochs``, for ever.

    The order of epoch e is drawn from (seed, e) alone, so a position is two numbers. The last batch of an epoch is
    shorter where the examples do not divide; a batch never spans two epochs.

    >>> examples = [Batch.of([[i, i]]) for i in range(3)]
    >>> [len(step) for step in Epochs(examples, batch=2, epochs=2)]
    [2, 1, 2, 1]
    """

    def __init__(
        self,
        examples: Sequence[Batch],
        *,
        batch: int,
        seed: int = 0,
        shuffle: bool = True,
        epochs: int | None = None,
    ) -> None:
        """Begins at the first epoch.

        Args:
            examples: What to train on; any sequence, so also one that reads rows as they are asked for.
            batch: Examples of one optimizer step, over all ranks.
            seed: Of the orders.
            shuffle: Whether to draw orders, or to keep the one given.
            epochs: How many.

        Raises:
            UsageError: There are no examples, or ``batch`` is below 1.
        """
        if not len(examples):
            raise UsageError("examples: there is none to train on")
        if batch < 1:
            raise UsageError(f"batch: {batch} is not 1 or more")
        self.examples, self.batch, self.seed, self.shuffle, self.epochs = (
            examples,
            batch,
            seed,
            shuffle,
            epochs,
        )
        self._epoch = self._taken = 0
        self._order: Any = None

    def __iter__(self) -> Iterator[list[Batch]]:
        """Itself: two loops over it share one position."""
        return self

    def __next__(self) -> list[Batch]:
        """The examples of the next step."""
        if self._taken >= len(self.examples):
            self._epoch, self._taken, self._order = self._epoch + 1, 0, None
        if self.epochs is not None and self._epoch >= self.epochs:
            raise StopIteration
        if self._order is None:
            random = np.random.default_rng((self.seed, self._epoch))
            self._order = (
                random.permutation(len(self.examples)) if self.shuffle else range(len(self.examples))
            )
        rows = self._order[self._taken : self._taken + self.batch]
        self._taken += len(rows)
        return [self.examples[int(row)] for row in rows]

    def state_dict(self) -> dict[str, int]:
        """The position, and what it depends on."""
        return {
            "epoch": self._epoch,
            "taken": self._taken,
            "seed": self.seed,
            "batch": self.batch,
            "examples": len(self.examples),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a position.

        Raises:
            ConfigError: It was one in other data: seed, batch or the number of examples differ.
        """
        for key in ("seed", "batch", "examples"):
            if state[key] != self.state_dict()[key]:
                raise ConfigError(
                    f"{key}: {self.state_dict()[key]}, but the run that is resumed had {state[key]}"
                )
        self._epoch, self._taken, self._order = state["epoch"], state["taken"], None
