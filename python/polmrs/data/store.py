"""Token rows: flat ids and offsets, in memory or mapped from a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from polmrs import _core
from polmrs._arrays import flat, integers, mask_bytes
from polmrs._tensor import Array, is_torch
from polmrs.errors import ArrayError, UsageError

Rows: TypeAlias = Sequence[Sequence[int] | Array]
Ints: TypeAlias = npt.NDArray[np.int32]
Longs: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.uint8]
PathLike: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenStore:
    """Rows of token ids. Row i is ``ids[offsets[i]:offsets[i + 1]]``, and may be empty.

    A store that was opened is mapped: rows are read when they are looked at, and several processes share the memory.
    The file format is that of ``docs/data_kernels.md``.

    >>> tokens = TokenStore.of([[5, 6, 7], [], [8]])
    >>> len(tokens), tokens[0].tolist(), tokens.lengths.tolist()
    (3, [5, 6, 7], [3, 0, 1])
    """

    ids: Ints
    """[tokens]"""
    offsets: Longs
    """[rows + 1]; starts with 0, never decreases, ends with the number of tokens."""
    mask: Mask | None = None
    """[tokens], 0 or 1: which tokens of a completion are targets; nothing for all."""

    @classmethod
    def of(cls, rows: Rows, masks: Rows | None = None) -> Self:
        """Rows in memory, copied: lists of integers, or arrays of int32 or int64.

        Lists cost what CPython takes to look at each integer, about 20 times the copy of an array.

        Args:
            rows: One list or array a row; ids are from 0 to 2^31 - 1.
            masks: As many rows of 0 and 1, as long as the rows.

        Raises:
            ArrayError: A row is none, or an id is out of range; the message names row and element.
        """
        ids, offsets = _core.data.flatten([_row(row) for row in rows])
        if masks is None:
            return cls(ids=ids, offsets=offsets)
        kept, theirs = _core.data.flatten([_row(row) for row in masks])
        if not np.array_equal(offsets, theirs):
            raise ArrayError("masks: its rows are not as long as those of rows")
        if kept.size and kept.max() > 1:
            raise ArrayError(f"masks: {kept.max()} is neither 0 nor 1")
        return cls(ids=ids, offsets=offsets, mask=kept.astype(np.uint8))

    @classmethod
    def flat(cls, ids: Array, offsets: Array, mask: Array | None = None) -> Self:
        """Rows in memory, ragged: flat ids and offsets. int32 ids are not copied.

        Args:
            ids: [tokens], int32 or int64.
            offsets: [rows + 1], int32 or int64, as ``cu_seqlens``.
            mask: [tokens], bool or uint8.

        Raises:
            ArrayError: An array has another type, length or layout.
        """
        tokens = flat("ids", ids)
        if tokens.dtype == np.int64:
            tokens = _core.data.narrow(tokens)
        elif tokens.dtype != np.int32:
            raise ArrayError(f"ids: expected an array of int32 or int64, got {tokens.dtype}")
        kept = mask_bytes("mask", mask)
        if kept is not None and kept.shape != tokens.shape:
            raise ArrayError(f"mask: {kept.size} elements, but ids has {tokens.size}")
        ends = integers("offsets", offsets)
        if not ends.size or ends[0] != 0 or ends[-1] != tokens.size or (np.diff(ends) < 0).any():
            raise ArrayError(
                f"offsets: start with 0, never decrease and end with {tokens.size}, the length of ids"
            )
        return cls(ids=tokens, offsets=ends, mask=kept)

    @classmethod
    def open(cls, path: PathLike, *, verify: bool = False) -> Self:
        """Maps a file. Its header, its size and its offsets are checked; with ``verify``, every byte.

        Do not shorten the file while it is open: a mapped page that is gone ends the process.

        Raises:
            NotFoundError: There is no such file.
            ArrayError: It is no token store, of another version, cut or damaged.
        """
        rows, tokens, ids_at, offsets_at, mask_at = _core.data.open_store(os.fspath(path))
        if verify:
            _core.data.verify_store(os.fspath(path))

        def column(dtype: Any, at: int, n: int) -> Any:
            if n == 0:
                return np.empty(0, dtype)
            return np.asarray(np.memmap(path, dtype, "r", at, (n,)))

        return cls(
            ids=column(np.int32, ids_at, tokens),
            offsets=column(np.int64, offsets_at, rows + 1),
            mask=None if mask_at is None else column(np.uint8, mask_at, tokens),
        )

    def save(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Writes a file, which appears whole or not at all.

        Raises:
            OutputExistsError: It is there, and ``overwrite`` is not set.
            StorageError: It cannot be written.
        """
        with TokenWriter(path, mask=self.mask is not None, overwrite=overwrite) as writer:
            writer.push(self)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Ints:
        """The ids of a row, not copied."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Longs:
        """[rows], the tokens of each row."""
        return np.diff(self.offsets)


class TokenWriter:
    """Writes a token store row by row, in memory of eight bytes a row.

    The file appears when the ``with`` block ends, and not if an exception ends it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with TokenWriter(f"{folder}/a.tokens") as writer:
    ...         writer.append([[1, 2, 3], [4]])
    ...     with TokenWriter(f"{folder}/a.tokens", append=True) as writer:
    ...         writer.append([[5, 6]])
    ...     TokenStore.open(f"{folder}/a.tokens").lengths.tolist()
    [3, 1, 2]
    """

    def __init__(
        self, path: PathLike, *, mask: bool = False, overwrite: bool = False, append: bool = False
    ) -> None:
        """Begins a file.

        Args:
            path: Where it will be.
            mask: Whether rows come with masks. A store that is appended to keeps what it has.
            overwrite: Whether the file may be there already.
            append: Begin with the rows of the file that is there; they are copied, and the old file stays until the
                new one is whole.
        """
        if overwrite and append:
            raise UsageError("overwrite, append: one or the other")
        self.path = Path(path)
        self._writer = _core.data.Writer(os.fspath(path), mask, overwrite, append)

    def append(self, rows: Rows, masks: Rows | None = None) -> None:
        """Adds rows: lists of integers, or arrays of int32 or int64."""
        self.push(TokenStore.of(rows, masks))

    def push(self, tokens: TokenStore) -> None:
        """Adds the rows of a store."""
        self._writer.push(tokens.ids, tokens.offsets, tokens.mask)

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the file its name, or removes what was written."""
        if kind is None:
            self._writer.finish()
        else:
            self._writer.discard()


def _row(row: Sequence[int] | Array) -> Any:
    if is_torch(row):
        return flat("rows", row)
    return row
