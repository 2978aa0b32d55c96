"""A ragged batch of numpy arrays, as collation makes it, and the padded form of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from polmrs import _core
from polmrs._tensor import is_torch
from polmrs.errors import UsageError

Side: TypeAlias = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Collated:
    """Sequences laid end to end. Arrays are numpy, or torch after ``torch()``."""

    ids: Any
    """[tokens] int32"""
    cu_seqlens: Any
    """[sequences + 1] int32; sequence i is the tokens ``cu_seqlens[i]`` to ``cu_seqlens[i + 1]``."""
    target: Any
    """[tokens] bool: this token is predicted from those before it, and the loss counts it."""
    example: Any
    """[sequences] int64: the example of each sequence. For rollouts, the group of each sample."""
    place: Any
    """[sequences] int32: its place in the example. For pairs, 0 chosen and 1 rejected; for ranked lists, the rank."""
    cut: Any
    """[sequences] int32: how many tokens it lost to ``max_length``."""
    dropped: Any
    """Examples left out by ``too_long="drop"``, int64."""
    memory: tuple[Any, Any] = field(repr=False)
    """What ``ids`` and ``target`` are the beginning of; ``out=`` uses it again."""

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self.cu_seqlens) - 1

    @property
    def lengths(self) -> Any:
        """[sequences] int32."""
        return self.cu_seqlens[1:] - self.cu_seqlens[:-1]

    @property
    def positions(self) -> Any:
        """[tokens] int32: 0, 1, 2, ... in every sequence. Made anew each time."""
        starts = np.asarray(self.cu_seqlens[:-1])
        positions = np.arange(len(self.ids), dtype=np.int32) - np.repeat(starts, np.asarray(self.lengths))
        return self._like(positions)

    def torch(self) -> Self:
        """The same batch as torch tensors, which share its memory."""
        import torch

        arrays: dict[str, Any] = {
            f.name: torch.from_numpy(getattr(self, f.name)) for f in fields(self) if f.name != "memory"
        }
        return replace(self, **arrays)

    def padded(self, *, side: Side, pad_id: int, width: int | None = None, multiple_of: int = 1) -> Padded:
        """The batch as rows of one width, for models that need it.

        Args:
            side: Where padding stands.
            pad_id: What stands there. Nothing looks for it: masks are explicit, so it may be the end-of-text token.
            width: Columns; the longest sequence if not given.
            multiple_of: Rounds the width up.

        Raises:
            UsageError: A sequence is longer than the width.

        >>> from polmrs import data
        >>> tokens = data.TokenStore.of([[1, 2], [3], [4, 5, 6]])
        >>> batch = data.collate_completions(tokens, prompts=[0, 0], completions=[1, 2])
        >>> batch.padded(side="left", pad_id=0).ids
        array([[0, 0, 1, 2, 3],
               [1, 2, 4, 5, 6]], dtype=int32)
        """
        if multiple_of < 1:
            raise UsageError(f"multiple_of: {multiple_of} is not 1 or more")
        longest = int(self.lengths.max()) if len(self) else 0
        columns = -(-(longest if width is None else width) // multiple_of) * multiple_of

        def rows(values: Any, filler: int) -> Any:
            values = np.ascontiguousarray(values)
            as_is = values.view(np.uint8) if values.dtype == np.bool_ else values
            out = np.empty((len(self), columns), as_is.dtype)
            _core.data.pad(as_is, np.asarray(self.cu_seqlens), columns, side, filler, out)
            return self._like(out.view(values.dtype))

        return Padded(
            ids=rows(self.ids, pad_id),
            attention=rows(np.ones(len(self.ids), np.bool_), 0),
            target=rows(self.target, 0),
            positions=rows(self.positions, 0),
        )

    def _like(self, array: Any) -> Any:
        if not is_torch(self.ids):
            return array
        import torch

        return torch.from_numpy(array)


@dataclass(frozen=True, kw_only=True, eq=False)
class Padded:
    """A padded batch; every array is [sequences, width]."""

    ids: Any
    """int32"""
    attention: Any
    """bool: not padding"""
    target: Any
    """bool, as in ``Collated``; false on padding"""
    positions: Any
    """int32; 0 on padding"""
