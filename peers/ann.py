"""One measure for every index, in the form of ann-benchmarks: fit, set_query_arguments, query, batch_query.

Time is CPU time of this process, so that a busy machine and threads that spin do not flatter anyone. A row also says how many
threads were at work at most, CPU seconds of a call over those of the clock: one, if all are compared fairly. Memory is what a
fresh process holds more once it has opened the index and searched it, pages of mapped files too.
"""

import copy
import ctypes
import gc
import multiprocessing
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
    index: Any
    """What is searched."""

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
    def load(self, path: Path) -> Any:
        """Read it, as fast as it goes; what `index` was when it was saved."""

    def __getstate__(self) -> dict[str, Any]:
        """Settings, which go to another process without the index."""
        return {name: value for name, value in vars(self).items() if name != "index"}


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
    """A row for each setting: CPU microseconds a query in a batch and alone, recall; build, load, size, threads; bytes an item in memory."""
    cpu = Clock()
    built = cpu(lambda: algorithm.fit(items))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        algorithm.save(path)
        size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        loaded = cpu(lambda: algorithm.load(path))
        held = memory(algorithm, path, queries) / len(items)
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
                "memory": held,
            }
        )
    return [{**row, "threads": cpu.threads} for row in rows]


def memory(algorithm: Algorithm, path: Path, queries: Sequence[Any]) -> int:
    """Bytes that a fresh process holds more once it has opened the file and searched it with the last of the settings."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_opened, args=(algorithm, path, queries, theirs))
    child.start()
    theirs.close()
    held: int = ours.recv()
    child.join()
    return held


def _opened(algorithm: Algorithm, path: Path, queries: Sequence[Any], to: Any) -> None:
    """Tells what opening and searching an index takes, once the code that does it has run on another."""
    other = copy.copy(algorithm)
    other.fit(queries)
    other.set_query_arguments(algorithm.arguments[-1])
    other.batch_query(queries)
    del other
    before = _resident()
    algorithm.index = algorithm.load(path)
    algorithm.set_query_arguments(algorithm.arguments[-1])
    algorithm.batch_query(queries)
    to.send(_resident() - before)


def _resident() -> int:
    """Bytes of this process in memory; what is free goes back to the system first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
