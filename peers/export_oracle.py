"""What faiss and usearch find in files that polmrs wrote for them: `.peers/ann/bin/python peers/export_oracle.py FOLDER`.

Reads FOLDER/in.npz (`vectors`, `queries`, `names`, `metric`), writes an index of them by `polmrs.rag.export`, opens the files with
the libraries alone, and writes FOLDER/out.npz: ids and scores of the ten best, as `rag.Index` has them.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from polmrs import rag
from polmrs.errors import UsageError
from polmrs.rag import export
from usearch.index import Index as USearch

K = 10


def main() -> None:
    """Exports, reads and searches."""
    folder = Path(sys.argv[1])
    given = np.load(folder / "in.npz")
    metric, names, queries = str(given["metric"]), given["names"].tolist(), given["queries"]
    index = rag.Index(given["vectors"].shape[1], metric=metric, kind=rag.Quantized())
    index.add(names, given["vectors"])
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True) if metric == "cosine" else queries
    out: dict[str, Any] = {}

    for library, settings in (("faiss", {}), ("faiss_hnsw", {"factory": "HNSW32"})):
        listed = export.to_faiss(index, folder / "a.faiss", **settings)
        read = faiss.read_index(str(folder / "a.faiss"))
        faiss.ParameterSpace().set_index_parameter(read, "efSearch", 500) if settings else None
        distances, keys = read.search(unit, K)
        out[f"{library}_ids"] = named(keys, listed)
        out[f"{library}_scores"] = -distances if metric == "l2" else distances

    listed = export.to_usearch(index, folder / "a.usearch")
    matches = USearch.restore(str(folder / "a.usearch")).search(queries, K, exact=True)
    out["usearch_ids"] = named(matches.keys.astype(np.int64), listed)
    out["usearch_scores"] = -matches.distances if metric == "l2" else 1 - matches.distances

    empty, small = rag.Index(2), rag.Index(2)
    small.add([-1], np.ones((1, 2), np.float32))
    out["refused"] = []
    for call in (
        *(
            partial(export.to_faiss, small, folder / "b", factory=factory)
            for factory in ("Nonsense", "IDMap,Flat", "IVF4,Flat", "PQ2")
        ),
        partial(export.to_faiss, empty, folder / "b", factory="IVF4,Flat"),
        partial(export.to_usearch, small, folder / "b"),
    ):
        try:
            call()
        except UsageError as error:
            out["refused"].append(str(error).split(": Error in")[0])
    np.savez(folder / "out.npz", **out)


def named(keys: np.ndarray, listed: Any) -> np.ndarray:
    """Keys as ids."""
    return np.array(listed)[keys] if isinstance(listed, list) else keys


if __name__ == "__main__":
    main()
