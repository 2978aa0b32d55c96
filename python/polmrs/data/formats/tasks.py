"""Tasks whose answers can be checked, and solutions in steps or with a verdict.

The truth stays as the source has it; ``Verifiable.verifier`` says what checks it: ``number`` the last number of an answer,
``exact`` the text, ``choice`` the letter of an option, ``python`` or ``rust`` tests to run, ``reasoning_gym:TASK`` that
package's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from polmrs.data.formats.fields import Fields, as_json, as_list, as_number, as_object, as_text
from polmrs.data.formats.format import Format
from polmrs.data.formats.instructions import answer, asked
from polmrs.data.formats.turns import user
from polmrs.data.messages import Message, Turns
from polmrs.data.records import Record, Stepwise, Unpaired, Verifiable
from polmrs.errors import UsageError

_MARK = "####"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _gsm8k(row: Fields) -> Iterator[Record]:
    prompt, worked = asked(row, "question"), row.text("answer")
    steps, mark, truth = worked.rpartition(_MARK)
    if not mark or not truth.strip():
        raise UsageError(f"answer: no result after {_MARK}")
    if not steps.strip():
        raise UsageError(f"answer: no solution before {_MARK}")
    yield Verifiable(
        prompt=prompt,
        truth=truth.strip().replace(",", ""),
        verifier="number",
        solution=answer(worked, "answer"),
        meta=row.meta,
    )


def _valued(row: Fields) -> Iterator[Record]:
    """ReFT's: a chain of thought or a program, and a value. Its test rows have the value alone."""
    solution = answer(row.text("answer_cot"), "answer_cot") if row.has("answer_cot") else None
    truth = str(row.value("answer_value"))
    yield Verifiable(
        prompt=asked(row, "question"), truth=truth, verifier="number", solution=solution, meta=row.meta
    )


def _svamp(row: Fields) -> Iterator[Record]:
    prompt, truth = asked(row, "Body", "Question", joint=" "), row.number("Answer")
    yield Verifiable(prompt=prompt, truth=f"{truth:.15g}", verifier="number", meta=row.meta)


def _adapters(row: Fields) -> Iterator[Record]:
    """LLM-Adapters': an instruction with a worked output and the bare answer."""
    prompt, worked = asked(row, "instruction", "input"), answer(row.text("output").strip(), "output")
    truth = str(row.value("answer"))
    if not truth.strip():
        raise UsageError("answer: empty")
    number = re.fullmatch(r"-?[\d.,]+", truth.strip())
    yield Verifiable(
        prompt=prompt,
        truth=truth,
        verifier="number" if number else "exact",
        solution=worked,
        meta=row.meta,
    )


def _gym(row: Fields) -> Iterator[Record]:
    task, prompt = row.text("task"), asked(row, "question")
    # Some tasks have many right answers and none of their own: the package judges by what stands in meta.
    truth = row.text("answer") if row.has("answer") else None
    yield Verifiable(
        prompt=prompt, truth=truth, verifier=f"reasoning_gym:{task}", meta={"task": task, **row.meta}
    )


def _code(row: Fields) -> Iterator[Record]:
    """HumanEval, MBPP and their translations: text that a solution continues, and tests."""
    prompt, entry, tests = row.text("prompt"), row.text("entry_point"), row.text("test")
    language = {"py": "python", "rs": "rust"}.get(row.text("language", "py"))
    if language is None:
        raise UsageError(f"language: {row.text('language')!r} is none of py, rs")
    solution: Turns | None = row.text("canonical_solution") if row.has("canonical_solution") else None
    truth = {"entry_point": entry, "test": tests}
    yield Verifiable(prompt=prompt, truth=truth, verifier=language, solution=solution, meta=row.meta)


def _options(row: Fields, question: tuple[Message, ...], options: list[str], truth: int) -> Verifiable:
    if not 0 <= truth < len(options) <= len(LETTERS):
        raise UsageError(f"label: {truth} is none of {len(options)} options")
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))
    prompt = (*question[:-1], user(f"{question[-1].text}\n{lines}"))
    return Verifiable(
        prompt=prompt,
        truth=LETTERS[truth],
        verifier="choice",
        solution=answer(LETTERS[truth], "label"),
        meta=row.meta | {"options": options},
    )


def _bbq(row: Fields) -> Iterator[Record]:
    question = asked(row, "context", "question")
    options = [row.text(f"ans{i}") for i in range(3)]
    yield _options(row, question, options, int(row.number("label")))


def _choices(row: Fields) -> Iterator[Record]:
    options = [as_text(f"choices[{i}]", text) for i, text in enumerate(row.items("choices"))]
    given = row.value("answer")
    truth = LETTERS.find(given) if isinstance(given, str) and len(given) == 1 else as_number("answer", given)
    yield _options(row, asked(row, "question"), options, int(truth))


def _proof(row: Fields) -> Iterator[Record]:
    """ProntoQA: a proof of which every step is right."""
    one = Fields(row.value("test_example"))
    steps = tuple(
        as_text(f"chain_of_thought[{i}]", step) for i, step in enumerate(one.items("chain_of_thought"))
    )
    prompt, truth = asked(one, "question", "query"), one.text("answer")
    yield Stepwise(
        prompt=prompt,
        steps=steps,
        labels=(1.0,) * len(steps),
        meta=row.meta | one.meta | {"answer": truth},
    )


def _verdicts(row: Fields) -> Iterator[Record]:
    """GSM8K's solutions of several models, each right or wrong."""
    prompt, models = asked(row, "question"), [key for key in row.row if _judged(row.row[key])]
    truth = row.text("ground_truth", "")
    for model in models:
        one = Fields(row.value(model))
        yield Unpaired(
            prompt=prompt,
            completion=answer(one.text("solution"), f"{model}.solution"),
            label=one.flag("is_correct"),
            meta={"model": model, "ground_truth": truth},
        )


