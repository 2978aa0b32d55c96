"""A prompt and its completion as token ids and weights.

The text is tokenized whole, as it will be when the model is used, and a token that lies across the border of what counts
belongs to it, as in TRL. Nothing is inferred from token ids, so an end-of-text token that is also the padding token is learned like
any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polmrs.data.chat import Span, Tools, render, rendered
from polmrs.data.messages import Turns
from polmrs.errors import UsageError


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
        return _tokenized(prompt, [], tokenizer, chat=False).ids
    return _tokenized(render(prompt, tokenizer, tools, opening=True), [], tokenizer, chat=True).ids


def _tokenized(text: str, spans: Sequence[Span], tokenizer: Any, *, chat: bool) -> Encoded:
    """Ids and weights of a text.

    Special tokens stand in a chat's text already; plain text gets the tokenizer's own first one unless it begins with it.
    """
    ids, places = _placed(text, tokenizer)
    weights = _weighted(places, spans)
    if chat:
        if spans and not _closed(text, ids, tokenizer):
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
    ids, places = _placed(text, tokenizer)
    shift = int(made.ids[: len(ids)] != ids)  # a token of the beginning that the text does not have
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
