"""TRL's dataset types in plain text or messages, and our own two more: what ``polmrs.data.write`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polmrs.data.formats.fields import Fields, as_list, as_number, as_text
from polmrs.data.formats.format import Format
from polmrs.data.formats.turns import assistant, dialogue, messages, one, tools, user
from polmrs.data.messages import Turns
from polmrs.data.records import (
    Preference,
    PromptCompletion,
    PromptOnly,
    Ranked,
    Record,
    Stepwise,
    Unpaired,
    Verifiable,
)
from polmrs.errors import UsageError


def _turns(row: Fields, path: str) -> Turns:
    value = row.value(path)
    return messages(row, path) if isinstance(value, list) else as_text(path, value)


def _prompt(row: Fields) -> Turns:
    turns = _turns(row, "prompt")
    return turns if isinstance(turns, str) else dialogue(row, turns, answered=False)


def _answer(row: Fields, path: str) -> Turns:
    return _said(_turns(row, path), path)


def _said(turns: Turns, name: str) -> Turns:
    if not turns or (isinstance(turns, str) and not turns.strip()):
        raise UsageError(f"{name}: an empty answer")
    return turns


def _alike(prompt: Turns, *answers: Turns) -> tuple[Turns, ...]:
    """A prompt and its answers as they are where all are plain text or all messages; otherwise all as messages."""
    if len({isinstance(turns, str) for turns in (prompt, *answers) if turns != ""}) < 2:
        return (prompt, *answers)
    asked = (user(prompt),) if isinstance(prompt, str) else prompt
    return (asked, *((assistant(text),) if isinstance(text, str) else text for text in answers))


def _prompt_only(row: Fields) -> Iterator[Record]:
    yield PromptOnly(prompt=_prompt(row), tools=tools(row), meta=row.meta)


def _completion(row: Fields) -> Iterator[Record]:
    prompt, completion = _alike(_prompt(row), _answer(row, "completion"))
    yield PromptCompletion(prompt=prompt, completion=completion, tools=tools(row), meta=row.meta)


def _labelled(row: Fields) -> Iterator[Record]:
    prompt, completion = _alike(_prompt(row), _answer(row, "completion"))
    label = row.flag("label")
    yield Unpaired(prompt=prompt, completion=completion, label=label, tools=tools(row), meta=row.meta)


def _pair(row: Fields) -> Iterator[Record]:
    prompt = _prompt(row) if row.has("prompt") else ""
    prompt, chosen, rejected = _alike(prompt, _answer(row, "chosen"), _answer(row, "rejected"))
    if chosen == rejected:
        raise UsageError("chosen, rejected: the same")
    margin = row.number("margin") if row.has("margin") else None
    yield Preference(
        prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, tools=tools(row), meta=row.meta
    )


def _steps(row: Fields) -> Iterator[Record]:
    steps = [as_text(f"completions[{i}]", step) for i, step in enumerate(row.items("completions"))]
    labels = [float(as_number(f"labels[{i}]", label)) for i, label in enumerate(row.items("labels"))]
    yield Stepwise(prompt=_prompt(row), steps=tuple(steps), labels=tuple(labels), meta=row.meta)


def _ranked(row: Fields) -> Iterator[Record]:
    answers = [_list_or_text(f"answers[{i}]", given) for i, given in enumerate(row.items("answers"))]
    scores = [as_number(f"scores[{i}]", score) for i, score in enumerate(row.items("scores"))]
    given = tools(row)
    prompt, *alike = _alike(_prompt(row), *answers)
    yield Ranked(prompt=prompt, answers=tuple(alike), scores=tuple(scores), tools=given, meta=row.meta)


def _list_or_text(name: str, given: Any) -> Turns:
    if isinstance(given, str):
        return _said(given, name)
    return _said(tuple(one(turn, f"{name}[{i}]") for i, turn in enumerate(as_list(name, given))), name)


def _verifiable(row: Fields) -> Iterator[Record]:
    solution = _turns(row, "solution") if row.has("solution") else None
    prompt, truth, verifier = _prompt(row), row.value("truth"), row.text("verifier")
    if solution is not None:
        prompt, solution = _alike(prompt, solution)
    yield Verifiable(
        prompt=prompt, truth=truth, verifier=verifier, solution=solution, tools=tools(row), meta=row.meta
    )


FORMATS = (
    Format(
        name="prompt", of="TRL prompt-only, XSTest", paths=("prompt",), kind=PromptOnly, read=_prompt_only
    ),
    Format(
        name="prompt_completion",
        of="TRL, Self-Instruct-52K",
        paths=("prompt", "completion"),
        kind=PromptCompletion,
        read=_completion,
    ),
    Format(
        name="prompt_label",
        of="TRL unpaired, KTO",
        paths=("prompt", "completion", "label"),
        kind=Unpaired,
        read=_labelled,
    ),
    Format(
        name="chosen_rejected",
        of="TRL preference, explicit prompt or none",
        paths=("chosen", "rejected"),
        kind=Preference,
        read=_pair,
    ),
    Format(
        name="steps",
        of="TRL stepwise",
        paths=("prompt", "completions[]", "labels[]"),
        kind=Stepwise,
        read=_steps,
    ),
    Format(name="ranked", of="polmrs", paths=("prompt", "answers[]", "scores[]"), kind=Ranked, read=_ranked),
    Format(
        name="verifiable",
        of="polmrs",
        paths=("prompt", "truth", "verifier"),
        kind=Verifiable,
        read=_verifiable,
    ),
)