def _judged(value: Any) -> bool:
    return isinstance(value, Mapping) and {"is_correct", "solution"} <= set(value)


_RATINGS = {1: 1.0, 0: 0.5, -1: 0.0}


def _prm800k(row: Fields) -> Iterator[Record]:
    """The solution that was gone on with, and the ratings of its steps: 1 good, 0 neutral (here 0.5), -1 bad.

    Steps that a person wrote have no rating and count as right; the solution ends at the first step that was not chosen.
    """
    prompt, steps, labels = asked(row, "question.problem"), [], []
    label = as_object("label", as_json("label", row.value("label")))
    for i, given in enumerate(as_list("label.steps", label.get("steps"))):
        name = f"label.steps[{i}]"
        step = as_object(name, given)
        taken, last = _taken(step, name)
        if taken is None:
            break
        rating = taken.get("rating")
        if not isinstance(rating, int) or rating not in _RATINGS:
            raise UsageError(f"{name}: rating {rating!r} is none of -1, 0, 1")
        steps.append(as_text(f"{name}.text", taken.get("text")))
        labels.append(_RATINGS[rating])
        if last:
            break
    yield Stepwise(prompt=prompt, steps=tuple(steps), labels=tuple(labels), meta=row.meta)


def _taken(step: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any] | None, bool]:
    """What a step went on with, and whether annotation stopped there: then it is the first of the alternatives, if any."""
    chosen, human = step.get("chosen_completion"), step.get("human_completion")
    alternatives = as_list(f"{name}.completions", step.get("completions") or [])
    if chosen is not None:
        if not isinstance(chosen, int) or not 0 <= chosen < len(alternatives):
            raise UsageError(f"{name}.chosen_completion: {chosen!r} of {len(alternatives)} completions")
        return as_object(f"{name}.completions[{chosen}]", alternatives[chosen]), False
    if human is not None:
        written = {"text": human} if isinstance(human, str) else as_object(f"{name}.human_completion", human)
        return {**written, "rating": 1}, False
    return (as_object(f"{name}.completions[0]", alternatives[0]) if alternatives else None), True


_STEP_END = "ки"


def _shepherd(row: Fields) -> Iterator[Record]:
    """Math-Shepherd: steps that end in a mark, and the same text with + or - in its place."""
    marked, judged = row.text("input"), row.text("label")
    pieces = list(marked.split(_STEP_END))
    question, found, first = pieces[0].partition("Step 1:")
    if len(pieces) < 2 or not found:
        raise UsageError(f"input: no 'Step 1:' that ends in {_STEP_END!r}")
    steps = [found + first, *pieces[1:]]
    if steps[-1].strip():
        raise UsageError(f"input: text after the last {_STEP_END!r}")
    steps, at, labels = steps[:-1], len(question), []
    for i, step in enumerate(steps):
        at += len(step)
        sign = judged[at : at + 1]
        if judged[at - len(step) : at] != step or sign not in ("+", "-"):
            raise UsageError(f"label: step {i + 1} does not end in + or - where input has {_STEP_END!r}")
        labels.append(float(sign == "+"))
        at += 1
    texts = tuple(step.strip() for step in steps)
    yield Stepwise(prompt=(user(question.strip()),), steps=texts, labels=tuple(labels), meta=row.meta)


FORMATS = (
    Format(
        name="gsm8k",
        of="GSM8K",
        paths=("question", "answer"),
        when=lambda row: _MARK in str(row["answer"]),
        kind=Verifiable,
        read=_gsm8k,
    ),
    Format(name="reft", of="ReFT", paths=("question", "answer_value"), kind=Verifiable, read=_valued),
    Format(name="svamp", of="SVAMP", paths=("Body", "Question", "Answer"), kind=Verifiable, read=_svamp),
    Format(
        name="llm_adapters",
        of="LLM-Adapters",
        paths=("instruction", "output", "answer"),
        kind=Verifiable,
        read=_adapters,
    ),
    Format(
        name="reasoning_gym",
        of="reasoning-gym",
        paths=("task", "question", "oracle_score"),
        kind=Verifiable,
        read=_gym,
    ),
    Format(
        name="code",
        of="HumanEval, MBPP of MultiPL-E",
        paths=("prompt", "entry_point", "test"),
        kind=Verifiable,
        read=_code,
    ),
    Format(
        name="bbq",
        of="BBQ",
        paths=("context", "question", "ans0", "ans1", "ans2", "label"),
        kind=Verifiable,
        read=_bbq,
    ),
    Format(
        name="choices",
        of="MMLU",
        paths=("question", "choices[]", "answer"),
        kind=Verifiable,
        read=_choices,
    ),
    Format(
        name="prontoqa",
        of="ProntoQA",
        paths=("test_example.question", "test_example.query", "test_example.chain_of_thought[]"),
        kind=Stepwise,
        read=_proof,
    ),
    Format(
        name="verdicts",
        of="GSM8K's model solutions",
        paths=("question", "ground_truth"),
        when=lambda row: any(map(_judged, row.values())),
        kind=Unpaired,
        read=_verdicts,
    ),
    Format(
        name="prm800k",
        of="PRM800K",
        paths=("question.problem", "label.steps[]"),
        kind=Stepwise,
        read=_prm800k,
    ),
    Format(
        name="math_shepherd",
        of="Math-Shepherd",
        paths=("input", "label"),
        when=lambda row: _STEP_END in str(row["input"]),
        kind=Stepwise,
        read=_shepherd,
    ),
)
