"""What every codec is: one weight matrix to codes and scales, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from polmrs._tensor import Array, from_bits, is_torch, to_bits
from polmrs.errors import ArrayError, ConfigError

Group: TypeAlias = int | Literal["row", "tensor"]
"""What shares a scale: so many elements of a row, a whole row (an output channel), or the whole tensor."""

Numbers: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight on its way in: its type's torch name, its elements as bits, and how they lie in rows."""

    dtype: str
    bits: Numbers
    rows: int
    columns: int

    @property
    def native(self) -> tuple[str, Numbers, int]:
        """As the kernels take it."""
        return self.dtype, self.bits, self.columns


class Codec(ABC):
    """A way to quantize. Its fields are its settings."""

    @abstractmethod
    def _encode(self, weight: Weight) -> Encoded:
        """The codes and scales of a weight, as numpy arrays; its shape is filled in later."""

    @abstractmethod
    def _decode(self, encoded: Encoded, columns: int, out: Numbers) -> None:
        """Fills ``out`` with what codes and scales (numpy arrays) stand for."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A quantized weight.

    Attributes:
        codec: How it was made, with whatever the weight decided filled in.
        shape: The weight's.
        packed: uint8. ``Integer``, ``HQQ``: ``[rows, 4 * ceil(columns * bits / 32)]``, a dense stream, the first code in
            the lowest bits. ``FP8``: the weight's shape. ``MXFP4``, ``NVFP4``: two codes a byte, the first low.
            ``NF4``: ``[ceil(n / 2)]``, the first high. ``LLMInt8``: the weight's shape, signed.
        scales: One for each group: float32; uint8 exponents (bias 127) for ``MXFP4``; uint8 E4M3 for ``NVFP4``; uint8
            codes for nested ``NF4``.
        zeros: Zero points: uint8 codes for ``Integer``, float32 for ``HQQ``.
        nested_scales: Nested ``NF4``: float32, one for each 256 scales.
        global_scale: ``NVFP4``'s scale of the tensor; the mean of nested ``NF4`` scales.
    """

    codec: Codec
    packed: Array
    scales: Array
    zeros: Array | None = None
    nested_scales: Array | None = None
    global_scale: float | None = None
    shape: tuple[int, ...] = ()
    _torch: bool = field(default=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        arrays = (self.packed, self.scales, self.zeros, self.nested_scales)
        return sum(int(array.nbytes) for array in arrays if array is not None)


def encode(weight: Array, codec: Codec) -> Encoded:
    """Quantizes a weight.

    Args:
        weight: ``[..., columns]``, float32, bfloat16, float16 or float64; groups lie within a row.
        codec: One of the codecs of this package.

    Raises:
        ArrayError: The array has another type or layout.
        ConfigError: A group does not divide the columns.
        NonFiniteError: The weight holds a NaN or an infinity.
    """
    dtype, bits = to_bits("weight", weight)
    if not dtype.startswith(("float", "bfloat")):
        raise ArrayError(f"weight: expected an array of a floating-point type, got {dtype}")
    if bits.ndim == 0 or bits.size == 0:
        raise ArrayError(f"weight: shape {tuple(bits.shape)} has no elements to quantize in groups")
    columns = _columns(codec, tuple(bits.shape))
    given = Weight(dtype=dtype, bits=bits, rows=bits.size // columns, columns=columns)
    made = replace(codec._encode(given), shape=tuple(bits.shape))
    if not is_torch(weight):
        return made
    zeros = None if made.zeros is None else _tensor(made.zeros)
    nested = None if made.nested_scales is None else _tensor(made.nested_scales)
    packed, scales = _tensor(made.packed), _tensor(made.scales)
    return replace(made, packed=packed, scales=scales, zeros=zeros, nested_scales=nested, _torch=True)


def decode(encoded: Encoded, *, out: Array | None = None) -> Array:
    """What a quantized weight stands for: float32, of the weight's shape and kind.

    Args:
        encoded: What ``encode`` made.
        out: A float32 array or tensor of the weight's shape to fill and give back. Where weights are decoded one after the other,
            memory that is used again is faster than new memory, which the system clears first.

    Raises:
        ArrayError: ``out`` has another type, shape or layout, or shares memory with the codes.

    >>> import numpy as np
    >>> from polmrs import quantize
    >>> weight = np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128)
    >>> encoded = quantize.encode(weight, quantize.NF4())
    >>> into = np.empty_like(weight)
    >>> quantize.decode(encoded, out=into) is into
    True
    """
    zeros = None if encoded.zeros is None else _numpy("zeros", encoded.zeros)
    nested = None if encoded.nested_scales is None else _numpy("nested_scales", encoded.nested_scales)
    arrays = replace(
        encoded,
        packed=_numpy("packed", encoded.packed),
        scales=_numpy("scales", encoded.scales),
        zeros=zeros,
        nested_scales=nested,
    )
    inputs = {"packed": arrays.packed, "scales": arrays.scales, "zeros": zeros, "nested_scales": nested}
    into = output(out, encoded.shape, inputs)
    encoded.codec._decode(arrays, _columns(encoded.codec, encoded.shape), into)
    if out is not None:
        return out
    return _tensor(into) if encoded._torch else into


def output(out: Array | None, shape: tuple[int, ...], inputs: Mapping[str, Array | None]) -> Numbers:
    """The float32 array that a result is written to: ``out``, if it is given and fit for it, or a new one."""
    if out is None:
        return np.empty(shape, np.float32)
    dtype, bits = to_bits("out", out)
    if dtype != "float32" or bits.shape != shape:
        raise ArrayError(f"out: expected float32 of shape {shape}, got {dtype} of shape {bits.shape}")
    for name, array in inputs.items():
        if array is not None and np.may_share_memory(bits, array):
            raise ArrayError(f"out: shares memory with {name}; pass another array")
    return bits.view(np.float32)


def group_size(group: Group, columns: int) -> int:
    """The number of elements that share a scale; refuses one that does not divide the columns."""
    if group in ("row", "tensor"):
        return columns
    if not isinstance(group, int) or group < 1:
        raise ConfigError(f"group: {group!r} is not a number of elements, 'row' or 'tensor'")
    if columns % group:
        nearest = max((size for size in (32, 64, 128, 256) if columns % size == 0), default=columns)
        raise ConfigError(f"group: {group} does not divide rows of {columns} elements; {nearest} does")
    return group


def check_bits(bits: int, least: int) -> None:
    """Refuses codes of too few or too many bits."""
    if not least <= bits <= 8:
        raise ConfigError(f"bits: {bits} is not {least} to 8")


def packed_bytes(codes: int, bits: int) -> int:
    """Bytes of a row of packed codes: whole 32-bit words."""
    return -(-codes * bits // 32) * 4


def _columns(codec: Codec, shape: tuple[int, ...]) -> int:
    """The length of a row; a tensor that shares one scale is one row."""
    return int(np.prod(shape)) if getattr(codec, "group", None) == "tensor" else shape[-1]


def _numpy(name: str, array: Array) -> Numbers:
    dtype, bits = to_bits(name, array)
    return bits.reshape(-1).view(dtype).reshape(bits.shape)


def _tensor(array: Array) -> Array:
    dtype, bits = to_bits("array", array)
    return from_bits(dtype, bits, torch_wanted=True)
