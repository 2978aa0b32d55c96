"""One measure for every index, in the form of ann-benchmarks: fit, set_query_arguments, query, batch_query.

Time is CPU time of this process, so that a busy machine and threads that spin do not flatter anyone. A row also says how many
threads were at work at most, CPU seconds of a call over those of the clock: one, if all are compared fairly.
"""

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

K = 10


class Algorithm(ABC):
    """An index and the settings to search it with."""

    name = ""
    arguments: tuple[Any, ...] = (None,)

    @abstractmethod
    def fit(self, items: Any) -> None:
        """Index float32 rows of unit length, by inner product; or texts."""

    @abstractmethod
    def set_query_arguments(self, argument: Any) -> None:
        """Choose how far to look."""

    @abstractmethod
    def batch_query(self, queries: Any) -> np.ndarray:
        """[n, 10] row numbers; -1 where there are fewer hits."""

    def query(self, query: Any) -> np.ndarray:
        """[10] row numbers."""
        return self.batch_query(query[None])[0]

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write a file, or a folder."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Read it, as fast as it goes."""


class Clock:
    """CPU seconds of calls, and the most threads that one of them had at work."""

    def __init__(self) -> None:
        self.threads = 0.0

    def __call__(self, work: Callable[[], Any]) -> float:
        """CPU seconds of one call."""
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        taken = time.process_time() - cpu
        seconds = time.perf_counter() - wall
        if seconds > 0.05:  # the ticks of a processor's clock are too coarse for less
            self.threads = max(self.threads, taken / seconds)
        return taken


def measure(
    algorithm: Algorithm, items: Sequence[Any], queries: Sequence[Any], truth: np.ndarray, reps: int
) -> list[dict[str, Any]]:
    """A row for each setting: CPU microseconds a query in a batch and alone, recall; build, load, size and threads."""
    cpu = Clock()
    built = cpu(lambda: algorithm.fit(items))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        algorithm.save(path)
        size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        loaded = cpu(lambda: algorithm.load(path))
    rows, alone = [], queries[:200]
    for argument in algorithm.arguments:
        algorithm.set_query_arguments(argument)
        found = algorithm.batch_query(queries)
        hit = [len(set(row.tolist()) & set(true.tolist())) for row, true in zip(found, truth, strict=True)]
        batch = median(cpu(lambda: algorithm.batch_query(queries)) for _ in range(reps))
        single = median(cpu(lambda: [algorithm.query(one) for one in alone]) for _ in range(reps))
        rows.append(
            {
                "name": algorithm.name,
                "argument": argument,
                "recall": sum(hit) / truth.size,
                "batch_us": 1e6 * batch / len(queries),
                "single_us": 1e6 * single / len(alone),
                "build_s": built,
                "load_ms": 1e3 * loaded,
                "bytes": size,
            }
        )
    return [{**row, "threads": cpu.threads} for row in rows]
