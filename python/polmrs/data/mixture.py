r"""Tasks in one stream: how often each is drawn, and how much its loss counts.

Of task m with e_m examples, capped at K and flattened by a temperature T (arXiv:1910.10683, section 3.5.2):

$$ p_m = \frac{\min(e_m, K)^{1/T}}{\sum_n \min(e_n, K)^{1/T}} $$

T = 1 is in proportion to size; the larger T, the more equal the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from polmrs.data.epochs import Epochs
from polmrs.data.ragged import Batch
from polmrs.errors import ConfigError, UsageError


def shares(sizes: Mapping[str, int], *, cap: float = math.inf, temperature: float = 1.0) -> dict[str, float]:
    """How often each task is drawn, adding up to 1.

    Args:
        sizes: The examples of each.
        cap: The size that a task counts as at most, K.
        temperature: T.

    Raises:
        UsageError: There is no task, one is empty, the cap is below 1 or the temperature not above 0.

    >>> shares({"small": 100, "large": 300}), shares({"small": 100, "large": 300}, cap=100)
    ({'small': 0.25, 'large': 0.75}, {'small': 0.5, 'large': 0.5})
    """
    if not sizes or min(sizes.values()) < 1:
        raise UsageError(f"sizes: {dict(sizes)}, but each task has 1 example or more, and there is one")
    if not cap >= 1:
        raise UsageError(f"cap: {cap} is not 1 or more")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UsageError(f"temperature: {temperature} is not above 0")
    counted = {name: min(size, cap) for name, size in sizes.items()}
    top = max(counted.values())
    powers = {name: (size / top) ** (1 / temperature) for name, size in counted.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}


class Mixture:
    """Steps of ``batch`` examples, each drawn from one of several streams.

    Which stream gives which example is drawn from (seed, step) alone. It ends when the stream that is drawn ends.

    >>> streams = {name: Epochs([Batch.of([[i, i]])], batch=1) for i, name in enumerate("ab")}
    >>> [one.ids.tolist() for one in next(Mixture(streams, {"a": 0.25, "b": 0.75}, batch=4))]
    [[1, 1], [1, 1], [0, 0], [0, 0]]
    """

    def __init__(
        self,
        streams: Mapping[str, Any],
        shares: Mapping[str, float],
        *,
        batch: int,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        """Begins at the first step.

        Args:
            streams: Iterators over lists of examples, with ``state_dict``: ``Epochs(..., batch=1)``, ``Streamed``, another
                mixture.
            shares: How often each is drawn; in proportion to these numbers.
            batch: Examples of one optimizer step, over all ranks.
            weights: What each task's loss is multiplied by; 1 for those that are not named.
            seed: Of the draws.

        Raises:
            UsageError: Streams and shares do not have the same names, or a number is out of range.
        """
        if set(streams) != set(shares) or not streams:
            raise UsageError(f"shares: of {sorted(shares)}, but the streams are {sorted(streams)}")
        if not all(share >= 0 and math.isfinite(share) for share in shares.values()) or not sum(
            shares.values()
        ):
            raise UsageError(f"shares: {dict(shares)} are not numbers from 0 up, with one above 0")
        if batch < 1:
            raise UsageError(f"batch: {batch} is not 1 or more")
        given = dict(weights or {})
        if unknown := sorted(set(given) - set(streams)):
            raise UsageError(f"weights: {unknown} are none of the streams {sorted(streams)}")
        if not all(weight >= 0 and math.isfinite(weight) for weight in given.values()):
            raise UsageError(f"weights: {given} are not numbers from 0 up")
        self.streams, self.batch, self.seed, self.weights = dict(streams), batch, seed, given
        total = sum(shares.values())
        self.shares = {name: shares[name] / total for name in streams}
        self._step = 0
        self._pending: dict[str, list[Batch]] = {name: [] for name in streams}

    def __iter__(self) -> Iterator[list[Batch]]:
        """Itself: two loops over it share one position."""
        return self

    def __next__(self) -> list[Batch]:
        """The examples of the next step."""
        random = np.random.default_rng((self.seed, self._step))
        names = list(self.streams)
        drawn = random.choice(len(names), self.batch, p=list(self.shares.values()))
        step = [self._one(names[i]) for i in drawn]
        self._step += 1
        return step

    def _one(self, name: str) -> Batch:
        pending = self._pending[name]
        while not pending:
            pending += next(self.streams[name])
        one, weight = pending.pop(0), self.weights.get(name, 1.0)
        return one if weight == 1 else replace(one, weights=one.weights * weight)

    def state_dict(self) -> dict[str, Any]:
        """The position, that of each stream, and what it depends on.

        Raises:
            UsageError: A stream gave more examples at once than were drawn, so its position says too much; give it steps of
                one example.
        """
        if ahead := [name for name, left in self._pending.items() if left]:
            raise UsageError(
                f"streams: {ahead} give several examples at once; a mixture resumes with batch=1"
            )
        return {
            "step": self._step,
            "seed": self.seed,
            "batch": self.batch,
            "shares": self.shares,
            "weights": self.weights,
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to a position.

        Raises:
            ConfigError: It was one in another mixture.
        """
        mine = {"seed": self.seed, "batch": self.batch, "shares": self.shares, "weights": self.weights}
        for key, value in mine.items():
            if state[key] != value:
                raise ConfigError(f"{key}: {value}, but the run that is resumed had {state[key]}")
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])
        self._step, self._pending = state["step"], {name: [] for name in self.streams}


def mixed(
    tasks: Mapping[str, Sequence[Batch]],
    *,
    batch: int,
    cap: float = math.inf,
    temperature: float = 1.0,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Mixture:
    """A mixture of tasks that are in memory, each shuffled anew whenever it has been gone through.

    Args:
        tasks: The examples of each.
        batch: Examples of one optimizer step.
        cap: As in ``shares``.
        temperature: As in ``shares``.
        weights: What each task's loss is multiplied by.
        seed: Of the draws and of every order.
    """
    drawn = shares(
        {name: len(examples) for name, examples in tasks.items()}, cap=cap, temperature=temperature
    )
    streams = {
        name: Epochs(examples, batch=1, seed=seed + 1 + i) for i, (name, examples) in enumerate(tasks.items())
    }
    return Mixture(streams, drawn, batch=batch, weights=weights, seed=seed)
