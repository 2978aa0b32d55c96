"""Turns of a conversation as messages: roles by any of their names, typed content, order checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from polmrs.data.formats.fields import Fields, as_json, as_list, as_number, as_text
from polmrs.data.messages import Audio, Content, Image, Message, Text, ToolCall, ToolResult
from polmrs.errors import UsageError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
"""What data sets call a speaker, and what we call it."""

_MARKS: dict[str, type[Image] | type[Audio]] = {"<image>": Image, "<audio>": Audio}


def user(text: str) -> Message:
    """What a person says."""
    return Message.of("user", text)


def assistant(text: str) -> Message:
    """What the model says."""
    return Message.of("assistant", text)


def messages(row: Fields, path: str) -> tuple[Message, ...]:
    """The messages of a column: ``role`` or ``from``, ``content`` or ``value``.

    Weights are read from ``loss_weight`` or ``weight``, or from ``train`` as yes or no; without them the assistant counts.

    Raises:
        UsageError: A turn has no known speaker or no content; the message names it.
    """
    turns = as_list(path, row.value(path))
    media = {mark: _media(row, mark) for mark in _MARKS}
    found = [one(turn, f"{path}[{i}]", media) for i, turn in enumerate(turns)]
    for mark, left in media.items():
        if left:
            raise UsageError(f"{path}: {len(left)} more files than {mark} marks")
    return tuple(found)


def one(turn: Any, name: str, media: Mapping[str, list[str]] | None = None) -> Message:
    """One message."""
    if not isinstance(turn, Mapping):
        raise UsageError(f"{name}: expected a turn, got {type(turn).__name__}")
    speaker = str(turn.get("role") or turn.get("from") or "")
    role = ROLES.get(speaker.strip().lower())
    if role is None:
        raise UsageError(f"{name}: role {speaker!r} is none of {', '.join(ROLES)}")
    content = turn["content"] if turn.get("content") is not None else turn.get("value")
    parts: list[Content] = []
    if speaker.strip().lower() == "function_call":
        parts += _calls(name, content)
    elif role == "tool":
        text = content if isinstance(content, str) else "".join(_texts(name, content))
        parts.append(ToolResult(text, turn.get("tool_call_id")))
    elif isinstance(content, str):
        parts += _marked(as_text(name, content), media or {}, name)
    elif content is not None:
        parts += [part for block in as_list(name, content) for part in _block(name, block, media or {})]
    if thought := turn.get("reasoning_content") or turn.get("thinking"):
        parts.insert(0, _thought(as_text(name, thought)))
    parts += [call for given in turn.get("tool_calls") or () for call in _calls(name, given)]
    if not any(not isinstance(part, Text) or part.text.strip() for part in parts):
        raise UsageError(f"{name}: a turn without content")
    return Message(role, tuple(parts), _weight(turn, role, name))


def dialogue(row: Fields, turns: Sequence[Message], *, answered: bool = True) -> tuple[Message, ...]:
    """Messages in an order that templates can render: system first if at all, a user, then an answer, and so on.

    Tools may answer several calls in a row, and an assistant may speak after its own call.

    Args:
        row: Where repairs are noted: turns of one speaker are merged, an answer to nothing and a question without
            answer are left out.
        turns: The messages.
        answered: Whether the last one must be the assistant's; otherwise it must not be.
    """
    kept: list[Message] = []
    for i, turn in enumerate(turns):
        if turn.role == "system" and i:
            raise UsageError(f"turn {i + 1}: a system turn that is not the first")
        before = kept[-1] if kept else None
        if turn.role in ("assistant", "tool") and (before is None or before.role == "system"):
            row.mend(f"turn {i + 1}: the {turn.role} speaks before any user", "left out")
        elif before is not None and before.role == turn.role and not _may_follow(before, turn):
            row.mend(f"turns {i} and {i + 1}: two {turn.role} turns in a row", "merged")
            kept[-1] = Message(
                turn.role, (*before.content, Text("\n\n"), *turn.content), max(before.weight, turn.weight)
            )
        else:
            kept.append(turn)
    while answered and kept and kept[-1].role != "assistant":
        row.mend(f"the last turn is the {kept[-1].role}'s, and nothing answers it", "left out")
        kept.pop()
    if not answered and kept and kept[-1].role == "assistant":
        raise UsageError("prompt: its last turn is the assistant's, so there is nothing to answer")
    if not any(turn.role == "user" for turn in kept):
        raise UsageError("no user turn in the conversation")
    return tuple(kept)


def split(turns: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """What the last answer answers, and that answer: the turns from the last user or tool turn on."""
    at = max(i for i, turn in enumerate(turns) if turn.role in ("user", "tool")) + 1
    return tuple(turns[:at]), tuple(turns[at:])


def shared(one: Sequence[Message], other: Sequence[Message]) -> tuple[Message, ...]:
    """The turns that two conversations begin with."""
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return tuple(one[:n])


def tools(row: Fields) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row: JSON, or a text of JSON, in ``tools`` or ``functions``; older rows lack the outer object."""
    for path in ("tools", "functions"):
        if not row.has(path) or row.value(path) == "":
            continue
        found = as_list(path, as_json(path, row.value(path)))
        if not all(isinstance(tool, Mapping) for tool in found):
            raise UsageError(f"{path}: each tool is an object")
        return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in found)
    return ()


