"""Sequences over ranks, so that all have as much to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from polmrs import _core
from polmrs._arrays import integers
from polmrs._tensor import Array
from polmrs.data.grouping import Grouping, grouped


def balance(
    costs: Sequence[int] | Array,
    ranks: int,
    *,
    method: Literal["karmarkar_karp", "greedy"] = "karmarkar_karp",
    equal: bool = False,
) -> Grouping:
    """Spreads sequences over ranks so that the largest sum of costs is small.

    ``karmarkar_karp`` is the largest differencing method for several parts (Karmarkar and Karp, 1982), ``greedy`` gives
    the costliest that is left to the rank that has the least (Graham, 1969).

    Args:
        costs: [sequences], whole numbers; the lengths, or what attention makes of them.
        ranks: How many groups.
        method: How.
        equal: As many sequences to every rank.

    Raises:
        ArrayError: A cost is negative.
        UsageError: No ranks, or ``equal`` does not come out even.

    >>> balance([8, 7, 6, 5, 4], 2).totals.tolist()
    [16, 14]
    """
    weights = integers("costs", costs)
    return grouped(_core.data.balance(weights, ranks, method, equal), weights, None)
