"""Sequences in groups: packs, batches or ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from polmrs._arrays import Flat


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouping:
    """Which sequences belong together. Follows from the lengths, the settings and the seed alone.

    So a position is all that has to be kept to go on after an interruption: ``for rows in groups.after(position)``.
    """

    order: npt.NDArray[np.int64]
    """[sequences], group by group."""
    bounds: npt.NDArray[np.int64]
    """[groups + 1]; group g is ``order[bounds[g]:bounds[g + 1]]``."""
    totals: npt.NDArray[np.int64]
    """[groups], the sum of the lengths (or costs) of each group."""
    dropped: npt.NDArray[np.int64]
    """Sequences in no group, left out by ``too_long="drop"``."""
    capacity: int | None = None
    """The most tokens of a group, if there is a bound."""

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self.bounds) - 1

    def __getitem__(self, group: int) -> npt.NDArray[np.int64]:
        """The sequences of a group."""
        if not -len(self) <= group < len(self):
            raise IndexError(f"group {group} of {len(self)}")
        group %= len(self)
        return self.order[self.bounds[group] : self.bounds[group + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        """All groups in order."""
        return self.after(0)

    def after(self, position: int) -> Iterator[npt.NDArray[np.int64]]:
        """The groups from a position on: how many were done before."""
        return (self[group] for group in range(position, len(self)))

    @property
    def fill(self) -> float:
        """The share of the groups' capacity that holds tokens; NaN without a capacity or a group."""
        if self.capacity is None or not len(self):
            return float("nan")
        return float(self.totals.sum() / (len(self) * self.capacity))


def grouped(made: tuple[Any, Any, Any], lengths: Flat, capacity: int | None) -> Grouping:
    """What a kernel made, with the totals."""
    order, bounds, dropped = made
    running = np.concatenate([[0], np.cumsum(lengths[order])])
    totals = running[bounds[1:]] - running[bounds[:-1]]
    return Grouping(order=order, bounds=bounds, totals=totals, dropped=dropped, capacity=capacity)