def _may_follow(before: Message, turn: Message) -> bool:
    """Results of several calls; words after a call of the same turn, or the call after the words."""
    if turn.role == "tool":
        return True
    return turn.role == "assistant" and any(
        isinstance(part, ToolCall) for part in (*before.content, *turn.content)
    )


def _weight(turn: Mapping[str, Any], role: str, name: str) -> float:
    for key in ("loss_weight", "weight"):
        if turn.get(key) is not None:
            return as_number(f"{name}.{key}", turn[key])
    if isinstance(turn.get("train"), bool):
        return float(turn["train"])
    return float(role == "assistant")


def _media(row: Fields, mark: str) -> list[str]:
    column = mark[1:-1] + "s"
    return [as_text(column, path) for path in row.items(column)] if row.has(column) else []


def _marked(text: str, media: Mapping[str, list[str]], name: str) -> Iterable[Content]:
    """Text cut at the marks of pictures and recordings; without files, a mark is text."""
    if not any(media.values()):
        return [Text(text)]
    parts: list[Content] = []
    for piece in re.split("(" + "|".join(_MARKS) + ")", text):
        if piece in _MARKS and media.get(piece) is not None:
            if not media[piece]:
                raise UsageError(f"{name}: more {piece} marks than files")
            parts.append(_MARKS[piece](media[piece].pop(0)))
        elif piece:
            parts.append(Text(piece))
    return parts


def _block(name: str, block: Any, media: Mapping[str, list[str]]) -> Iterable[Content]:
    if isinstance(block, str):
        return [Text(as_text(name, block))]
    if not isinstance(block, Mapping):
        raise UsageError(f"{name}: expected a part of a message, got {type(block).__name__}")
    kind = block.get("type")
    value = next((block[key] for key in ("value", "text", str(kind)) if block.get(key) is not None), None)
    if kind == "text":
        return [Text(as_text(name, value))]
    if kind in ("reasoning", "thinking"):
        return [_thought(as_text(name, value))]
    if kind == "tool_call":
        return _calls(name, value)
    source = value.get("url") if isinstance(value, Mapping) else value
    for mark, made in _MARKS.items():
        if kind in (mark[1:-1], f"{mark[1:-1]}_url"):
            if source is None and media.get(mark):
                source = media[mark].pop(0)
            return [made(as_text(f"{name}.{kind}", source))]
    raise UsageError(f"{name}: content of type {kind!r} is none of text, image, audio, reasoning, tool_call")


def _thought(text: str) -> Text:
    """Reasoning as the templates that know it write it."""
    return Text(f"<think>\n{text}\n</think>\n\n")


def _texts(name: str, content: Any) -> Iterable[str]:
    if content is None:
        raise UsageError(f"{name}: a turn without content")
    return (
        part.text
        for block in as_list(name, content)
        for part in _block(name, block, {})
        if isinstance(part, Text)
    )


def _calls(name: str, given: Any) -> list[Content]:
    found = as_json(name, given)
    calls: list[Content] = []
    for call in found if isinstance(found, list) else [found]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UsageError(f"{name}: a tool call without a name")
        arguments = as_json(f"{name}.arguments", function.get("arguments") or {})
        if not isinstance(arguments, Mapping):
            raise UsageError(f"{name}: arguments of {function['name']} are no object")
        calls.append(ToolCall(function["name"], arguments, call.get("id")))
    return calls


def transcript(text: str, marks: Mapping[str, str]) -> list[Message]:
    r"""A conversation that was written as one text, cut at the marks of its speakers.

    >>> marks = {"\\n\\nHuman:": "user", "\\n\\nAssistant:": "assistant"}
    >>> [turn.text for turn in transcript("\\n\\nHuman: Hi\\n\\nAssistant: Hello", marks)]
    ['Hi', 'Hello']
    """
    pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", text)
    if len(pieces) == 1 or pieces[0].strip():
        raise UsageError(
            "no mark of a speaker in the text" if len(pieces) == 1 else "text before any speaker"
        )
    turns: list[Message] = []
    for mark, said in zip(pieces[1::2], pieces[2::2], strict=True):
        if not said.strip():
            raise UsageError(f"turn {len(turns) + 1}: a turn without content")
        turns.append(Message.of(marks[mark], said.strip()))
    return turns
