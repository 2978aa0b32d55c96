"""Conversations as chat templates write them, in the sandbox of transformers, and where each message stands.

A message's characters are found in one of two ways:

- the template marks the assistant's words with ``{% generation %}``: by those marks;
- otherwise by prefix difference: message i is what the rendering of messages 0..i has more than that of 0..i-1 with the
  opening of an answer. Both must be beginnings of the whole; a template that rewrites earlier turns is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from polmrs.data.messages import Audio, Image, Message, Text, ToolCall, ToolResult
from polmrs.errors import UsageError

Tools = tuple[Mapping[str, Any], ...]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Span(NamedTuple):
    """Characters of a rendered text, and what the loss of their tokens is multiplied by."""

    begin: int
    end: int
    weight: float


def rendered(turns: tuple[Message, ...], tokenizer: Any, tools: Tools = ()) -> tuple[str, list[Span]]:
    """A conversation as its chat template writes it, and where each message that counts stands.

    Raises:
        UsageError: The template is missing, cannot render the messages, leaves out words, calls or tools, or hides where
            the messages stand.
    """
    whole = render(turns, tokenizer, tools)
    counted = [i for i, turn in enumerate(turns) if turn.weight]
    marked = _marked(turns, whole, tokenizer, tools) or {}
    found = []
    for i in counted:
        span = marked[i] if i in marked else _difference(turns, i, whole, tokenizer, tools)
        if span is None:
            raise UsageError(
                "chat template: it writes earlier turns otherwise once later ones follow, so the tokens of a turn cannot be "
                "told; train on last answers alone (kind prompt_completion), or use a template with {% generation %}"
            )
        _check_written(turns[i], i, whole[span.begin : span.end])
        found.append(span)
    names = [str(tool.get("function", tool).get("name")) for tool in tools]
    if names and not any(name in whole for name in names):
        raise UsageError(f"chat template: it writes none of the tools {', '.join(names)}")
    return whole, found


def _check_written(turn: Message, i: int, span: str) -> None:
    """Refuses what a template leaves out of words that shall be learned: tool calls that it does not know, reasoning that it drops."""
    for part in turn.content:
        if isinstance(part, ToolCall) and part.name not in span:
            raise UsageError(f"chat template: it leaves the call of {part.name} out of turn {i + 1}")
        if isinstance(part, Text) and part.text.strip() not in span:
            raise UsageError(
                f"chat template: it leaves words out of turn {i + 1}: {part.text.strip()[:80]!r}"
            )


def _difference(turns: tuple[Message, ...], i: int, whole: str, tokenizer: Any, tools: Tools) -> Span | None:
    """Where message i stands by prefix difference; nothing where renderings are no beginnings of the whole."""
    after = whole if i == len(turns) - 1 else render(turns[: i + 1], tokenizer, tools)
    if not whole.startswith(after):
        return None
    if i == 0:
        return Span(0, len(after), turns[i].weight)
    before = render(turns[:i], tokenizer, tools)
    if not after.startswith(before):
        return None
    begin = len(before)
    if turns[i].role == "assistant":
        opened = render(turns[:i], tokenizer, tools, opening=True)
        if after.startswith(opened):
            begin = len(opened)
        else:  # it opens an answer otherwise, with a thought say: what both begin with
            same = takewhile(lambda pair: pair[0] == pair[1], zip(after, opened, strict=False))
            begin = max(begin, sum(1 for _ in same))
    return Span(begin, len(after), turns[i].weight)


def _marked(turns: tuple[Message, ...], whole: str, tokenizer: Any, tools: Tools) -> dict[int, Span] | None:
    """The assistant's messages by the template's marks; nothing where it has none."""
    template = _template(tokenizer, tools)
    if not _GENERATION.search(template):
        return None
    from transformers.utils.chat_template_utils import render_jinja_template

    made: Any = render_jinja_template(
        conversations=[[as_row(turn) for turn in turns]],
        tools=[dict(tool) for tool in tools] or None,
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    texts, indices = made
    at = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if texts[0] != whole or len(indices[0]) != len(at):
        raise UsageError(
            f"chat template: {len(indices[0])} generation blocks for {len(at)} assistant messages"
        )
    return {i: Span(begin, end, turns[i].weight) for i, (begin, end) in zip(at, indices[0], strict=True)}


def _template(tokenizer: Any, tools: Tools) -> str:
    if not tokenizer.chat_template:
        raise UsageError(
            "tokenizer: no chat template, which messages need; set tokenizer.chat_template, or use plain text"
        )
    template: str = tokenizer.get_chat_template(tools=list(tools) or None)
    return template


def render(turns: Sequence[Message], tokenizer: Any, tools: Tools = (), *, opening: bool = False) -> str:
    """A conversation as its chat template writes it.

    Args:
        turns: The messages.
        tokenizer: Has the template.
        tools: What the model may call.
        opening: Whether the opening of an answer follows.

    Raises:
        UsageError: The template is missing, or cannot render the messages.
    """
    from jinja2 import TemplateError

    _template(tokenizer, tools)
    try:
        text: str = tokenizer.apply_chat_template(
            [as_row(turn) for turn in turns],
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=opening,
        )
    except TemplateError as error:
        raise UsageError(f"chat template: {error}") from error
    return text


def as_row(turn: Message) -> dict[str, Any]:
    """A message as chat templates and OpenAI's format have it; weights stay out.

    >>> as_row(Message.of("user", "Hello"))
    {'role': 'user', 'content': 'Hello'}
    """
    made: dict[str, Any] = {"role": turn.role}
    if any(isinstance(part, Image | Audio) for part in turn.content):
        made["content"] = [block for part in turn.content for block in _block(part)]
    else:
        made["content"] = "".join(part.text for part in turn.content if isinstance(part, Text | ToolResult))
    calls = [part for part in turn.content if isinstance(part, ToolCall)]
    if calls:
        made["tool_calls"] = [
            {
                "type": "function",
                **({"id": call.id} if call.id else {}),
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in calls
        ]
    for part in turn.content:
        if isinstance(part, ToolResult) and part.id:
            made["tool_call_id"] = part.id
    return made


def _block(part: Any) -> list[dict[str, str]]:
    if isinstance(part, Text):
        return [{"type": "text", "text": part.text}]
    if isinstance(part, Image | Audio):
        kind = type(part).__name__.lower()
        return [{"type": kind, kind: part.source}]
    return []
