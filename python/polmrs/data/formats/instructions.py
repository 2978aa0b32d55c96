"""Instruction sets: one question, one answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polmrs.data.formats.fields import Fields, as_list, as_object, as_text
from polmrs.data.formats.format import Format
from polmrs.data.formats.turns import ROLES, assistant, transcript, user
from polmrs.data.messages import Message, Turns
from polmrs.data.records import LanguageModelling, Preference, PromptCompletion, PromptOnly, Record, Unpaired
from polmrs.errors import UsageError


def answered(row: Fields, prompt: Turns, text: str, name: str) -> PromptCompletion:
    """A question and its answer, which must not be empty."""
    return PromptCompletion(prompt=prompt, completion=answer(text, name), meta=row.meta)


def answer(text: str, name: str) -> tuple[Message, ...]:
    """An answer, which must not be empty."""
    if not text.strip():
        raise UsageError(f"{name}: an empty answer")
    return (assistant(text),)


def asked(row: Fields, *paths: str, joint: str = "\n") -> tuple[Message, ...]:
    """One user turn of columns one below the other, the empty ones left out, after the row's system prompt if any."""
    first, *more = paths
    parts = [row.text(first), *(row.text(path, "") for path in more)]
    if not any(part.strip() for part in parts):
        raise UsageError(f"{first}: an empty question")
    return (*_system(row), user(joint.join(part for part in parts if part.strip())))


def _system(row: Fields) -> tuple[Message, ...]:
    for path in ("system_prompt", "system"):
        if row.has(path) and row.text(path).strip():
            return (Message.of("system", row.text(path)),)
    return ()


def _history(row: Fields) -> list[Message]:
    turns: list[Message] = []
    for i, pair in enumerate(row.items("history") if row.has("history") else ()):
        said = [as_text(f"history[{i}]", text) for text in as_list(f"history[{i}]", pair)]
        if len(said) != 2:
            raise UsageError(f"history[{i}]: {len(said)} texts, not a question and an answer")
        turns += [user(said[0]), assistant(said[1])]
    return turns


def _alpaca_prompt(row: Fields) -> tuple[Message, ...]:
    *system, question = asked(row, "instruction", "input")
    return (*system, *_history(row), question)


def _alpaca(row: Fields) -> Iterator[Record]:
    yield answered(row, _alpaca_prompt(row), row.text("output"), "output")


def _gpteacher(row: Fields) -> Iterator[Record]:
    yield answered(row, asked(row, "instruction", "input"), row.text("response"), "response")


def _alpaca_pair(row: Fields) -> Iterator[Record]:
    chosen, rejected = (answer(row.text(name), name) for name in ("chosen", "rejected"))
    yield Preference(prompt=_alpaca_prompt(row), chosen=chosen, rejected=rejected, meta=row.meta)


def _alpaca_label(row: Fields) -> Iterator[Record]:
    prompt, completion = _alpaca_prompt(row), answer(row.text("output"), "output")
    yield Unpaired(prompt=prompt, completion=completion, label=row.flag("kto_tag"), meta=row.meta)


def _dolly(row: Fields) -> Iterator[Record]:
    yield answered(row, asked(row, "instruction", "context", joint="\n\n"), row.text("response"), "response")


def _orca(row: Fields) -> Iterator[Record]:
    row.text("system_prompt", "")
    yield answered(row, asked(row, "question"), row.text("response"), "response")


def _worked(row: Fields, instruction: str, instances: list[Any], name: str) -> Iterator[Record]:
    """Instances of one instruction; where Unnatural Instructions has the two put together, that is the question."""
    if not instances:
        raise UsageError(f"{name}: there is none")
    for i, instance in enumerate(instances):
        one = Fields({"instruction": instruction, **as_object(f"{name}[{i}]", instance)})
        question = "instruction_with_input" if one.has("instruction_with_input") else "instruction"
        prompt = asked(one, question) if question != "instruction" else asked(one, "instruction", "input")
        for output in _outputs(one, f"{name}[{i}]"):
            yield PromptCompletion(
                prompt=prompt,
                completion=answer(output, f"{name}[{i}].output"),
                meta=row.meta | _constraints(one),
            )


def _outputs(instance: Fields, name: str) -> list[str]:
    found = instance.value("output")
    return [as_text(f"{name}.output", text) for text in (found if isinstance(found, list) else [found])]


def _constraints(instance: Fields) -> dict[str, Any]:
    return {"constraints": instance.text("constraints")} if instance.has("constraints") else {}


def _instances(row: Fields) -> Iterator[Record]:
    again = row.items("reformulations") if row.has("reformulations") else []
    instruction, instances = row.text("instruction"), row.items("instances")
    yield from _worked(row, instruction, instances, "instances")
    if again:
        yield from _worked(row, instruction, again, "reformulations")


def _natural(row: Fields) -> Iterator[Record]:
    definition = row.value("Definition")
    lines = definition if isinstance(definition, list) else [definition]
    for unused in ("Positive Examples", "Negative Examples"):
        if row.has(unused):
            row.items(unused)
    text = "\n".join(as_text("Definition", line) for line in lines)
    yield from _worked(row, text, row.items("Instances"), "Instances")


