"""passthrough: the tensors of one model, copied or scaled."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge.made import DTYPES, SIZES, fine_tunes, merged, same_bits
from merge.strategies import families
from polmrs.errors import ConfigError
from polmrs.merge import Passthrough, merge

pytestmark = pytest.mark.method("merge.passthrough")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_every_bit_is_copied(dtype, size):
    bits = torch.from_numpy(np.random.default_rng(size).integers(0, 256, (size, dtype.itemsize), np.uint8))
    tensor = bits.view(dtype).reshape(size)  # NaN, infinities and all
    assert same_bits(merged(Passthrough(), [tensor]), tensor)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_integers_and_flags_are_copied(dtype):
    tensor = np.arange(100).astype(dtype)
    copy = merge({"m": {"w": tensor}}, method=Passthrough(scale=2))["w"]
    assert copy.dtype == tensor.dtype
    assert (copy == tensor).all()


@given(families(most=1), st.floats(-4, 4, width=32))
def test_a_scale_multiplies_every_element(family, scale):
    _, [model] = family
    assert torch.equal(merged(Passthrough(scale=scale), [model]), model * scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_scaled_tensor_is_rounded_once(dtype):
    _, [model] = fine_tunes("continuous", 5000, count=1, dtype=dtype)
    assert same_bits(merged(Passthrough(scale=0.3), [model]), (model.float() * np.float32(0.3)).to(dtype))


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
def test_another_type_is_rounded_to(out_dtype):
    _, [model] = fine_tunes("continuous", 5000, count=1)
    name = str(out_dtype).removeprefix("torch.")
    assert same_bits(merged(Passthrough(), [model], out_dtype=name), model.to(out_dtype))


def test_dtype_rounds_the_input_even_where_the_result_is_wide():
    _, [model] = fine_tunes("continuous", 5000, count=1)
    wide = merged(Passthrough(), [model], dtype="bfloat16", out_dtype="float32")
    assert torch.equal(wide, model.bfloat16().float())


def test_it_takes_one_model():
    with pytest.raises(ConfigError, match="passthrough takes 1, not 2"):
        merged(Passthrough(), [torch.ones(1), torch.ones(1)])
