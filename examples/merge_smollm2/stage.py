"""A stage is a folder that is either whole or absent.

It is built under `WORK/.building/` and renamed when it is complete, with a `stage.json` inside that holds
what it was made from. A later run takes the folder as it is if those inputs are the same, and builds it anew
if not; what an interrupted run left in `.building` is never looked at.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = "polmrs.demo-stage/1"
START = time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A finished folder: `key` names its inputs, `facts` is what the build told, costs are the build's."""

    folder: Path
    key: str
    facts: Mapping[str, Any]
    seconds: float
    cpu_seconds: float
    cached: bool


def stage(
    work: Path, name: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
) -> Stage:
    """Give the folder `work/name`; `build` it first unless a finished one with the same `inputs` is there."""
    folder, building = work / name, work / ".building" / name
    key = digest(json.dumps(inputs, sort_keys=True).encode())
    record = _record(folder)
    cached = record.get("key") == key
    if not cached:
        building.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        wall, cpu = time.perf_counter(), cpu_seconds()
        facts = build(building)
        record = {
            "schema": SCHEMA,
            "key": key,
            "inputs": inputs,
            "facts": facts,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": cpu_seconds() - cpu,
        }
        building.mkdir(exist_ok=True)
        (building / "stage.json").write_text(json.dumps(record, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        building.rename(folder)
    costs = f"{record['seconds']:.1f} s, {record['cpu_seconds']:.1f} CPU s"
    say(f"{name}: " + (f"kept from an earlier run ({costs})" if cached else f"done ({costs})"))
    return Stage(
        folder=folder,
        key=key,
        facts=record["facts"],
        seconds=record["seconds"],
        cpu_seconds=record["cpu_seconds"],
        cached=cached,
    )


def say(line: str) -> None:
    """Print one line of progress to stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - START:5.0f} s] {line}", file=sys.stderr, flush=True)


def digest(data: bytes) -> str:
    """Give the sha256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def source(module_file: str) -> str:
    """Give the sha256 of a module's source, an input of every stage that it builds."""
    return digest(Path(module_file).read_bytes())


def _record(folder: Path) -> dict[str, Any]:
    """Read `stage.json`; an absent or unreadable one, or one of another version, is as good as none."""
    try:
        record: dict[str, Any] = json.loads((folder / "stage.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if record.get("schema") == SCHEMA else {}


def cpu_seconds() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    return sum(os.times()[:4])
