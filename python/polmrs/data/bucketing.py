"""Batches of about equal lengths under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from polmrs import _core
from polmrs._arrays import integers
from polmrs._tensor import Array
from polmrs.data.grouping import Grouping, grouped


def token_batches(
    lengths: Sequence[int] | Array,
    max_tokens: int,
    *,
    padded: bool = False,
    window: int = 0,
    too_long: Literal["refuse", "drop"] = "refuse",
    seed: int | None = None,
) -> Grouping:
    """Batches of sequences of about the same length, none above a token budget.

    Sequences are shuffled, cut into windows, sorted by length in each window, and taken in order until the budget is
    full; then the batches are shuffled. Another epoch is another seed.

    Args:
        lengths: [sequences], the tokens of each.
        max_tokens: The budget of a batch.
        padded: Count ``rows x longest`` instead of the sum of the lengths.
        window: How many shuffled sequences are sorted together; 0 for all. Smaller is more random and pads more.
        too_long: ``refuse`` a sequence longer than the budget, or ``drop`` it into ``Grouping.dropped``.
        seed: Without one nothing is shuffled: shortest first.

    Raises:
        ArrayError: A length is negative or more than the budget.
        UsageError: The budget is 0.

    >>> [rows.tolist() for rows in token_batches([5, 1, 4, 2], 8, padded=True)]
    [[1, 3], [2], [0]]
    """
    sizes = integers("lengths", lengths)
    made = _core.data.token_batches(sizes, max_tokens, padded, window, too_long, seed)
    return grouped(made, sizes, max_tokens)
