"""An index in the file formats of others, for what one machine or one process is not enough for.

| function | file | needs |
|---|---|---|
| :func:`to_faiss` | ids and vectors, as ``faiss.read_index`` opens it | ``polmrs[faiss]`` |
| :func:`to_usearch` | ids and vectors in a graph, as ``usearch.index.Index.restore`` opens it | ``polmrs[usearch]`` |
| :func:`to_parquet`, :func:`from_parquet` | ids, vectors and metadata, for tables and data sets | ``polmrs[parquet]`` |
| :func:`to_index` | none: everything goes into another index, of a server too | |

Every file appears whole or not at all, in place of one that is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from polmrs._extras import extra
from polmrs.errors import CheckpointError, NotFoundError, StorageError, UsageError
from polmrs.rag.hybrid import VectorIndex
from polmrs.rag.index import Floats, Found, Index, Metric, PathLike
from polmrs.rag.kinds import Kind
from polmrs.rag.staging import everything, listed

Keys = npt.NDArray[np.int64]
T = TypeVar("T")
_BLOCK = 8192
"""Rows that are taken at a time."""


def to_faiss(index: Index, path: PathLike, *, factory: str = "Flat") -> Found:
    """Writes ids and vectors as an index of faiss, an ``IDMap2`` around what ``factory`` names.

    The distances of faiss are the scores of ``index``; for ``l2`` they are minus the scores. For ``cosine`` vectors are written
    with length 1, and queries must have it too. faiss knows no strings for ids: key ``i`` is then the ``i``-th id of what is
    returned.

    Args:
        index: Of any kind.
        path: The file.
        factory: As ``faiss.index_factory`` has it. What must be trained is trained on all vectors, in memory.

    Returns:
        The ids, in the order of the file.

    Raises:
        UsageError: faiss is not installed, has no such factory, or cannot train it on so few vectors or give it ids.
        StorageError: The file cannot be written.
    """
    faiss = extra("faiss", "faiss-cpu", "faiss")
    metric = faiss.METRIC_L2 if index.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    ids = everything(index)
    try:
        made = faiss.index_factory(index.dim, f"IDMap2,{factory}", metric)
        if not made.is_trained:
            blocks = [rows for _, rows in _blocks(index, ids)]
            made.train(np.concatenate([np.empty((0, index.dim), np.float32), *blocks]))
        for keys, rows in _blocks(index, ids):
            made.add_with_ids(rows, keys)
    except RuntimeError as error:
        raise UsageError(f"factory: {factory!r}: {error}") from error
    _whole(path, lambda to: faiss.write_index(made, str(to)))
    return ids


def to_usearch(index: Index, path: PathLike, *, connectivity: int = 16, expansion_add: int = 200) -> Found:
    """Writes ids and vectors as an index of usearch, which is a graph and takes a while to build.

    Its distances are one minus the scores of ``index``; for ``l2`` minus the scores. usearch has keys from 0 on: for ids that
    are strings, key ``i`` is the ``i``-th id of what is returned.

    Args:
        index: Of any kind.
        path: The file.
        connectivity: Links of a vector.
        expansion_add: How many near vectors are looked for to link a new one.

    Returns:
        The ids, in the order of insertion into the graph.

    Raises:
        UsageError: usearch is not installed, or an id is negative.
        StorageError: The file cannot be written.
    """
    usearch = extra("usearch.index", "usearch", "usearch")
    ids = everything(index)
    if odd := [one for one in listed(ids) if not isinstance(one, str) and one < 0]:
        raise UsageError(f"ids: {odd[0]} is negative, which usearch has not")
    made = usearch.Index(
        ndim=index.dim,
        metric={"cosine": "cos", "ip": "ip", "l2": "l2sq"}[index.metric],
        dtype="f32",
        connectivity=connectivity,
        expansion_add=expansion_add,
    )
    for keys, rows in _blocks(index, ids):
        made.add(keys, rows)
    _whole(path, lambda to: made.save(str(to)))
    return ids


def to_index(index: Index, to: VectorIndex) -> None:
    """Adds everything to another index: one of a server, or of another kind here. Errors are those of its ``add``.

    >>> import numpy as np
    >>> from polmrs import rag
    >>> index, graph = rag.Index(2), rag.Index(2, kind=rag.HNSW())
    >>> index.add(["a", "b"], np.eye(2, dtype=np.float32))
    >>> to_index(index, graph)
    >>> len(graph)
    2
    """
    ids = everything(index)
    for first in range(0, len(ids), _BLOCK):
        names = ids[first : first + _BLOCK]
        to.add(names, index.vectors(names), index.metadata(names))


def to_parquet(index: Index, path: PathLike) -> None:
    """Writes the columns ``id`` (int64 or string), ``vector`` (a list of ``dim`` float32) and ``metadata`` (a JSON object).

    >>> import numpy as np, tempfile
    >>> from polmrs import rag
    >>> index = rag.Index(2, metric="ip")
    >>> index.add(["a", "b"], np.eye(2, dtype=np.float32), [{"year": 1999}, {}])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_parquet(index, f"{folder}/notes.parquet")
    ...     from_parquet(f"{folder}/notes.parquet").metadata(["a"])
    [{'year': 1999}]

    Raises:
        UsageError: pyarrow is not installed.
        StorageError: The file cannot be written.
    """
    pa, parquet = _pyarrow()
    ids = everything(index)
    kind = pa.int64() if isinstance(ids, np.ndarray) else pa.string()
    columns = {"id": kind, "vector": pa.list_(pa.float32(), index.dim), "metadata": pa.string()}
    schema = pa.schema(list(columns.items()), metadata={"polmrs.metric": index.metric})

    def write(to: Path) -> None:
        with parquet.ParquetWriter(to, schema) as writer:
            for first in range(0, len(ids), _BLOCK):
                names = ids[first : first + _BLOCK]
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(index.vectors(names).ravel()), index.dim)
                fields = pa.array([json.dumps(one) for one in index.metadata(names)], pa.string())
                writer.write_batch(pa.record_batch([pa.array(names, kind), vectors, fields], schema=schema))

    _whole(path, write)


def from_parquet(
    path: PathLike,
    *,
    metric: Metric | None = None,
    kind: Kind | None = None,
    id: str = "id",
    vector: str = "vector",
    metadata: str | None = "metadata",
) -> Index:
    """An index of a Parquet file's rows: what :func:`to_parquet` wrote, or any that has ids and vectors in columns.

    Args:
        path: The file.
        metric: As in :class:`~polmrs.rag.Index`; the file's own, or ``cosine``.
        kind: As in :class:`~polmrs.rag.Index`.
        id: The column of ids.
        vector: The column of vectors, lists of one length.
        metadata: The column of metadata, JSON objects or structs; none where the file has no such column.

    Raises:
        NotFoundError: There is no such file.
        CheckpointError: It is no Parquet file; vectors are of several lengths, lack some, or hold no numbers; an id is
            beyond int64; or metadata are not JSON.
        UsageError: A column is not there, no row and no type tells the length of a vector, pyarrow is not installed, or as in
            ``Index.add``.
    """
    pa, parquet = _pyarrow()
    try:
        file = parquet.ParquetFile(path)
        columns = file.schema_arrow.names
        if missing := [name for name in (id, vector) if name not in columns]:
            raise UsageError(f"{path}: {missing[0]!r} is not one of the columns {', '.join(columns)}")
        said = (file.schema_arrow.metadata or {}).get(b"polmrs.metric", b"cosine").decode()
        wanted = [name for name in (id, vector, metadata) if name in columns]
        made, kept = partial(Index, metric=metric or said, kind=kind), file.schema_arrow.field(vector).type
        index = made(kept.list_size) if pa.types.is_fixed_size_list(kept) else None
        for batch in file.iter_batches(columns=wanted, batch_size=_BLOCK):
            rows = _rows(batch.column(vector), f"{path}: {vector}")
            if index is None:
                index = made(rows.shape[1])
            elif rows.shape[1] != index.dim:
                raise CheckpointError(
                    f"{path}: {vector}: vectors of several lengths, {index.dim} and {rows.shape[1]}"
                )
            about = _about(batch.column(metadata), f"{path}: {metadata}") if metadata in wanted else None
            names = batch.column(id).to_pylist()
            if odd := [one for one in names if isinstance(one, int) and one >= 2**63]:
                raise CheckpointError(f"{path}: {id}: an id is beyond int64: {odd[0]}")
            index.add(names, rows, about)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: there is no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(f"{path}: not Parquet: {error}") from error
    if index is None:
        raise UsageError(f"{path}: there are no rows, so no vector tells the length of one")
    return index


def _rows(column: Any, name: str) -> Floats:
    """[n, dim] float32 from a column of lists."""
    types = extra("pyarrow.types", "pyarrow", "parquet")
    compute = extra("pyarrow.compute", "pyarrow", "parquet")
    try:
        lengths = compute.list_value_length(column).unique().to_pylist()
    except NotImplementedError as error:
        raise CheckpointError(f"{name}: {column.type} is no type of lists") from error
    if not (types.is_floating(column.type.value_type) or types.is_integer(column.type.value_type)):
        raise CheckpointError(f"{name}: {column.type} is no type of lists of numbers")
    if None in lengths or len(lengths) != 1:
        raise CheckpointError(f"{name}: vectors are missing, or of several lengths")
    rows: Floats = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return rows.reshape(len(column), -1)


def _about(column: Any, name: str) -> list[dict[str, Any]]:
    """Metadata from a column of JSON or structs."""
    try:
        return [json.loads(one) if isinstance(one, str) else one or {} for one in column.to_pylist()]
    except ValueError as error:
        raise CheckpointError(f"{name}: not JSON: {error}") from error


def _blocks(index: Index, ids: Found) -> Iterator[tuple[Keys, Floats]]:
    """Integer keys and vectors: the ids themselves, or their places; for cosine the vectors have length 1."""
    for first in range(0, len(ids), _BLOCK):
        names = ids[first : first + _BLOCK]
        rows = index.vectors(names)
        if index.metric == "cosine":
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
        places = np.arange(first, first + len(rows), dtype=np.int64)
        yield (names if isinstance(names, np.ndarray) else places), rows


def _whole(path: PathLike, write: Callable[[Path], T]) -> None:
    """A file that appears at once."""
    to = Path(path)
    partial = to.with_name(f"{to.name}.partial")
    try:
        write(partial)
        partial.replace(to)
    except (OSError, RuntimeError) as error:  # faiss and usearch raise the latter
        raise StorageError(f"{to}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _pyarrow() -> tuple[Any, Any]:
    return extra("pyarrow", "pyarrow", "parquet"), extra("pyarrow.parquet", "pyarrow", "parquet")
