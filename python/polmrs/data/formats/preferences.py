"""Comparisons: two answers or more, by people, models or votes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from polmrs.data.formats.dialogues import pair
from polmrs.data.formats.fields import Fields, as_number, as_object, as_text
from polmrs.data.formats.format import Format
from polmrs.data.formats.instructions import answer, asked
from polmrs.data.formats.turns import messages, shared, transcript
from polmrs.data.messages import Message, Turns
from polmrs.data.records import Preference, Ranked, Record
from polmrs.errors import UsageError

_HH = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}


def _hh(row: Fields) -> Iterator[Record]:
    """Both are whole conversations; what they share is the prompt, and each must end in one answer."""
    chosen, rejected = (
        tuple(_merged(row, transcript(row.text(name), _HH))) for name in ("chosen", "rejected")
    )
    prompt = shared(chosen, rejected)
    ends = chosen[len(prompt) :], rejected[len(prompt) :]
    for name, turns in zip(("chosen", "rejected"), ends, strict=True):
        if len(turns) > 1:
            raise UsageError(f"{name}: {len(turns)} turns differ from the other, not only the last")
    yield pair(row, prompt, *ends)


def _merged(row: Fields, turns: list[Message]) -> list[Message]:
    """The transcripts have paragraphs that begin with the mark of the speaker again: one turn, as its people count it."""
    kept: list[Message] = []
    for i, turn in enumerate(turns):
        if kept and kept[-1].role == turn.role:
            row.mend(f"turns {i} and {i + 1}: two {turn.role} turns in a row", "merged")
            kept[-1] = Message.of(turn.role, f"{kept[-1].text}\n\n{turn.text}")
        else:
            kept.append(turn)
    return kept


def _better(
    row: Fields, prompt: Turns, one: str, other: str, names: tuple[str, str], by: float, margin: float
) -> Iterator[Record]:
    """The answer that is better by ``by`` first; a tie says nothing."""
    if by == 0:
        raise UsageError("a tie, which prefers nothing")
    answers = answer(one, names[0]), answer(other, names[1])
    chosen, rejected = answers if by > 0 else answers[::-1]
    yield Preference(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, meta=row.meta)


def _shp(row: Fields) -> Iterator[Record]:
    label = row.number("labels")
    if label not in (0, 1):
        raise UsageError(f"labels: {label:g} is neither 0 nor 1")
    prompt, margin = asked(row, "history"), row.number("score_ratio")
    names = ("human_ref_A", "human_ref_B")
    yield from _better(row, prompt, row.text(names[0]), row.text(names[1]), names, label * 2 - 1, margin)


def _webgpt(row: Fields) -> Iterator[Record]:
    by = row.number("score_0") - row.number("score_1")
    prompt, names = asked(row, "question.full_text"), ("answer_0", "answer_1")
    one, other = (re.sub(r" ?\[\d+(?:, ?\d+)*\]", "", row.text(name)) for name in names)
    yield from _better(row, prompt, one, other, names, by, abs(by))


def _tldr_prompt(row: Fields) -> str:
    """What the summaries are of: an article, or a post in the layout of the original work."""
    info = Fields(row.value("info"))
    if info.has("article"):
        return f"{info.text('article').strip()}\n\nTL;DR:"
    post = {"SUBREDDIT": f"r/{info.text('subreddit', '')}", "TITLE": info.text("title", "")}
    head = "\n\n".join(f"{name}: {value}" for name, value in post.items())
    return f"{head}\n\nPOST: {info.text('post').strip()}\n\nTL;DR:"


def _summary(name: str, given: Any) -> str:
    text = as_text(name, given.get("text") if isinstance(given, Mapping) else given)
    if not text.strip():
        raise UsageError(f"{name}: an empty answer")
    return f" {text.strip()}"


def _comparison(row: Fields) -> Iterator[Record]:
    summaries, choice = row.items("summaries"), int(row.number("choice"))
    if len(summaries) != 2 or choice not in (0, 1):
        raise UsageError(f"choice: {choice} of {len(summaries)} summaries, not one of two")
    chosen, rejected = (_summary(f"summaries[{i}].text", summaries[i]) for i in (choice, 1 - choice))
    yield Preference(prompt=_tldr_prompt(row), chosen=chosen, rejected=rejected, meta=row.meta)


def _axis(row: Fields) -> Iterator[Record]:
    given = as_object("summary.axes", row.value("summary.axes"))
    axes = {key: value for key, value in given.items() if value is not None}
    score = as_number("summary.axes.overall", axes.get("overall"))
    text = _summary("summary.text", row.value("summary.text"))
    yield Ranked(prompt=_tldr_prompt(row), answers=(text,), scores=(score,), meta=row.meta | {"axes": axes})


def _ultrafeedback(row: Fields) -> Iterator[Record]:
    prompt, answers, scores, aspects = asked(row, "instruction"), [], [], []
    for i, completion in enumerate(row.items("completions")):
        one = Fields(as_object(f"completions[{i}]", completion))
        answers.append(answer(one.text("response"), f"completions[{i}].response"))
        ratings = _ratings(as_object("annotations", one.row.get("annotations") or {}))
        score = "overall_score" if one.has("overall_score") else "fine-grained_score"
        scores.append(one.number(score))
        aspects.append(ratings)
    yield Ranked(
        prompt=prompt, answers=tuple(answers), scores=tuple(scores), meta=row.meta | {"aspects": aspects}
    )


def _ratings(annotations: Mapping[str, Any]) -> dict[str, float]:
    """The ratings of a judge by aspect; those that it did not give are left out."""
    found = {}
    for aspect, given in annotations.items():
        rating = given.get("Rating") if isinstance(given, Mapping) else None
        if rating not in (None, "N/A"):
            found[aspect] = as_number(f"annotations.{aspect}.Rating", rating)
    return found


def _listed(question: str, texts: str, text: str, score: str, sign: float = 1, prompts: Any = asked) -> Any:
    """A question with a list of scored answers."""

    def read(row: Fields) -> Iterator[Record]:
        prompt, answers, scores = prompts(row, question), [], []
        for i, given in enumerate(row.items(texts)):
            name = f"{texts}[{i}]"
            one = Fields(as_object(name, given))
            answers.append(answer(one.text(text), f"{name}.{text}"))
            scores.append(sign * as_number(f"{name}.{score}", one.row.get(score)))
        yield Ranked(prompt=prompt, answers=tuple(answers), scores=tuple(scores), meta=row.meta)

    return read


def _nectar_prompt(row: Fields, path: str) -> tuple[Message, ...]:
    """One text, or a conversation written as one."""
    text = "\n\n" + row.text(path).strip().removesuffix("Assistant:").strip()
    return tuple(transcript(text, _HH)) if text.startswith("\n\nHuman:") else asked(row, path)


def _stack_pair(row: Fields) -> Iterator[Record]:
    chosen, rejected = (answer(row.text(name), name) for name in ("response_j", "response_k"))
    yield pair(row, asked(row, "question"), chosen, rejected)


def _binarized(row: Fields) -> Iterator[Record]:
    """UltraFeedback binarized and TRL's conversational pairs: whole conversations, or the answers alone."""
    chosen, rejected = (messages(row, name) for name in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise UsageError("chosen, rejected: a conversation without turns")
    margin = row.number("margin") if row.has("margin") else None
    if row.has("score_chosen") and row.has("score_rejected"):
        margin = row.number("score_chosen") - row.number("score_rejected")
    if row.has("prompt"):
        given = row.value("prompt")
        if chosen[0].role == "assistant":  # the answers alone
            prompt = messages(row, "prompt") if isinstance(given, list) else asked(row, "prompt")
            yield pair(row, prompt, chosen, rejected, margin)
            return
    prompt = shared(chosen, rejected)
    yield pair(row, prompt, chosen[len(prompt) :], rejected[len(prompt) :], margin)


def _is_turns(row: Mapping[str, Any]) -> bool:
    return isinstance(row["chosen"], list)


FORMATS = (
    Format(
        name="hh_rlhf",
        of="HH-RLHF",
        paths=("chosen", "rejected"),
        when=lambda row: "\n\nHuman:" in str(row["chosen"]),
        kind=Preference,
        read=_hh,
    ),
    Format(
        name="shp",
        of="SHP",
        paths=("history", "human_ref_A", "human_ref_B", "labels"),
        kind=Preference,
        read=_shp,
    ),
    Format(
        name="webgpt",
        of="WebGPT comparisons",
        paths=("question.full_text", "answer_0", "answer_1", "score_0", "score_1"),
        kind=Preference,
        read=_webgpt,
    ),
    Format(
        name="summarize_comparisons",
        of="OpenAI summarization, comparisons",
        paths=("info", "summaries[].text", "choice"),
        kind=Preference,
        read=_comparison,
    ),
    Format(
        name="summarize_axis",
        of="OpenAI summarization, axes",
        paths=("info", "summary.text", "summary.axes"),
        kind=Ranked,
        read=_axis,
    ),
    Format(
        name="ultrafeedback",
        of="UltraFeedback",
        paths=("instruction", "completions[].response"),
        kind=Ranked,
        read=_ultrafeedback,
    ),
    Format(
        name="nectar",
        of="Nectar",
        paths=("prompt", "answers[].answer", "answers[].rank"),
        kind=Ranked,
        read=_listed("prompt", "answers", "answer", "rank", -1, _nectar_prompt),
    ),
    Format(
        name="stack_exchange",
        of="StackExchange preferences",
        paths=("question", "answers[].text", "answers[].pm_score"),
        kind=Ranked,
        read=_listed("question", "answers", "text", "pm_score"),
    ),
    Format(
        name="stack_exchange_paired",
        of="StackExchange pairs",
        paths=("question", "response_j", "response_k"),
        kind=Preference,
        read=_stack_pair,
    ),
    Format(
        name="pass_rates",
        of="AceCode",
        paths=("question", "inferences[].completion", "inferences[].pass_rate"),
        kind=Ranked,
        read=_listed("question", "inferences", "completion", "pass_rate"),
    ),
    Format(
        name="conversations_preference",
        of="UltraFeedback binarized, TRL, Magpie's DPO rows",
        paths=("chosen[].role", "rejected[].role"),
        when=_is_turns,
        kind=Preference,
        read=_binarized,
    ),
)
