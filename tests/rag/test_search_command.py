"""`polmrs search`: an index from a file, and hits as JSON Lines."""

import json
import subprocess
import sys

import numpy as np
import pytest
from polmrs import rag
from rag.made import clustered, filled


def polmrs(*args, folder):
    command = [sys.executable, "-m", "polmrs.cli", "search", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", ["flat", "quantized", "hnsw", "ivf"])
def test_arrays_are_indexed_and_searched_as_from_python(dtype, kind, tmp_path):
    vectors, asked = (clustered(n, 20, seed=n).astype(dtype) for n in (600, 7))
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "asked.npy", asked)
    done = polmrs(
        "build", "vectors.npy", "--out", "a", "--kind", kind, "--metric", "l2", "--json", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["vectors"], told["dim"], told["kind"]["kind"]) == (600, 20, kind)
    names = {"flat": rag.Flat(), "quantized": rag.Quantized(), "hnsw": rag.HNSW(), "ivf": rag.IVF()}
    opened = rag.Index.open(tmp_path / "a")
    assert opened.kind == names[kind]  # what is not set has the defaults of Python
    wanted = filled(vectors, metric="l2", kind=names[kind]).search(asked, 4)
    done = polmrs("query", "a", "asked.npy", "-k", 4, "--mmap", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["query"] for line in lines] == list(range(7))
    assert [line["ids"] for line in lines] == [ids.tolist() for ids in wanted.ids]
    assert np.array_equal(np.array([line["scores"] for line in lines], np.float32), np.stack(wanted.scores))


def test_lines_bring_names_and_metadata(tmp_path):
    vectors = clustered(90, 5)
    rows = [{"id": f"é{i}", "vector": vector.tolist(), "part": i % 3} for i, vector in enumerate(vectors)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    done = polmrs(
        *("build", "in.jsonl", "--out", "a", "--set", "bits=8", "--set", "margin=2.5", "--batch", 64),
        *("--storage", "float16"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "a: 90 vectors of 5" in done.stdout
    index = rag.Index.open(tmp_path / "a")
    assert index.kind == rag.Quantized(bits=8, margin=2.5, storage="float16")
    assert index.metadata(["é7"]) == [{"part": 1}]
    asked = {"id": "who", "vector": vectors[3].tolist()}
    (tmp_path / "asked.jsonl").write_text(json.dumps(asked))
    args = ("query", "a", "asked.jsonl", "-k", 3, "--filter", '{"part": 0}', "--min-score", -0.5)
    done = polmrs(*args, folder=tmp_path)
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (line["query"], line["ids"][0], len(line["ids"])) == ("who", "é3", 3)
    assert line["ids"] == index.search(vectors[3], 3, filter={"part": 0}).ids


def test_an_index_of_words_is_asked_by_lines_of_text(tmp_path):
    index = rag.BM25(stopwords=["the"])
    index.add(["red", "white"], ["The red wine", "white wine, white bread"], [{"at": 1}, {"at": 2}])
    index.save(tmp_path / "words")
    (tmp_path / "asked.txt").write_text('the WINE\n\nwhite\n{"id": "q", "text": "bread"}')
    wanted = index.search(["wine", "white", "bread"], 2)
    for more in [(), ("--mmap",)]:
        done = polmrs("query", "words", "asked.txt", "-k", 2, *more, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["query"] for line in lines] == [0, 1, "q"]
        assert [line["ids"] for line in lines] == wanted.ids
        for line, scores in zip(lines, wanted.scores, strict=True):
            assert np.array_equal(np.array(line["scores"], np.float32), scores)
    done = polmrs("query", "words", "asked.txt", "--filter", '{"at": 2}', folder=tmp_path)
    assert [json.loads(line)["ids"] for line in done.stdout.splitlines()] == [["white"]] * 3
    rag.BM25(stemmer=str.title).save(tmp_path / "stemmed")
    (tmp_path / "bad.txt").write_text('wine\n{"query": "wine"}')
    for args, code, message in [
        (("words", "bad.txt"), 3, 'query 2: has no "text"'),
        (("words", "asked.txt", "--effort", 3), 2, "--effort: an index of words has no use for it"),
        (("stemmed", "asked.txt"), 2, "was made with a stemmer, a function of Python"),
    ]:
        done = polmrs("query", *args, folder=tmp_path)
        assert (done.returncode, message in done.stderr) == (code, True), (args, done.stderr)


def test_what_is_wrong_is_named(tmp_path):
    np.save(tmp_path / "flat.npy", np.ones(4, np.float32))
    np.save(tmp_path / "whole.npy", np.ones((4, 4), np.int64))
    np.save(tmp_path / "good.npy", np.ones((4, 4), np.float32))
    np.save(tmp_path / "other.npy", np.ones((4, 3), np.float32))
    (tmp_path / "short.jsonl").write_text('\n{"vector": [1, 2]}\n{"vector": [1]}\n')
    (tmp_path / "mixed.jsonl").write_text('{"id": 1, "vector": [1]}\n{"id": "a", "vector": [1]}\n')
    assert polmrs("build", "good.npy", "--out", "a", folder=tmp_path).returncode == 0
    for args, code, message in [
        (("build", "none.npy", "--out", "b"), 3, "none.npy"),
        (("build", "flat.npy", "--out", "b"), 3, "shape [4] is not [n, dim]"),
        (("build", "whole.npy", "--out", "b"), 3, "not float16, float32 or float64"),
        (("build", "short.jsonl", "--out", "b"), 3, "vector 2: 1 numbers, but the first has 2"),
        (("build", "mixed.jsonl", "--out", "b"), 3, "vector 2: id"),
        (
            ("build", "good.npy", "--out", "b", "--kind", "flat", "--set", "bits=8"),
            2,
            "flat: has no parameters",
        ),
        (("build", "good.npy", "--out", "a"), 3, "a: exists; --overwrite replaces it"),
        (("build", "good.npy", "--out", "b", "--set", "bits=3"), 2, "bits: 3 is not one of 1, 4, 8"),
        (("build", "good.npy", "--out", "b", "--set", "bit=3"), 2, "bit"),
        (("build", "good.npy", "--out", "b", "--set", "bits"), 2, "expected NAME=VALUE"),
        (("query", "a", "other.npy"), 3, "vectors of 3, but those of the index are 4 long"),
        (("query", "a", "good.npy", "--filter", "{"), 2, "--filter"),
        (("query", "good.npy", "good.npy"), 3, "not an index"),
    ]:
        done = polmrs(*args, folder=tmp_path)
        assert (done.returncode, message in done.stderr) == (code, True), (args, done.stderr)
        assert not (tmp_path / "b").exists()
