"""FP8 E4M3 with a scale for each group."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polmrs import _core
from polmrs.quantize.codec import Codec, Encoded, Group, Numbers, Weight, group_size


@dataclass(frozen=True, kw_only=True)
class FP8(Codec):
    r"""FP8 E4M3: $s = \max|w| / 448$.

    Args:
        group: What shares a scale.
        scale_dtype: The type that scales are stored in (the weight's, if not given).
    """

    group: Group = "row"
    scale_dtype: str | None = None

    def _encode(self, weight: Weight) -> Encoded:
        group = group_size(self.group, weight.columns)
        scale_dtype = self.scale_dtype or weight.dtype
        scales = np.empty((weight.rows, weight.columns // group), np.float32)
        packed = np.empty(weight.bits.shape, np.uint8)
        _core.quant.encode_fp8(weight.native, group, scale_dtype, scales, packed)
        return Encoded(codec=replace(self, scale_dtype=scale_dtype), packed=packed, scales=scales)

    def _decode(self, encoded: Encoded, columns: int, out: Numbers) -> None:
        _core.quant.decode_fp8(encoded.packed, group_size(self.group, columns), encoded.scales, columns, out)
