"""Records as the examples that objectives take; what is too long is refused, left out or cut, and never silently."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, overload

from polmrs.data.messages import Message, Turns
from polmrs.data.ragged import Batch
from polmrs.data.records import (
    LanguageModelling,
    Preference,
    PromptCompletion,
    PromptOnly,
    Ranked,
    Record,
    Stepwise,
    Unpaired,
    Verifiable,
)
from polmrs.data.rows import Fault
from polmrs.data.sequence import Encoded, encode, prompt_ids
from polmrs.errors import ConfigError, PolmrsError, UsageError

TooLong: TypeAlias = Literal["refuse", "drop", "split", "prompt_start", "prompt_end", "completion_end"]
_RULES = ("refuse", "drop", "split", "prompt_start", "prompt_end", "completion_end")


@dataclass(frozen=True, kw_only=True)
class Examples(Sequence[Batch]):
    """Examples in the order of their records, for ``Epochs`` and ``fit``."""

    batches: tuple[Batch, ...]
    dropped: tuple[Fault, ...] = ()
    """Records that were too long, under ``too_long="drop"``."""
    cut: tuple[Fault, ...] = ()
    """Records that lost tokens, and how many."""
    records: tuple[Record, ...] = field(default=(), repr=False)
    """The record of each example; one that was split stands several times."""

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.batches)

    @overload
    def __getitem__(self, at: int) -> Batch: ...

    @overload
    def __getitem__(self, at: slice) -> Examples: ...

    def __getitem__(self, at: int | slice) -> Batch | Examples:
        """An example, or a part of them."""
        if isinstance(at, slice):
            return replace(self, batches=self.batches[at], records=self.records[at])
        return self.batches[at]

    def __iter__(self) -> Iterator[Batch]:
        """The examples."""
        return iter(self.batches)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(batch.ids) for batch in self.batches)


def examples(
    records: Sequence[Record],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    too_long: TooLong = "refuse",
) -> Examples:
    """Tokenizes records.

    | kind                                  | sequences of an example        | beside weights                           |
    |---------------------------------------|--------------------------------|------------------------------------------|
    | language modelling, prompt-completion | one                            |                                          |
    | preference                            | chosen, rejected               | ``per_example["margin"]`` if all have it |
    | ranked                                | answers, best first            | ``per_sequence["score"]``                |
    | unpaired                              | one                            | ``per_example["label"]``, 1 or 0         |
    | stepwise                              | one, steps on lines of a text  | ``per_token["step"]``, -1 off step ends  |
    | prompt-only, verifiable               | the prompt; no token counts    |                                          |

    | ``too_long``       | a sequence of more than ``max_length`` tokens                                             |
    |--------------------|-------------------------------------------------------------------------------------------|
    | ``refuse``         | is an error that names its record                                                         |
    | ``drop``           | takes its example out; listed in ``dropped``                                              |
    | ``split``          | of plain text becomes several; the first token of each but counts nothing, like every first |
    | ``prompt_start``   | loses the beginning of its prompt, in every answer alike; listed in ``cut``               |
    | ``prompt_end``     | loses the end of its prompt, likewise                                                     |
    | ``completion_end`` | loses its end; listed in ``cut``                                                          |

    A tool, a picture or a reasoning block appears as the chat template writes it.

    Args:
        records: Of one kind.
        tokenizer: A fast tokenizer of transformers, the folder or name of one, or a ``Policy``, whose context then bounds
            the length too.
        max_length: The most tokens of a sequence.
        too_long: What becomes of longer ones.

    Raises:
        UsageError: A record cannot be tokenized, or is too long; the message begins with its file and line.
        ConfigError: No example is left.
    """
    if too_long not in _RULES:
        raise UsageError(f"too_long: {too_long!r} is none of {', '.join(_RULES)}")
    given, context = tokenizer_of(tokenizer)
    limit = min((n for n in (max_length, context) if n is not None), default=None)
    if limit is not None and limit < 2:
        raise UsageError(f"max_length: {limit} is not 2 or more")
    margins = all(isinstance(record, Preference) and record.margin is not None for record in records)
    made: list[tuple[Record, Batch]] = []
    dropped, cut = [], []
    for record in records:
        try:
            sequences, extras = _sequences(record, given, margins)
            for part, lost in _limited(sequences, limit, too_long, isinstance(record, LanguageModelling)):
                if lost:
                    cut.append(Fault(record.origin, f"{lost} tokens cut, {too_long}"))
                if part:
                    made.append((record, _batch(record, part, extras)))
        except _TooLongError as error:
            dropped.append(Fault(record.origin, str(error)))
        except PolmrsError as error:
            raise type(error)(f"{record.origin}: {error}" if record.origin else str(error)) from error
    if not made:
        listed = "\n".join(f"  {origin}: {reason}" for origin, reason in dropped[:10])
        raise ConfigError(f"no example is left of {len(records)} records\n{listed}".rstrip())
    return Examples(
        batches=tuple(batch for _, batch in made),
        dropped=tuple(dropped),
        cut=tuple(cut),
        records=tuple(record for record, _ in made),
    )


class _TooLongError(Exception):
    """An example that ``drop`` takes out."""


def tokenizer_of(given: Any) -> tuple[Any, int | None]:
    """The tokenizer of a folder, a name or a policy, and the context of a policy.

    Raises:
        UsageError: The policy has none.
    """
    if isinstance(given, str | os.PathLike):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(os.fspath(given), trust_remote_code=False), None
    if hasattr(given, "logps"):  # a policy
        if given.tokenizer is None:
            raise UsageError("policy: it has no tokenizer")
        return given.tokenizer, given.context
    return given, None


def _sequences(record: Record, tokenizer: Any, margins: bool) -> tuple[list[Encoded], dict[str, Any]]:
    """The sequences of a record, and what else its example carries."""

    def after(completion: Turns, steps: Sequence[str] = ()) -> Encoded:
        assert not isinstance(record, LanguageModelling)
        return encode(record.prompt, completion, tokenizer, tools=record.tools, steps=steps)

    match record:
        case LanguageModelling():
            return [encode("", record.text, tokenizer, tools=record.tools)], {}
        case PromptCompletion():
            return [after(record.completion)], {}
        case Preference():
            pair = [after(record.chosen), after(record.rejected)]
            return pair, {"per_example": {"margin": float(record.margin or 0)}} if margins else {}
        case Ranked():
            order = sorted(range(len(record.scores)), key=lambda i: -record.scores[i])
            scores = [float(record.scores[i]) for i in order]
            return [after(record.answers[i]) for i in order], {"per_sequence": {"score": scores}}
        case Unpaired():
            return [after(record.completion)], {"per_example": {"label": float(record.label)}}
        case Stepwise():
            text = "\n".join(record.steps)
            completion = text if isinstance(record.prompt, str) else (Message.of("assistant", text),)
            return [after(completion, record.steps)], {"labels": record.labels}
        case PromptOnly() | Verifiable():
            ids = prompt_ids(record.prompt, tokenizer, tools=record.tools)
            if not ids:
                raise UsageError("prompt: no token")
            return [Encoded(ids=ids, weights=[0.0] * len(ids), ends=[])], {}


def _limited(
    sequences: list[Encoded], limit: int | None, rule: TooLong, text: bool
) -> Iterator[tuple[list[Encoded], int]]:
    """The sequences under the limit, with how many tokens were cut; several lists where a text was split."""
    longest = max(len(one.ids) for one in sequences)
    if limit is None or longest <= limit:
        yield sequences, 0
        return
    over = longest - limit
    if rule == "drop":
        raise _TooLongError(f"{longest} tokens, but max_length is {limit}")
    if rule == "split" and text:
        [one] = sequences
        lost = 0
        for at in range(0, len(one.ids), limit):
            ids, weights = one.ids[at : at + limit], [0.0, *one.weights[at + 1 : at + limit]]
            if any(weights):
                yield [Encoded(ids=ids, weights=weights, ends=[])], 0
            else:
                lost += len(ids)
        if lost:
            yield [], lost
        return
    if rule in ("refuse", "split"):
        raise UsageError(
            f"{longest} tokens, but max_length is {limit}; too_long says what may be cut or dropped"
        )
    yield [_cut(one, over, limit, rule) for one in sequences], over


def _cut(one: Encoded, over: int, limit: int, rule: TooLong) -> Encoded:
    keep = len(one.ids)
    if rule == "completion_end":
        begin, end = min(limit, keep), keep
    elif over >= one.prompt:
        raise UsageError(
            f"{keep} tokens, of which the prompt has {one.prompt}: {rule} cannot take {over} away"
        )
    else:
        begin, end = (0, over) if rule == "prompt_start" else (one.prompt - over, one.prompt)
    ids = one.ids[:begin] + one.ids[end:]
    weights = one.weights[:begin] + one.weights[end:]
    ends = [at if at < begin else at - (end - begin) for at in one.ends if not begin <= at < end]
    if len(ends) < len(one.ends):
        raise UsageError(f"{keep} tokens: {rule} would take away a step's end")
    weights[0] = 0.0
    if any(one.weights) and not any(weights):
        raise UsageError(f"{keep} tokens: {rule} leaves none that counts")
    return Encoded(ids=ids, weights=weights, ends=ends)


def _batch(record: Record, sequences: list[Encoded], extras: dict[str, Any]) -> Batch:
    labels = extras.pop("labels", None)
    if labels is not None:
        [one] = sequences
        steps = [-1.0] * len(one.ids)
        for at, label in zip(one.ends, labels, strict=True):
            steps[at] = float(label)
        extras = {"per_token": {"step": [steps]}}
    ids, weights = [one.ids for one in sequences], [one.weights for one in sequences]
    return Batch.of(ids, weights, name=record.origin, **extras)
