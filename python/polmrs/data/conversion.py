"""Records of one kind as records of another: TRL's matrix, rankings to pairs, checked samples to verdicts or pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

from polmrs.data.messages import Message, Turns, joined
from polmrs.data.ranking import pairs
from polmrs.data.records import (
    KINDS,
    LanguageModelling,
    Preference,
    PromptCompletion,
    PromptOnly,
    Ranked,
    Record,
    Stepwise,
    Unpaired,
    Verifiable,
    named,
)
from polmrs.errors import UsageError

Route: TypeAlias = Callable[[Any], Iterator[Record]]


def convert(record: Record, kind: type[Record]) -> Iterator[Record]:
    """What a record is as another kind: one record, several, or none where it has nothing to say.

    A wrong answer (``Unpaired`` with a false label, a step of label 0 and what follows) is no text to learn from: it gives
    no language modelling and no prompt-completion. A ranking gives all of its pairs; ``polmrs.data.ranking.pairs`` others.

    Raises:
        UsageError: There is no way from one kind to the other.

    >>> pair = Preference(prompt="2 + 2 =", chosen=" 4", rejected=" 5")
    >>> [(one.completion, one.label) for one in convert(pair, Unpaired)]
    [(' 4', True), (' 5', False)]
    """
    if isinstance(record, kind):
        yield record
        return
    route = _ROUTES.get((type(record), kind))
    if route is None:
        known = [named(to) for of, to in _ROUTES if of is type(record)]
        raise UsageError(
            f"{named(type(record))} gives no {named(kind)}; it gives {', '.join(known) or 'nothing else'}"
        )
    yield from route(record)


def routes(kind: type[Record]) -> list[str]:
    """The kinds that a kind converts to, by name.

    >>> routes(Unpaired)
    ['language_modelling', 'prompt_only', 'prompt_completion']
    """
    return [name for name, to in KINDS.items() if (kind, to) in _ROUTES]


def judged(
    task: Verifiable,
    samples: Sequence[Turns],
    right: Sequence[bool],
    *,
    kind: type[Unpaired] | type[Preference] = Unpaired,
    which: Literal["all", "one"] = "all",
) -> Iterator[Record]:
    """Answers that were sampled for a task and checked: each with its verdict, or right ones paired with wrong ones.

    Args:
        task: The question.
        samples: Its answers.
        right: Whether each is right.
        kind: ``Unpaired`` or ``Preference``.
        which: Of pairs, ``all`` right with all wrong ones, or ``one``, the first of each.

    Raises:
        UsageError: There are not as many verdicts as samples, or another kind is asked for.

    >>> task = Verifiable(prompt="2 + 2 =", truth="4", verifier="number")
    >>> [(one.chosen, one.rejected) for one in judged(task, [" 5", " 4"], [False, True], kind=Preference)]
    [(' 4', ' 5')]
    """
    if len(samples) != len(right):
        raise UsageError(f"right: {len(right)} verdicts, but there are {len(samples)} samples")
    if which not in ("all", "one"):
        raise UsageError(f"which: {which!r} is none of all, one")
    verdicts = list(zip(samples, map(bool, right), strict=True))
    if kind is Unpaired:
        for text, label in verdicts:
            yield Unpaired(completion=text, label=label, **_about(task))
        return
    if kind is not Preference:
        raise UsageError("kind: checked samples are Unpaired or Preference")
    good, bad = ([text for text, label in verdicts if label is side] for side in (True, False))
    found = [(chosen, rejected) for chosen in good for rejected in bad]
    for chosen, rejected in found if which == "all" else found[:1]:
        yield Preference(chosen=chosen, rejected=rejected, **_about(task))


def _about(record: Any) -> dict[str, Any]:
    """What a converted record keeps."""
    return {
        "prompt": record.prompt,
        "tools": record.tools,
        "origin": record.origin,
        "meta": record.meta,
    }


def _prompt_only(record: Any) -> Iterator[Record]:
    yield PromptOnly(**_about(record))


def _completed(record: Any, completion: Turns | None) -> Iterator[Record]:
    if completion is not None:
        yield PromptCompletion(completion=completion, **_about(record))


def _best(record: Ranked) -> Turns:
    return record.answers[record.scores.index(max(record.scores))]


def _steps(record: Stepwise, *, right: bool) -> Turns | None:
    """The steps as one answer; where it must be right, up to the first wrong one."""
    kept = []
    for step, label in zip(record.steps, record.labels, strict=True):
        if right and label == 0:
            break
        kept.append(step)
    if not kept:
        return None
    text = "\n".join(kept)
    return text if isinstance(record.prompt, str) else (Message.of("assistant", text),)


def _stepwise_verdicts(record: Stepwise) -> Iterator[Record]:
    completion = _steps(record, right=False)
    if completion is not None:
        yield Unpaired(completion=completion, label=all(map(bool, record.labels)), **_about(record))


def _pair_verdicts(record: Preference) -> Iterator[Record]:
    for completion, label in ((record.chosen, True), (record.rejected, False)):
        yield Unpaired(completion=completion, label=label, **_about(record))


def _text_of(to_completion: Route) -> Route:
    """Language modelling by way of prompt-completion."""

    def route(record: Any) -> Iterator[Record]:
        for one in to_completion(record):
            assert isinstance(one, PromptCompletion)
            yield LanguageModelling(
                text=joined(one.prompt, one.completion), tools=one.tools, origin=one.origin, meta=one.meta
            )

    return route


def _last_answer(record: LanguageModelling) -> Iterator[Record]:
    """The last answer of a conversation as the completion. Plain text has none."""
    if isinstance(record.text, str):
        return
    at = max((i for i, turn in enumerate(record.text) if turn.role in ("user", "tool")), default=-1) + 1
    if 0 < at < len(record.text):
        yield PromptCompletion(
            prompt=record.text[:at],
            completion=record.text[at:],
            tools=record.tools,
            origin=record.origin,
            meta=record.meta,
        )


def _question(record: LanguageModelling) -> Iterator[Record]:
    for one in _last_answer(record):
        yield from _prompt_only(one)


_COMPLETIONS: dict[type[Record], Route] = {
    PromptCompletion: lambda record: iter([record]),
    LanguageModelling: _last_answer,
    Preference: lambda record: _completed(record, record.chosen),
    Ranked: lambda record: _completed(record, _best(record)),
    Unpaired: lambda record: _completed(record, record.completion if record.label else None),
    Stepwise: lambda record: _completed(record, _steps(record, right=True)),
    Verifiable: lambda record: _completed(record, record.solution),
}

_ROUTES: dict[tuple[type[Record], type[Record]], Route] = {
    (LanguageModelling, PromptOnly): _question,
    (LanguageModelling, PromptCompletion): _last_answer,
    **{
        (kind, LanguageModelling): _text_of(route)
        for kind, route in _COMPLETIONS.items()
        if kind is not LanguageModelling
    },
    **{(kind, PromptOnly): _prompt_only for kind in _COMPLETIONS if kind is not LanguageModelling},
    **{
        (kind, PromptCompletion): route
        for kind, route in _COMPLETIONS.items()
        if kind is not PromptCompletion
    },
    (Preference, Unpaired): _pair_verdicts,
    (Ranked, Preference): lambda record: pairs(record),
    (Stepwise, Unpaired): _stepwise_verdicts,
}