def _targets(question: str, target: str) -> Any:
    def read(row: Fields) -> Iterator[Record]:
        prompt, completion = row.text(question), row.text(target)
        if not completion.strip():
            raise UsageError(f"{target}: an empty answer")
        yield PromptCompletion(prompt=prompt, completion=completion, meta=row.meta)

    return read


def _hc3(row: Fields) -> Iterator[Record]:
    prompt = asked(row, "question")
    columns = {"human": "human_answers", "model": "chatgpt_answers"}
    said = {who: row.items(column) for who, column in columns.items()}
    if not any(said.values()):
        raise UsageError("human_answers, chatgpt_answers: both empty")
    for who, texts in said.items():
        for i, text in enumerate(texts):
            name = f"{columns[who]}[{i}]"
            yield PromptCompletion(
                prompt=prompt, completion=answer(as_text(name, text), name), meta=row.meta | {"author": who}
            )


def _question(row: Fields) -> Iterator[Record]:
    yield answered(row, asked(row, "question"), row.text("answer"), "answer")


def _text(row: Fields) -> Iterator[Record]:
    text = row.text("text")
    if not text.strip():
        raise UsageError("text: empty")
    yield LanguageModelling(text=text, meta=row.meta)


def _baize(row: Fields) -> Iterator[Record]:
    marks = {f"[|{who}|]": ROLES[who.lower()] for who in ("Human", "AI")}
    text = row.text("input").strip()
    # Transcripts open with a line on their topic, and end with a mark that nobody speaks after.
    begin = text.find("[|Human|]")
    turns = transcript(text[max(begin, 0) :].removesuffix("[|Human|]"), marks)
    yield LanguageModelling(text=tuple(turns), meta=row.meta)


def _judged(row: Fields) -> Iterator[Record]:
    yield PromptOnly(prompt=asked(row, "text"), meta=row.meta)


FORMATS = (
    Format(name="text", of="plain text, C4, Wikipedia", paths=("text",), kind=LanguageModelling, read=_text),
    Format(
        name="alpaca",
        of="Alpaca, Alpaca-GPT4, Evol-Instruct, Belle, InstInWild, OpenHermes-1",
        paths=("instruction", "output"),
        kind=PromptCompletion,
        read=_alpaca,
    ),
    Format(
        name="alpaca_preference",
        of="LLaMA-Factory rankings",
        paths=("instruction", "chosen", "rejected"),
        kind=Preference,
        read=_alpaca_pair,
    ),
    Format(
        name="alpaca_unpaired",
        of="LLaMA-Factory KTO",
        paths=("instruction", "output", "kto_tag"),
        kind=Unpaired,
        read=_alpaca_label,
    ),
    Format(
        name="gpteacher",
        of="GPTeacher, Magpie's single turns",
        paths=("instruction", "response"),
        kind=PromptCompletion,
        read=_gpteacher,
    ),
    Format(
        name="dolly",
        of="Dolly-15K",
        paths=("instruction", "context", "response"),
        kind=PromptCompletion,
        read=_dolly,
    ),
    Format(
        name="orca",
        of="OpenOrca",
        paths=("system_prompt", "question", "response"),
        kind=PromptCompletion,
        read=_orca,
    ),
    Format(
        name="instances",
        of="seeds of Self-Instruct, Unnatural Instructions",
        paths=("instruction", "instances[]"),
        kind=PromptCompletion,
        read=_instances,
    ),
    Format(
        name="natural_instructions",
        of="Super-NaturalInstructions",
        paths=("Definition", "Instances[].input", "Instances[].output"),
        kind=PromptCompletion,
        read=_natural,
    ),
    Format(
        name="p3",
        of="P3",
        paths=("inputs_pretokenized", "targets_pretokenized"),
        kind=PromptCompletion,
        read=_targets("inputs_pretokenized", "targets_pretokenized"),
    ),
    Format(
        name="flan",
        of="Flan, FlanV2, xP3",
        paths=("inputs", "targets"),
        kind=PromptCompletion,
        read=_targets("inputs", "targets"),
    ),
    Format(
        name="targets",
        of="BIG-Bench Hard, GSM-Hard",
        paths=("input", "target"),
        kind=PromptCompletion,
        read=_targets("input", "target"),
    ),
    Format(
        name="hc3",
        of="HC3",
        paths=("question", "human_answers", "chatgpt_answers"),
        kind=PromptCompletion,
        read=_hc3,
    ),
    Format(name="question", of="TOFU", paths=("question", "answer"), kind=PromptCompletion, read=_question),
    Format(
        name="baize",
        of="Baize",
        paths=("input",),
        when=lambda row: "[|Human|]" in str(row["input"]),
        kind=LanguageModelling,
        read=_baize,
    ),
    Format(
        name="judge_prompt",
        of="UltraFeedback's prompts to its judge",
        paths=("raw_text", "completions[]", "text", "aspect"),
        kind=PromptOnly,
        read=_judged,
    ),
)
