"""FP4 E2M1: 0, .5, 1, 1.5, 2, 3, 4, 6 with a sign, in blocks that share a scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmrs import _core
from polmrs.quantize.codec import Codec, Encoded, Numbers, Weight, group_size


@dataclass(frozen=True, kw_only=True)
class MXFP4(Codec):
    """FP4 E2M1 in blocks of 32 that share a power of two (OCP Microscaling 1.0)."""

    def _encode(self, weight: Weight) -> Encoded:
        scales = np.empty((weight.rows, weight.columns // group_size(32, weight.columns)), np.uint8)
        packed = np.empty((weight.rows, weight.columns // 2), np.uint8)
        _core.quant.encode_mxfp4(weight.native, scales, packed)
        return Encoded(codec=self, packed=packed, scales=scales)

    def _decode(self, encoded: Encoded, columns: int, out: Numbers) -> None:
        _core.quant.decode_mxfp4(encoded.packed, encoded.scales, columns, out)


@dataclass(frozen=True, kw_only=True)
class NVFP4(Codec):
    """FP4 E2M1 in blocks of 16 with an E4M3 scale, under one float32 scale of the tensor.

    ``global_scale`` is that of several tensors that a runtime fuses (``448 * 6 / max``); by default the tensor's own.
    """

    global_scale: float | None = None

    def _encode(self, weight: Weight) -> Encoded:
        scales = np.empty((weight.rows, weight.columns // group_size(16, weight.columns)), np.uint8)
        packed = np.empty((weight.rows, weight.columns // 2), np.uint8)
        used = _core.quant.encode_nvfp4(weight.native, self.global_scale, scales, packed)
        return Encoded(codec=self, packed=packed, scales=scales, global_scale=used)

    def _decode(self, encoded: Encoded, columns: int, out: Numbers) -> None:
        _core.quant.decode_nvfp4(encoded.packed, encoded.global_scale, encoded.scales, columns, out)
