"""Conversations, with what may stand beside them: a better answer, a verdict, a truth to check against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polmrs.data.formats.fields import Fields, as_list, as_text
from polmrs.data.formats.format import Format
from polmrs.data.formats.turns import assistant, dialogue, messages, one, shared, split, tools, user
from polmrs.data.messages import Message
from polmrs.data.records import LanguageModelling, Preference, Record, Unpaired, Verifiable
from polmrs.errors import UsageError


def _turns(row: Fields, path: str) -> tuple[Message, ...]:
    """The conversation of a row, with the system prompt that may stand beside it."""
    found = messages(row, path)
    system = row.text("system", "")
    if system.strip() and not any(turn.role == "system" for turn in found):
        found = (Message.of("system", system), *found)
    return found


def _conversation(path: str) -> Any:
    def read(row: Fields) -> Iterator[Record]:
        turns, given = dialogue(row, _turns(row, path)), tools(row)
        if not any(turn.weight for turn in turns):
            raise UsageError(f"{path}: no turn has a weight, so there is nothing to learn")
        yield LanguageModelling(text=turns, tools=given, meta=row.meta)

    return read


def _with_verdict(path: str, label: str) -> Any:
    def read(row: Fields) -> Iterator[Record]:
        prompt, completion = split(dialogue(row, _turns(row, path)))
        yield Unpaired(
            prompt=prompt, completion=completion, label=row.flag(label), tools=tools(row), meta=row.meta
        )

    return read


def _with_pair(path: str) -> Any:
    def read(row: Fields) -> Iterator[Record]:
        prompt = dialogue(row, _turns(row, path), answered=False)
        chosen, rejected = ((one(row.value(name), name),) for name in ("chosen", "rejected"))
        yield Preference(prompt=prompt, chosen=chosen, rejected=rejected, tools=tools(row), meta=row.meta)

    return read


def _pair_of_conversations(row: Fields) -> Iterator[Record]:
    chosen, rejected = (dialogue(row, _turns(row, name)) for name in ("chosen_messages", "rejected_messages"))
    prompt = shared(chosen, rejected)
    yield pair(row, prompt, chosen[len(prompt) :], rejected[len(prompt) :])


def pair(
    row: Fields,
    prompt: tuple[Message, ...],
    chosen: tuple[Message, ...],
    rejected: tuple[Message, ...],
    margin: float | None = None,
) -> Preference:
    """A preference between two endings, which must differ and be the assistant's."""
    if not prompt:
        raise UsageError("chosen, rejected: they do not begin with the same question")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns:
            raise UsageError(f"{name}: nothing is left of it after what both begin with")
        if turns[0].role != "assistant":
            raise UsageError(f"{name}: differs from the other in a {turns[0].role} turn, before the answer")
    if chosen == rejected:
        raise UsageError("chosen, rejected: the same")
    return Preference(
        prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, tools=tools(row), meta=row.meta
    )


def _verified(row: Fields) -> Iterator[Record]:
    prompt = dialogue(row, _turns(row, "messages"), answered=False)
    truth, verifier = row.value("ground_truth"), row.value("dataset")
    names = [verifier] if isinstance(verifier, str) else as_list("dataset", verifier)
    name = ",".join(as_text("dataset", one) for one in names)
    yield Verifiable(prompt=prompt, truth=truth, verifier=name, tools=tools(row), meta=row.meta)


def _alternating(row: Fields) -> Iterator[Record]:
    said = [as_text(f"data[{i}]", text) for i, text in enumerate(row.items("data"))]
    turns = [assistant(text) if i % 2 else user(text) for i, text in enumerate(said)]
    yield LanguageModelling(text=dialogue(row, turns), meta=row.meta)


def _wildchat(row: Fields) -> Iterator[Record]:
    notes = [
        {key: turn[key] for key in ("language", "toxic", "redacted") if key in turn}
        for turn in row.items("conversation")
        if isinstance(turn, dict)
    ]
    turns = dialogue(row, messages(row, "conversation"))
    yield LanguageModelling(text=turns, meta=row.meta | {"turns": notes})


FORMATS = (
    Format(
        name="messages",
        of="OpenAI, TRL, UltraChat-200K, GenQA, SmolTalk",
        paths=("messages[].role", "messages[]"),
        kind=LanguageModelling,
        read=_conversation("messages"),
    ),
    Format(
        name="messages_unpaired",
        of="KTO-mix",
        paths=("messages[].role", "messages[]", "label"),
        kind=Unpaired,
        read=_with_verdict("messages", "label"),
    ),
    Format(
        name="messages_preference",
        of="LLaMA-Factory pairs of conversations",
        paths=("chosen_messages[].role", "rejected_messages[].role"),
        kind=Preference,
        read=_pair_of_conversations,
    ),
    Format(
        name="rlvr",
        of="open-instruct's verifiable rewards",
        paths=("messages[].role", "ground_truth", "dataset"),
        kind=Verifiable,
        read=_verified,
    ),
    Format(
        name="sharegpt",
        of="ShareGPT, Vicuna, Belle's dialogues, OpenHermes-2.5, Magpie",
        paths=("conversations[].from", "conversations[].value"),
        kind=LanguageModelling,
        read=_conversation("conversations"),
    ),
    Format(
        name="sharegpt_preference",
        of="LLaMA-Factory rankings, Magpie's DPO rows",
        paths=("conversations[].from", "conversations[].value", "chosen.value", "rejected.value"),
        kind=Preference,
        read=_with_pair("conversations"),
    ),
    Format(
        name="sharegpt_unpaired",
        of="LLaMA-Factory KTO",
        paths=("conversations[].from", "conversations[].value", "kto_tag"),
        kind=Unpaired,
        read=_with_verdict("conversations", "kto_tag"),
    ),
    Format(
        name="conversations",
        of="messages under another name",
        paths=("conversations[].role", "conversations[].content"),
        kind=LanguageModelling,
        read=_conversation("conversations"),
    ),
    Format(
        name="wildchat",
        of="WildChat, LMSYS-Chat",
        paths=("conversation[].role", "conversation[].content"),
        kind=LanguageModelling,
        read=_wildchat,
    ),
    Format(
        name="ultrachat",
        of="UltraChat",
        paths=("data[]",),
        kind=LanguageModelling,
        read=_alternating,
        when=lambda row: isinstance(row["data"][0], str),
    ),
)
