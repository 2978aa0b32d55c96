"""HQQ: a zero point found by half-quadratic splitting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmrs import _core
from polmrs.errors import ConfigError
from polmrs.quantize.codec import Codec, Encoded, Group, Numbers, Weight, check_bits, group_size, packed_bytes


@dataclass(frozen=True, kw_only=True)
class HQQ(Codec):
    r"""Half-quadratic quantization: the range's scale, and a real zero point that minimises $\sum |e|^p$.

    Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023); the defaults are those of
    hqq 0.2.8. A group stops by itself and keeps its best zero point, where hqq stops all groups together.

    Args:
        bits: 1 to 8.
        group: What shares a scale and a zero point.
        norm: $p$, between 0 and 1.
        beta: The weight of the splitting's penalty at the first step.
        kappa: How much it grows at each step.
        steps: The most steps.
    """

    bits: int = 4
    group: Group = 64
    norm: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01
    steps: int = 20

    def __post_init__(self) -> None:
        check_bits(self.bits, 1)
        if not 0 < self.norm < 1:
            raise ConfigError(f"norm: {self.norm} is not between 0 and 1")
        if self.beta <= 0:
            raise ConfigError(f"beta: {self.beta} is not above 0")
        if self.kappa < 1:
            raise ConfigError(f"kappa: {self.kappa} is not at least 1")
        if self.steps < 0:
            raise ConfigError(f"steps: {self.steps} is not at least 0")

    def _encode(self, weight: Weight) -> Encoded:
        group = group_size(self.group, weight.columns)
        scales = np.empty((weight.rows, weight.columns // group), np.float32)
        zeros = np.empty(scales.shape, np.float32)
        packed = np.empty((weight.rows, packed_bytes(weight.columns, self.bits)), np.uint8)
        search = (self.norm, self.beta, self.kappa, self.steps)
        _core.quant.encode_hqq(weight.native, self.bits, group, search, scales, zeros, packed)
        return Encoded(codec=self, packed=packed, scales=scales, zeros=zeros)

    def _decode(self, encoded: Encoded, columns: int, out: Numbers) -> None:
        group = group_size(self.group, columns)
        _core.quant.decode_int(encoded.packed, self.bits, group, encoded.scales, encoded.zeros, columns, out)
