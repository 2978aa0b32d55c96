r"""Multiple choice by log-likelihood: the option that is most likely after the question.

| ``by``      | the score of option y after question x          | lm-evaluation-harness calls it |
|-------------|-------------------------------------------------|--------------------------------|
| `sum`       | $$\log p(y | x)$$                               | `acc`                          |
| `byte`      | $$\log p(y | x) / \mathrm{bytes}(y)$$           | `acc_bytes`                    |
| `character` | $$\log p(y | x) / \mathrm{characters}(y)$$      | `acc_norm` (there without the blank before an option) |
| `token`     | $$\log p(y | x) / \mathrm{tokens}(y)$$          |                                |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from polmrs.errors import UsageError
from polmrs.evaluate.likelihood import likelihoods
from polmrs.evaluate.score import Score
from polmrs.models import Policy

By: TypeAlias = Literal["sum", "byte", "character", "token"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A text, its options as they continue it, and which is right.

    >>> Question(prompt="2 + 2 =", options=(" 4", " 5"), answer=0).options[0]
    ' 4'
    """

    prompt: str
    options: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.options) < 2 or not 0 <= self.answer < len(self.options):
            raise UsageError(
                f"question: {len(self.options)} options, of which {self.answer} is right; 2 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The share of right choices, and what was chosen."""

    accuracy: Score
    picked: tuple[int, ...]
    logps: tuple[tuple[float, ...], ...]
    """Of every option of every question."""


def multiple_choice(policy: Policy, questions: Sequence[Question], *, by: By = "sum") -> Choices:
    """Which option a policy finds most likely; of equal ones the first.

    Args:
        policy: With a tokenizer.
        questions: Texts.
        by: What options are compared by.

    Raises:
        UsageError: The policy has no tokenizer, or there is nothing to ask.
    """
    if by not in ("sum", "byte", "character", "token"):
        raise UsageError(f"by: {by!r} is none of sum, byte, character, token")
    pairs = [pair_of(policy.tokenizer, q.prompt, option) for q in questions for option in q.options]
    found = iter(zip(pairs, likelihoods(policy, pairs), strict=True))
    picked, logps = [], []
    for question in questions:
        scores, mine = [], []
        for option in question.options:
            (_, tokens), logp = next(found)
            size = {"sum": 1, "byte": len(option.encode()), "character": len(option), "token": len(tokens)}[
                by
            ]
            scores.append(logp / size)
            mine.append(logp)
        picked.append(scores.index(max(scores)))
        logps.append(tuple(mine))
    right = [float(one == q.answer) for one, q in zip(picked, questions, strict=True)]
    return Choices(accuracy=Score.of(right), picked=tuple(picked), logps=tuple(logps))


def pair_of(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Both as tokens of the whole text, cut where the context's own tokens end; blanks at its end go to the continuation.

    Raises:
        UsageError: There is no tokenizer, or one of them is without a token.
    """
    if tokenizer is None:
        raise UsageError("tokenizer: the policy has none, and texts need one")
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    whole, before = tokenizer(context + continuation)["input_ids"], tokenizer(context)["input_ids"]
    if len(before) > 1 and before[-1] == tokenizer.eos_token_id and whole[: len(before)] != before:
        before = before[:-1]  # a tokenizer that ends every text
    if not before:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise UsageError("context: it is empty, and the tokenizer has no token to begin with")
        return [start], whole
    if len(whole) <= len(before):
        raise UsageError(f"continuation: {continuation!r} adds no token to its context")
    return whole[: len(before)], whole[len(before) :]
