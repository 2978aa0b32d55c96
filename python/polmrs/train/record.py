"""What a run writes down as it goes: ``metrics.jsonl``, progress, and whoever else listens."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
Listener: TypeAlias = Callable[[Row], None]

log = logging.getLogger("polmrs")


def holds_run(folder: Path) -> bool:
    """Whether a run in this folder has made a step."""
    path = folder / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


class Record:
    """Rows of a run, appended to ``FOLDER/metrics.jsonl`` and flushed one by one. A resumed run drops what came later.

    >>> record = Record(None, steps=2, listeners=[print])
    >>> record.add({"step": 1, "loss": 0.5})
    {'step': 1, 'loss': 0.5}
    """

    def __init__(
        self, folder: Path | None, *, steps: int, after: int = 0, listeners: Iterable[Listener] = ()
    ) -> None:
        """Begins, or goes on after step ``after``."""
        self.rows: list[Row] = []
        self._steps, self._listeners = steps, list(listeners)
        self._begun, self._shown = time.monotonic(), 0.0
        self._from = after
        self._file = None
        if folder is not None:
            path = folder / "metrics.jsonl"
            if after and path.exists():
                lines = path.read_text(encoding="utf-8").splitlines()
                self.rows = [row for row in map(_parsed, lines) if row is not None and row["step"] <= after]
            text = "".join(json.dumps(row) + "\n" for row in self.rows)
            path.write_text(text, encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")

    def add(self, row: Mapping[str, Any]) -> None:
        """A row, with at least ``step``."""
        made = dict(row)
        self.rows.append(made)
        if self._file is not None:
            self._file.write(json.dumps(made) + "\n")
            self._file.flush()
        for listener in self._listeners:
            listener(made)
        self._progress(made)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _progress(self, row: Row) -> None:
        """One line that is written over on a terminal, a line of the log every 10 seconds elsewhere."""
        now, terminal = time.monotonic(), sys.stderr.isatty()
        done = row["step"] - self._from
        last = row["step"] >= self._steps
        if "loss" not in row or done < 1 or (not last and now - self._shown < (0.2 if terminal else 10)):
            return
        self._shown = now
        left = (now - self._begun) / done * (self._steps - row["step"])
        rate = row["tokens"] / row["seconds"] if row.get("seconds") else 0.0
        text = f"step {row['step']}/{self._steps}  loss {row['loss']:.4f}  {rate:,.0f} tokens/s  {left:.0f} s left"
        if terminal:
            sys.stderr.write(f"\r{text}\x1b[K" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            log.info(text)


def _parsed(line: str) -> Row | None:
    """A row, or nothing for a line that a kill cut short."""
    try:
        row: Row = json.loads(line)
    except ValueError:
        return None
    return row
