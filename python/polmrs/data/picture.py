"""A batch as the model sees it: every token with its position, id and weight."""

from __future__ import annotations

import itertools
import unicodedata
from typing import Any

from polmrs.data.ragged import Batch

COUNTED, SPECIAL, PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[0m"


def drawn(batch: Batch, tokenizer: Any = None, *, color: bool = False, width: int = 100) -> str:
    """The sequences of a batch as lines of cells: positions, ids, weights (``.`` for 0) and tokens (``·`` for a space).

    Args:
        batch: What to draw.
        tokenizer: Gives the tokens' texts; without one that line is left out.
        color: Counted tokens in green and special ones dim, by ANSI codes.
        width: Columns.

    >>> print(drawn(Batch.of([[5, 6, 7]], [[0, 1, 0.5]], name="a.jsonl:1")))
    sequence 0, example 0 (a.jsonl:1): 3 tokens, 2 of them count
    position 0 1 2
    id       5 6 7
    weight   . 1 0.5
    """
    special = set(getattr(tokenizer, "all_special_ids", ()))
    lines: list[str] = []
    for i, (a, b) in enumerate(itertools.pairwise(batch.cu_seqlens.tolist())):
        ids, weights = batch.ids[a:b].tolist(), batch.weights[a:b].tolist()
        example = int(batch.example[i])
        counted = sum(weight != 0 for weight in weights)
        lines.append(
            f"sequence {i}, example {example}{batch.named(example)}: {b - a} tokens, {counted} of them count"
        )
        texts = [] if tokenizer is None else [_visible(tokenizer.decode([token])) for token in ids]
        rows = {
            "position": [str(t) for t in range(b - a)],
            "id": [str(token) for token in ids],
            "weight": [f"{weight:g}" if weight else "." for weight in weights],
            "token": texts,
        }
        for name, values in batch.per_token.items():
            rows[name] = [f"{value:.4g}" for value in values[a:b].tolist()]
        styles = [
            COUNTED if weight else SPECIAL if token in special else ""
            for token, weight in zip(ids, weights, strict=True)
        ]
        lines += _cells({name: row for name, row in rows.items() if row}, styles if color else [], width)
    return "\n".join(lines)


def _cells(rows: dict[str, list[str]], styles: list[str], width: int) -> list[str]:
    margin = max(map(len, rows)) + 1
    sizes = [max(map(_columns, column)) for column in zip(*rows.values(), strict=True)]
    lines, at = [], 0
    while at < len(sizes):
        end, used = at + 1, margin + sizes[at]
        while end < len(sizes) and used + 1 + sizes[end] <= width:
            used += 1 + sizes[end]
            end += 1
        for name, row in rows.items():
            cells = []
            for t in range(at, end):
                style = styles[t] if styles and name in ("weight", "token") else ""
                text = f"{style}{row[t]}{PLAIN}" if style else row[t]
                cells.append(text + " " * (sizes[t] - _columns(row[t])))
            lines.append(f"{name:<{margin}}{' '.join(cells)}".rstrip())
        lines.append("")
        at = end
    return lines[:-1]


def _visible(text: str) -> str:
    """A token without what would move the cursor."""
    return "".join(
        "·"
        if char == " "
        else char
        if char.isprintable()
        else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text
    )


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
