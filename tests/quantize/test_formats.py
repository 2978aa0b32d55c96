"""Layouts of checkpoint formats through Python: by their definitions in numpy, and back."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from polmrs import quantize
from polmrs.errors import ArrayError, CheckpointError, ConfigError

# Every format with every coding that it holds; groups of 32, so that rows are short.
HELD = [
    *[("compressed-tensors", quantize.Integer(bits=b, group=32, span=s)) for b in (2, 3, 4, 8) for s in ("full", "affine")],
    ("compressed-tensors", quantize.Integer(bits=4, group="row")),
    ("compressed-tensors", quantize.FP8()),
    ("compressed-tensors", quantize.FP8(group="tensor")),
    ("compressed-tensors", quantize.MXFP4()),
    ("compressed-tensors", quantize.NVFP4()),
    *[("gptq", quantize.Integer(bits=b, group=32)) for b in (2, 3, 4, 8)],
    *[("gptq_v2", quantize.Integer(bits=b, group="row", span="affine")) for b in (2, 3, 4, 8)],
    ("awq", quantize.Integer(group=32, span="affine")),
    ("awq", quantize.Integer(group=32)),
    ("bnb", quantize.NF4()),
    ("bnb", quantize.NF4(nested=True)),
    ("bnb", quantize.LLMInt8()),
]  # fmt: skip


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_stored_scales(codec, format):
    """The codec, with the type of scales that ``to_format`` would choose for float32 weights."""
    from dataclasses import replace

    half = format in ("gptq", "gptq_v2", "awq")
    return replace(codec, scale_dtype="float16") if half and hasattr(codec, "scale_dtype") else codec


@pytest.mark.parametrize(("format", "codec"), HELD)
def test_a_weight_comes_back_as_its_codec_decodes_it(format, codec):
    weight = torch.from_numpy(normal(64, 192))
    tensors = quantize.to_format(weight, codec, format=format)
    expected = quantize.decode(quantize.encode(weight, with_stored_scales(codec, format)))
    np.testing.assert_array_equal(quantize.from_format(tensors, format=format), expected)
    out = torch.full((64, 192), torch.nan)
    assert quantize.from_format(tensors, format=format, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("format", ["gptq_v2", "awq", "compressed-tensors"])
@pytest.mark.parametrize("shape", [(416, 96), (1056, 2112)])
def test_a_weight_of_many_blocks_comes_back_as_its_codec_decodes_it(format, shape):
    codec = quantize.Integer(bits=4, group=32, span="affine", scale_dtype="float16")
    weight = normal(*shape).astype(np.float16)
    tensors = quantize.to_format(weight, codec, format=format)
    expected = quantize.decode(quantize.encode(weight, codec))
    np.testing.assert_array_equal(quantize.from_format(tensors, format=format), expected)


def fields(words, bits, axis):
    """Codes of a dense stream of bits along an axis of 32-bit words."""
    words = np.moveaxis(np.asarray(words).view(np.uint32), axis, -1)
    each = (words[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    stream = each.reshape(*words.shape[:-1], -1, bits)
    return np.moveaxis((stream << np.arange(bits)).sum(-1), -1, axis)


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    groups=st.integers(1, 3),
    seed=st.integers(0, 99),
    shuffled=st.booleans(),
)
def test_gptq_is_its_formula_in_whatever_order_columns_are_grouped(bits, groups, seed, shuffled):
    weight = normal(64, 32 * groups, seed=seed)
    tensors = quantize.to_format(
        weight, quantize.Integer(bits=bits, group=32, span="affine"), format="gptq_v2"
    )
    codes, zeros = fields(tensors["qweight"], bits, 0), fields(tensors["qzeros"], bits, 1)
    group = tensors["g_idx"]
    if shuffled:  # desc_act
        np.random.default_rng(seed).shuffle(group)
    expected = (codes.astype(np.float32) - zeros[group]) * tensors["scales"].astype(np.float32)[group]
    np.testing.assert_array_equal(quantize.from_format(tensors, format="gptq_v2"), expected.T)


def test_the_first_gptq_format_stores_zero_points_less_one():
    tensors = quantize.to_format(normal(64, 64), quantize.Integer(group=32), format="gptq")
    assert set(tensors["qzeros"].ravel().view(np.uint32)) == {0x77777777}
    second = quantize.to_format(normal(64, 64), quantize.Integer(group=32), format="gptq_v2")
    np.testing.assert_array_equal(second["qweight"], tensors["qweight"])
    np.testing.assert_array_equal(
        quantize.from_format(second, format="gptq_v2"), quantize.from_format(tensors, format="gptq")
    )


def test_awq_is_its_formula():
    tensors = quantize.to_format(normal(64, 96), quantize.Integer(group=32, span="affine"), format="awq")
    order = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])

    def outputs(words):
        return fields(words, 4, 1).reshape(len(words), -1, 8)[..., order].reshape(len(words), -1)

    codes, group = outputs(tensors["qweight"]), np.arange(96) // 32
    scales = tensors["scales"].astype(np.float32)
    expected = (codes.astype(np.float32) - outputs(tensors["qzeros"])[group]) * scales[group]
    np.testing.assert_array_equal(quantize.from_format(tensors, format="awq"), expected.T)


def test_the_state_of_nested_nf4_names_what_bitsandbytes_asks_for():
    weight = torch.from_numpy(normal(64, 512)).bfloat16()
    tensors = quantize.to_format(weight, quantize.NF4(nested=True), format="bnb")
    state = json.loads(bytes(tensors["weight.quant_state.bitsandbytes__nf4"].numpy()))
    offset = state.pop("nested_offset")
    scales = quantize.encode(weight, quantize.NF4()).scales
    assert offset == pytest.approx(float(scales.double().mean()), rel=1e-7)
    assert state == {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "bfloat16",
        "shape": [64, 512],
        "nested_blocksize": 256,
        "nested_dtype": "float32",
    }


def test_fp4_of_bitsandbytes_is_read_as_its_table_says():
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (6, 41))
    absmax = random.uniform(1, 2, 4).astype(np.float32)  # 246 elements: the last block is shorter
    magnitudes = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
    table = np.concatenate([magnitudes, -magnitudes])
    high, low = codes.reshape(-1, 2).T
    state = {"quant_type": "fp4", "blocksize": 64, "dtype": "float32", "shape": [6, 41]}
    tensors = {
        "weight": (16 * high + low).astype(np.uint8)[:, None],
        "weight.absmax": absmax,
        "weight.quant_map": table,
        "weight.quant_state.bitsandbytes__fp4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }
    plain = table[codes].reshape(-1) * absmax.repeat(64)[:246]
    np.testing.assert_array_equal(quantize.from_format(tensors, format="bnb").reshape(-1), plain)


def test_eight_bit_codes_stand_unpacked_where_activations_are_rounded_too():
    weight = normal(8, 64)
    tensors = quantize.to_format(weight, quantize.Integer(bits=8, group="row"), activations=True)
    scale = np.abs(weight).max(1, keepdims=True) / np.float32(127.5)
    np.testing.assert_array_equal(tensors["weight_scale"], scale)
    np.testing.assert_array_equal(
        tensors["weight"], np.clip(np.round(weight / scale), -128, 127).astype(np.int8)
    )


def corrupted(name, change):
    """The compressed-tensors form of a weight, one tensor of it changed."""
    tensors = quantize.to_format(normal(32, 64), quantize.Integer(group=32, span="affine"))
    tensors[name] = change(tensors[name])
    return quantize.from_format(tensors, format="compressed-tensors")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: quantize.to_format(normal(64), quantize.NF4(), format="bnb"), ArrayError, r"weight: expected \[out, in\], got shape \(64,\)"),
        (lambda: quantize.to_format(normal(64, 64), quantize.NF4(), format="gguf"), ConfigError, "format: 'gguf' is not one of compressed-tensors, gptq"),
        (lambda: quantize.to_format(normal(64, 64), quantize.FP8(), format="awq"), ConfigError, "awq does not hold fp8, one scale for a channel; compressed-tensors holds"),
        (lambda: quantize.to_format(normal(64, 64), quantize.Integer(group=32, span="affine"), format="gptq"), ConfigError, "use gptq_v2"),
        (lambda: quantize.to_format(normal(60, 64), quantize.Integer(group=32), format="gptq"), ConfigError, r"gptq: \[60, 64\]: gptq files hold multiples of 32"),
        (lambda: corrupted("weight_scale", lambda x: x[:, :1].copy()), CheckpointError, r"weight_zero_point: I32 of \[4, 2\], where I32 of \[4, 1\] is expected"),
        (lambda: corrupted("weight_shape", lambda x: x[::-1].copy()), CheckpointError, "weight_shape: it does not hold 32 rows"),
        (lambda: corrupted("weight_packed", lambda x: x[:, :7].copy()), CheckpointError, "weight_packed: rows of 7 words for 64 codes, which are not of 2, 3, 4 or 8 bits; 3-bit codes in the padded packing"),
        (lambda: quantize.from_format(quantize.to_format(normal(32, 64), quantize.Integer(group=32)), format="compressed-tensors", out=np.empty((64, 32), np.float32)), ArrayError, r"out: expected float32 of shape \(32, 64\), got float32 of shape \(64, 32\)"),
        (lambda: quantize.from_format({"qweight": np.zeros((8, 64), np.int32)}, format="gptq"), CheckpointError, "scales: not there"),
    ],
)  # fmt: skip
def test_what_no_format_holds_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bytes_are_those_that_compressed_tensors_writes():
    golden = json.loads(Path(__file__).with_name("layouts.json").read_text())["cases"]
    row, column = np.meshgrid(np.arange(40), np.arange(64), indexing="ij")
    weight = torch.from_numpy((((37 * row + 101 * column) % 257 - 127.5) / 64).astype(np.float32))
    codecs = {
        **{f"int{bits}": quantize.Integer(bits=bits, group=32) for bits in (2, 3, 4, 8)},
        **{f"int{bits}a": quantize.Integer(bits=bits, group=32, span="affine") for bits in (2, 3, 4, 8)},
        "nvfp4": quantize.NVFP4(),
        "mxfp4": quantize.MXFP4(),
    }
    assert golden.keys() == codecs.keys()
    for case, codec in codecs.items():
        ours = {}
        for name, tensor in quantize.to_format(weight, codec).items():
            digest = hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest()
            ours[name] = [str(tensor.dtype)[6:], list(tensor.shape), digest]
        assert ours == golden[case], case
