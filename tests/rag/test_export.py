"""Exports: what others read is what the index holds."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from polmrs import rag
from polmrs.errors import CheckpointError, NotFoundError, StorageError, UsageError
from polmrs.rag import export
from rag.made import clustered, filled

ORACLE = Path(__file__).parents[2] / "peers/export_oracle.py"
KINDS = [rag.Flat(), rag.Quantized(), rag.HNSW(m=4), rag.IVF(lists=5)]
METRICS = ["cosine", "ip", "l2"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ids", [None, [f"n{at}" for at in range(400)]], ids=["integers", "strings"])
def test_parquet_gives_back_what_was_written(kind, metric, ids, tmp_path):
    index = rag.Index(12, metric=metric, kind=kind)
    about = [
        {"at": at, "half": at / 2, "none": None, "odd": at % 2 == 1} if at % 3 else {} for at in range(400)
    ]
    index.add(ids or range(400), clustered(400, 12), about)
    index.delete([ids[7] if ids else 7])
    export.to_parquet(index, tmp_path / "a.parquet")
    again = export.from_parquet(tmp_path / "a.parquet", kind=kind)
    names = [one for at, one in enumerate(ids or range(400)) if at != 7]
    assert (again.metric, again.dim, len(again)) == (metric, 12, 399)
    assert np.array_equal(again.vectors(names), index.vectors(names))
    assert again.metadata(names) == index.metadata(names)
    assert [one.name for one in tmp_path.iterdir()] == ["a.parquet"]


def test_an_empty_index_keeps_its_shape_in_parquet(tmp_path):
    export.to_parquet(rag.Index(12, metric="l2"), tmp_path / "a.parquet")
    again = export.from_parquet(tmp_path / "a.parquet")
    assert (again.metric, again.dim, len(again)) == ("l2", 12, 0)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_index_goes_into_another_whole(kind, monkeypatch):
    monkeypatch.setattr(export, "_BLOCK", 64)
    index, other = rag.Index(12, metric="ip", kind=kind), rag.Index(12, metric="ip", kind=rag.Flat())
    index.add(range(300), clustered(300, 12), [{"at": at} for at in range(300)])
    other.add([5, 1000], clustered(2, 12, seed=1))
    export.to_index(index, other)
    assert (len(other), other.metadata([5])) == (301, [{"at": 5}])
    assert np.array_equal(other.vectors(range(300)), index.vectors(range(300)))


def test_other_tools_see_plain_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    index = filled(np.eye(3, dtype=np.float32), ids=["a", "b", "c"], metric="ip")
    export.to_parquet(index, tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert [str(field.type) for field in table.schema] == [
        "string",
        "fixed_size_list<element: float>[3]",
        "string",
    ]
    assert table.to_pylist()[1] == {"id": "b", "vector": [0, 1, 0], "metadata": "{}"}


def test_tables_of_others_become_indexes(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"key": at, "embedding": [at, 0.5], "about": {"lang": "en" if at else None}} for at in range(4)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=3)
    names = {"id": "key", "vector": "embedding", "metadata": "about"}
    index = export.from_parquet(tmp_path / "a.parquet", metric="ip", **names)
    assert index.search(np.array([1, 0], np.float32), 2, filter={"lang": "en"}).ids.tolist() == [3, 2]
    bare = export.from_parquet(tmp_path / "a.parquet", id="key", vector="embedding")
    assert (bare.metric, bare.metadata([3])) == ("cosine", [{}])


def test_tables_that_are_no_index_are_refused(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    for rows, error, message in [
        ([{"id": 1, "x": [1.0]}], UsageError, "'vector' is not one of the columns id, x"),
        (
            [{"id": 1, "vector": [1.0]}, {"id": 2, "vector": [1.0, 2.0]}],
            CheckpointError,
            "of several lengths",
        ),
        ([{"id": 1, "vector": [1.0]}, {"id": 2, "vector": None}], CheckpointError, "missing"),
        ([{"id": 1, "vector": [1.0], "metadata": "{"}], CheckpointError, "metadata: not JSON"),
        ([{"id": np.uint64(2**63), "vector": [1.0]}], CheckpointError, "id: an id is beyond int64"),
        ([{"id": 1, "vector": ["1"]}], CheckpointError, "is no type of lists of numbers"),
        ([{"id": 1, "vector": 1.0}], CheckpointError, "is no type of lists"),
    ]:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        with pytest.raises(error, match=message):
            export.from_parquet(path)
    parquet.write_table(pyarrow.Table.from_pylist(rows).slice(0, 0), path)
    with pytest.raises(UsageError, match="there are no rows"):
        export.from_parquet(path)
    monkeypatch.setattr(export, "_BLOCK", 2)
    rows = [{"id": at, "vector": [1.0] * (1 + at // 2)} for at in range(4)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(CheckpointError, match="vectors of several lengths, 1 and 2"):
        export.from_parquet(path)
    path.write_bytes(b"no")
    for unreadable in (path, tmp_path):
        with pytest.raises(CheckpointError, match="not Parquet"):
            export.from_parquet(unreadable)
    with pytest.raises(NotFoundError, match="there is no such file"):
        export.from_parquet(tmp_path / "b.parquet")


def test_a_file_that_cannot_be_written_leaves_none(tmp_path):
    index = filled(np.eye(3, dtype=np.float32))
    with pytest.raises(StorageError, match="nowhere"):
        export.to_parquet(index, tmp_path / "nowhere/a.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder"):
        export.to_parquet(index, tmp_path / "folder")
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("write", "module", "name"),
    [
        (export.to_faiss, "faiss", "faiss"),
        (export.to_usearch, "usearch", "usearch"),
        (export.to_parquet, "pyarrow", "parquet"),
    ],
)
def test_without_its_package_an_export_says_what_to_install(write, module, name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'polmrs\[{name}\]'"):
        write(filled(np.eye(3, dtype=np.float32)), tmp_path / "a")


@pytest.mark.peer("ann")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("strings", [False, True], ids=["integers", "strings"])
def test_faiss_and_usearch_find_the_same_ten_in_their_files(metric, strings, peer, tmp_path):
    vectors, queries = clustered(500, 24), clustered(20, 24, seed=1)
    names = [f"n{at}" for at in range(500)] if strings else list(range(1000, 500, -1))
    np.savez(tmp_path / "in.npz", vectors=vectors, queries=queries, names=names, metric=metric)
    command = [peer("ann"), ORACLE, tmp_path]
    told = subprocess.run(
        command,
        env={"PYTHONPATH": str(ORACLE.parents[1] / "python")},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    out = np.load(tmp_path / "out.npz")
    hits = filled(vectors, ids=names, metric=metric, kind=rag.Flat()).search(queries, 10)
    wanted, scores = np.stack(hits.ids), np.stack(hits.scores)
    for library in ("faiss", "faiss_hnsw", "usearch"):
        assert np.array_equal(out[f"{library}_ids"], wanted), library
        assert np.allclose(out[f"{library}_scores"], scores, atol=1e-4), library
    factories = ["Nonsense", "IDMap,Flat", "IVF4,Flat", "PQ2", "IVF4,Flat"]
    assert out["refused"].tolist() == [f"factory: {one!r}" for one in factories] + [
        "ids: -1 is negative, which usearch has not"
    ]
