"""Records as JSON Lines in TRL's dataset types, which ``read`` reads back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polmrs.data.chat import as_row
from polmrs.data.messages import Message, Turns
from polmrs.data.records import (
    LanguageModelling,
    Preference,
    PromptCompletion,
    Ranked,
    Record,
    Stepwise,
    Unpaired,
    Verifiable,
)
from polmrs.data.store import PathLike
from polmrs.errors import OutputExistsError, StorageError


def write(records: Iterable[Record], path: PathLike, *, overwrite: bool = False) -> int:
    """Writes records, one a line, and gives their number. The file appears whole or not at all.

    Columns are TRL's; ranked rows have ``prompt, answers, scores``, verifiable ones ``prompt, truth, verifier, solution``.
    Columns of ``meta`` follow under their own names.

    Raises:
        OutputExistsError: The file is there, and ``overwrite`` is not set.
        StorageError: It cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target}: is there already")
    partial = target.with_name(target.name + ".partial")
    n = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(row(record), ensure_ascii=False) + "\n")
                n += 1
        partial.replace(target)
    except OSError as error:
        raise StorageError(error.errno, f"{target}: cannot write: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return n


def row(record: Record) -> dict[str, Any]:
    """A record as the columns that are written.

    >>> row(PromptCompletion(prompt="2 + 2 =", completion=" 4", meta={"source": "made"}))
    {'prompt': '2 + 2 =', 'completion': ' 4', 'source': 'made'}
    """
    made = _columns(record)
    if record.tools:
        made["tools"] = list(record.tools)
    return made | {key: value for key, value in record.meta.items() if key not in made}


def _columns(record: Record) -> dict[str, Any]:
    if isinstance(record, LanguageModelling):
        return {"text" if isinstance(record.text, str) else "messages": _turns(record.text)}
    made: dict[str, Any] = {"prompt": _turns(record.prompt)}
    match record:
        case PromptCompletion():
            made |= {"completion": _turns(record.completion)}
        case Preference():
            made |= {"chosen": _turns(record.chosen), "rejected": _turns(record.rejected)}
            made |= {} if record.margin is None else {"margin": record.margin}
        case Ranked():
            made |= {"answers": [_turns(one) for one in record.answers], "scores": list(record.scores)}
        case Unpaired():
            made |= {"completion": _turns(record.completion), "label": record.label}
        case Stepwise():
            made |= {"completions": list(record.steps), "labels": list(record.labels)}
        case Verifiable():
            made |= {"truth": record.truth, "verifier": record.verifier}
            made |= {} if record.solution is None else {"solution": _turns(record.solution)}
    return made


def _turns(turns: Turns) -> Any:
    return turns if isinstance(turns, str) else [_turn(turn) for turn in turns]


def _turn(turn: Message) -> dict[str, Any]:
    usual = float(turn.role == "assistant")
    return as_row(turn) | ({} if turn.weight == usual else {"weight": turn.weight})
