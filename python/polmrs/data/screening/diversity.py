"""How different records are: from each other, by words or in space, and within, by their vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polmrs.data.dataset import Dataset
from polmrs.data.novelty import novel
from polmrs.data.records import Record
from polmrs.data.screening.screen import Scores, question, without
from polmrs.errors import ArrayError, UsageError

_BLOCK = 1024  # rows whose distances to all others are held at a time


def diverse(
    data: Dataset,
    *,
    threshold: float = 0.7,
    pool: Sequence[str] = (),
    text: Callable[[Record], str] = question,
) -> Dataset:
    """Leaves out records whose text is too like that of an earlier one that stays: Self-Instruct's filter by ROUGE-L
    (arXiv:2212.10560, section 2.2; ``polmrs.data.novel``).

    Args:
        data: The records, in the order in which they may stay.
        threshold: The F-measure from which one goes.
        pool: Texts that are there already.
        text: What is compared.

    >>> from polmrs.data import read
    >>> rows = [{"prompt": p, "completion": "a"} for p in ("Write a poem.", "Write a poem!", "Add 2 and 2.")]
    >>> diverse(read(rows)).account.left_out[0].reason
    'ROUGE-L 1 with rows:row 1'
    """
    found = novel([text(record) for record in data.records], pool, threshold=threshold)
    names = [f"text {i} of the pool" for i in range(len(pool))] + [record.origin for record in data.records]
    gone = np.flatnonzero(found.partner >= 0).tolist()
    return without(
        data, {i: f"ROUGE-L {found.score[i]:.4g} with {names[int(found.partner[i])]}" for i in gone}
    )


def k_center(points: Any, k: int, *, first: int = 0) -> npt.NDArray[np.int64]:
    """[k] numbers of points that are far from each other: each the one furthest from those before it (Gonzalez, 1985).

    The largest distance of a point to the nearest of them is at most twice the least possible. Of equal distances the earlier
    point is taken. Memory is two numbers a point beside the points.

    Args:
        points: [points, dim], embeddings; Euclidean distance.
        k: How many.
        first: The point to begin with.

    Raises:
        ArrayError: ``points`` is no matrix of finite numbers.
        UsageError: There are fewer than k points, or ``first`` is none of them.

    >>> k_center([[0.0], [1.0], [10.0], [11.0]], 2).tolist()
    [0, 3]
    """
    at = _points(points)
    if not 1 <= k <= len(at):
        raise UsageError(f"k: {k} is not between 1 and the {len(at)} points")
    if not 0 <= first < len(at):
        raise UsageError(f"first: {first} is none of 0 to {len(at) - 1}")
    chosen = [first]
    nearest = np.linalg.norm(at - at[first], axis=1)
    for _ in range(k - 1):
        nearest[chosen[-1]] = -1  # a twin of a centre may be taken, a centre never again
        chosen.append(int(nearest.argmax()))
        np.minimum(nearest, np.linalg.norm(at - at[chosen[-1]], axis=1), out=nearest)
    return np.array(chosen, np.int64)


def neighbour_distance(points: Any, i: int = 6) -> Scores:
    """[points] Euclidean distance to the i-th nearest other point, as Instruction Mining's ``knn_i`` (arXiv:2307.06290).

    Args:
        points: [points, dim].
        i: 1 for the nearest.

    Raises:
        ArrayError: ``points`` is no matrix of finite numbers.
        UsageError: There are no i other points.

    >>> neighbour_distance([[0.0], [1.0], [3.0]], 1).tolist()
    [1.0, 1.0, 2.0]
    """
    at = _points(points)
    if not 1 <= i < len(at):
        raise UsageError(f"i: {i} is not between 1 and the {len(at) - 1} other points")
    squares = (at * at).sum(1)
    found = np.empty(len(at))
    for begin in range(0, len(at), _BLOCK):
        rows = at[begin : begin + _BLOCK]
        near = squares[None] - 2 * rows @ at.T
        near[np.arange(len(rows)), np.arange(begin, begin + len(rows))] = np.inf
        # Squared differences cancel for near points, so the distance itself is taken anew.
        column = np.argpartition(near, i - 1, axis=1)[:, i - 1]
        found[begin : begin + len(rows)] = np.linalg.norm(rows - at[column], axis=1)
    return found


def mtld(text: str, *, threshold: float = 0.72) -> float:
    """Measure of Textual Lexical Diversity (McCarthy and Jarvis, 2010): how many words it takes until types / tokens falls to a
    threshold, forwards and backwards, on average; the number of words where none is repeated.

    Words are runs of letters, digits and apostrophes, in lower case. 0 for a text without words.

    >>> round(mtld("the cat saw the dog and the dog saw the cat"), 3)
    8.406
    """
    if not 0 < threshold < 1:
        raise UsageError(f"threshold: {threshold} is not between 0 and 1")
    words = re.findall(r"[\w']+", text.lower())
    if not words:
        return 0.0
    return (len(words) / _factors(words, threshold) + len(words) / _factors(words[::-1], threshold)) / 2


def _factors(words: Sequence[str], threshold: float) -> float:
    factors, types, n = 0.0, set[str](), 0
    for word in words:
        types.add(word)
        n += 1
        if len(types) / n <= threshold:
            factors, types, n = factors + 1, set(), 0
    if n:
        factors += (1 - len(types) / n) / (1 - threshold)
    return factors or 1.0


def _points(points: Any) -> npt.NDArray[np.float64]:
    at = np.asarray(points, np.float64)
    if at.ndim != 2 or not np.isfinite(at).all():
        raise ArrayError(f"points: expected [points, dim] of finite numbers, got shape {at.shape}")
    return at
