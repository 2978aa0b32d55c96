"""task_arithmetic: base + lambda sum_i w_i (x_i - base)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge import twin
from merge.made import DTYPES, KINDS, SIZES, assert_close, fine_tunes, floats, merged, same_bits
from merge.strategies import families, weights
from polmrs.merge import TaskArithmetic

pytestmark = pytest.mark.method("merge.task-arithmetic")
WEIGHTS = [1.0, -0.5, 0.3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_twin_bit_for_bit(size, kind):
    base, models = fine_tunes(kind, size)
    flat_base, *flat = floats(base, *models)
    for normalize in (False, True):
        for scale in (1.0, 0.7, -2.0):
            method = TaskArithmetic(weight=WEIGHTS, normalize=normalize, lambda_=scale)
            expected = twin.task_vectors(flat_base, flat, WEIGHTS, normalize=normalize, scale=scale)
            assert torch.equal(merged(method, models, base), torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
def test_every_type_is_read_exactly_and_rounded_once(dtype, out_dtype):
    base, models = fine_tunes("continuous", 5000, dtype=dtype)
    flat_base, *flat = floats(base, *models)
    exact = torch.from_numpy(twin.task_vectors(flat_base, flat, WEIGHTS))
    method = TaskArithmetic(weight=WEIGHTS)
    result = merged(method, models, base, out_dtype=str(out_dtype).removeprefix("torch."))
    assert same_bits(result, exact.to(out_dtype))


@given(families(most=1))
def test_one_model_of_weight_one_is_itself(family):
    base, [model] = family
    assert_close(merged(TaskArithmetic(), [model], base), model, base.abs() + model.abs())


@given(families(), st.data())
def test_the_order_of_models_does_not_matter(family, data):
    base, models = family
    chosen = data.draw(st.lists(weights, min_size=len(models), max_size=len(models)))
    order = data.draw(st.permutations(range(len(models))))
    there = merged(TaskArithmetic(weight=chosen), models, base)
    back = merged(TaskArithmetic(weight=[chosen[at] for at in order]), [models[at] for at in order], base)
    assert_close(there, back, base.abs() + sum(2 * (model - base).abs() for model in models))


@given(families(), st.integers(-10, 10))
def test_a_common_factor_of_the_weights_cancels_where_they_are_normalized(family, power):
    base, models = family
    scaled = TaskArithmetic(weight=2.0**power, normalize=True)
    assert torch.equal(merged(scaled, models, base), merged(TaskArithmetic(normalize=True), models, base))


@given(families(), weights)
def test_a_common_weight_and_lambda_are_one_factor(family, factor):
    base, models = family
    by_weight = merged(TaskArithmetic(weight=factor), models, base)
    by_lambda = merged(TaskArithmetic(lambda_=factor), models, base)
    assert_close(by_weight, by_lambda, base.abs() + sum(2 * (model - base).abs() for model in models))


@given(families())
def test_lambda_zero_is_the_base(family):
    base, models = family
    assert torch.equal(merged(TaskArithmetic(lambda_=0), models, base), base)


@given(families(), weights)
def test_models_that_equal_the_base_leave_it_untouched(family, weight):
    base, models = family
    assert torch.equal(merged(TaskArithmetic(weight=weight), [base] * len(models), base), base)


def test_weights_that_cancel_are_not_normalized():
    base, [model, other] = fine_tunes("continuous", 100, count=2)
    both = [
        merged(TaskArithmetic(weight=[1, -1], normalize=flag), [model, other], base) for flag in (True, False)
    ]
    assert torch.equal(*both)


def test_a_negative_weight_takes_away_what_a_model_learned():
    base, [model] = fine_tunes("tied", 1000, count=1)
    assert torch.equal(merged(TaskArithmetic(weight=-1), [model], base), 2 * base - model)
