"""The codecs in a few lines of numpy, in float32 as the kernels compute."""

import numpy as np

F = np.float32


def bfloat16(x):
    """float32 rounded to bfloat16, ties to even."""
    bits = np.asarray(x, F).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(F)


def integer(weight, *, bits, group, span="full", scale_dtype="float32"):
    """Codes, scales and zero points of groups within rows."""
    groups = weight.astype(F).reshape(len(weight), -1, group)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    top, middle = F(2**bits - 1), F(2 ** (bits - 1))
    largest = np.maximum(high, -low)
    scale = {"full": largest / (top / 2), "absmax": largest / (middle - 1), "affine": (high - low) / top}[
        span
    ].astype(F)
    scale = {
        "float32": lambda x: x,
        "bfloat16": bfloat16,
        "float16": lambda x: x.astype(np.float16).astype(F),
    }[scale_dtype](scale)
    epsilon = {"float32": 2**-23, "bfloat16": 2**-7, "float16": 2**-10}[scale_dtype]
    scale = np.where(scale == 0, F(epsilon), scale)
    zero = np.full_like(scale, middle)
    if span == "affine":
        zero = np.where(low < high, np.round(np.clip(-low / scale, 0, top)), middle)
    lowest = 1 - middle if span == "absmax" else -middle
    steps = groups / scale[..., None] + (zero - middle)[..., None]
    codes = np.round(np.clip(steps, lowest, middle - 1)) + middle
    back = (codes - zero[..., None]) * scale[..., None]
    return codes.reshape(weight.shape), scale, zero, back.reshape(weight.shape)


def stream(codes, bits):
    """Rows of codes as bits in order, filled up to whole 32-bit words, as bytes."""
    each = (codes.astype(np.uint8)[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    flat = each.reshape(*codes.shape[:-1], codes.shape[-1] * bits)
    pad = -flat.shape[-1] % 32
    return np.packbits(np.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, pad)]), axis=-1, bitorder="little")


def nf4_table():
    """NF4 from its definition (QLoRA, appendix E): quantiles of the normal distribution, 8 below zero and 9 above."""
    from statistics import NormalDist

    offset = 0.9677083
    quantile = np.vectorize(NormalDist().inv_cdf)
    above = quantile(np.linspace(offset, 0.5, 9)[:-1])
    below = -quantile(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort([*below, 0.0, *above])
    return (values / values.max()).astype(F)
