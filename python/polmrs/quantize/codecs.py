"""One weight matrix to codes and scales, and back: what each format stores, and how its numbers are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from polmrs import _core
from polmrs._tensor import Array, from_bits, is_torch, to_bits
from polmrs.errors import ArrayError, ConfigError

Group: TypeAlias = int | Literal["row", "tensor"]
"""What shares a scale: so many elements of a row, a whole row (an output channel), or the whole tensor."""

_Bytes: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A narrower range than the group's own: of ``steps`` ranges, down to ``1 - shrink`` of it, the one with the least
    squared error.
    """

    steps: int = 20
    shrink: float = 0.2

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"clip.steps: {self.steps} is not at least 1")
        if not 0 < self.shrink < 1:
            raise ConfigError(f"clip.shrink: {self.shrink} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Integer:
    r"""Round to nearest on an integer grid (survey eq. 23): $\hat w = (q - z) s$.

    Args:
        bits: 2 to 8.
        group: What shares a scale.
        span: ``full``: symmetric, $s = \max|w| / ((2^b - 1) / 2)$, as compressed-tensors has it; ``absmax``: symmetric,
            $s = \max|w| / (2^{b-1} - 1)$; ``affine``: with a whole zero point, so that exact zero stays exact.
        scale_dtype: The type that scales are stored in (the weight's, if not given); codes are computed with the stored
            scale.
        clip: Try narrower ranges.
    """

    bits: int = 4
    group: Group = 128
    span: Literal["full", "absmax", "affine"] = "full"
    scale_dtype: str | None = None
    clip: Clip | None = None

    def __post_init__(self) -> None:
        _check_bits(self.bits, 2)
        if self.span not in ("full", "absmax", "affine"):
            raise ConfigError(f"span: {self.span!r} is not one of full, absmax, affine")


@dataclass(frozen=True, kw_only=True)
class HQQ:
    r"""Half-quadratic quantization: the range's scale, and a real zero point that minimises $\sum |e|^p$.

    Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023); the defaults are those of
    hqq 0.2.8. A group stops by itself and keeps its best zero point, where hqq stops all groups together.
    """

    bits: int = 4
    group: Group = 64
    norm: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01
    steps: int = 20

    def __post_init__(self) -> None:
        _check_bits(self.bits, 1)
        if not 0 < self.norm < 1:
            raise ConfigError(f"norm: {self.norm} is not between 0 and 1")
        if self.beta <= 0 or self.kappa < 1 or self.steps < 0:
            raise ConfigError("beta must be above 0, kappa at least 1, steps at least 0")


@dataclass(frozen=True, kw_only=True)
class FP8:
    r"""FP8 E4M3: $s = \max|w| / 448$."""

    group: Group = "row"
    scale_dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class MXFP4:
    """FP4 E2M1 in blocks of 32 that share a power of two (OCP Microscaling 1.0)."""


@dataclass(frozen=True, kw_only=True)
class NVFP4:
    """FP4 E2M1 in blocks of 16 with an E4M3 scale, under one float32 scale of the tensor.

    ``global_scale`` is that of several tensors that a runtime fuses (``448 * 6 / max``); by default the tensor's own.
    """

    global_scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class NF4:
    """16 quantiles of a normal distribution, scaled by each block's largest magnitude (QLoRA, arXiv:2305.14314)."""

    block: int = 64

    def __post_init__(self) -> None:
        if self.block < 2 or self.block % 2:
            raise ConfigError(f"block: {self.block} is not an even number, 2 or more")


Codec: TypeAlias = Integer | HQQ | FP8 | MXFP4 | NVFP4 | NF4


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A quantized weight.

    Attributes:
        codec: How it was made, with whatever the weight decided filled in.
        shape: The weight's.
        packed: uint8. ``Integer``, ``HQQ``: ``[rows, 4 * ceil(columns * bits / 32)]``, a dense stream, the first code in
            the lowest bits. ``FP8``: the weight's shape. ``MXFP4``, ``NVFP4``: two codes a byte, the first low.
            ``NF4``: ``[ceil(n / 2)]``, the first high.
        scales: One for each group: float32; uint8 exponents (bias 127) for ``MXFP4``; uint8 E4M3 for ``NVFP4``.
        zeros: Zero points: uint8 codes for ``Integer``, float32 for ``HQQ``.
        global_scale: ``NVFP4``'s.
    """

    codec: Codec
    shape: tuple[int, ...]
    packed: Array
    scales: Array
    zeros: Array | None = None
    global_scale: float | None = None
    _torch: bool = field(default=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return sum(int(array.nbytes) for array in (self.packed, self.scales, self.zeros) if array is not None)


def encode(weight: Array, codec: Codec) -> Encoded:
    """Quantizes a weight.

    Args:
        weight: ``[..., columns]``, float32, bfloat16, float16 or float64; groups lie within a row.
        codec: One of the codecs of this module.

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
    columns = bits.size if getattr(codec, "group", None) == "tensor" else bits.shape[-1]
    made = _ENCODERS[type(codec)](codec, (dtype, bits, columns), bits.size // columns, columns)
    made = replace(made, shape=tuple(bits.shape))
    if not is_torch(weight):
        return made
    zeros = None if made.zeros is None else _tensor(made.zeros)
    return replace(made, packed=_tensor(made.packed), scales=_tensor(made.scales), zeros=zeros, _torch=True)


def decode(encoded: Encoded) -> Array:
    """What a quantized weight stands for: float32, of the weight's shape and kind."""
    packed, scales = _numpy(encoded.packed), _numpy(encoded.scales)
    zeros = None if encoded.zeros is None else _numpy(encoded.zeros)
    out = np.empty(encoded.shape, np.float32)
    whole = getattr(encoded.codec, "group", None) == "tensor"
    _DECODERS[type(encoded.codec)](
        replace(encoded, packed=packed, scales=scales, zeros=zeros), out.size if whole else out.shape[-1], out
    )
    return _tensor(out) if encoded._torch else out


def _encode_integer(codec: Integer, weight: tuple[str, _Bytes, int], rows: int, columns: int) -> Encoded:
    group = _group(codec.group, columns)
    codec = replace(codec, scale_dtype=codec.scale_dtype or weight[0])
    scales = np.empty((rows, columns // group), np.float32)
    zeros = np.empty(scales.shape, np.uint8)
    packed = np.empty((rows, _packed_bytes(columns, codec.bits)), np.uint8)
    clip = None if codec.clip is None else (codec.clip.steps, codec.clip.shrink)
    _core.quant.encode_int(
        weight, codec.bits, codec.span, group, str(codec.scale_dtype), clip, scales, zeros, packed
    )
    return Encoded(codec=codec, shape=(), packed=packed, scales=scales, zeros=zeros)


def _encode_hqq(codec: HQQ, weight: tuple[str, _Bytes, int], rows: int, columns: int) -> Encoded:
    group = _group(codec.group, columns)
    scales = np.empty((rows, columns // group), np.float32)
    zeros = np.empty(scales.shape, np.float32)
    packed = np.empty((rows, _packed_bytes(columns, codec.bits)), np.uint8)
    search = (codec.norm, codec.beta, codec.kappa, codec.steps)
    _core.quant.encode_hqq(weight, codec.bits, group, search, scales, zeros, packed)
    return Encoded(codec=codec, shape=(), packed=packed, scales=scales, zeros=zeros)


def _decode_integer(encoded: Encoded, columns: int, out: _Bytes) -> None:
    codec = encoded.codec
    assert isinstance(codec, Integer | HQQ)
    assert encoded.zeros is not None
    zeros = np.asarray(encoded.zeros, np.float32)
    group = _group(codec.group, columns)
    _core.quant.decode_int(encoded.packed, codec.bits, group, encoded.scales, zeros, columns, out)


def _encode_fp8(codec: FP8, weight: tuple[str, _Bytes, int], rows: int, columns: int) -> Encoded:
    group = _group(codec.group, columns)
    codec = replace(codec, scale_dtype=codec.scale_dtype or weight[0])
    scales = np.empty((rows, columns // group), np.float32)
    packed = np.empty(weight[1].shape, np.uint8)
    _core.quant.encode_fp8(weight, group, str(codec.scale_dtype), scales, packed)
    return Encoded(codec=codec, shape=(), packed=packed, scales=scales)


def _decode_fp8(encoded: Encoded, columns: int, out: _Bytes) -> None:
    assert isinstance(encoded.codec, FP8)
    _core.quant.decode_fp8(encoded.packed, _group(encoded.codec.group, columns), encoded.scales, columns, out)


def _encode_mxfp4(codec: MXFP4, weight: tuple[str, _Bytes, int], rows: int, columns: int) -> Encoded:
    scales = np.empty((rows, columns // _group(32, columns)), np.uint8)
    packed = np.empty((rows, columns // 2), np.uint8)
    _core.quant.encode_mxfp4(weight, scales, packed)
    return Encoded(codec=codec, shape=(), packed=packed, scales=scales)


def _decode_mxfp4(encoded: Encoded, columns: int, out: _Bytes) -> None:
    _core.quant.decode_mxfp4(encoded.packed, encoded.scales, columns, out)


def _encode_nvfp4(codec: NVFP4, weight: tuple[str, _Bytes, int], rows: int, columns: int) -> Encoded:
    scales = np.empty((rows, columns // _group(16, columns)), np.uint8)
    packed = np.empty((rows, columns // 2), np.uint8)
    used = _core.quant.encode_nvfp4(weight, codec.global_scale, scales, packed)
    return Encoded(codec=codec, shape=(), packed=packed, scales=scales, global_scale=used)


def _decode_nvfp4(encoded: Encoded, columns: int, out: _Bytes) -> None:
    assert encoded.global_scale is not None
    _core.quant.decode_nvfp4(encoded.packed, encoded.global_scale, encoded.scales, columns, out)


def _encode_nf4(codec: NF4, weight: tuple[str, _Bytes, int], rows: int, columns: int) -> Encoded:
    size = rows * columns
    scales = np.empty(-(-size // codec.block), np.float32)
    packed = np.empty(-(-size // 2), np.uint8)
    _core.quant.encode_nf4(weight, codec.block, scales, packed)
    return Encoded(codec=codec, shape=(), packed=packed, scales=scales)


def _decode_nf4(encoded: Encoded, columns: int, out: _Bytes) -> None:
    assert isinstance(encoded.codec, NF4)
    _core.quant.decode_nf4(encoded.packed, encoded.codec.block, encoded.scales, out)


_ENCODERS: dict[type, Callable[[Any, tuple[str, _Bytes, int], int, int], Encoded]] = {
    Integer: _encode_integer,
    HQQ: _encode_hqq,
    FP8: _encode_fp8,
    MXFP4: _encode_mxfp4,
    NVFP4: _encode_nvfp4,
    NF4: _encode_nf4,
}
_DECODERS: dict[type, Callable[[Encoded, int, _Bytes], None]] = {
    Integer: _decode_integer,
    HQQ: _decode_integer,
    FP8: _decode_fp8,
    MXFP4: _decode_mxfp4,
    NVFP4: _decode_nvfp4,
    NF4: _decode_nf4,
}


def _group(group: Group, columns: int) -> int:
    """The number of elements that share a scale."""
    if group in ("row", "tensor"):
        return columns
    if not isinstance(group, int) or group < 1:
        raise ConfigError(f"group: {group!r} is not a number of elements, 'row' or 'tensor'")
    if columns % group:
        nearest = max((size for size in (32, 64, 128, 256) if columns % size == 0), default=columns)
        raise ConfigError(f"group: {group} does not divide rows of {columns} elements; {nearest} does")
    return group


def _check_bits(bits: int, least: int) -> None:
    if not least <= bits <= 8:
        raise ConfigError(f"bits: {bits} is not {least} to 8")


def _packed_bytes(columns: int, bits: int) -> int:
    return -(-columns * bits // 32) * 4


def _numpy(array: Array) -> _Bytes:
    dtype, bits = to_bits("array", array)
    return bits.reshape(-1).view(dtype).reshape(bits.shape)


def _tensor(array: Array) -> Array:
    dtype, bits = to_bits("array", array)
    return from_bits(dtype, bits, torch_wanted=True)
