"""An index of named vectors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from polmrs import _core
from polmrs._tensor import Array, is_torch, to_bits
from polmrs.errors import ArrayError, UsageError
from polmrs.rag.kinds import NAMES, Kind, Quantized, Storage

Metric: TypeAlias = Literal["ip", "cosine", "l2"]
Ids: TypeAlias = Sequence[str] | Sequence[int] | Array
Found: TypeAlias = list[str] | npt.NDArray[np.int64]
PathLike: TypeAlias = str | os.PathLike[str]
Floats: TypeAlias = npt.NDArray[np.float32]
Scalar: TypeAlias = str | int | float | bool | None
Metadata: TypeAlias = Mapping[str, Scalar]
Filter: TypeAlias = Mapping[str, Any]
"""Conditions on metadata, as MongoDB writes them: ``{"lang": "en", "year": {"$gte": 2020}}``. All names must hold. A value
alone means ``$eq``; others are ``$ne``, ``$in``, ``$nin``, ``$gt``, ``$gte``, ``$lt``, ``$lte``, ``$exists``; ``$and``, ``$or``
and ``$not`` combine. What lacks the field passes only ``$ne``, ``$nin`` and ``"$exists": False``."""


@dataclass(frozen=True, eq=False)
class Hits:
    """What a search found, best first; a query may have fewer than ``k`` hits, or none."""

    ids: Any
    """One list of strings or array of integers a query; itself if there was one query, not a batch."""
    scores: Any
    """float32 arrays beside ``ids``: larger is nearer. ``ip``: the inner product. ``cosine``: the cosine. ``l2``: minus the
    squared distance."""


class Index:
    """Vectors under string or integer ids, searched by ``ip``, ``cosine`` or ``l2``.

    Any number of threads may search while one adds or deletes; each search sees the index as it is between two such
    calls, and does not wait while an ``add`` of many codes or links them, nor while :meth:`save` or :meth:`sync` writes. It waits
    while few are added in place, while rows are moved together once half are dead (an ``add`` that replaces that many ends so)
    or, if any are, before they are saved, and while the first ``add`` to a mapped file copies it into memory. What adds, deletes
    or saves waits for others that do. The GIL is released.

    Scores are computed in float64 from the stored vectors and rounded once, so they are the same for every kind, number of
    threads, batch and processor; equal scores come in the order in which vectors were added.

    >>> import numpy as np
    >>> index = Index(dim=3, metric="l2")
    >>> index.add([10, 11, 12], np.eye(3, dtype=np.float32))
    >>> hits = index.search(np.array([0.9, 0, 0], np.float32), k=2)
    >>> hits.ids.tolist(), hits.scores.round(2)
    ([10, 11], array([-0.01, -1.81], dtype=float32))
    >>> index.delete([10]), len(index)
    (1, 2)
    """

    def __init__(self, dim: int, *, metric: Metric = "cosine", kind: Kind | None = None) -> None:
        """An empty index.

        Args:
            dim: The length of a vector.
            metric: ``ip``, ``cosine`` or ``l2``.
            kind: How candidates are found; ``Quantized()`` if nothing is said.

        Raises:
            UsageError: ``dim`` or ``metric`` is out of range.
        """
        self.dim, self.metric = dim, metric
        self.kind: Kind = kind or Quantized()
        name = next((name for name, kind in NAMES.items() if isinstance(self.kind, kind)), None)
        if name is None:
            raise UsageError(f"kind: {kind!r} is none of Flat, Quantized, HNSW, IVF")
        fields = {"kind": name, **asdict(self.kind)}
        storage = fields.pop("storage")
        self._index = _core.search.Index(dim, metric, storage, _json("kind", fields))

    @classmethod
    def open(cls, path: PathLike, *, mmap: bool = False, verify: bool = False) -> Self:
        """Opens a file that :meth:`save` wrote and :meth:`sync` may have added to.

        A process that died while it added leaves the file as it was before. The file is not a pickle and runs no code.

        Args:
            path: The file.
            mmap: Leave vectors and codes in the file, shared between processes, and read them when they are looked at. What
                is changed is copied into memory, so a file with synced additions is too.
            verify: Compare the checksum of all bytes, which takes as long as reading them; without ``mmap`` that is done
                in any case.

        Raises:
            NotFoundError: There is no such file.
            CheckpointError: It is no index, of another version, or damaged.
        """
        index = cls.__new__(cls)
        index._index = _core.search.Index.open(os.fspath(path), mmap, verify)
        index.dim, metric, storage, kind = index._index.settings()
        index.metric = cast(Metric, metric)
        fields = json.loads(kind)
        index.kind = NAMES[fields.pop("kind")](storage=cast(Storage, storage), **fields)
        return index

    def save(self, path: PathLike) -> None:
        """Writes everything to one file, which appears whole or not at all, in place of one that is there. Ctrl-C stops it.

        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     index = Index(dim=2, metric="ip")
        ...     index.add(["a"], np.array([[1, 0]], np.float32))
        ...     index.save(f"{folder}/notes.index")
        ...     index.add(["b"], np.array([[0, 1]], np.float32))
        ...     index.sync()
        ...     Index.open(f"{folder}/notes.index").search(np.array([0, 1], np.float32), 1).ids
        (1, 0)
        ['b']

        Raises:
            StorageError: It cannot be written.
        """
        self._index.save(os.fspath(path))

    def sync(self) -> tuple[int, int]:
        """Adds to the file what has changed since it was saved, opened or synced; how many vectors and deletions.

        One record at the end, on the disk when this returns; a process that dies meanwhile leaves the file as it was.

        Raises:
            UsageError: The index has no file yet.
            OutputExistsError: Another process has written the file.
            StorageError: It cannot be written.
        """
        return self._index.sync()

    def __len__(self) -> int:
        """How many vectors there are."""
        return len(self._index)

    def add(
        self,
        ids: Ids,
        vectors: Array,
        metadata: Sequence[Metadata] | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Adds vectors; one whose id is there already is replaced, metadata and all. All are added, or none.

        Ctrl-C, or an exception in ``progress``, stops it, and then none are; once they are joined to the index it comes too
        late, and all are.

        Args:
            ids: As many as vectors, all strings or all integers. Of two equal ones the later stands.
            vectors: [n, dim], float32, float16, bfloat16 or float64; numpy or torch on the CPU. float32 is not copied
                on the way.
            metadata: A dictionary for each vector: names (not beginning with ``$``) and strings, numbers, booleans
                or nothing.
            progress: Called now and then with the bytes done and all bytes.

        Raises:
            ArrayError: Wrong shape or type, or a norm above 1e18.
            NonFiniteError: A NaN or an infinity.
            UsageError: Ids of another kind than the index has or beyond 64 bits, or metadata that cannot be kept.
        """
        dtype, bits = self._rows("vectors", vectors)
        names = _ids(ids)
        if bits.ndim != 2 or len(bits) != len(names):
            raise ArrayError(
                f"vectors: shape {tuple(bits.shape)} is not ({len(names)}, {self.dim}) for {len(names)} ids"
            )
        fields = None if metadata is None else _json("metadata", list(metadata))
        self._index.add(names, dtype, bits, fields, progress)

    def delete(self, ids: Ids | None = None, *, filter: Filter | None = None) -> int:
        """Deletes the vectors of these ids, or those that pass a filter, and says how many that were.

        >>> import numpy as np
        >>> index = Index(dim=2)
        >>> index.add(["a", "b"], np.eye(2, dtype=np.float32), [{"lang": "en"}, {"lang": "de"}])
        >>> index.delete(filter={"lang": {"$ne": "en"}}), "b" in index
        (1, False)
        """
        return _delete(self._index, ids, filter)

    def metadata(self, ids: Ids) -> list[dict[str, Scalar]]:
        """The metadata of each id.

        Raises:
            UsageError: An id is not there.
        """
        return _metadata(self._index, ids)

    def vectors(self, ids: Ids) -> Floats:
        """[n, dim] the stored vectors.

        Raises:
            UsageError: An id is not there.
        """
        names = _ids(ids)
        flat, there = self._index.vectors(names)
        if not there.all():
            raise UsageError(f"ids: {names[int(np.argmin(there))]!r} is not in the index")
        vectors: Floats = flat.reshape(len(names), self.dim)
        return vectors

    def __contains__(self, one: str | int) -> bool:
        """Whether there is a vector of this id."""
        return bool(self._index.vectors(_ids([one] if isinstance(one, str) else [int(one)]))[1][0])

    def search(
        self,
        queries: Array,
        k: int = 10,
        *,
        filter: Filter | None = None,
        min_score: float | None = None,
        effort: int | None = None,
        rescore: bool = True,
    ) -> Hits:
        """The ``k`` best vectors for each query, or fewer where there are fewer.

        Args:
            queries: [dim] for one query, [n, dim] for a batch; types as in :meth:`add`.
            k: At least 1.
            filter: Only what passes counts; the scan looks at nothing else, so there are ``k`` hits if so many pass.
            min_score: Leaves out what scores less.
            effort: In place of ``ef_search`` of :class:`~polmrs.rag.HNSW` or ``probes`` of :class:`~polmrs.rag.IVF`, for
                this search; other kinds have no use for it.
            rescore: Score the best candidates from full vectors. ``False``: scores are the estimates of codes, and no full
                vector is read, which spares the disk where they are mapped; :class:`~polmrs.rag.Flat` has no codes.

        Raises:
            ArrayError: Wrong shape or type.
            NonFiniteError: A NaN or an infinity.
            UsageError: ``k`` is out of range, or ``filter`` is none.
        """
        dtype, bits = self._rows("queries", queries)
        if k < 1:
            raise UsageError(f"k: {k} is not at least 1")
        condition = None if filter is None else _json("filter", filter)
        if effort is not None and effort < 1:
            raise UsageError(f"effort: {effort} is not at least 1")
        found = self._index.search(dtype, bits, k, condition, (min_score, effort, rescore))
        return _hits(found, alone=bits.ndim == 1)

    def stats(self) -> dict[str, int | float]:
        """How many vectors there are, and the bytes of vectors and codes in memory."""
        return {"vectors": len(self), "bytes": self._index.bytes()}

    def _rows(self, name: str, x: Array) -> tuple[str, npt.NDArray[Any]]:
        if not is_torch(x) and not isinstance(x, np.ndarray):
            x = np.asarray(x, np.float32)
        dtype, bits = to_bits(name, x)
        if bits.ndim not in (1, 2) or bits.shape[-1] != self.dim:
            raise ArrayError(
                f"{name}: shape {tuple(bits.shape)} is not [n, {self.dim}], the dimension of this index"
            )
        return dtype, bits


