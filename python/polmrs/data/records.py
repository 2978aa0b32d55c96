"""What one example of a data set is, by the kind of supervision that it carries.

The kinds are TRL's six dataset types, and two more: ranked answers and verifiable ones.
A prompt or an answer is plain text or messages (``polmrs.data.messages.Turns``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from polmrs.data.messages import Turns
from polmrs.errors import UsageError


# A base class, against our habit: the same fields and their meaning eight times over would read worse.
@dataclass(frozen=True, kw_only=True)
class _Sourced:
    tools: tuple[Mapping[str, Any], ...] = ()
    """What the model may call, as JSON Schema; for the chat template."""
    origin: str = field(default="", compare=False)
    """``file:line``, for messages and reports."""
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Columns that are no supervision: source, language, licence, category. Two records may differ in them alone
    and are equal."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelling(_Sourced):
    """Text, or a whole conversation."""

    text: Turns


@dataclass(frozen=True, kw_only=True)
class PromptOnly(_Sourced):
    """A question, for methods that sample the answers."""

    prompt: Turns


@dataclass(frozen=True, kw_only=True)
class PromptCompletion(_Sourced):
    """A question and its answer."""

    prompt: Turns
    completion: Turns


@dataclass(frozen=True, kw_only=True)
class Preference(_Sourced):
    """Two answers, one better."""

    prompt: Turns
    chosen: Turns
    rejected: Turns
    margin: float | None = None
    """By how much the first is better, where the source says."""


@dataclass(frozen=True, kw_only=True)
class Ranked(_Sourced):
    """Answers with scores, in the order of the source; higher is better, and equal scores are ties."""

    prompt: Turns
    answers: tuple[Turns, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuses answers without scores."""
        _paired("scores", self.scores, "answers", self.answers)
        for i, score in enumerate(self.scores):
            if not math.isfinite(score):
                raise UsageError(f"scores[{i}]: {score} cannot be ranked")


@dataclass(frozen=True, kw_only=True)
class Unpaired(_Sourced):
    """An answer that is good or is not."""

    prompt: Turns
    completion: Turns
    label: bool


@dataclass(frozen=True, kw_only=True)
class Stepwise(_Sourced):
    """An answer in steps, each right or wrong; between 0 and 1 where labels are soft."""

    prompt: Turns
    steps: tuple[str, ...]
    labels: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuses steps without labels."""
        _paired("labels", self.labels, "steps", self.steps)
        for i, label in enumerate(self.labels):
            if not 0 <= label <= 1:
                raise UsageError(f"labels[{i}]: {label} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Verifiable(_Sourced):
    """A question whose answers a program can check."""

    prompt: Turns
    truth: Any
    verifier: str
    """The name of the program."""
    solution: Turns | None = None
    """A worked answer, where the source has one."""


Record: TypeAlias = (
    LanguageModelling | PromptOnly | PromptCompletion | Preference | Ranked | Unpaired | Stepwise | Verifiable
)

KINDS: dict[str, type[Record]] = {
    "language_modelling": LanguageModelling,
    "prompt_only": PromptOnly,
    "prompt_completion": PromptCompletion,
    "preference": Preference,
    "ranked": Ranked,
    "unpaired": Unpaired,
    "stepwise": Stepwise,
    "verifiable": Verifiable,
}


def named(kind: type[Record]) -> str:
    """The name of a kind, as a command line or a configuration has it.

    >>> named(PromptCompletion)
    'prompt_completion'
    """
    return next(name for name, known in KINDS.items() if known is kind)


def _paired(name: str, values: tuple[Any, ...], others: str, of: tuple[Any, ...]) -> None:
    if len(values) != len(of):
        raise UsageError(f"{name}: {len(values)}, but there are {len(of)} {others}")
    if not of:
        raise UsageError(f"{others}: there is none")
