"""NF4: 16 quantiles of a normal distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmrs import _core
from polmrs.errors import ConfigError
from polmrs.quantize.codec import Codec, Encoded, Numbers, Weight


@dataclass(frozen=True, kw_only=True)
class NF4(Codec):
    """16 quantiles of a normal distribution, scaled by each block's largest magnitude (QLoRA, arXiv:2305.14314).

    ``block`` elements share a scale, counted through all rows; the last block may be shorter. ``nested``: double
    quantization, the scales in 8 bits too (section 3 there); each 256 of them share a float32.
    """

    block: int = 64
    nested: bool = False

    def __post_init__(self) -> None:
        if self.block < 2 or self.block % 2:
            raise ConfigError(f"block: {self.block} is not an even number, 2 or more")

    def _encode(self, weight: Weight) -> Encoded:
        size = weight.rows * weight.columns
        scales = np.empty(-(-size // self.block), np.float32)
        packed = np.empty(-(-size // 2), np.uint8)
        _core.quant.encode_nf4(weight.native, self.block, scales, packed)
        if not self.nested:
            return Encoded(codec=self, packed=packed, scales=scales)
        codes, nested = np.empty(scales.size, np.uint8), np.empty(-(-scales.size // 256), np.float32)
        mean = _core.quant.nest(scales, codes, nested)
        return Encoded(codec=self, packed=packed, scales=codes, nested_scales=nested, global_scale=mean)

    def _decode(self, encoded: Encoded, columns: int, out: Numbers) -> None:
        scales = encoded.scales
        if self.nested:
            scales = np.empty(encoded.scales.shape, np.float32)
            _core.quant.unnest(encoded.scales, encoded.nested_scales, encoded.global_scale, scales)
        _core.quant.decode_nf4(encoded.packed, self.block, scales, out)
