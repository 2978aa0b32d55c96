"""Every codec, and a digest of what all make of one weight: without torch, so that other processes have it at once."""

import hashlib

import numpy as np
from polmrs import quantize

CODECS = [
    quantize.Integer(group=64),
    quantize.Integer(bits=8, group="row"),
    quantize.Integer(bits=3, group="tensor", span="absmax"),
    quantize.Integer(bits=2, group=32, span="affine", clip=quantize.Clip()),
    quantize.HQQ(bits=3),
    quantize.FP8(),
    quantize.MXFP4(),
    quantize.NVFP4(),
    quantize.NF4(),
]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def digest():
    weight, seen = normal(700, 192), hashlib.sha256()
    for codec in CODECS:
        encoded = quantize.encode(weight, codec)
        for array in (encoded.packed, encoded.scales, quantize.decode(encoded)):
            seen.update(array.tobytes())
    return seen.hexdigest()
