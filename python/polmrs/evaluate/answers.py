"""Answers that a policy writes itself, and whether they are right.

``exact_match`` compares texts: as they are, or as SQuAD does (arXiv:1606.05250): lower case, without punctuation, articles and
extra blanks. ``last_number`` reads what a worked solution ends with, such as GSM8K's (arXiv:2110.14168).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from polmrs.errors import UsageError
from polmrs.evaluate.score import Score
from polmrs.generate import Sampling, generate
from polmrs.models import Policy

ARTICLES = re.compile(r"\b(a|an|the)\b")
NUMBER = re.compile(r"(?:(?<![\w.])-)?(?:\d[\d,]*(?:\.\d+)?|(?<!\d)\.\d+)")


@dataclass(frozen=True, kw_only=True)
class Written:
    """The share of right answers, and what was written."""

    accuracy: Score
    texts: tuple[str, ...]
    truncated: int
    """How many answers did not end by themselves."""


def generation_accuracy(
    policy: Policy,
    prompts: Sequence[str],
    references: Sequence[str],
    *,
    right: Callable[[str, str], bool] | None = None,
    sampling: Sampling | None = None,
    batch: int = 16,
) -> Written:
    """Lets a policy answer and judges every answer.

    Args:
        policy: With a tokenizer.
        prompts: Texts as the model takes them; chat templates are the caller's.
        references: As many.
        right: Whether an answer is right, by answer and reference; normalised exact match unless given.
        sampling: How tokens are drawn; the most likely ones unless given.
        batch: Prompts at once.

    Raises:
        UsageError: There is no tokenizer, or numbers differ.
    """
    if policy.tokenizer is None:
        raise UsageError("tokenizer: the policy has none, and texts need one")
    if len(prompts) != len(references):
        raise UsageError(f"references: {len(references)}, but there are {len(prompts)} prompts")
    judge = right or same
    ids = [policy.tokenizer(prompt)["input_ids"] for prompt in prompts]
    answers = generate(policy, ids, sampling or Sampling(temperature=0.0), batch=batch)
    texts = [policy.tokenizer.decode(one.ids, skip_special_tokens=True) for one in answers]
    judged = [float(judge(text, wanted)) for text, wanted in zip(texts, references, strict=True)]
    cut = sum(one.end == "truncated" for one in answers)
    return Written(accuracy=Score.of(judged), texts=tuple(texts), truncated=cut)


def exact_match(found: Sequence[str], wanted: Sequence[str], *, normalise: bool = True) -> Score:
    """The share of texts that are the wanted ones.

    >>> exact_match(["The cat.", "dog"], ["cat", "a cat"]).value
    0.5
    """
    if len(found) != len(wanted):
        raise UsageError(f"wanted: {len(wanted)} texts, but there are {len(found)}")
    pairs = zip(found, wanted, strict=True)
    return Score.of([float(same(a, b) if normalise else a == b) for a, b in pairs])


def same(found: str, wanted: str) -> bool:
    """Whether two texts are one after SQuAD's normalisation."""
    return normalised(found) == normalised(wanted)


def normalised(text: str) -> str:
    """SQuAD's form of a text.

    >>> normalised("  The Cat, sat. ")
    'cat sat'
    """
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", bare).split())


def last_number(text: str) -> str | None:
    """The last number of a text, without thousands separators and trailing zeros; None where there is none.

    >>> last_number("She pays 3 * 400 = $1,200.00.")
    '1200'
    """
    found = NUMBER.findall(text)
    if not found:
        return None
    plain: str = found[-1].replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def same_number(found: str, wanted: str) -> bool:
    """Whether two texts end with the same number; for ``right=``.

    >>> same_number("so 7 apples", "#### 7")
    True
    """
    numbers = [last_number(text) for text in (found, wanted)]
    return None not in numbers and len({Decimal(number) for number in numbers if number}) == 1
