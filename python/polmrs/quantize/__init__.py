"""Quantization: whole checkpoints by ``quantize``, and codecs on arrays: one weight matrix to codes and scales, and back.

``quantize`` takes a scheme (``W4A16``: what weights become) and a method (``RTN``: how codes are found), and writes a folder
that transformers, vLLM, gptqmodel or bitsandbytes load.

Codecs take numpy arrays and CPU torch tensors in float32, bfloat16, float16 or float64; what comes back is of the caller's kind. The
GIL is released, all threads work, and the bits do not depend on their number. Arithmetic is in float32.

>>> import numpy as np
>>> from polmrs import quantize
>>> weight = np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128)
>>> encoded = quantize.encode(weight, quantize.Integer(bits=4, group=64))
>>> encoded.packed.shape, encoded.scales.shape, encoded.nbytes
((2, 64), (2, 2), 148)
>>> float(abs(quantize.decode(encoded) - weight).max()) < 0.08
True
"""

from polmrs.quantize.checking import check
from polmrs.quantize.codec import Codec, Encoded, decode, encode
from polmrs.quantize.format import Format, from_format, quantization_config, to_format
from polmrs.quantize.fp4 import MXFP4, NVFP4
from polmrs.quantize.fp8 import FP8
from polmrs.quantize.hqq import HQQ
from polmrs.quantize.integer import Clip, Integer
from polmrs.quantize.llm_int8 import LLMInt8
from polmrs.quantize.nf4 import NF4
from polmrs.quantize.packing import pack, unpack
from polmrs.quantize.run import plan, quantize
from polmrs.quantize.schemes import (
    MSE,
    MXFP4A16,
    NF4A16,
    NVFP4A16,
    RTN,
    W2A16,
    W3A16,
    W4A16,
    W8A8,
    W8A8FP8,
    W8A16,
    HalfQuadratic,
    W8A8FP8Block,
    W8A8LLMInt8,
)
from polmrs.quantize.setting import Method, Scheme
from polmrs.quantize.statistics import collect

__all__ = [
    "FP8",
    "HQQ",
    "MSE",
    "MXFP4",
    "MXFP4A16",
    "NF4",
    "NF4A16",
    "NVFP4",
    "NVFP4A16",
    "RTN",
    "W2A16",
    "W3A16",
    "W4A16",
    "W8A8",
    "W8A8FP8",
    "W8A16",
    "Clip",
    "Codec",
    "Encoded",
    "Format",
    "HalfQuadratic",
    "Integer",
    "LLMInt8",
    "Method",
    "Scheme",
    "W8A8FP8Block",
    "W8A8LLMInt8",
    "check",
    "collect",
    "decode",
    "encode",
    "from_format",
    "pack",
    "plan",
    "quantization_config",
    "quantize",
    "to_format",
    "unpack",
]
