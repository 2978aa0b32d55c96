"""Ranked answers as preference pairs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Literal

from polmrs.data.records import Preference, Ranked
from polmrs.errors import UsageError


def pairs(ranked: Ranked, *, which: Literal["all", "adjacent", "best_worst"] = "all") -> Iterator[Preference]:
    """The pairs that a ranking implies; ties give none. The margin of a pair is the difference of the scores.

    InstructGPT trains on all K(K-1)/2 of them (arXiv:2203.02155, equation 1).

    Args:
        ranked: The answers; equal scores keep their order.
        which: ``all`` of them, those of ``adjacent`` answers once sorted, or the ``best_worst``.

    Raises:
        UsageError: ``which`` is none of these.

    >>> ranked = Ranked(prompt="?", answers=("a", "b", "c"), scores=(1, 3, 2))
    >>> [(pair.chosen, pair.rejected, pair.margin) for pair in pairs(ranked)]
    [('b', 'c', 1), ('b', 'a', 2), ('c', 'a', 1)]
    """
    if which not in ("all", "adjacent", "best_worst"):
        raise UsageError(f"which: {which!r} is none of all, adjacent, best_worst")
    order = sorted(range(len(ranked.scores)), key=lambda i: -ranked.scores[i])
    chosen = {
        "all": combinations(order, 2),
        "adjacent": pairwise(order),
        "best_worst": [(order[0], order[-1])],
    }[which]
    for better, worse in chosen:
        margin = ranked.scores[better] - ranked.scores[worse]
        if margin > 0:
            yield Preference(
                prompt=ranked.prompt,
                chosen=ranked.answers[better],
                rejected=ranked.answers[worse],
                margin=margin,
                tools=ranked.tools,
                origin=ranked.origin,
                meta=ranked.meta,
            )
