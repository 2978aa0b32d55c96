"""One JSON line for each measurement, and a table of them.

| key | what |
|---|---|
| `commit`, `date`, `machine` | of what, when, where; `+` after the commit: with changes |
| `name`, `size` | what was measured, on how much |
| `median`, `unit`, `cpu` | our median, and the median of our CPU seconds |
| `peer`, `peer_version` | what it was compared with in the same run |
| `peer_median`, `peer_cpu` | the same figures of the peer |
| `ratio` | to a rival: its median / ours, so many times faster; to `copy_limit`: our median / its |
"""

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HISTORY = ROOT / "benches" / "history.jsonl"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A line of the history, but for commit, date and machine. See the head of this file."""

    name: str
    size: str
    median: float
    unit: str
    cpu: float | None = None
    peer: str | None = None
    peer_version: str | None = None
    peer_median: float | None = None
    peer_cpu: float | None = None
    ratio: float | None = None


def record(out: Path, measurement: Measurement) -> None:
    """Append a measurement to a file of JSON lines."""
    line: dict[str, Any] = {"commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    for key, value in asdict(measurement).items():
        line[key] = float(f"{value:.4g}") if isinstance(value, float) else value
    line["machine"] = machine()
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")


@cache
def commit() -> str:
    """The commit of the sources, with a `+` if they have changed since; what is measured does not count."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    head = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    if head.returncode:
        return "unknown"
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", ".", ":!benches/history.jsonl", ":!benches/search_curves.json"],
        capture_output=True,
        check=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout else "")


@cache
def machine() -> str:
    """The processor, and how many of its cores we may use."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else 'unknown'}, {len(os.sched_getaffinity(0))} cores"


def table(lines: Iterable[dict[str, Any]]) -> str:
    """Lay out lines of a history for people."""
    head = ("name", "size", "median", "cpu s", "peer", "its median", "its cpu s", "ratio")
    rows = [head]
    for line in lines:
        unit, peer = line["unit"], " ".join(filter(None, (line["peer"], line["peer_version"])))
        rows.append(
            (
                line["name"],
                line["size"],
                number(line["median"], unit),
                number(line["cpu"]),
                peer,
                number(line.get("peer_median"), unit),
                number(line.get("peer_cpu")),
                number(line["ratio"], "x"),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    laid = (
        "  ".join(
            cell.ljust(width) if column in (0, 1, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in laid)


def number(value: float | None, unit: str = "") -> str:
    """Three digits and a unit; nothing for None."""
    if value is None:
        return ""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text}{unit}" if unit in ("", "x") else f"{text} {unit}"
