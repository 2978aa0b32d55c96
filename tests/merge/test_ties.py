"""ties: keep the largest elements of each task vector, elect a sign, average what agrees with it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge import twin
from merge.made import DTYPES, KINDS, SIZES, assert_close, fine_tunes, floats, merged, same_bits
from merge.strategies import densities, families, weights
from polmrs.errors import ConfigError
from polmrs.merge import TIES

pytestmark = pytest.mark.method("merge.ties")
WEIGHTS = [1.0, -0.5, 0.3]
DENSITIES = [[0.5, 0.2, 1e-9], [1, 0.9, 0], [0.001, 1, 1], [0.35] * 3]


def by_hand(base, models, weight, density, **options):
    flat_base, *flat = floats(base, *models)
    keep = [twin.largest(x - flat_base, share) for x, share in zip(flat, density, strict=True)]
    options = {"consensus": True, "normalize": True} | options
    return torch.from_numpy(twin.task_vectors(flat_base, flat, weight, keep=keep, **options))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_equals_the_twin_bit_for_bit(size, kind, density):
    base, models = fine_tunes(kind, size)
    for normalize, rescale, scale in [(True, False, 1.0), (False, True, 0.7)]:
        method = TIES(weight=WEIGHTS, density=density, normalize=normalize, rescale=rescale, lambda_=scale)
        expected = by_hand(base, models, WEIGHTS, density, normalize=normalize, rescale=rescale, scale=scale)
        assert torch.equal(merged(method, models, base), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
def test_every_type_is_read_exactly_and_rounded_once(dtype, out_dtype):
    base, models = fine_tunes("continuous", 5000, dtype=dtype)
    exact = by_hand(base, models, WEIGHTS, [0.3] * 3)
    method = TIES(weight=WEIGHTS, density=0.3)
    result = merged(method, models, base, out_dtype=str(out_dtype).removeprefix("torch."))
    assert same_bits(result, exact.to(out_dtype))


@given(families(), st.data())
def test_any_small_family_equals_the_twin(family, data):
    base, models = family
    density = data.draw(st.lists(densities, min_size=len(models), max_size=len(models)))
    weight = data.draw(st.lists(st.floats(-2, 2, width=32), min_size=len(models), max_size=len(models)))
    expected = by_hand(base, models, weight, density)
    assert torch.equal(merged(TIES(weight=weight, density=density), models, base), expected)


@pytest.mark.parametrize("size", SIZES)
def test_of_equal_magnitudes_those_with_the_lowest_index_stay(size):
    signs = torch.where(torch.arange(size) % 3 == 0, -1.0, 1.0)
    result = merged(TIES(density=0.4), [signs], torch.zeros(size))
    kept = max(1, int(0.4 * size))
    assert torch.equal(result[:kept], signs[:kept])
    assert not result[kept:].any()


@pytest.mark.parametrize("density", [0.29, 0.5, 1 / 3, 1e-12, 0.999999])
@pytest.mark.parametrize("size", [1, 5, 100, 65_536, 100_000])
def test_the_share_that_stays_is_rounded_down_but_never_to_nothing(size, density):
    result = merged(TIES(density=density), [torch.arange(1.0, size + 1)], torch.zeros(size))
    assert result.count_nonzero() == max(1, int(density * size))


@given(families(most=1))
def test_one_model_untrimmed_is_itself(family):
    base, [model] = family
    assert_close(merged(TIES(), [model], base), model, base.abs() + model.abs())


@given(families(), st.data())
def test_the_order_of_models_does_not_matter(family, data):
    base, models = family
    chosen = data.draw(st.lists(weights, min_size=len(models), max_size=len(models)))
    order = data.draw(st.permutations(range(len(models))))
    there = merged(TIES(weight=chosen, density=0.6), models, base)
    back = merged(TIES(weight=[chosen[at] for at in order], density=0.6), [models[at] for at in order], base)
    _, *deltas = floats(base, *[model - base for model in models])
    shares = [delta * twin.largest(delta, 0.6) * weight for delta, weight in zip(deltas, chosen, strict=True)]
    mass = sum(abs(share) for share in shares)
    decided = torch.from_numpy(abs(sum(shares)) > 4 * 1.2e-7 * mass) | torch.from_numpy(mass == 0)
    assert_close(there[decided], back[decided], (base.abs() + 4 * torch.from_numpy(mass))[decided])


@given(families(), st.integers(-10, 10))
def test_a_common_factor_of_the_weights_cancels(family, power):
    base, models = family
    plain = merged(TIES(density=0.5), models, base)
    assert torch.equal(merged(TIES(weight=2.0**power, density=0.5), models, base), plain)


@given(families())
def test_density_zero_and_lambda_zero_are_the_base(family):
    base, models = family
    assert torch.equal(merged(TIES(density=0), models, base), base)
    assert torch.equal(merged(TIES(lambda_=0), models, base), base)


@given(families(most=1), st.integers(2, 4), densities)
def test_equal_models_are_one_model(family, count, density):
    base, [model] = family
    one = merged(TIES(density=density), [model], base)
    assert_close(merged(TIES(density=density), [model] * count, base), one, base.abs() + model.abs())


@given(families(), densities)
def test_models_that_equal_the_base_leave_it_untouched(family, density):
    base, models = family
    assert torch.equal(merged(TIES(density=density), [base] * len(models), base), base)


def test_a_sign_is_elected_by_the_weighted_mass():
    base, models = (
        torch.zeros(4),
        [torch.tensor(x) for x in ([3.0, 1, -1, 2], [-1.0, 1, -3, -2], [-1.0, 1, 0, 0])],
    )
    assert merged(TIES(), models, base).tolist() == [3, 1, -2, 2]  # a sum of 0 elects +
    assert merged(TIES(weight=[1, 3, 1]), models, base).tolist() == [-1, 1, -2.5, -2]
    assert merged(TIES(normalize=False), models, base).tolist() == [3, 3, -4, 2]
    assert merged(TIES(weight=[-1, -1, -1]), models, base).tolist() == [3, 1, -2, -2]


def test_weights_that_cancel_among_those_that_agree_are_not_normalized():
    base, models = torch.zeros(1), [torch.tensor([1.0]), torch.tensor([-1.0])]
    assert merged(TIES(weight=[1, -1]), models, base).item() == 2


def test_rescaling_restores_the_l1_norm():
    base, [model] = fine_tunes("continuous", 200_000, count=1)
    delta, kept = (
        (model - base).double(),
        merged(TIES(density=0.2, rescale=True), [model], torch.zeros(200_000) + base),
    )
    assert (kept.double() - base).abs().sum().item() == pytest.approx(delta.abs().sum().item(), rel=1e-5)


def test_the_paper_keeps_a_fifth():
    paper = TIES(density=0.2, weight=1.0, normalize=True, rescale="none", lambda_=1.0)
    assert TIES.paper() == replace(paper, trim_scope="model", zero_sign="majority")
    result = merged(TIES.paper(), [torch.arange(1.0, 101)], torch.zeros(100))
    assert result.count_nonzero() == 20


@pytest.mark.parametrize("density", [-0.1, 1.4, float("nan"), float("inf")])
def test_a_density_outside_0_to_1_is_refused(density):
    with pytest.raises(ConfigError, match="density"):
        merged(TIES(density=density), [torch.ones(2)], torch.zeros(2))
