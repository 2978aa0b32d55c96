"""What every function here does at its edge: arrays in by name, arrays out of the caller's kind."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from polmrs._tensor import Array, from_bits, is_torch, to_bits
from polmrs.errors import ArrayError

A = TypeVar("A", bound=Array)
Flat: TypeAlias = npt.NDArray[Any]
GroupIds: TypeAlias = Array | Sequence[Hashable]


def view(name: str, x: Array) -> Flat:
    """A numpy view of ``x``; refuses what is no CPU array, not contiguous, or of a type that numpy lacks."""
    dtype, bits = to_bits(name, x)
    if dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        raise ArrayError(f"{name}: expected an array of float32 or float64, got {dtype}; pass x.float()")
    if not bits.flags.aligned:
        raise ArrayError(f"{name}: the array is not aligned to its element size; pass a copy")
    return bits.reshape(-1).view(dtype).reshape(x.shape)


def flat(name: str, x: Array) -> Flat:
    """A one-dimensional view; other shapes are refused."""
    array = view(name, x)
    if array.ndim != 1:
        raise ArrayError(
            f"{name}: shape {tuple(array.shape)} is not flat; pass a ragged batch: x[mask], cu_seqlens"
        )
    return array


def flat_if(name: str, x: Array | None) -> Flat | None:
    """A one-dimensional view, if there is one."""
    return None if x is None else flat(name, x)


def offsets(cu_seqlens: Array) -> Flat:
    """``cu_seqlens`` as it is: flat, int32 or int64."""
    array = flat("cu_seqlens", cu_seqlens)
    if array.dtype not in (np.int32, np.int64):
        raise ArrayError(f"cu_seqlens: expected an array of int32 or int64, got {array.dtype}")
    return array


def mask_bytes(name: str, mask: Array | None) -> Flat | None:
    """A mask of bool or uint8 as bytes, not copied."""
    if mask is None:
        return None
    array = view(name, mask)
    if array.dtype not in (np.bool_, np.uint8):
        raise ArrayError(
            f"{name}: expected an array of bool or uint8, got {array.dtype}; pass mask.astype(bool)"
        )
    return array.view(np.uint8)


def integers(name: str, x: Array | Sequence[int]) -> Flat:
    """Flat whole numbers as int64; other widths are converted."""
    array = np.asarray(x) if isinstance(x, list | tuple) else flat(name, cast(Array, x))
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise ArrayError(
            f"{name}: expected a flat array of whole numbers, got {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array, np.int64)


def group_ids(groups: GroupIds) -> Flat:
    """Group ids as int64: integers as they are, anything else hashable numbered by first appearance."""
    if is_torch(groups):
        return integers("groups", groups)
    if isinstance(groups, np.ndarray) and groups.dtype.kind not in "OUS":
        return integers("groups", groups)
    numbers: dict[Hashable, int] = {}
    ids = cast(Sequence[Hashable], groups.tolist() if isinstance(groups, np.ndarray) else groups)
    return np.fromiter((numbers.setdefault(name, len(numbers)) for name in ids), np.int64, len(ids))


def output(name: str, out: A | None, like: A, array: Flat) -> tuple[A, Flat]:
    """The array to hand back and a numpy view to write into: ``out``, or a new one like ``like``, seen as ``array``."""
    if out is None:
        return made(np.empty_like(array), like)
    given = view(name, out)
    if given.shape != array.shape:
        raise ArrayError(f"{name}: shape {given.shape} is not {array.shape}")
    return out, given


def made(array: Flat, like: A) -> tuple[A, Flat]:
    """A numpy array as the kind of ``like``, and itself."""
    if not is_torch(like):
        return cast(A, array), array
    dtype, bits = to_bits("out", array)
    return cast(A, from_bits(dtype, bits, torch_wanted=True)), array
