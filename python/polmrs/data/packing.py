"""Sequences into packs of a fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from polmrs import _core
from polmrs._arrays import integers
from polmrs._tensor import Array
from polmrs.data.grouping import Grouping, grouped

Strategy: TypeAlias = Literal["best_fit_decreasing", "first_fit_decreasing", "first_fit", "sequential"]


def pack(
    lengths: Sequence[int] | Array,
    capacity: int,
    *,
    strategy: Strategy = "best_fit_decreasing",
    too_long: Literal["refuse", "drop"] = "refuse",
    seed: int | None = None,
) -> Grouping:
    """Packs of at most ``capacity`` tokens; no sequence is cut.

    | ``strategy``           | takes                | into                        | as in                |
    |------------------------|----------------------|-----------------------------|----------------------|
    | `best_fit_decreasing`  | the longest first    | the fullest pack with room  | TRL's ``bfd``        |
    | `first_fit_decreasing` | the longest first    | the first pack with room    | axolotl              |
    | `first_fit`            | the order given      | the first pack with room    |                      |
    | `sequential`           | the order given      | the last pack, or a new one | axolotl's sequential |

    Of equal lengths the first goes first. A plan takes n log n steps at most.

    Args:
        lengths: [sequences], the tokens of each.
        capacity: The tokens of a pack, at most 2^24.
        strategy: How packs are chosen.
        too_long: ``refuse`` a sequence longer than a pack, or ``drop`` it into ``Grouping.dropped``.
        seed: Puts the packs into random order; without one they stand as they were opened.

    Raises:
        ArrayError: A length is negative or more than the capacity.
        UsageError: The capacity is out of range.

    >>> packs = pack([5, 3, 4, 2], 7)
    >>> [rows.tolist() for rows in packs], packs.fill
    ([[0, 3], [2, 1]], 1.0)
    """
    sizes = integers("lengths", lengths)
    return grouped(_core.data.pack(sizes, capacity, strategy, too_long, seed), sizes, capacity)
