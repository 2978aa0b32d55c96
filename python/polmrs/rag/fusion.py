"""Several rankings made one, and a ranking made less repetitive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from polmrs.errors import ArrayError, UsageError
from polmrs.rag.index import Floats, Hits

Id: TypeAlias = str | int


class Fusion(Protocol):
    """What makes several rankings one: for each, ids and scores, best first; the fused ids and scores, best first."""

    def __call__(
        self, rankings: Sequence[tuple[Sequence[Id], npt.NDArray[np.float32]]], /
    ) -> tuple[list[Id], list[float]]:
        """One ranking."""


@dataclass(frozen=True, kw_only=True)
class RRF:
    r"""Reciprocal rank fusion: $\sum_i w_i / (k + r_i)$ over the rankings that have the document, at rank $r_i$ from 1.

    Cormack, Clarke and Buettcher, SIGIR 2009 (`paper <https://doi.org/10.1145/1571941.1572114>`_), whose weights are 1. Scores
    of the rankings count for nothing, so they need not be comparable.

    >>> RRF()([(["a", "b"], np.array([9, 1])), (["b", "c"], np.array([0.9, 0.8]))])[0]
    ['b', 'a', 'c']
    """

    k: float = 60.0
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.k >= 0:
            raise UsageError(f"k: {self.k} is not at least 0")
        _check(self.weights)

    def __call__(
        self, rankings: Sequence[tuple[Sequence[Id], npt.NDArray[np.float32]]], /
    ) -> tuple[list[Id], list[float]]:
        """One ranking."""
        parts = [(ids, 1 / (self.k + np.arange(1, len(ids) + 1, dtype=np.float64))) for ids, _ in rankings]
        return _summed(parts, self.weights)


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    r"""A weighted sum of scores, each ranking's brought to one scale; a ranking that lacks the document adds nothing.

    ``min-max``: $(s - \min) / (\max - \min)$ over the hits of that ranking, 1 where all are equal (Fox and Shaw's CombSUM, TREC-2,
    with the weights of Bruch et al., `arXiv:2210.11934 <https://arxiv.org/abs/2210.11934>`_). ``z-score``:
    $(s - \mathrm{mean}) / \mathrm{std}$ (population), 0 where all are equal; what a ranking lacks then counts as its lowest.

    >>> fuse = WeightedSum(weights=(0.25, 0.75))
    >>> fuse([(["a", "b"], np.array([9.0, 1.0])), (["b", "c"], np.array([0.9, 0.8]))])
    (['b', 'a', 'c'], [0.75, 0.25, 0.0])
    """

    weights: tuple[float, ...] | None = None
    scale: Literal["min-max", "z-score"] = "min-max"

    def __post_init__(self) -> None:
        if self.scale not in ("min-max", "z-score"):
            raise UsageError(f"scale: {self.scale!r} is not one of min-max, z-score")
        _check(self.weights)

    def __call__(
        self, rankings: Sequence[tuple[Sequence[Id], npt.NDArray[np.float32]]], /
    ) -> tuple[list[Id], list[float]]:
        """One ranking."""
        scaled = []
        for ids, scores in rankings:
            x = np.asarray(scores, np.float64)
            if len(x) == 0:
                scaled.append((ids, x))
            elif self.scale == "min-max":
                width = x.max() - x.min()
                scaled.append((ids, (x - x.min()) / width if width > 0 else np.ones_like(x)))
            else:
                std = x.std()
                scaled.append((ids, (x - x.mean()) / std if x.max() > x.min() else np.zeros_like(x)))
        if self.scale == "min-max":
            return _summed(scaled, self.weights)
        lowest = [float(x.min()) if len(x) else 0.0 for _, x in scaled]
        return _summed(scaled, self.weights, lowest)


def _check(weights: tuple[float, ...] | None) -> None:
    for weight in weights or ():
        if not (weight >= 0 and np.isfinite(weight)):
            raise UsageError(f"weights: {weight} is not at least 0")


def _summed(
    parts: Sequence[tuple[Sequence[Id], npt.NDArray[np.float64]]],
    weights: tuple[float, ...] | None,
    lacking: Sequence[float] | None = None,
) -> tuple[list[Id], list[float]]:
    """Weighted sums by id, best first; equal ones in the order in which they were met."""
    if weights is not None and len(weights) != len(parts):
        raise UsageError(f"weights: {len(weights)} for {len(parts)} rankings")
    given = weights or (1.0,) * len(parts)
    base = [weight * low for weight, low in zip(given, lacking or (0.0,) * len(parts), strict=True)]
    start = float(sum(base))
    sums: dict[Id, float] = {}
    for (ids, values), weight, low in zip(parts, given, base, strict=True):
        names: Any = ids.tolist() if isinstance(ids, np.ndarray) else ids
        for name, value in zip(names, values.tolist(), strict=True):
            sums[name] = sums.get(name, start) + (weight * value - low)
    order = sorted(sums, key=lambda name: -sums[name])
    return order, [sums[name] for name in order]


def fuse(*rankings: Hits, fusion: Fusion | None = None, k: int | None = None) -> Hits:
    """Hits of the same queries, found in several ways, as one ranking each.

    Args:
        rankings: All of one query, or all of a batch of as many queries.
        fusion: ``RRF()`` if nothing is said, or :class:`WeightedSum`.
        k: At most how many hits to keep.

    Raises:
        UsageError: Batches of different sizes, nothing to fuse, or ``k`` below 1.

    >>> import numpy as np
    >>> by_words = Hits(["a", "b"], np.array([7.1, 2.0], np.float32))
    >>> by_meaning = Hits(["b", "c"], np.array([0.9, 0.8], np.float32))
    >>> fuse(by_words, by_meaning, k=2).ids
    ['b', 'a']
    """
    if not rankings:
        raise UsageError("rankings: nothing to fuse")
    if k is not None and k < 1:
        raise UsageError(f"k: {k} is not at least 1")
    method = fusion or RRF()
    batches = [_is_batch(hits) for hits in rankings]
    if len(set(batches)) > 1 or (batches[0] and len({len(hits.ids) for hits in rankings}) > 1):
        raise UsageError("rankings: hits of different numbers of queries")
    if not batches[0]:
        return _hits(*method([(hits.ids, hits.scores) for hits in rankings]), k, rankings[0].ids)
    fused = [
        _hits(*method([(hits.ids[at], hits.scores[at]) for hits in rankings]), k, rankings[0].ids[at])
        for at in range(len(rankings[0].ids))
    ]
    return Hits([one.ids for one in fused], [one.scores for one in fused])


def _is_batch(hits: Hits) -> bool:
    return isinstance(hits.scores, list)


def _hits(ids: list[Id], scores: list[float], k: int | None, like: Any) -> Hits:
    kept: Any = ids[:k]
    if isinstance(like, np.ndarray) and not any(isinstance(one, str) for one in kept):
        kept = np.array(kept, np.int64)
    return Hits(kept, np.array(scores[:k], np.float32))


def mmr(
    relevance: npt.ArrayLike, vectors: npt.NDArray[Any], k: int, *, balance: float = 0.5
) -> npt.NDArray[np.int64]:
    r"""Maximal marginal relevance: picks, one after another, what is relevant and unlike what was picked.

    The next is $\arg\max_i \lambda r_i - (1 - \lambda) \max_{j \text{ picked}} \cos(x_i, x_j)$ (Carbonell and Goldstein, SIGIR 1998,
    `paper <https://doi.org/10.1145/290941.291025>`_); of equal ones the first.

    Args:
        relevance: [n] on the scale of a cosine, for the trade to mean something.
        vectors: [n, dim].
        k: At most how many to pick.
        balance: $\lambda$: 1 is relevance alone, 0 is difference alone after the most relevant one.

    Returns:
        Places in the list, as they were picked.

    Raises:
        UsageError: ``k`` or ``balance`` is out of range.
        ArrayError: Shapes do not fit.

    >>> mmr([0.9, 0.89, 0.5], np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]), 2).tolist()
    [0, 2]
    """
    r, x = np.asarray(relevance, np.float64), np.asarray(vectors, np.float64)
    if r.ndim != 1 or x.ndim != 2 or len(x) != len(r):
        raise ArrayError(f"vectors: shape {x.shape} is not [{r.size}, dim], one for each relevance")
    if k < 1:
        raise UsageError(f"k: {k} is not at least 1")
    if not 0 <= balance <= 1:
        raise UsageError(f"balance: {balance} is not in [0, 1]")
    if len(r) == 0:
        return np.empty(0, np.int64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
    picked = [int(np.argmax(r))]
    nearest = x @ x[picked[0]]
    left = np.ones(len(r), bool)
    left[picked[0]] = False
    while len(picked) < min(k, len(r)):
        worth = np.where(left, balance * r - (1 - balance) * nearest, -np.inf)
        best = int(np.argmax(worth))
        picked.append(best)
        left[best] = False
        nearest = np.maximum(nearest, x @ x[best])
    return np.array(picked, np.int64)


def cosines(asked: Floats, vectors: Floats) -> Floats:
    """[n] cosines of a vector [dim] and each of others [n, dim]; 0 where one is zero: a relevance for :func:`mmr`."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked)
    found: Floats = np.divide(vectors @ asked, norms, out=np.zeros(len(vectors), np.float32), where=norms > 0)
    return found
