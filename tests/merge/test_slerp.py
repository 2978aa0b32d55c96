"""slerp: along the arc from the base to the other model, or along the chord where they are nearly parallel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from merge import twin
from merge.made import DTYPES, KINDS, SIZES, assert_close, fine_tunes, floats, merged, same_bits, ulps
from merge.strategies import families
from polmrs.errors import ConfigError
from polmrs.merge import SLERP

pytestmark = pytest.mark.method("merge.slerp")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, -0.2])
def test_equals_the_twin_to_one_ulp(size, kind, t):
    base, [model] = fine_tunes(kind, size, count=1)
    expected = torch.from_numpy(twin.slerp(*floats(base, model), t))
    assert_close(merged(SLERP(t=t), [model], base), expected, base.abs() + model.abs())


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_twin_bit_for_bit_along_the_chord(size):
    base, _ = fine_tunes("continuous", size)
    model = base * 1.01 + 0.001
    result = merged(SLERP(t=0.3), [model], base)
    expected = torch.from_numpy(twin.slerp(*floats(base, model), 0.3))
    assert torch.equal(result, expected)
    assert torch.equal(result, base * np.float32(0.7) + model * np.float32(0.3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_is_read_exactly_and_rounded_once(dtype):
    base, [model] = fine_tunes("continuous", 5000, count=1, dtype=dtype)
    exact = torch.from_numpy(twin.slerp(*floats(base, model), 0.4))
    assert (ulps(merged(SLERP(t=0.4), [model], base), exact.to(dtype)) <= 1).all()
    assert same_bits(
        merged(SLERP(t=0.4), [model], base),
        merged(SLERP(t=0.4), [model], base, out_dtype="float32").to(dtype),
    )


@given(families(most=1))
def test_it_begins_at_the_base_and_ends_at_the_model(family):
    base, [model] = family
    assert torch.equal(merged(SLERP(t=0), [model], base), base)
    assert torch.equal(merged(SLERP(t=1), [model], base), model)


@given(families(most=1), st.floats(0, 1, width=32))
def test_from_either_end_the_path_is_the_same(family, t):
    base, [model] = family
    there, back = merged(SLERP(t=t), [model], base), merged(SLERP(t=1 - t), [base], model)
    # Beside the branch the coefficients are sines over a small sine, at most 1 / sqrt(1 - 0.9995^2) = 32 of them.
    assert_close(there, back, 32 * (base.abs() + model.abs()))


@given(families(most=1), st.floats(0, 1))
def test_equal_models_are_themselves(family, t):
    base, _ = family
    assert ulps(merged(SLERP(t=t), [base], base), base).max() <= 1


@given(families(most=1), st.floats(0, 1))
def test_the_arc_keeps_the_length(family, t):
    base, [model] = family
    assume(base.norm() > 0.1 and model.norm() > 0.1)
    base, model = base / base.norm(), model / model.norm()
    assume(abs(torch.dot(base, model)) < 0.999)
    assert merged(SLERP(t=t), [model], base).norm().item() == pytest.approx(1, rel=1e-5)


def test_half_way_between_two_axes_is_the_diagonal():
    result = merged(SLERP(t=0.5), [torch.tensor([0.0, 2.0])], torch.tensor([2.0, 0.0]))
    assert torch.allclose(result, torch.full((2,), math.sqrt(2)))


def test_opposite_vectors_meet_on_the_chord():
    base = torch.tensor([1.0, -2.0])
    assert torch.equal(merged(SLERP(t=0.5), [-base], base), torch.zeros(2))


def test_a_vector_without_length_has_a_right_angle_to_all():
    base, model = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    result = merged(SLERP(t=0.5), [model], base)
    assert torch.allclose(result, model * math.sin(math.pi / 4))
    assert torch.equal(merged(SLERP(t=0.5), [base], base), base)


def test_the_whole_tensor_is_one_vector_whatever_its_shape():
    base, [model] = fine_tunes("continuous", 6000, count=1)
    flat = merged(SLERP(t=0.3), [model], base)
    assert torch.equal(
        merged(SLERP(t=0.3), [model.view(20, 10, 30)], base.view(20, 10, 30)), flat.view(20, 10, 30)
    )


@pytest.mark.parametrize("count", [0, 2])
def test_it_takes_exactly_one_model_besides_the_base(count):
    with pytest.raises(ConfigError, match=f"slerp takes 1 besides the base, not {count}"):
        merged(SLERP(t=0.5), [torch.ones(2)] * count, torch.ones(2))


def test_it_needs_a_base():
    with pytest.raises(ConfigError, match="'base_model' is missing; slerp needs it"):
        merged(SLERP(t=0.5), [torch.ones(2), torch.ones(2)])
