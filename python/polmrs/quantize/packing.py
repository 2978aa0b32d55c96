"""Codes of 1 to 8 bits as a dense stream of bits, the first code in the lowest bits."""

from __future__ import annotations

from typing import cast

import numpy as np

from polmrs import _core
from polmrs._tensor import Array, from_bits, is_torch, to_bits
from polmrs.errors import ArrayError
from polmrs.quantize.codec import check_bits


def pack(codes: Array, bits: int) -> Array:
    """Packs the codes of each row (the last axis) into whole 32-bit words.

    32 codes of ``bits`` bits make ``bits`` words: the packing of compressed-tensors, and of GPTQ for 2, 3, 4 and 8 bits.

    Args:
        codes: ``[..., columns]``, uint8, below ``2 ** bits``.
        bits: 1 to 8.

    Returns:
        ``[..., ceil(columns * bits / 32)]``, int32; bits beyond the last code are 0.

    Raises:
        ArrayError: The array has another type or layout, or a code is too large.
        ConfigError: ``bits`` is not 1 to 8.

    >>> import numpy as np
    >>> pack(np.array([1, 2, 3, 4, 5, 6, 7, 8], np.uint8), 4)
    array([-2023406815], dtype=int32)
    """
    check_bits(bits, 1)
    dtype, array = to_bits("codes", codes)
    if dtype != "uint8" or array.ndim == 0:
        raise ArrayError(f"codes: expected an array of uint8, got {dtype} of shape {tuple(array.shape)}")
    if array.size and int(array.max()) >> bits:
        raise ArrayError(f"codes: {int(array.max())} does not fit in {bits} bits")
    *rows, columns = array.shape
    packed = np.zeros((*rows, -(-columns * bits // 32)), np.int32)
    if array.size:
        _core.quant.pack(array, columns, bits, packed.view(np.uint8))
    return from_bits("int32", packed.view(np.uint32), torch_wanted=True) if is_torch(codes) else packed


def unpack(packed: Array, bits: int, columns: int) -> Array:
    """The codes that ``pack`` packed.

    Args:
        packed: ``[..., ceil(columns * bits / 32)]``, int32 or uint32.
        bits: 1 to 8.
        columns: How many codes a row has.

    Returns:
        ``[..., columns]``, uint8.

    Raises:
        ArrayError: The array has another type, layout or width.
        ConfigError: ``bits`` is not 1 to 8.

    >>> import numpy as np
    >>> unpack(np.array([-2023406815], np.int32), 4, 8)
    array([1, 2, 3, 4, 5, 6, 7, 8], dtype=uint8)
    """
    check_bits(bits, 1)
    dtype, array = to_bits("packed", packed)
    if dtype not in ("int32", "uint32") or array.ndim == 0:
        raise ArrayError(f"packed: expected an array of int32, got {dtype} of shape {tuple(array.shape)}")
    words = -(-columns * bits // 32)
    if array.shape[-1] != words:
        raise ArrayError(
            f"packed: rows of {array.shape[-1]} words, but {columns} codes of {bits} bits take {words}"
        )
    codes = np.zeros((*array.shape[:-1], columns), np.uint8)
    if codes.size:
        _core.quant.unpack(array.view(np.uint8), columns, bits, codes)
    return cast(Array, from_bits("uint8", codes, torch_wanted=True) if is_torch(packed) else codes)