def _delete(native: Any, ids: Ids | None, filter: Filter | None) -> int:
    """Deletes by ids or by a filter."""
    if (ids is None) == (filter is None):
        raise UsageError("ids, filter: exactly one of them")
    deleted = native.delete_where(_json("filter", filter)) if ids is None else native.delete(_ids(ids))
    return int(deleted)


def _metadata(native: Any, ids: Ids) -> list[dict[str, Scalar]]:
    """The metadata of ids that must be there."""
    names = _ids(ids)
    found: list[dict[str, Scalar] | None] = json.loads(native.metadata(names))
    for name, one in zip(names if isinstance(names, list) else names.tolist(), found, strict=True):
        if one is None:
            raise UsageError(f"ids: {name!r} is not in the index")
    return cast(list[dict[str, Scalar]], found)


def _hits(found: tuple[Any, Floats, npt.NDArray[np.int64]], *, alone: bool) -> Hits:
    """Hits of all queries as those of each."""
    ids, scores, offsets = found
    if alone:
        return Hits(ids, scores)
    spans = [slice(first, last) for first, last in pairwise(offsets.tolist())]
    return Hits([ids[span] for span in spans], [scores[span] for span in spans])


def _json(name: str, value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}; pass strings, numbers, booleans or None") from None


def _check_width(ids: Sequence[int]) -> None:
    """Refuses what no int64 holds."""
    for odd in (int(min(ids)), int(max(ids))) if ids else ():
        if not -(2**63) <= odd < 2**63:
            raise UsageError(f"ids: {odd} is not in [-2^63, 2^63)")


def _ids(ids: Ids) -> Any:
    """A list of strings, or an int64 array."""
    if is_torch(ids):
        ids = ids.numpy()
    if not isinstance(ids, np.ndarray):
        ids = list(cast(Sequence[Any], ids))
        if all(isinstance(one, str) for one in ids) and ids:
            return ids
        if not all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in ids):
            odd = next(one for one in ids if not isinstance(one, str | int | np.integer) or one is True)
            raise UsageError(f"ids: {odd!r} is neither all strings nor all integers with the others")
        _check_width(ids)
        return np.array(ids, np.int64)
    if ids.ndim == 1 and ids.dtype.kind in "iu":
        _check_width([int(ids.max())] if len(ids) else [])
        return np.ascontiguousarray(ids, np.int64)
    if ids.ndim == 1 and ids.dtype.kind in "UO" and all(isinstance(one, str) for one in ids.tolist()):
        return ids.tolist()
    raise UsageError(f"ids: an array of {ids.dtype} is neither strings nor integers")
