"""Records as token ids and weights: chat templates in transformers' sandbox, and which tokens the loss counts.

A conversation is rendered and tokenized whole, as it will be when the model is used. A message's tokens are found in one of
two ways, and a token that lies across a border belongs to what follows it, as in TRL:

- the template marks the assistant's words with ``{% generation %}``: by those marks;
- otherwise by prefix difference: message i is what the rendering of messages 0..i has more than that of 0..i-1 with the
  opening of an answer. Both must be beginnings of the whole; a template that rewrites earlier turns is refused.

Nothing is inferred from token ids, so an end-of-text token that is also the padding token is learned like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from polmrs.data.messages import Audio, Image, Message, Text, ToolCall, ToolResult, Turns
from polmrs.errors import UsageError

Tools = tuple[Mapping[str, Any], ...]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Span(NamedTuple):
    """Characters of a rendered text, and what the loss of their tokens is multiplied by."""

    begin: int
    end: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sequence."""

    ids: list[int]
    weights: list[float]
    """As many; 0 on the first token, which nothing predicts."""
    ends: list[int]
    """The token that holds the last character of each step, for stepwise records."""

    @property
    def prompt(self) -> int:
        """How many tokens stand before the first that counts; all of them where none does."""
        return next((i for i, weight in enumerate(self.weights) if weight), len(self.ids))


def encode(
    prompt: Turns, completion: Turns, tokenizer: Any, *, tools: Tools = (), steps: Sequence[str] = ()
) -> Encoded:
    """A prompt and its completion as one sequence; the completion counts, and ends with the end-of-text token.

    Plain text is joined as it stands. Messages go through the chat template; those of the completion count by their weights.
    An empty prompt before messages makes all of them count by their weights.

    Args:
        prompt: What counts nothing.
        completion: What is learned.
        tokenizer: A fast tokenizer of transformers.
        tools: What the model may call.
        steps: Parts of the completion, in order, whose ends are wanted.

    Raises:
        UsageError: No token counts, the template cannot render the messages or rewrites earlier turns, or there is none.
    """
    if isinstance(completion, str):
        if not isinstance(prompt, str):
            raise UsageError("completion: plain text after messages; make both the same")
        eos = tokenizer.eos_token or ""
        text = prompt + completion + ("" if eos and completion.endswith(eos) else eos)
        spans = [Span(len(prompt), len(text), 1.0)]
    else:
        before = () if isinstance(prompt, str) else prompt
        if isinstance(prompt, str) and prompt:
            raise UsageError("prompt: plain text before messages; make both the same")
        silent = tuple(replace(turn, weight=0.0) for turn in before)
        text, spans = rendered((*silent, *completion), tokenizer, tools)
    made = _tokenized(text, spans, tokenizer, chat=not isinstance(completion, str))
    if steps:
        begin = spans[-1].begin if spans else 0
        made = replace(made, ends=_step_ends(text, begin, steps, tokenizer, made))
    if not any(made.weights):
        raise UsageError("no token counts: every weight is 0, or only the first token has one")
    return made


def prompt_ids(prompt: Turns, tokenizer: Any, *, tools: Tools = ()) -> list[int]:
    """The ids that a model is asked to continue: plain text as it stands, messages with the opening of an answer."""
    if isinstance(prompt, str):
        return _tokenized(prompt, [], tokenizer, chat=False, ends=False).ids
    return _tokenized(_render(prompt, tokenizer, tools, opening=True), [], tokenizer, chat=True).ids


def rendered(turns: tuple[Message, ...], tokenizer: Any, tools: Tools = ()) -> tuple[str, list[Span]]:
    """A conversation as its chat template writes it, and where each message that counts stands.

    Raises:
        UsageError: The template is missing, cannot render the messages, leaves out words, calls or tools, or hides where
            the messages stand.
    """
    whole = _render(turns, tokenizer, tools)
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
    after = whole if i == len(turns) - 1 else _render(turns[: i + 1], tokenizer, tools)
    if not whole.startswith(after):
        return None
    if i == 0:
        return Span(0, len(after), turns[i].weight)
    before = _render(turns[:i], tokenizer, tools)
    if not after.startswith(before):
        return None
    begin = len(before)
    if turns[i].role == "assistant":
        opened = _render(turns[:i], tokenizer, tools, opening=True)
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


def _render(turns: Sequence[Message], tokenizer: Any, tools: Tools, *, opening: bool = False) -> str:
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


def _tokenized(text: str, spans: Sequence[Span], tokenizer: Any, *, chat: bool, ends: bool = True) -> Encoded:
    """Ids and weights of a text.

    Special tokens stand in a chat's text already; plain text gets the tokenizer's own first one unless it begins with it.
    """
    ids, places = _placed(text, tokenizer)
    weights = _weighted(places, spans)
    if chat:
        if spans and ends and not _closed(text, ids, tokenizer):
            if tokenizer.eos_token_id is None:
                raise UsageError("tokenizer: no end-of-text token, and the chat template closes no answer")
            ids, weights = [*ids, tokenizer.eos_token_id], [*weights, spans[-1].weight]
    elif ids[:1] != [tokenizer.bos_token_id] == tokenizer("").input_ids[:1]:
        ids, weights = [tokenizer.bos_token_id, *ids], [0.0, *weights]
    if weights:
        weights[0] = 0.0
    return Encoded(ids=ids, weights=weights, ends=[])


def _weighted(places: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[float]:
    """The weight of each token: that of the span which it lies in, or the greater one across a border."""
    begins, ends = np.array(places, np.int64).reshape(-1, 2).T
    weights = np.zeros(len(places))
    for span in spans:
        within = (begins < span.end) & (ends > span.begin)
        weights[within] = np.maximum(weights[within], span.weight)
    found: list[float] = weights.tolist()
    return found


def _placed(text: str, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids, and the characters from the end of the token before to the end of each: some offsets leave out spaces."""
    try:
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise UsageError(
            "tokenizer: a slow one, which does not say where its tokens stand; load a fast one"
        ) from error
    places, last = [], 0
    for begin, end in made["offset_mapping"]:
        places.append((min(begin, last), end))
        last = max(last, end)
    return list(made["input_ids"]), places


def _closed(text: str, ids: Sequence[int], tokenizer: Any) -> bool:
    """Whether the last token, but for spaces after it, is a special one that ends a turn."""
    for token in reversed(ids):
        if token in tokenizer.all_special_ids:
            return True
        if tokenizer.decode([token]).strip():
            return False
    return False


def _step_ends(text: str, begin: int, steps: Sequence[str], tokenizer: Any, made: Encoded) -> list[int]:
    _, places = _placed(text, tokenizer)
    shift = len(made.ids) - len(places) if made.ids[:1] == [tokenizer.bos_token_id] else 0
    ends: list[int] = []
    at = begin
    for i, step in enumerate(steps):
        found = text.find(step.strip(), at)
        if found < 0 or not step.strip():
            raise UsageError(f"steps[{i}]: not in the text that the chat template makes")
        at = found + len(step.strip())
        token = next(t for t, (_, end) in enumerate(places) if end >= at)
        if ends and ends[-1] == token + shift:
            raise UsageError(f"steps[{i}]: ends in the same token as the step before")
        ends.append(token + shift)
    return ends
