"""The part of a data set that it is measured on, without what training saw, and the scores of a few-shot judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from polmrs.data.dataset import Dataset
from polmrs.data.near_duplicates import near_pairs
from polmrs.data.records import Record
from polmrs.data.screening.screen import Scores, question, response, without
from polmrs.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Split:
    """Two parts that share nothing."""

    train: Dataset
    evaluation: Dataset


def hold_out(
    data: Dataset,
    n: int | None = None,
    *,
    independent: Dataset | None = None,
    threshold: float = 0.8,
    words: int = 3,
    seed: int = 0,
    text: Callable[[Record], str] | None = None,
) -> Split:
    """An evaluation set that is no near-duplicate of what is trained on (``polmrs.data.near_pairs``, exact).

    Without an independent set, n records are drawn, never one that has a near-duplicate in the data; such records stay in
    training, so no record is lost. Of an independent set, those that are near-duplicates of the data are left out, and are in its
    account.

    Args:
        data: The data set.
        n: Records to draw.
        independent: Another data set to measure on, instead.
        threshold: The Jaccard index of sets of word n-grams from which two texts are near-duplicates.
        words: Of an n-gram.
        seed: Of the draw.
        text: What is compared; question and answer, if not given.

    Raises:
        UsageError: Neither or both of ``n`` and ``independent`` are given, or fewer than n records have no near-duplicate.
        ConfigError: Nothing of the independent set is left.
    """
    if (n is None) == (independent is None):
        raise UsageError("n, independent: one of the two")
    said = text or _whole
    own = [said(record) for record in data]
    if independent is not None:
        other = [said(record) for record in independent]
        pairs, _ = near_pairs(own + other, threshold=threshold, n=words, method="exact")
        seen = {
            int(b) - len(own): f"like {data.records[int(a)].origin}"
            for a, b in pairs[::-1]
            if a < len(own) <= b
        }
        return Split(train=data, evaluation=without(independent, seen))
    assert n is not None
    pairs, _ = near_pairs(own, threshold=threshold, n=words, method="exact")
    twins = set(pairs.reshape(-1).tolist())
    alone = [i for i in range(len(own)) if i not in twins]
    if not 1 <= n <= len(alone) or n == len(own):
        raise UsageError(f"n: {n} of {len(own)} records, of which {len(alone)} have no near-duplicate")
    drawn = set(np.random.default_rng(seed).permutation(alone)[:n].tolist())
    parts = [
        tuple(record for i, record in enumerate(data.records) if (i in drawn) is side)
        for side in (False, True)
    ]
    return Split(train=replace(data, records=parts[0]), evaluation=replace(data, records=parts[1]))


def _whole(record: Record) -> str:
    return f"{question(record)}\n{response(record)}"


def few_shot_scores(
    data: Dataset,
    ask: Callable[[str], str],
    *,
    shots: Sequence[tuple[str, str, float]],
    least: float = 1,
    most: float = 5,
) -> Scores:
    """[records] scores that a model gives to answers, after examples of answers and their scores; NaN where it says none in range.

    Args:
        data: Records with a question and an answer.
        ask: Gives what the model says to a text.
        shots: Questions, answers and their scores.
        least: The lowest score.
        most: The highest.

    Raises:
        UsageError: A shot's score is out of range.

    >>> from polmrs.data import read
    >>> data = read([{"prompt": "2 + 2 =", "completion": "4"}])
    >>> few_shot_scores(data, lambda text: " 5, it is right", shots=[("1 + 1 =", "3", 1)]).tolist()
    [5.0]
    """
    for _, _, score in shots:
        if not least <= score <= most:
            raise UsageError(f"shots: score {score:g} is not between {least:g} and {most:g}")
    head = f"Rate each answer from {least:g} (worst) to {most:g} (best).\n\n"
    head += "".join(_rated(q, a) + f" {score:g}\n\n" for q, a, score in shots)
    return np.array(
        [_score(ask(head + _rated(question(record), response(record))), least, most) for record in data]
    )


def _rated(asked: str, answer: str) -> str:
    return f"Question: {asked.strip()}\nAnswer: {answer.strip()}\nScore:"


def _score(said: str, least: float, most: float) -> float:
    found = re.search(r"-?\d+(?:\.\d+)?", said)
    score = float(found.group()) if found else np.nan
    return score if least <= score <= most else np.nan
