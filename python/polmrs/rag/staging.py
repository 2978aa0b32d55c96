"""What an index checks, for what goes elsewhere: ids, vectors, metadata and filters of a server are those of an index.

A batch on its way to a server is an :class:`Index` first, and a question is put to an empty one: so both refuse the same things
in the same words, and each is said once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polmrs._tensor import Array
from polmrs.rag.index import Filter, Floats, Found, Hits, Ids, Index, Metadata, Scalar
from polmrs.rag.kinds import Flat


@dataclass(frozen=True, eq=False)
class Rows:
    """What an index would hold."""

    ids: list[str] | list[int]
    """Each once, in the order of their first appearance."""
    vectors: Floats
    """[n, dim]"""
    metadata: list[dict[str, Scalar]]


def staged(dim: int, ids: Ids, vectors: Array, metadata: Sequence[Metadata] | None) -> Rows:
    """What ``Index.add`` would take over, and its errors."""
    index = Index(dim, kind=Flat())
    index.add(ids, vectors, metadata)
    names = listed(everything(index))
    return Rows(names, index.vectors(names), index.metadata(names)) if names else Rows([], _none(dim), [])


def asked(dim: int, queries: Array, k: int, filter: Filter | None) -> Floats:
    """[n, dim] the queries, if ``Index.search`` would take these arguments; its errors otherwise."""
    Index(dim, kind=Flat()).search(queries, k, filter=filter)
    rows: Any = queries if hasattr(queries, "ndim") else np.asarray(queries, np.float32)
    rows = rows[None] if rows.ndim == 1 else rows
    return staged(dim, range(len(rows)), rows, None).vectors


def chosen(ids: Ids | None, filter: Filter | None) -> None:
    """Raises what ``Index.delete`` would raise for these arguments."""
    Index(1, kind=Flat()).delete(ids, filter=filter)


def everything(index: Index, filter: Filter | None = None) -> Found:
    """The ids of all vectors that pass, in the order of insertion if the metric is ``ip`` or ``cosine``."""
    ids: Found = index.search(np.zeros(index.dim, np.float32), max(1, len(index)), filter=filter).ids
    return ids


def listed(ids: Ids) -> list[str] | list[int]:
    """Ids as Python's own strings or integers; the errors of an index where they are neither."""
    chosen(ids, None)
    given: Any = ids
    names: list[Any] = given.tolist() if hasattr(given, "tolist") else list(given)
    return [one if isinstance(one, str) else int(one) for one in names]  # type: ignore[return-value]


def hits(
    found: Sequence[Sequence[tuple[Any, float]]],
    queries: Array,
    min_score: float | None,
    *,
    strings: bool | None = None,
) -> Hits:
    """Ids and scores of each query in the form of ``Index.search``; where nobody knows if ids are strings, those found say."""
    rows = [[(one, score) for one, score in row if min_score is None or score >= min_score] for row in found]
    ids: list[Any] = [[one for one, _ in row] for row in rows]
    scores = [np.array([score for _, score in row], np.float32) for row in rows]
    if strings is None:
        strings = any(isinstance(one, str) for row in ids for one in row)
    if not strings:
        ids = [np.array(row, np.int64) for row in ids]
    return Hits(ids[0], scores[0]) if np.ndim(queries) == 1 else Hits(ids, scores)


def _none(dim: int) -> Floats:
    return np.empty((0, dim), np.float32)
