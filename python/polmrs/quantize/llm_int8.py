"""LLM.int8(): signed bytes scaled by each row's largest magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmrs import _core
from polmrs.quantize.codec import Codec, Encoded, Numbers, Weight


@dataclass(frozen=True, kw_only=True)
class LLMInt8(Codec):
    r"""Weights of LLM.int8() (arXiv:2208.07339): $q = \mathrm{round}(127 w / \max|w|)$ for each row.

    ``Encoded.packed`` holds signed bytes as uint8, ``Encoded.scales`` the largest magnitude of each row (``SCB`` of
    bitsandbytes). The paper's treatment of outlying activations is the runtime's.

    >>> import numpy as np
    >>> from polmrs import quantize
    >>> encoded = quantize.encode(np.array([[1, -2]], np.float32), LLMInt8())
    >>> encoded.packed.view(np.int8).tolist(), encoded.scales.tolist()
    ([[64, -127]], [2.0])
    """

    def _encode(self, weight: Weight) -> Encoded:
        scales = np.empty(weight.rows, np.float32)
        packed = np.empty(weight.bits.shape, np.uint8)
        _core.quant.encode_int8(weight.native, scales, packed)
        return Encoded(codec=self, packed=packed, scales=scales)

    def _decode(self, encoded: Encoded, columns: int, out: Numbers) -> None:
        _core.quant.decode_int8(encoded.packed, encoded.scales, columns, out)
