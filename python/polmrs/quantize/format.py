"""One weight in the layout of a checkpoint format, and back: what transformers, vLLM, gptqmodel or bitsandbytes load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from polmrs import _core
from polmrs._tensor import Array, from_bits, is_torch, to_bits
from polmrs.errors import ArrayError, ConfigError
from polmrs.quantize.codec import Codec, Group, Numbers, encode, output
from polmrs.quantize.fp4 import MXFP4, NVFP4
from polmrs.quantize.fp8 import FP8
from polmrs.quantize.hqq import HQQ
from polmrs.quantize.integer import Integer
from polmrs.quantize.llm_int8 import LLMInt8
from polmrs.quantize.nf4 import NF4

Format: TypeAlias = Literal["compressed-tensors", "gptq", "gptq_v2", "awq", "bnb", "fp8"]


@dataclass(frozen=True, kw_only=True)
class _Spec:
    """A layout as the native half takes it."""

    format: str
    kind: str
    dtype: str
    bits: int = 0
    symmetric: bool = True
    group: int = 0
    nested: bool = False
    activations: bool = False


def to_format(
    weight: Array, codec: Codec, *, format: Format = "compressed-tensors", activations: bool = False
) -> dict[str, Array]:
    """The tensors that a checkpoint holds for a weight, by their names after the module's.

    Args:
        weight: ``[out, in]``, float32, bfloat16, float16 or float64.
        codec: How to quantize it. Scales are stored in ``codec.scale_dtype`` or, if that is not given, in the weight's
            type (compressed-tensors), float16 (gptq, awq) or float32 (fp8); codes are computed with the stored scale.
            ``HQQ``'s zero points are rounded to whole codes, which no format goes without.
        format: ``gptq`` stores zero points less one, so a grid that has them goes to ``gptq_v2`` only. No codec here makes the
            blocks of ``fp8``; ``polmrs.quantize.quantize`` does.
        activations: The runtime rounds activations too; compressed-tensors then stores 8-bit codes unpacked (W8A8).

    Returns:
        Arrays of the weight's kind. Types that numpy lacks (bfloat16, E4M3) are ml_dtypes'; with torch nothing is missing.

    Raises:
        ArrayError: The weight is no matrix, or has another type or layout.
        ConfigError: The format does not hold this coding or shape; the message lists what each format holds.
        NonFiniteError: The weight holds a NaN or an infinity.

    >>> import numpy as np
    >>> from polmrs import quantize
    >>> weight = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(32, 128)
    >>> tensors = quantize.to_format(weight, quantize.Integer(bits=4, group=64), format="gptq_v2")
    >>> {name: tensor.shape for name, tensor in tensors.items()}
    {'qweight': (16, 32), 'qzeros': (2, 4), 'scales': (2, 32), 'g_idx': (128,)}
    """
    if weight.ndim != 2:
        raise ArrayError(f"weight: expected [out, in], got shape {tuple(weight.shape)}")
    dtype, _ = to_bits("weight", weight)
    spec = _spec(codec, dtype, format, activations)
    if isinstance(codec, Integer | FP8):
        codec = replace(codec, scale_dtype=spec.dtype)
    if isinstance(codec, NF4):
        codec = replace(codec, nested=False)
    made = encode(weight, codec)
    packed, scales = _plain(made.packed), _plain(made.scales)
    zeros = None if made.zeros is None else _plain(made.zeros)
    if isinstance(codec, HQQ) and zeros is not None:
        zeros = np.clip(np.rint(zeros), 0, 2**codec.bits - 1).astype(np.uint8)
    shared = made.global_scale or 0.0
    if spec.nested:
        shared = float(np.mean(scales, dtype=np.float64))
    elif isinstance(codec, FP8) and codec.group == "tensor":
        shared, scales = float(scales[0, 0]), np.full((weight.shape[0], 1), scales[0, 0])
    small = scales.dtype == np.uint8
    written = _core.quant.to_format(
        spec, tuple(weight.shape), packed, None if small else scales, scales if small else None, zeros, shared
    )
    return {
        name: _array(kind, shape, data, torch_wanted=is_torch(weight)) for name, kind, shape, data in written
    }


def from_format(
    tensors: Mapping[str, Array],
    *,
    format: Format,
    bits: int | None = None,
    block: tuple[int, int] | None = None,
    out: Array | None = None,
) -> Array:
    """What a weight's tensors stand for: float32 ``[out, in]``, of the arrays' kind.

    Args:
        tensors: By their names after the module's, as ``to_format`` gives them; others are ignored.
        format: The format that they are in.
        bits: Of a code, where rows so short that their width leaves it open ask for it.
        block: Rows and columns of ``fp8``'s blocks (``weight_block_size``), if they are not 128 and 128.
        out: A float32 array or tensor of the weight's shape to fill and give back, as ``decode`` takes it.

    Raises:
        ArrayError: ``out`` has another type, shape or layout, or shares memory with a tensor.
        CheckpointError: A tensor is missing, or has another type, shape or content than the format gives it.

    >>> import numpy as np
    >>> from polmrs import quantize
    >>> weight = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(32, 128)
    >>> tensors = quantize.to_format(weight, quantize.NF4(nested=True), format="bnb")
    >>> float(abs(quantize.from_format(tensors, format="bnb") - weight).max()) < 0.2
    True
    """
    given = []
    for name, tensor in tensors.items():
        kind, data = to_bits(name, tensor)
        given.append((name, kind, list(tensor.shape), data.reshape(-1)))
    shape = _core.quant.format_shape(format, given, bits, block)
    into = output(out, shape, {name: data for name, _, _, data in given})
    _core.quant.from_format(format, given, bits, block, into)
    if out is not None:
        return out
    wanted = any(is_torch(tensor) for tensor in tensors.values())
    return from_bits("float32", into.view(np.uint32), torch_wanted=wanted)


def quantization_config(
    codec: Codec,
    *,
    format: Format = "compressed-tensors",
    dtype: str = "bfloat16",
    ignore: Sequence[str] = ("lm_head",),
    activations: bool = False,
) -> dict[str, Any]:
    """``quantization_config`` of a ``config.json``, for a model whose linear layers are all in one layout.

    Args:
        codec: How the layers are quantized.
        format: The format that they are in; for gptq this is also what ``quantize_config.json`` holds.
        dtype: The torch name of the model's type.
        ignore: Modules that stay as they are.
        activations: As ``to_format`` was told.

    >>> from polmrs import quantize
    >>> config = quantize.quantization_config(quantize.Integer(bits=4, group=64), format="awq")
    >>> config["quant_method"], config["group_size"], config["modules_to_not_convert"]
    ('awq', 64, ['lm_head'])
    """
    config: dict[str, Any] = json.loads(
        _core.quant.format_config(_spec(codec, dtype, format, activations), list(ignore))
    )
    return config


def _spec(codec: Codec, dtype: str, format: Format, activations: bool) -> _Spec:
    """The layout of a codec's codes in a format."""
    half = format in ("gptq", "gptq_v2", "awq")
    given = getattr(codec, "scale_dtype", None)
    wanted = given or ("float16" if half else "float32" if dtype == "float64" or format == "fp8" else dtype)
    spec = partial(_Spec, format=format, dtype=wanted, activations=activations)
    match codec:
        case Integer(bits=bits, group=group, span=span):
            return spec(kind="int", bits=bits, symmetric=span != "affine", group=_group(group))
        case HQQ(bits=bits, group=group):
            return spec(kind="int", bits=bits, symmetric=False, group=_group(group))
        case FP8(group=group):
            return spec(kind="fp8", group=_group(group))
        case NF4(block=block, nested=nested):
            return spec(kind="nf4", group=block, nested=nested)
        case MXFP4() | NVFP4() | LLMInt8():
            kind = {MXFP4: "mxfp4", NVFP4: "nvfp4", LLMInt8: "int8"}[type(codec)]
            return spec(kind=kind)
    raise ConfigError(f"codec: {type(codec).__name__} has no place in a file format")


def _group(group: Group) -> int:
    return {"row": 0, "tensor": -1}[group] if isinstance(group, str) else group


def _plain(array: Array) -> Numbers:
    """As numpy, without a copy."""
    kind, data = to_bits("array", array)
    return data.reshape(-1).view(kind).reshape(data.shape)


def _array(kind: str, shape: list[int], data: Numbers, *, torch_wanted: bool) -> Array:
    width: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
    count = int(np.prod(shape))
    bits = np.frombuffer(data, width[len(data) // count]).reshape(shape)
    return from_bits(kind, bits, torch_wanted=torch_wanted)
