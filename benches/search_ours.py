"""Our indexes in the form of ann-benchmarks."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ann import Algorithm, K
from polmrs import rag

K1, B = 1.2, 0.75
"""Lucene's, which tantivy cannot change."""


class Vectors(Algorithm):
    """`rag.Index` of a kind. What is mapped leaves its vectors in the file, and scores are those of codes."""

    def __init__(self, kind: rag.Kind, arguments: Sequence[Any], *, mapped: bool = False) -> None:
        self.kind, self.arguments, self.mapped = kind, tuple(arguments), mapped
        self.effort = None
        said = [str(getattr(kind, key)) for key in ("bits", "codes") if hasattr(kind, key)]
        self.name = " ".join(["polmrs", type(kind).__name__, *said, *["mapped"] * mapped])

    def fit(self, items: np.ndarray) -> None:
        self.index = rag.Index(items.shape[1], metric="ip", kind=self.kind)
        self.index.add(np.arange(len(items)), items)
        if self.mapped:
            with tempfile.TemporaryDirectory() as folder:
                self.save(Path(folder) / "index")
                self.index = self.load(Path(folder) / "index")

    def set_query_arguments(self, argument: Any) -> None:
        self.effort = argument

    def batch_query(self, queries: np.ndarray) -> np.ndarray:
        return np.stack(self._found(queries))

    def query(self, query: np.ndarray) -> np.ndarray:
        return np.asarray(self._found(query))

    def _found(self, queries: np.ndarray) -> Any:
        return self.index.search(queries, K, effort=self.effort, rescore=not self.mapped).ids

    def save(self, path: Path) -> None:
        self.index.save(path)

    def load(self, path: Path) -> Any:
        return rag.Index.open(path, mmap=self.mapped)


class Words(Algorithm):
    """`rag.BM25`."""

    name = "polmrs BM25"

    def fit(self, items: list[str]) -> None:
        self.index = rag.BM25(variant="lucene", k1=K1, b=B)
        self.index.add(range(len(items)), items)

    def set_query_arguments(self, argument: Any) -> None: ...

    def batch_query(self, queries: list[str]) -> np.ndarray:
        return np.stack([padded(ids) for ids in self.index.search(queries, K).ids])

    def query(self, query: str) -> np.ndarray:
        return padded(self.index.search(query, K).ids)

    def save(self, path: Path) -> None:
        self.index.save(path)

    def load(self, path: Path) -> Any:
        return rag.BM25.open(path)


def padded(ids: np.ndarray) -> np.ndarray:
    return np.pad(ids, (0, K - len(ids)), constant_values=-1)
