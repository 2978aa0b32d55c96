"""linear: sum_i w_i x_i / sum_i w_i."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge import twin
from merge.made import DTYPES, KINDS, SIZES, assert_close, fine_tunes, floats, merged, same_bits, ulps
from merge.strategies import families, weights
from polmrs.errors import ConfigError, NonFiniteError
from polmrs.merge import Linear

pytestmark = pytest.mark.method("merge.soup")
WEIGHTS = [1.0, -0.25, 0.3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_the_twin_bit_for_bit(size, kind, normalize):
    _, models = fine_tunes(kind, size)
    expected = torch.from_numpy(twin.linear(floats(*models), WEIGHTS, normalize))
    assert torch.equal(merged(Linear(weight=WEIGHTS, normalize=normalize), models), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
def test_every_type_is_read_exactly_and_rounded_once(dtype, out_dtype):
    _, models = fine_tunes("continuous", 5000, dtype=dtype)
    exact = torch.from_numpy(twin.linear(floats(*models), WEIGHTS))
    result = merged(Linear(weight=WEIGHTS), models, out_dtype=str(out_dtype).removeprefix("torch."))
    assert same_bits(result, exact.to(out_dtype))


def test_the_result_has_the_smallest_type_that_holds_the_inputs():
    half, brain = torch.ones(3, dtype=torch.float16), torch.ones(3, dtype=torch.bfloat16)
    assert merged(Linear(), [half, half]).dtype == torch.float16
    assert merged(Linear(), [half, brain]).dtype == torch.float32
    assert merged(Linear(), [brain, brain.to(torch.float8_e5m2)]).dtype == torch.bfloat16


def test_dtype_rounds_the_inputs_and_out_dtype_the_result():
    _, models = fine_tunes("continuous", 5000)
    rounded = [model.bfloat16() for model in models]
    wide = merged(Linear(weight=WEIGHTS), models, dtype="bfloat16", out_dtype="float32")
    assert torch.equal(wide, torch.from_numpy(twin.linear(floats(*rounded), WEIGHTS)))
    assert same_bits(merged(Linear(weight=WEIGHTS), models, dtype="bfloat16"), wide.bfloat16())


@given(families(most=1), weights)
def test_one_model_is_itself(family, weight):
    _, [model] = family
    assert torch.equal(merged(Linear(), [model]), model)
    assert ulps(merged(Linear(weight=weight), [model]), model).max() <= 1


@given(families(least=2), st.data())
def test_the_order_of_models_does_not_matter(family, data):
    _, models = family
    chosen = data.draw(st.lists(weights, min_size=len(models), max_size=len(models)))
    order = data.draw(st.permutations(range(len(models))))
    there = merged(Linear(weight=chosen), models)
    back = merged(Linear(weight=[chosen[at] for at in order]), [models[at] for at in order])
    assert_close(there, back, sum(model.abs() for model in models))


@given(families(), st.integers(-20, 20))
def test_a_common_factor_of_the_weights_cancels(family, power):
    _, models = family
    plain = merged(Linear(), models)
    assert torch.equal(merged(Linear(weight=[2.0**power] * len(models)), models), plain)
    assert_close(
        merged(Linear(weight=[0.3] * len(models)), models), plain, sum(model.abs() for model in models)
    )


@given(families(most=1), st.integers(2, 5))
def test_equal_models_are_their_average(family, count):
    _, [model] = family
    assert ulps(merged(Linear(), [model] * count), model).max() <= 1


def test_weights_that_cancel_cannot_be_normalized():
    models = [torch.ones(3), torch.zeros(3)]
    with pytest.raises(ConfigError, match="sums to 0, so it cannot be normalized"):
        merged(Linear(weight=[1, -1]), models)
    assert torch.equal(merged(Linear(weight=[1, -1], normalize=False), models), models[0])


def test_a_result_beyond_its_type_is_an_error_and_not_an_infinity():
    large = torch.full((70_000,), 1.0)
    large[65_537] = 60_000.0
    with pytest.raises(NonFiniteError, match=r"'w': element 65537 is 120000, not finite in float16"):
        merged(Linear(weight=2, normalize=False), [large], out_dtype="float16")
    assert (
        merged(Linear(weight=2, normalize=False), [large], out_dtype="float16", allow_nonfinite=True)
        .isinf()
        .sum()
        == 1
    )


def test_a_base_is_refused():
    with pytest.raises(ValueError, match="linear has none"):
        merged(Linear(), [torch.ones(1)], base=torch.ones(1))
