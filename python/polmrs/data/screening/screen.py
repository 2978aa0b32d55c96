"""What is kept by a score, with an account of what is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from polmrs.data.conversion import convert
from polmrs.data.dataset import Dataset
from polmrs.data.messages import Turns
from polmrs.data.records import PromptCompletion, PromptOnly, Record
from polmrs.data.rows import Fault
from polmrs.errors import ArrayError, ConfigError, UsageError

Scores = npt.NDArray[np.float64]


def screen(
    data: Dataset,
    scores: Sequence[float] | npt.NDArray[Any],
    *,
    name: str = "score",
    at_least: float = -math.inf,
    at_most: float = math.inf,
    top: int | float | None = None,
) -> Dataset:
    """The records whose score is within bounds and among the highest, in their order; the others are in ``account.left_out``.

    Args:
        data: The records.
        scores: [records]; one that is NaN is never kept.
        name: Of the score, for the account.
        at_least: tau; a score equal to it stays.
        at_most: Likewise from above.
        top: Of those within bounds, how many of the highest stay: a number of records, or a share between 0 and 1, rounded
            down but to no less than one. Of equal scores the earlier stays.

    Raises:
        ArrayError: There are not as many scores as records.
        UsageError: ``top`` is out of range.
        ConfigError: Nothing is left.
    """
    given = np.asarray(scores, np.float64)
    if given.shape != (len(data),):
        raise ArrayError(f"scores: shape {given.shape}, but there are {len(data)} records")
    reasons: dict[int, str] = {}
    for i, score in enumerate(given.tolist()):
        if math.isnan(score):
            reasons[i] = f"{name} is not a number"
        elif score < at_least:
            reasons[i] = f"{name} {score:.6g}, below {at_least:g}"
        elif score > at_most:
            reasons[i] = f"{name} {score:.6g}, above {at_most:g}"
    if top is not None:
        within = [i for i in range(len(data)) if i not in reasons]
        n = _count(top, len(within))
        for i in sorted(within, key=lambda i: -given[i])[n:]:
            reasons[i] = f"{name} {given[i]:.6g}, not among the highest {n}"
    return without(data, reasons)


def without(data: Dataset, reasons: dict[int, str]) -> Dataset:
    """A data set less some records, by number, each with the reason.

    Raises:
        ConfigError: Nothing is left.
    """
    kept = tuple(record for i, record in enumerate(data.records) if i not in reasons)
    faults = tuple(Fault(data.records[i].origin, reasons[i]) for i in sorted(reasons))
    account = replace(data.account, left_out=data.account.left_out + faults)
    if not kept:
        raise ConfigError(f"no record is left\n{account}")
    return replace(data, records=kept, account=account)


def _count(top: int | float, n: int) -> int:
    if isinstance(top, int) and top >= 1:
        return top
    if isinstance(top, float) and 0 < top <= 1:
        return max(1, int(top * n))
    raise UsageError(f"top: {top!r} is neither a number of records nor a share in (0, 1]")


def completed(record: Record) -> PromptCompletion:
    """A record as a question and its answer.

    Raises:
        UsageError: It has none.
    """
    for one in convert(record, PromptCompletion):
        assert isinstance(one, PromptCompletion)
        return one
    raise UsageError(f"{record.origin}: no question with an answer in it")


def question(record: Record) -> str:
    """What a record asks: its plain prompt, or the last user's words.

    >>> question(PromptOnly(prompt="2 + 2 ="))
    '2 + 2 ='
    """
    prompt: Turns = next(
        (one.prompt for one in convert(record, PromptOnly) if isinstance(one, PromptOnly)), ""
    )
    if isinstance(prompt, str):
        return prompt
    return next((turn.text for turn in reversed(prompt) if turn.role == "user"), "")


def response(record: Record) -> str:
    """What a record answers, as text.

    >>> response(PromptCompletion(prompt="2 + 2 =", completion=" 4"))
    ' 4'
    """
    answer = completed(record).completion
    return answer if isinstance(answer, str) else "".join(turn.text for turn in answer)
