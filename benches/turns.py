"""Contestants that take turns, and peers that run in an environment of their own."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from record import ROOT


@dataclass(frozen=True, kw_only=True)
class Figure:
    """CPU and best wall milliseconds of one contestant; a peer's wall time is not taken."""

    cpu: float
    best: float = float("nan")


def in_turns(
    contestants: dict[str, Callable[[], object]],
    reps: int,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, Figure]:
    """Run every contestant `reps` times, one after the other, after one run that does not count.

    `clock` gives CPU seconds: of this thread, or of the process where work is done on other threads.
    """
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for rep in range(reps + 1):
        for name, work in contestants.items():
            wall, cpu = time.perf_counter(), clock()
            work()
            taken = (clock() - cpu, time.perf_counter() - wall)
            if rep:
                runs[name].append(taken)
    return {
        name: Figure(cpu=1e3 * median(cpu for cpu, _ in times), best=1e3 * min(wall for _, wall in times))
        for name, times in runs.items()
    }


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an oracle of `peers/` wrote."""

    arrays: dict[str, Any]
    times: dict[str, float]
    """Median CPU milliseconds."""
    json: dict[str, Any]


def is_built(peer: str) -> bool:
    """Whether the peer's environment is there; says so if it is not."""
    built = (ROOT / ".peers" / peer / "bin/python").exists()
    if not built:
        print(f"peer {peer} is not built: make peers NAME={peer}")
    return built


def ask(peer: str, oracle: str, cases: dict[str, Any], **arrays: Any) -> Answer:
    """Give arrays and settings to an oracle, and take its answers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "in.npz", **arrays)
        (folder / "cases.json").write_text(json.dumps(cases))
        command = [ROOT / ".peers" / peer / "bin/python", ROOT / "peers" / f"{oracle}_oracle.py", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        arrays = dict(np.load(folder / "out.npz")) if (folder / "out.npz").exists() else {}
        times = json.loads((folder / "times.json").read_text()) if (folder / "times.json").exists() else {}
        out = json.loads((folder / "out.json").read_text()) if (folder / "out.json").exists() else {}
    return Answer(arrays=arrays, times=times, json=out)


def version(peer: str) -> str:
    """The version of a peer, from the first line of its list."""
    return (ROOT / "peers" / f"{peer}.txt").read_text().partition("==")[2].partition(",")[0]
