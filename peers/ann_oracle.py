"""Vector indexes of others: `.peers/ann/bin/python peers/ann_oracle.py FOLDER`.

Reads FOLDER/in.npz (`vectors`, `queries`, `truth`) and FOLDER/cases.json (`names`, `reps`), writes FOLDER/out.json: the rows of
`ann.measure` for each, and their versions. One thread.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import turbovec
from ann import Algorithm, K, measure
from usearch.index import Index as USearch

EF = (16, 32, 48, 64, 96, 128, 256)


class _Faiss(Algorithm):
    """Any index that the factory makes."""

    def __init__(self, name: str, factory: str, arguments: tuple[Any, ...] = (None,)) -> None:
        self.name, self.factory, self.arguments = name, factory, arguments

    def fit(self, items: np.ndarray) -> None:
        self.index = faiss.index_factory(items.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        if self.factory.startswith("HNSW"):
            self.index.hnsw.efConstruction = 200
        self.index.train(items)
        self.index.add(items)

    def set_query_arguments(self, argument: Any) -> None:
        if argument is not None:
            name = "efSearch" if self.factory.startswith("HNSW") else "nprobe"
            faiss.ParameterSpace().set_index_parameter(self.index, name, argument)

    def batch_query(self, queries: np.ndarray) -> np.ndarray:
        return self.index.search(queries, K)[1]

    def save(self, path: Path) -> None:
        faiss.write_index(self.index, str(path))

    def load(self, path: Path) -> Any:
        return faiss.read_index(str(path))


class _Hnswlib(Algorithm):
    name, arguments = "hnswlib", EF

    def fit(self, items: np.ndarray) -> None:
        self.dim = items.shape[1]
        self.index = hnswlib.Index("ip", self.dim)
        self.index.init_index(len(items), M=16, ef_construction=200)
        self.index.add_items(items, num_threads=1)

    def set_query_arguments(self, argument: Any) -> None:
        self.index.set_ef(argument)

    def batch_query(self, queries: np.ndarray) -> np.ndarray:
        return self.index.knn_query(queries, K, num_threads=1)[0].astype(np.int64)

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def load(self, path: Path) -> Any:
        index = hnswlib.Index("ip", self.dim)
        index.load_index(str(path))
        return index


class _Usearch(Algorithm):
    arguments = EF

    def __init__(self, dtype: str) -> None:
        self.name, self.dtype = f"usearch {dtype}", dtype

    def fit(self, items: np.ndarray) -> None:
        self.index = USearch(
            ndim=items.shape[1], metric="ip", dtype=self.dtype, connectivity=16, expansion_add=200
        )
        self.index.add(np.arange(len(items)), items, threads=1)

    def set_query_arguments(self, argument: Any) -> None:
        self.index.expansion_search = argument

    def batch_query(self, queries: np.ndarray) -> np.ndarray:
        keys = self.index.search(queries, K, threads=1).keys
        return keys.reshape(len(queries), -1).astype(np.int64)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path) -> Any:
        return USearch.restore(str(path))


class _Turbovec(Algorithm):
    """Codes, and a second look at full vectors by numpy, which it leaves to its users: its file and memory are of codes."""

    arguments = (20, 40)

    def __init__(self, bits: int) -> None:
        self.name, self.bits = f"turbovec {bits}-bit + rescore", bits

    def fit(self, items: np.ndarray) -> None:
        self.vectors = items
        self.index = turbovec.TurboQuantIndex(items.shape[1], self.bits)
        self.index.add(items)
        self.index.prepare()

    def set_query_arguments(self, argument: Any) -> None:
        self.looked = argument

    def batch_query(self, queries: np.ndarray) -> np.ndarray:
        rows = self.index.search(queries, self.looked)[1].astype(np.int64)
        scores = np.einsum("qnd,qd->qn", self.vectors[rows], queries)
        return np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :K], 1)

    def save(self, path: Path) -> None:
        self.index.write(str(path))

    def load(self, path: Path) -> Any:
        index = turbovec.TurboQuantIndex.load(str(path))
        index.prepare()
        return index


def main() -> None:
    """Measures all of them on the vectors of the folder."""
    folder = Path(sys.argv[1])
    given, cases = np.load(folder / "in.npz"), json.loads((folder / "cases.json").read_text())
    faiss.omp_set_num_threads(1)
    contestants = [
        _Faiss("faiss Flat", "Flat"),
        _Faiss("faiss HNSW", "HNSW16", EF),
        _Faiss("faiss IVF", f"IVF{2 * int(len(given['vectors']) ** 0.5)},Flat", (8, 16, 32, 64, 128)),
        _Hnswlib(),
        _Usearch("bf16"),
        _Usearch("f32"),
        _Turbovec(4),
    ]
    rows = [
        row
        for one in contestants
        if one.name in cases["names"]
        for row in measure(one, given["vectors"], given["queries"], given["truth"], cases["reps"])
    ]
    versions = {name: version(name) for name in ("faiss-cpu", "hnswlib", "usearch", "turbovec")}
    (folder / "out.json").write_text(json.dumps({"rows": rows, "versions": versions}))


if __name__ == "__main__":
    main()
