"""Indexes of words of others: `.peers/ann/bin/python peers/words_oracle.py FOLDER`.

Reads FOLDER/cases.json (`documents`, `queries`, `k1`, `b`, `reps`) and FOLDER/in.npz (`truth`), writes FOLDER/out.json: the rows
of `ann.measure` for each, and their versions. One thread. All split texts themselves, and that is part of their time.
"""

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import tantivy
from ann import Algorithm, K, measure


class _Bm25s(Algorithm):
    """Scores of all documents, from impacts that were computed when it was built."""

    name = "bm25s"

    def __init__(self, k1: float, b: float) -> None:
        self.k1, self.b = k1, b

    def fit(self, items: list[str]) -> None:
        self.index = bm25s.BM25(method="lucene", k1=self.k1, b=self.b)
        self.index.index(bm25s.tokenize(items, stopwords=None, show_progress=False), show_progress=False)

    def set_query_arguments(self, argument: Any) -> None: ...

    def batch_query(self, queries: list[str]) -> np.ndarray:
        words = bm25s.tokenize(queries, stopwords=None, show_progress=False)
        return self.index.retrieve(words, k=K, n_threads=0, show_progress=False).documents

    def query(self, query: str) -> np.ndarray:
        return self.batch_query([query])[0]

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path) -> Any:
        return bm25s.BM25.load(str(path))


class _Tantivy(Algorithm):
    """k1 is 1.2 and b 0.75, and a length is kept in one byte, so scores and some of the ten are others."""

    name = "tantivy"

    def fit(self, items: list[str]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        schema = tantivy.SchemaBuilder().add_text_field("text").add_unsigned_field("row", stored=True).build()
        self.index = tantivy.Index(schema, path=self.folder.name)
        writer = self.index.writer(num_threads=1)
        for row, text in enumerate(items):
            writer.add_document(tantivy.Document(text=text, row=row))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()

    def set_query_arguments(self, argument: Any) -> None: ...

    def batch_query(self, queries: list[str]) -> np.ndarray:
        return np.stack([self.query(one) for one in queries])

    def query(self, query: str) -> np.ndarray:
        searcher = self.index.searcher()
        hits = searcher.search(self.index.parse_query(query, ["text"]), K).hits
        rows = [searcher.doc(address)["row"][0] for _, address in hits]
        return np.array(rows + [-1] * (K - len(rows)))

    def save(self, path: Path) -> None:
        shutil.copytree(self.folder.name, path)

    def load(self, path: Path) -> Any:
        index = tantivy.Index.open(str(path))
        index.searcher()
        return index

    def __getstate__(self) -> dict[str, Any]:
        return {}


def main() -> None:
    """Measures both on the texts of the folder."""
    folder = Path(sys.argv[1])
    cases, truth = json.loads((folder / "cases.json").read_text()), np.load(folder / "in.npz")["truth"]
    rows = [
        row
        for one in (_Bm25s(cases["k1"], cases["b"]), _Tantivy())
        for row in measure(one, cases["documents"], cases["queries"], truth, cases["reps"])
    ]
    versions = {name: version(name) for name in ("bm25s", "tantivy")}
    (folder / "out.json").write_text(json.dumps({"rows": rows, "versions": versions}))


if __name__ == "__main__":
    main()
