"""``polmrs data inspect | convert | show``: the verbs of the command line that read records."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from polmrs.data.dataset import Dataset
from polmrs.data.messages import Turns
from polmrs.data.reading import read
from polmrs.data.records import KINDS, named
from polmrs.data.writing import row, write
from polmrs.errors import UsageError


def run(arguments: Sequence[str], *, color: bool = False) -> str:
    """Runs a verb and gives what it prints.

    Args:
        arguments: What follows ``polmrs data``.
        color: Whether ``show`` colours where nothing else is said.

    Raises:
        UsageError: The arguments do not make sense; those that argparse finds end the process with 2, as it does.
        PolmrsError: As ``polmrs.data.read`` and ``polmrs.data.encoding.examples``.
    """
    asked = _parser().parse_args(arguments)
    verb: Callable[[Dataset, Any, bool], str] = asked.run
    found = read(asked.source, kind=asked.kind, format=asked.format, policy=asked.policy, text=asked.text)
    return verb(found, asked, color)


VERBS = ("inspect", "convert", "show")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="polmrs data", allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="|".join(VERBS))
    inspect = verbs.add_parser("inspect", help="what a data set is, and what is wrong with it")
    convert = verbs.add_parser("convert", help="write it as JSON Lines in TRL's columns")
    show = verbs.add_parser("show", help="print a batch as the model will see it")
    for verb, run, policy in (
        (inspect, _inspect, "skip"),
        (convert, _convert, "strict"),
        (show, _show, "strict"),
    ):
        verb.set_defaults(run=run)
        verb.add_argument("source", nargs="+", help="files, or hf://datasets/OWNER/NAME/FILE")
        verb.add_argument("--kind", choices=KINDS, help="what the records shall be")
        verb.add_argument("--format", help="the format, if it shall not be told by the columns")
        verb.add_argument("--policy", choices=("strict", "repair", "skip"), default=policy)
        verb.add_argument("--text", choices=("document", "paragraph", "line"), default="document")
    inspect.add_argument("--tokenizer", help="a folder or name, for lengths in tokens")
    inspect.add_argument("--json", action="store_true")
    convert.add_argument("--to", required=True, help="the file to write")
    convert.add_argument("--overwrite", action="store_true")
    convert.add_argument("--report", help="a JSON file for what became of every row")
    show.add_argument("--tokenizer", required=True, help="a folder or name")
    show.add_argument("--batch", type=int, default=0, help="which batch, from 0")
    show.add_argument("--size", type=int, default=2, help="examples of a batch")
    show.add_argument(
        "--seed", type=int, help="the order of a seed's first epoch; that of the file without one"
    )
    show.add_argument("--max-length", type=int)
    show.add_argument("--too-long", default="refuse")
    show.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    show.add_argument("--width", type=int, default=100)
    return parser


def _inspect(data: Dataset, asked: Any, _color: bool) -> str:
    characters = _spread([len(json.dumps(row(record), ensure_ascii=False)) for record in data])
    facts: dict[str, Any] = {"characters": characters}
    turns = [n for record in data for n in _turns(record)]
    if turns:
        facts["messages"] = _spread(turns)
    if asked.tokenizer is not None:
        made = data.examples(asked.tokenizer)
        facts["tokens"] = _spread([int(n) for batch in made for n in batch.lengths])
        facts["counted"] = _spread([int((batch.weights != 0).sum()) for batch in made])
    meta = sorted({key for record in data for key in record.meta})
    if asked.json:
        return json.dumps(
            {
                "schema": "polmrs.data.inspect/1",
                "records": len(data),
                "kind": named(data.kind),
                **facts,
                "meta": meta,
                "account": _account(data),
            }
        )
    lines = [str(data), *(f"{name}: {_said(spread)}" for name, spread in facts.items())]
    lines += [f"meta: {', '.join(meta)}"] if meta else []
    return "\n".join([*lines, f"first: {json.dumps(row(data[0]), ensure_ascii=False)[:2000]}"])


def _turns(record: Any) -> list[int]:
    """How many messages each of a record's conversations has."""
    sides: list[Turns] = [
        value
        for name in ("text", "prompt", "completion", "chosen", "rejected")
        if (value := getattr(record, name, None)) is not None
    ]
    return [len(side) for side in sides if not isinstance(side, str)]


def _spread(values: list[int]) -> dict[str, float]:
    quantiles = np.quantile(values, (0, 0.5, 0.95, 1))
    return dict(zip(("least", "median", "p95", "most"), (float(q) for q in quantiles), strict=True))


def _said(spread: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in spread.items())


def _account(data: Dataset) -> dict[str, Any]:
    """The account as JSON has it."""
    account = asdict(data.account)
    return {
        key: [fault._asdict() for fault in value] if key in ("rejected", "repaired", "left_out") else value
        for key, value in account.items()
    }


def _convert(data: Dataset, asked: Any, _color: bool) -> str:
    if asked.report is not None and Path(asked.report).exists() and not asked.overwrite:
        raise UsageError(f"--report: {asked.report} is there already; --overwrite replaces it")
    n = write(data, asked.to, overwrite=asked.overwrite)
    if asked.report is not None:
        report = {"schema": "polmrs.data.convert/1", "records": n, **_account(data)}
        Path(asked.report).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return f"{asked.to}: {n} records, {named(data.kind)}"


def _show(data: Dataset, asked: Any, color: bool) -> str:
    from transformers import AutoTokenizer

    from polmrs.data.epochs import Epochs
    from polmrs.data.picture import drawn
    from polmrs.data.ragged import Batch

    tokenizer = AutoTokenizer.from_pretrained(asked.tokenizer, trust_remote_code=False)
    made = data.examples(tokenizer, max_length=asked.max_length, too_long=asked.too_long)
    shuffle = asked.seed is not None
    steps = list(Epochs(made, batch=asked.size, epochs=1, seed=asked.seed or 0, shuffle=shuffle))
    if not 0 <= asked.batch < len(steps):
        raise UsageError(f"--batch: {asked.batch} is none of 0 to {len(steps) - 1}")
    wanted = {"auto": color, "always": True, "never": False}[asked.color]
    return drawn(Batch.cat(steps[asked.batch]), tokenizer, color=wanted, width=asked.width)
