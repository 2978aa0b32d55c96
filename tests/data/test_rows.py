"""Rows of files in every container, each with its place."""

import csv
import gzip
import json
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.data.rows import Fault, Row, rows
from polmrs.errors import ConfigError, NotFoundError, UsageError

VALUES = [{"a": "one"}, {"a": "zwei\nLinien"}, {"a": '三, "quoted"'}]
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\ufeff"), max_size=8)


def places(path, found):
    return [one.origin.removeprefix(f"{path}:") for one in found]


def jsonl(values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


@pytest.mark.parametrize(
    ("name", "text", "at"),
    [
        ("a.jsonl", jsonl(VALUES), ["1", "2", "3"]),
        ("a.ndjson", "\n" + jsonl(VALUES), ["2", "3", "4"]),
        ("a.json", json.dumps(VALUES), ["1", "1", "1"]),
        ("a.json", json.dumps(VALUES, indent=1), ["2", "5", "8"]),
        ("a.json", jsonl(VALUES), ["1", "2", "3"]),
        ("a.json", "\ufeff" + json.dumps(VALUES), ["1", "1", "1"]),
    ],
)
def test_json_in_each_of_its_forms_gives_the_same_rows(tmp_path, name, text, at):
    for zipped in (False, True):
        path = tmp_path / (name + ".gz" * zipped)
        path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
        found = list(rows(path))
        assert [row.value for row in found] == VALUES
        assert places(path, found) == at


@given(st.lists(st.fixed_dictionaries({"x": CELLS, "y": CELLS}), min_size=1, max_size=5))
def test_what_csv_writes_is_read_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["x", "y"])
        writer.writeheader()
        writer.writerows(values)
    assert [row.value for row in rows(path)] == values


def test_a_row_of_csv_is_at_its_first_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('x,y\n"a\nb",1\nonly one\nc,2\n')
    found = list(rows(path))
    assert places(path, found) == ["2", "4", "5"]
    assert found[1].reason == "1 cells, but there are 2 columns"
    assert found[2].value == {"x": "c", "y": "2"}


def test_text_is_a_document_or_its_paragraphs_or_its_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n\nthree\n")
    assert [row.value["text"] for row in rows(path)] == ["one\ntwo\n\n\nthree\n"]
    found = list(rows(path, text="paragraph"))
    assert [row.value["text"] for row in found] == ["one\ntwo", "three"]
    assert places(path, found) == ["1", "5"]
    assert places(path, rows(path, text="line")) == ["1", "2", "5"]
    with pytest.raises(UsageError, match="text: 'word'"):
        list(rows(path, text="word"))


def test_a_bad_line_is_reported_and_the_lines_after_it_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a":\n\xff\n' + b"[" * 100_000 + b'\n{"a": 2}\n')
    found = list(rows(path))
    assert places(path, found) == ["1", "2", "3", "4", "5"]
    assert [type(one) for one in found] == [Row, Fault, Fault, Fault, Row]
    assert "not JSON" in found[1].reason
    assert "not UTF-8" in found[2].reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1}, {"a": ', "not JSON"),
        ('[{"a": 1}', "',' or ']' expected"),
        ('[{"a": 1},', "the array has no end"),
        ('[{"a": 1}] []', "something follows"),
    ],
)
def test_an_array_that_breaks_off_gives_what_came_before_and_says_so(tmp_path, text, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    good, *bad = rows(path)
    assert good.value == {"a": 1}
    assert bad[0].origin == f"{path}:1"
    assert reason in bad[0].reason


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(NotFoundError, match=r"no.jsonl: no such file"):
        list(rows(tmp_path / "no.jsonl"))
    with pytest.raises(ConfigError, match=r"no reader for it; known are .csv, .json"):
        list(rows(tmp_path / "a.xlsx"))
    (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match="not gzip"):
        list(rows(tmp_path / "a.jsonl.gz"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(VALUES).encode())[:-9])
    with pytest.raises(ConfigError, match="not gzip, or cut"):
        list(rows(tmp_path / "b.jsonl.gz"))
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    with pytest.raises(ConfigError, match="byte 2 is not UTF-8"):
        list(rows(tmp_path / "a.json"))


def test_rows_in_memory_and_data_sets_are_taken_as_they_are():
    assert [row.value for row in rows(VALUES)] == VALUES
    assert [row.origin for row in rows(iter(VALUES))] == ["rows:row 1", "rows:row 2", "rows:row 3"]
    with pytest.raises(UsageError, match="one mapping"):
        list(rows({"a": 1}))


def test_parquet_gives_the_rows_that_were_written(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = [{"messages": [{"role": "user", "content": text}]} for text in ("a", "b", "c")]
    parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "a.parquet", row_group_size=2)
    found = list(rows(tmp_path / "a.parquet"))
    assert [row.value for row in found] == values
    assert places(tmp_path / "a.parquet", found) == ["row 1", "row 2", "row 3"]
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(ConfigError, match="not Parquet"):
        list(rows(tmp_path / "b.parquet"))


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match=r"pip install 'polmrs\[parquet\]'"):
        list(rows(tmp_path / "a.parquet"))


def test_a_file_of_the_hub_comes_through_its_own_client(tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text(jsonl(VALUES))
    asked = []

    def hf_hub_download(repo, file, *, repo_type):
        asked.append((repo, file, repo_type))
        return str(tmp_path / "train.jsonl")

    hub = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert [row.value for row in rows("hf://datasets/o/n/data/train.jsonl")] == VALUES
    assert asked == [("o/n", "data/train.jsonl", "dataset")]
    with pytest.raises(UsageError, match="name a file"):
        list(rows("hf://datasets/o/n"))


def test_a_number_of_too_many_digits_is_one_bad_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": ' + "1" * 5000 + '}\n{"a": 1}\n')
    bad, good = rows(tmp_path / "a.jsonl")
    assert isinstance(bad, Fault)
    assert good.value == {"a": 1}


def test_tables_that_are_read_side_by_side_keep_their_long_cells(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x\n" + "".join(f"{letter * 200_000}\n" for letter in "abc"))
    limit = csv.field_size_limit()
    first, second = rows(tmp_path / "a.csv"), rows(tmp_path / "b.csv")
    next(first), next(second)
    first.close()
    assert [type(one) for one in second] == [Row, Row]
    assert csv.field_size_limit() == limit
