"""The codecs through Python: equal to their twins, of the caller's kind, and clear about what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere import digest_of
from hypothesis import given
from hypothesis import strategies as st
from polmrs import quantize
from polmrs.errors import ArrayError, ConfigError, NonFiniteError
from quantize.coded import CODECS, normal
from quantize.twin import bfloat16, integer, nf4_table, stream


@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 4),
    group=st.sampled_from([1, 8, 24, 64]),
    bits=st.integers(2, 8),
    span=st.sampled_from(["full", "absmax", "affine"]),
    scale_dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    seed=st.integers(0, 99),
)
def test_integer_codes_are_the_twins_bit_for_bit(rows, groups, group, bits, span, scale_dtype, seed):
    weight = normal(rows, groups * group, seed=seed)
    weight[:, : group // 2] = 0
    codec = quantize.Integer(bits=bits, group=group, span=span, scale_dtype=scale_dtype)
    ours = quantize.encode(weight, codec)
    codes, scale, zero, back = integer(weight, bits=bits, group=group, span=span, scale_dtype=scale_dtype)
    np.testing.assert_array_equal(ours.packed, stream(codes, bits))
    np.testing.assert_array_equal(ours.scales, scale)
    np.testing.assert_array_equal(ours.zeros, zero)
    np.testing.assert_array_equal(quantize.decode(ours), back)


@given(bits=st.integers(1, 8), rows=st.integers(0, 3), columns=st.integers(0, 70), seed=st.integers(0, 99))
def test_packing_is_the_bits_in_order(bits, rows, columns, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    packed = quantize.pack(codes, bits)
    np.testing.assert_array_equal(packed.view(np.uint8), stream(codes, bits))
    np.testing.assert_array_equal(quantize.unpack(packed, bits, columns), codes)


def test_nf4_is_its_definition():
    table, weight = nf4_table(), normal(8, 160)
    ours = quantize.encode(weight, quantize.NF4())
    blocks = weight.reshape(-1, 64)
    scaled = blocks / np.abs(blocks).max(1, keepdims=True)
    nearest = np.abs(scaled[..., None] - table).argmin(-1).reshape(-1, 2)
    np.testing.assert_array_equal(ours.packed, nearest[:, 0] << 4 | nearest[:, 1])
    expected = (table[nearest.ravel()].reshape(-1, 64) * np.abs(blocks).max(1, keepdims=True)).reshape(
        weight.shape
    )
    np.testing.assert_allclose(quantize.decode(ours), expected, rtol=1e-6)


def test_fp8_rounds_as_torch_does():
    weight = normal(6, 96)
    ours = quantize.encode(weight, quantize.FP8(group=32))
    scales = np.abs(weight.reshape(6, 3, 32)).max(-1) / np.float32(448)
    np.testing.assert_array_equal(ours.scales, scales)
    scaled = torch.from_numpy((weight.reshape(6, 3, 32) / scales[..., None]).reshape(6, 96))
    np.testing.assert_array_equal(ours.packed, scaled.to(torch.float8_e4m3fn).view(torch.uint8).numpy())


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_tensors_in_tensors_out_and_the_same_numbers(codec):
    weight = bfloat16(normal(16, 192))
    ours = quantize.encode(weight, codec)
    theirs = quantize.encode(torch.from_numpy(weight), codec)
    assert isinstance(theirs.packed, torch.Tensor)
    assert isinstance(quantize.decode(theirs), torch.Tensor)
    np.testing.assert_array_equal(theirs.packed.numpy(), ours.packed)
    np.testing.assert_array_equal(quantize.decode(theirs).numpy(), quantize.decode(ours))
    if not hasattr(codec, "scale_dtype"):  # where it is the weight's own, bfloat16 scales are coarser
        half = quantize.encode(torch.from_numpy(weight).bfloat16(), codec)
        np.testing.assert_array_equal(half.packed.numpy(), ours.packed)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_a_weight_comes_back_near_and_in_its_shape(codec):
    weight = normal(2, 8, 192)
    encoded = quantize.encode(weight, codec)
    back = quantize.decode(encoded)
    assert back.shape == weight.shape
    assert back.dtype == np.float32
    lost = np.linalg.norm(back - weight) / np.linalg.norm(weight)
    bits = 8 * encoded.nbytes / weight.size
    # A uniform grid over normal numbers loses about 2.2 of 2^-bits, more with few bits; E4M3 rounds to 4 digits.
    limit = 2**-5 if isinstance(codec, quantize.FP8) else 4 * 2 ** -int(bits)
    assert lost < limit, f"{lost} at {bits:.2f} bits"


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_memory_that_is_given_is_filled(codec, kind):
    encoded = quantize.encode(kind(normal(2, 8, 192)), codec)
    out = kind(np.full((2, 8, 192), np.nan, np.float32))
    assert quantize.decode(encoded, out=out) is out
    np.testing.assert_array_equal(out, quantize.decode(encoded))


def decoded_into(out):
    return quantize.decode(quantize.encode(normal(4, 64), quantize.Integer(bits=8, group=64)), out=out)


def decoded_over_its_codes():
    out = np.empty((4, 64), np.float32)
    encoded = quantize.encode(normal(4, 64), quantize.Integer(bits=8, group=64))
    return quantize.decode(replace(encoded, packed=out.reshape(-1).view(np.uint8)[-256:]), out=out)


def decoded_without_a_scale():
    encoded = quantize.encode(normal(4, 64), quantize.NF4(block=64))
    return quantize.decode(replace(encoded, scales=encoded.scales[:-1]))


def read_only(array):
    array.flags.writeable = False
    return array


def test_the_bits_do_not_depend_on_threads_or_instruction_set():
    settings = [{"POLMRS_NUM_THREADS": n} for n in ("1", "3")] + [
        {"POLMRS_SIMD": n} for n in ("avx2", "scalar")
    ]
    assert len({digest_of("quantize.coded", **setting) for setting in settings}) == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: quantize.encode(normal(4, 576), quantize.Integer(group=128)), ConfigError, "group: 128 does not divide rows of 576 elements; 64 does"),
        (lambda: quantize.encode(normal(4, 40), quantize.MXFP4()), ConfigError, "group: 32 does not divide rows of 40 elements; 40 does"),
        (lambda: quantize.encode(normal(4, 64).astype(int), quantize.NF4()), ArrayError, "weight: expected an array of a floating-point type, got int64"),
        (lambda: quantize.encode(normal(0, 64), quantize.NF4()), ArrayError, r"weight: shape \(0, 64\) has no elements"),
        (lambda: quantize.encode(normal(64, 64).T, quantize.NF4()), ArrayError, "weight: the array is not C-contiguous"),
        (lambda: quantize.encode(np.full((2, 64), np.inf), quantize.NF4()), NonFiniteError, "weight: element 0 is not a finite number"),
        (lambda: quantize.Integer(bits=9), ConfigError, "bits: 9 is not 2 to 8"),
        (lambda: quantize.Integer(span="half"), ConfigError, "span: 'half' is not one of full, absmax, affine"),
        (lambda: quantize.encode(normal(2, 64), quantize.Integer(group=64, scale_dtype="int8")), ArrayError, "dtype: 'int8' is not a floating-point type"),
        (lambda: quantize.pack(np.array([16], np.uint8), 4), ArrayError, "codes: 16 does not fit in 4 bits"),
        (lambda: quantize.unpack(np.zeros((2, 3), np.int32), 4, 8), ArrayError, "packed: rows of 3 words, but 8 codes of 4 bits take 1"),
        (lambda: quantize.NF4(block=63), ConfigError, "block: 63 is not an even number"),
        (lambda: decoded_into(np.empty((4, 65), np.float32)), ArrayError, r"out: expected float32 of shape \(4, 64\), got float32 of shape \(4, 65\)"),
        (lambda: decoded_into(np.empty((4, 64))), ArrayError, "out: expected float32 of shape .*, got float64"),
        (lambda: decoded_into(np.empty((64, 4), np.float32).T), ArrayError, "out: the array is not C-contiguous"),
        (lambda: decoded_into(read_only(np.empty((4, 64), np.float32))), ArrayError, "out: the array is read-only"),
        (decoded_without_a_scale, ArrayError, "nf4: 256 codes in blocks of 64 take 128 bytes and 4 scales, not 128 and 3"),
        (decoded_over_its_codes, ArrayError, "out: shares memory with packed; pass another array"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantized_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
