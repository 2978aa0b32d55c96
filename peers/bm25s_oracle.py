"""What bm25s finds: reads FOLDER/asked.json, writes FOLDER/scores.npz with an array [queries, documents] for each case.

.peers/bm25s/bin/python peers/bm25s_oracle.py FOLDER
"""

import json
import sys
from pathlib import Path

import bm25s
import numpy as np


def main() -> None:
    """Answers every case of the folder."""
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "asked.json").read_text())
    split = {"stopwords": asked["stopwords"] or None, "show_progress": False, "return_ids": False}
    documents = bm25s.tokenize(asked["documents"], **split)
    queries = bm25s.tokenize(asked["queries"], **split)
    scores = {}
    for name, settings in asked["cases"].items():
        index = bm25s.BM25(**settings)
        index.index(documents, show_progress=False)
        scores[name] = np.stack([index.get_scores(query) for query in queries])
    np.savez(folder / "scores.npz", **scores)


if __name__ == "__main__":
    main()
