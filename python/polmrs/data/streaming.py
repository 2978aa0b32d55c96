"""Steps of examples straight from files, in the memory of a buffer: rows are read, shuffled and tokenized as they are needed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from polmrs.data.conversion import convert
from polmrs.data.encoding import TooLong, examples, tokenizer_of
from polmrs.data.ragged import Batch
from polmrs.data.reading import Policy, events, kind_of
from polmrs.data.records import Record, named
from polmrs.data.rows import Fault, Source, TextUnit
from polmrs.errors import ConfigError, UsageError


class Streamed:
    """Iterates over lists of ``batch`` examples of files that need not fit into memory.

    Records pass a buffer, from which the next is drawn at random by (seed, epoch) alone: within ``buffer`` records of its place
    in the file, more or less. A position is a count of records; going to it reads them again, but tokenizes none.

    Under ``strict`` the first rejected row is an error; otherwise ``faults`` and ``counts`` say what became of the rows that were
    read so far.
    """

    def __init__(
        self,
        source: Source | list[Source],
        tokenizer: Any,
        *,
        batch: int,
        kind: type[Record] | str | None = None,
        format: str | None = None,
        policy: Policy = "strict",
        text: TextUnit = "document",
        buffer: int = 10_000,
        seed: int = 0,
        epochs: int | None = None,
        max_length: int | None = None,
        too_long: TooLong = "refuse",
    ) -> None:
        """Begins at the first row; no file is opened before the first step.

        Args:
            source: As in ``polmrs.data.read``; no iterator, for files are read again every epoch.
            tokenizer: As in ``polmrs.data.encoding.examples``.
            batch: Examples of one optimizer step, over all ranks; the last of an epoch may be shorter.
            kind: As in ``read``.
            format: As in ``read``.
            policy: As in ``read``.
            text: As in ``read``.
            buffer: Records that are drawn from; 1 keeps the order of the files.
            seed: Of the draws.
            epochs: How many; for ever if not given.
            max_length: As in ``examples``.
            too_long: As in ``examples``.

        Raises:
            UsageError: A number is out of range, or the source can be read only once.
        """
        for name, value in (("batch", batch), ("buffer", buffer)):
            if value < 1:
                raise UsageError(f"{name}: {value} is not 1 or more")
        if isinstance(source, Iterator):
            raise UsageError("source: an iterator, which can be read only once; pass paths or a data set")
        self.batch, self.buffer, self.seed, self.epochs = batch, buffer, seed, epochs
        if isinstance(tokenizer, str | os.PathLike):  # once, not for every record
            tokenizer, _ = tokenizer_of(tokenizer)
        self.source, self.tokenizer, self.kind = source, tokenizer, kind_of(kind)
        self.faults: list[Fault] = []
        self.counts: Counter[str] = Counter()
        self._read: dict[str, Any] = {"format": format, "policy": policy, "text": text}
        self._limit: dict[str, Any] = {"max_length": max_length, "too_long": too_long}
        self._epoch = self._taken = 0
        self._records: Iterator[Record] | None = None
        self._pending: list[Batch] = []
        self._gave = False  # whether this epoch has given a step

    def __iter__(self) -> Iterator[list[Batch]]:
        """Itself: two loops over it share one position."""
        return self

    def __next__(self) -> list[Batch]:
        """The examples of the next step.

        Raises:
            ConfigError: A row is rejected under ``strict``, or an epoch gives no example.
        """
        while self.epochs is None or self._epoch < self.epochs:
            self._fill()
            step, self._pending = self._pending[: self.batch], self._pending[self.batch :]
            if step:
                self._gave = True
                return step
            if not self._gave:
                raise ConfigError(f"{self.source}: no record is left as an example; {dict(self.counts)}")
            self._epoch, self._taken, self._records, self._gave = self._epoch + 1, 0, None, False
        raise StopIteration

    def _fill(self) -> None:
        if self._records is None:
            self._records = self._shuffled()
        while len(self._pending) < self.batch:  # so that what is pending is of the last record alone
            record = next(self._records, None)
            if record is None:
                return
            self._taken += 1
            self._pending += self._examples(record)

    def _examples(self, record: Record) -> list[Batch]:
        try:
            made = examples([record], self.tokenizer, **self._limit)
        except ConfigError:  # dropped as too long
            self._fault("dropped", Fault(record.origin, "longer than max_length"))
            return []
        for fault in made.cut:
            self._fault("cut", fault)
        return list(made)

    def _shuffled(self) -> Iterator[Record]:
        random = np.random.default_rng((self.seed, self._epoch))
        held: list[Record] = []
        for record in self._converted():
            held.append(record)
            if len(held) >= self.buffer:
                yield _drawn(held, random)
        while held:
            yield _drawn(held, random)

    def _converted(self) -> Iterator[Record]:
        self.faults, self.counts = [], Counter()
        for what, value in events(self.source, kind=self.kind, **self._read):
            if what == "record":
                found = [value] if self.kind is None else list(convert(value, self.kind))
                if not found and self.kind is not None:
                    self._fault("left out", Fault(value.origin, f"says nothing as {named(self.kind)}"))
                yield from found
            elif what == "rejected" and self._read["policy"] == "strict":
                raise ConfigError(f"{value.origin}: {value.reason}")
            elif what in ("rejected", "repaired"):
                self._fault(what, value)
            else:
                self.counts[what] += 1

    def _fault(self, what: str, fault: Fault) -> None:
        self.counts[what] += 1
        self.faults.append(fault)

    def state_dict(self) -> dict[str, int]:
        """The position: epoch, records taken, and how many examples of the last of them are still to come."""
        return {
            "epoch": self._epoch,
            "taken": self._taken,
            "left": len(self._pending),
            "seed": self.seed,
            "batch": self.batch,
            "buffer": self.buffer,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a position, by reading the records before it.

        Raises:
            ConfigError: Seed, batch or buffer differ, or the files have fewer records than were taken.
        """
        for key in ("seed", "batch", "buffer"):
            if state[key] != self.state_dict()[key]:
                raise ConfigError(
                    f"{key}: {self.state_dict()[key]}, but the run that is resumed had {state[key]}"
                )
        self._epoch, self._taken, self._pending = state["epoch"], 0, []
        self._records, self._gave = self._shuffled(), state["taken"] > 0
        for record in self._records if state["taken"] else ():
            self._taken += 1
            if self._taken == state["taken"]:
                self._pending = self._examples(record)[-state["left"] :] if state["left"] else []
                break
        if self._taken < state["taken"]:
            raise ConfigError(f"{self.source}: {self._taken} records, but {state['taken']} were taken before")


def _drawn(held: list[Record], random: np.random.Generator) -> Record:
    at = int(random.integers(len(held)))
    held[at], held[-1] = held[-1], held[at]
    return held.pop()
