"""Retrieve, then read: passages in the context of a language model, numbered, and an answer that cites them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from polmrs.errors import UsageError
from polmrs.rag.index import Hits

if TYPE_CHECKING:
    from polmrs.models import Policy

TEMPLATE = """\
Answer the question from the numbered passages alone, and cite each that you use by its number, like [1]. If they do not \
hold the answer, say so.

{passages}

Question: {question}
Answer:"""
"""What is asked, unless another template is given."""

_CITED = re.compile(r"\[(\d{1,9}(?:\s*[,;]\s*\d{1,9})*)\]")


class Generate(Protocol):
    """What writes an answer. One with a method ``render(prompt)`` is asked what it will really show the model first."""

    def __call__(self, prompt: str, /) -> str:
        """The answer to a prompt."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A passage as the model saw it: as ``[number] text`` in the answer's prompt."""

    number: int
    id: str | int
    score: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, and the exact trace of how it came about."""

    text: str
    """What was generated."""
    prompt: str
    """What the generator was given, to the last character: with its chat template, if it has one."""
    shown: tuple[Shown, ...]
    """The passages in the prompt, by number."""
    left_out: tuple[str | int, ...]
    """Hits that did not fit the budget."""
    cited: tuple[Shown, ...]
    """The passages that the answer cites, in order, each once."""
    unknown: tuple[int, ...]
    """Numbers that the answer cites and that no passage has."""
    tokens: int
    """What the passages took of the budget."""


def read(
    question: str,
    hits: Hits,
    generate: Generate,
    *,
    texts: Mapping[Any, str] | Callable[[Any], str],
    budget: int = 1024,
    count: Callable[[str], int] | None = None,
    template: str = TEMPLATE,
) -> Answer:
    """Shows passages to a generator and asks it a question.

    Passages come best first, each as ``[number] text``, as long as all of them together keep within the budget; one that does
    not fit is left out and the next is tried. No passage is shown in part.

    Args:
        question: What is asked.
        hits: Of one query, best first.
        generate: A prompt to an answer: :class:`Reader`, or any callable.
        texts: The text of an id.
        budget: The most tokens of all passages, numbers and all.
        count: Tokens of a text; ``generate.count`` if it has one, or what stands between white space.
        template: With ``{passages}`` and ``{question}``.

    Raises:
        UsageError: A batch of hits, an id without a text, a budget below 1, or a template without its two places.

    >>> hits = Hits(["a", "b"], np.array([2.0, 1.0], np.float32))
    >>> answer = read("Who?", hits, lambda prompt: "Ada [1].", texts={"a": "Ada did.", "b": "Not Bob."}, budget=3)
    >>> answer.text, [one.id for one in answer.cited], answer.left_out
    ('Ada [1].', ['a'], ('b',))
    """
    if isinstance(hits.scores, list):
        raise UsageError(f"hits: those of a batch of {len(hits.scores)}, not of one query")
    if budget < 1:
        raise UsageError(f"budget: {budget} is not at least 1")
    for place in ("{passages}", "{question}"):
        if template.count(place) != 1:
            raise UsageError(f"template: {place} stands in it {template.count(place)} times, not once")
    counted: Callable[[str], int] = (
        count or getattr(generate, "count", None) or (lambda text: len(text.split()))
    )
    ids = hits.ids.tolist() if isinstance(hits.ids, np.ndarray) else list(hits.ids)
    kept, left_out = _fit([(one, _text(texts, one)) for one in ids], counted, budget)
    block = _block(kept)
    prompt = re.sub(
        r"\{(passages|question)\}", lambda place: block if place[1] == "passages" else question, template
    )
    render: Callable[[str], str] | None = getattr(generate, "render", None)
    final = render(prompt) if render else prompt
    if block not in final:
        raise UsageError("generate: what its render gives does not hold the passages as they are")
    scores = dict(zip(ids, hits.scores.tolist(), strict=True))
    shown = tuple(
        Shown(number=number, id=one, score=scores[one], text=text)
        for number, (one, text) in enumerate(kept, 1)
    )
    text = generate(final)
    numbers = cited_numbers(text)
    return Answer(
        text=text,
        prompt=final,
        shown=shown,
        left_out=tuple(left_out),
        cited=tuple(shown[number - 1] for number in numbers if 1 <= number <= len(shown)),
        unknown=tuple(number for number in numbers if not 1 <= number <= len(shown)),
        tokens=counted(block) if block else 0,
    )


def cited_numbers(text: str) -> list[int]:
    """The numbers in square brackets, in order, each once.

    >>> cited_numbers("So [2], and so [1, 3][2].")
    [2, 1, 3]
    """
    numbers = [int(number) for group in _CITED.findall(text) for number in re.split(r"[,;]", group)]
    return list(dict.fromkeys(numbers))


def _text(texts: Mapping[Any, str] | Callable[[Any], str], one: Any) -> str:
    try:
        return texts(one) if callable(texts) else texts[one]
    except KeyError:
        raise UsageError(f"texts: none for the id {one!r}") from None


def _block(kept: Sequence[tuple[Any, str]]) -> str:
    return "\n\n".join(f"[{number}] {text}" for number, (_, text) in enumerate(kept, 1))


def _fit(
    passages: Sequence[tuple[Any, str]], count: Callable[[str], int], budget: int
) -> tuple[list[tuple[Any, str]], list[Any]]:
    """Those that fit, in order, and the ids of those that do not."""
    kept: list[tuple[Any, str]] = []
    left_out = []
    for one, text in passages:
        if count(_block([*kept, (one, text)])) <= budget:
            kept.append((one, text))
        else:
            left_out.append(one)
    return kept, left_out


class Reader:
    """A language model as a generator: greedy, through its chat template if it has one.

    Special tokens that stand in a passage count as such; where passages come from strangers, take them out.

    >>> reader = Reader(policy)  # doctest: +SKIP
    >>> read("Who?", hits, reader, texts=texts).text  # doctest: +SKIP
    'Ada [1].'
    """

    def __init__(self, model: Policy | Any, tokenizer: Any = None, *, max_new_tokens: int = 128) -> None:
        """Takes a model as it is.

        Args:
            model: A policy of ``polmrs.load``, or a causal language model of transformers.
            tokenizer: Its tokenizer; a policy knows its own.
            max_new_tokens: The longest answer.

        Raises:
            UsageError: There is no tokenizer, or ``max_new_tokens`` is below 1.
        """
        self.tokenizer: Any = tokenizer or getattr(model, "tokenizer", None)
        if self.tokenizer is None:
            raise UsageError("tokenizer: none given, and the model knows none")
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens: {max_new_tokens} is not at least 1")
        self.model: Any = getattr(model, "plain", model)
        self.max_new_tokens = max_new_tokens

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def render(self, prompt: str) -> str:
        """The prompt as the one message of a conversation, where there is a chat template."""
        if not self.tokenizer.chat_template:
            return prompt
        asked = [{"role": "user", "content": prompt}]
        rendered: str = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return rendered

    def __call__(self, prompt: str) -> str:
        """The answer to a rendered prompt.

        Raises:
            UsageError: Prompt and answer may be longer than the model can take.
        """
        import torch

        special = not self.tokenizer.chat_template
        given = self.tokenizer(prompt, add_special_tokens=special, return_tensors="pt").to(self.model.device)
        ids, mask = given["input_ids"], given["attention_mask"]
        longest = getattr(self.model.config, "max_position_embeddings", None)
        if longest and ids.shape[1] + self.max_new_tokens > longest:
            raise UsageError(
                f"prompt: {ids.shape[1]} tokens and {self.max_new_tokens} of an answer are more than the {longest} "
                "that the model can take; lower the budget"
            )
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.inference_mode():
                out = self.model.generate(
                    ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=self.max_new_tokens,
                    **self._ends(),
                )
        finally:
            for module in training:
                module.training = True
        answer: str = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return answer.strip()

    def _ends(self) -> dict[str, Any]:
        """What stands after the end; and that the search is greedy, whatever a folder says for its own use."""
        pad = self.tokenizer.pad_token_id
        return {
            "pad_token_id": self.tokenizer.eos_token_id if pad is None else pad,
            "num_beams": 1,
            "repetition_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "temperature": None,
            "top_p": None,
            "top_k": None,
        }
