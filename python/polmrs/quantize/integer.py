"""Integer grids: round to nearest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from polmrs import _core
from polmrs.errors import ConfigError
from polmrs.quantize.codec import Codec, Encoded, Group, Numbers, Weight, check_bits, group_size, packed_bytes


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A narrower range than the group's own.

    Of ``steps`` ranges, down to ``1 - shrink`` of it, the one with the least squared error.
    """

    steps: int = 20
    shrink: float = 0.2

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"clip.steps: {self.steps} is not at least 1")
        if not 0 < self.shrink < 1:
            raise ConfigError(f"clip.shrink: {self.shrink} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Integer(Codec):
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
        check_bits(self.bits, 2)
        if self.span not in ("full", "absmax", "affine"):
            raise ConfigError(f"span: {self.span!r} is not one of full, absmax, affine")

    def _encode(self, weight: Weight) -> Encoded:
        group = group_size(self.group, weight.columns)
        scale_dtype = self.scale_dtype or weight.dtype
        scales = np.empty((weight.rows, weight.columns // group), np.float32)
        zeros = np.empty(scales.shape, np.uint8)
        packed = np.empty((weight.rows, packed_bytes(weight.columns, self.bits)), np.uint8)
        clip = None if self.clip is None else (self.clip.steps, self.clip.shrink)
        _core.quant.encode_int(
            weight.native, self.bits, self.span, group, scale_dtype, clip, scales, zeros, packed
        )
        codec = replace(self, scale_dtype=scale_dtype)
        return Encoded(codec=codec, packed=packed, scales=scales, zeros=zeros)

    def _decode(self, encoded: Encoded, columns: int, out: Numbers) -> None:
        zeros, group = np.asarray(encoded.zeros, np.float32), group_size(self.group, columns)
        _core.quant.decode_int(encoded.packed, self.bits, group, encoded.scales, zeros, columns, out)
