"""One measure for every vector index, in the form of ann-benchmarks: fit, set_query_arguments, query, batch_query.

Time is CPU time of this process, so that a busy machine and threads that spin do not flatter anyone.
"""

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
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
    def fit(self, vectors: np.ndarray) -> None:
        """Index float32 rows of unit length, by inner product."""

    @abstractmethod
    def set_query_arguments(self, argument: Any) -> None:
        """Choose how far to look."""

    @abstractmethod
    def batch_query(self, queries: np.ndarray) -> np.ndarray:
        """[n, 10] row numbers."""

    def query(self, query: np.ndarray) -> np.ndarray:
        """[10] row numbers."""
        return self.batch_query(query[None])[0]

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write one file."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Read it, as fast as it goes."""


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measure(
    algorithm: Algorithm, vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray, reps: int
) -> list[dict[str, Any]]:
    """A row for each setting: CPU microseconds a query in a batch and alone, recall; build, load and size."""
    built = cpu(lambda: algorithm.fit(vectors))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        algorithm.save(path)
        size = path.stat().st_size if path.exists() else 0
        loaded = cpu(lambda: algorithm.load(path)) if size else 0.0
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
    return rows
