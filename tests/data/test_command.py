"""`polmrs data`: what is kept, what the report says, and what is left behind when something is wrong."""

import json
import subprocess
import sys

import pytest
from data.made import documents, instructions
from polmrs import data


def polmrs(*args, folder):
    command = [sys.executable, "-m", "polmrs.cli", "data", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_what_is_kept_stands_as_it_stood_and_the_report_names_the_rest(tmp_path):
    texts = documents(120)
    rows = [{"id": i, "row": {"text": text}, "note": "é"} for i, text in enumerate(texts)]
    write(tmp_path / "in.jsonl", rows)
    lines = (tmp_path / "in.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "in.jsonl").write_bytes(b"\n".join([b"", *lines]))  # blank lines count, and are no documents
    args = ("in.jsonl", "--field", "row.text", "--threshold", 0.6, "--method", "exact")
    done = polmrs("dedup", *args, "--out", "out.jsonl", "--report", "report.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = data.near_duplicates(texts, threshold=0.6, method="exact")
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(lines[i] for i in expected.kept)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == "polmrs.dedup/1"
    assert report["kept"] == len(expected.kept) < report["documents"] == 120
    first = expected.first
    assert report["dropped"] == [
        {"line": 2 * int(i) + 2, "like": 2 * int(first[i]) + 2, "score": float(expected.jaccard[i])}
        for i in expected.dropped
    ]
    assert f"{len(expected.kept)} of 120 documents kept" in done.stdout
    again = polmrs("dedup", *args, "--out", "out.jsonl", folder=tmp_path)
    assert again.returncode == 3
    assert "out.jsonl: exists; --overwrite replaces it" in again.stderr


def test_a_dry_run_writes_nothing(tmp_path):
    write(tmp_path / "in.jsonl", [{"text": "a b c"}, {"text": "A b c!"}])
    done = polmrs("dedup", "in.jsonl", "--dry-run", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dropped"] == [{"line": 2, "like": 1, "score": 1.0}]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_rouge_l_is_the_pool_filter(tmp_path):
    texts = instructions(200)
    (tmp_path / "in.txt").write_text("\n".join(texts))
    done = polmrs("dedup", "in.txt", "--method", "rouge-l", "--out", "out.txt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.txt").read_text().splitlines() == [texts[i] for i in data.novel(texts).kept]


def test_a_token_store_stays_one(tmp_path):
    rows = [[1, 2, 3, 4], [5, 6], [1, 2, 3, 4], []]
    data.TokenStore.of(rows, [[1] * len(row) for row in rows]).save(tmp_path / "in.tokens")
    done = polmrs("dedup", "in.tokens", "--out", "out.tokens", "--json", folder=tmp_path)
    assert json.loads(done.stdout)["dropped"] == [{"row": 2, "like": 0, "score": 1.0}]
    kept = data.TokenStore.open(tmp_path / "out.tokens", verify=True)
    assert [kept[i].tolist() for i in range(len(kept))] == [rows[0], rows[1], rows[3]]
    assert kept.mask.tolist() == [1] * 6


def test_test_items_are_found_and_named(tmp_path):
    question = "how many apples does a farmer have who picks nine and then eats three of them"
    write(tmp_path / "train.jsonl", [{"text": "hello"}, {"text": f"Q: {question.upper()}?"}, {"text": "bye"}])
    write(tmp_path / "a.jsonl", [{"question": "too short"}])
    write(
        tmp_path / "b.jsonl",
        [{"question": "some other question of more than eight words is here"}, {"question": question}],
    )
    tests = ("--tests", "a.jsonl", "--tests", "b.jsonl", "--test-field", "question")
    done = polmrs("decontaminate", "train.jsonl", *tests, "--out", "out.jsonl", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    match = {"test": "b.jsonl", "line": 2, "words": 16, "at_word": 1, "test_at_word": 0}
    assert report["dropped"] == [{"line": 2, "matches": [match]}]
    assert (report["test_items"], report["test_items_found"], report["test_items_too_short"]) == (3, 1, 1)
    assert [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").open()] == ["hello", "bye"]


def test_packs_are_those_of_the_library(tmp_path):
    rows = [list(range(n)) for n in (5, 3, 4, 2, 7)]
    write(tmp_path / "in.jsonl", [{"input_ids": row} for row in rows])
    data.TokenStore.of(rows).save(tmp_path / "in.tokens")
    for name in ("in.jsonl", "in.tokens"):
        done = polmrs("pack", name, "--capacity", 7, "--out", f"{name}.json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        plan = json.loads((tmp_path / f"{name}.json").read_text())
        assert plan["packs"] == [pack.tolist() for pack in data.pack([len(row) for row in rows], 7)]
        assert plan["fill"] == 1.0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "a"}\n{"text": oops}\n', "in.jsonl:2: not JSON: expected value"),
        ('{"text": "a"}\n\n{"txt": "b"}\n', "in.jsonl:3: no field 'text'"),
        ('{"text": 7}\n', "in.jsonl:1: field 'text' is a number, not a string"),
        ('{"text": null}', "in.jsonl:1: field 'text' is null, not a string"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path, lines, message):
    (tmp_path / "in.jsonl").write_text(lines)
    done = polmrs("dedup", "in.jsonl", "--out", "out.jsonl", "--report", "r.json", folder=tmp_path)
    assert done.returncode == 3
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_text_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "in.txt").write_bytes(b"fine\n\xff\xfe\n")
    done = polmrs("dedup", "in.txt", "--dry-run", folder=tmp_path)
    assert (done.returncode, done.stderr) == (3, "polmrs: in.txt:2: not UTF-8\n")


def test_a_command_that_makes_no_sense_is_refused(tmp_path):
    (tmp_path / "in.txt").write_text("a\n")
    for args, code, message in [
        (("dedup", "in.txt"), 2, "--out"),
        (("dedup", "missing.txt", "--dry-run"), 3, "missing.txt: no such file"),
        (("dedup", "in.txt", "--out", "no/such/out.txt"), 3, "no/such: no such folder"),
        (("dedup", "in.txt", "--out", "x", "--report", "x"), 2, "--out, --report: the same file"),
        (("dedup", "in.txt", "--dry-run", "--n", "0"), 2, "--n: 0 is not 1 or more"),
        (("dedup", "in.txt", "--dry-run", "--threshold", "2"), 2, "threshold: 2 is not in (0, 1]"),
        (("pack", "in.txt", "--dry-run", "--capacity", "8"), 2, "text has no tokens"),
    ]:
        done = polmrs(*args, folder=tmp_path)
        assert done.returncode == code, done.stderr
        assert message in done.stderr
