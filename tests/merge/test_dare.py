"""dare_linear and dare_ties: drop elements of each task vector at random, rescale the rest, then add up or elect."""

import math

import polmrs.merge as pm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge import twin
from merge.made import DTYPES, KINDS, SIZES, assert_close, fine_tunes, floats, merged, same_bits
from merge.strategies import densities, families, weights
from polmrs.merge import DARE, DARETIES, TIES, TaskArithmetic

pytestmark = pytest.mark.method("merge.dare")
WEIGHTS = [1.0, -0.5, 0.3]
BOTH = pytest.mark.parametrize("method", [DARE, DARETIES])


def by_hand(method, base, models, weight, density, *, seed=0, rescale=True, **options):
    flat_base, *flat = floats(base, *models)
    keep = [twin.drawn(flat_base.size, share, seed=seed, model=model) for model, share in enumerate(density)]
    options |= {"keep": keep, "consensus": method is DARETIES, "rescale": rescale}
    return torch.from_numpy(twin.task_vectors(flat_base, flat, weight, **options))


def masks(size, densities, seed=0):
    """Which elements of two models stay, read off a merge of ones with the weights 1 and 2."""
    ones = torch.ones(size)
    method = DARE(weight=[1, 2], density=densities, rescale=False)
    code = merged(method, [ones, ones], torch.zeros(size), seed=seed).long()
    return (code & 1).bool(), (code & 2).bool()


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_twin_bit_for_bit(method, size, kind):
    base, models = fine_tunes(kind, size)
    for density, options, seed in [
        ([0.5, 0.2, 1e-9], {}, 0),
        ([0.9, 1, 0], {"rescale": False, "normalize": True}, 7),
        ([0.3, 0.3, 0.3], {"scale": 0.7}, 2**64 - 1),
    ]:
        given = {
            name.replace("scale", "lambda_") if name == "scale" else name: x for name, x in options.items()
        }
        result = merged(method(weight=WEIGHTS, density=density, **given), models, base, seed=seed)
        assert torch.equal(result, by_hand(method, base, models, WEIGHTS, density, seed=seed, **options))


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_is_read_exactly_and_rounded_once(method, dtype):
    base, models = fine_tunes("continuous", 5000, dtype=dtype)
    exact = by_hand(method, base, models, WEIGHTS, [0.5] * 3)
    chosen = method(weight=WEIGHTS, density=0.5)
    assert same_bits(merged(chosen, models, base), exact.to(dtype))
    assert same_bits(merged(chosen, models, base, out_dtype="bfloat16"), exact.bfloat16())


@pytest.mark.parametrize("density", [0.0, 1e-3, 0.1, 0.5, 0.9])
def test_the_share_that_stays_is_the_density(density):
    size = 1 << 20
    for mask in masks(size, [density, density]):
        error = mask.sum().item() - density * size
        assert abs(error) <= 5 * math.sqrt(size * density * (1 - density))


def test_the_masks_of_two_models_are_independent():
    size, (p, q) = 1 << 20, (0.3, 0.6)
    one, other = masks(size, [p, q])
    chi_square = 0
    for a, share_a in ((one, p), (~one, 1 - p)):
        for b, share_b in ((other, q), (~other, 1 - q)):
            expected = size * share_a * share_b
            chi_square += ((a & b).sum().item() - expected) ** 2 / expected
    assert chi_square < 16.3  # three degrees of freedom: exceeded by chance once in a thousand


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 16, 65_536])
def test_neighbours_are_dropped_independently(lag):
    mask, _ = masks(1 << 20, [0.5, 0.5])
    agree = (mask[lag:] == mask[:-lag]).double()
    assert abs(agree.mean().item() - 0.5) <= 5 * 0.5 / math.sqrt(agree.numel())


def test_the_mask_depends_on_the_seed_and_on_the_name_of_the_tensor():
    mask, other = masks(10_000, [0.5, 0.5])
    assert torch.equal(mask, masks(10_000, [0.5, 0.5])[0])
    assert not torch.equal(mask, other)
    assert not torch.equal(mask, masks(10_000, [0.5, 0.5], seed=1)[0])
    ones, zeros = torch.ones(10_000), torch.zeros(10_000)
    models = {"m0": {"a": ones, "w": ones}}
    both = pm.merge(models, base={"a": zeros, "w": zeros}, method=DARE(density=0.5, rescale=False))
    assert torch.equal(both["w"].bool(), mask)
    assert not torch.equal(both["a"], both["w"])


def test_a_smaller_density_keeps_part_of_what_a_larger_one_keeps():
    few, many = (masks(10_000, [density, 0])[0] for density in (0.2, 0.6))
    assert (many | ~few).all()


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_rescaling_restores_the_l1_norm(method, kind):
    base, [model] = fine_tunes(kind, 200_000, count=1)
    base *= 0
    moved = merged(method(density=0.1), [model], base)
    assert moved.double().abs().sum().item() == pytest.approx(model.double().abs().sum().item(), rel=1e-6)


@BOTH
def test_what_stays_is_the_task_vector_times_one_factor(method):
    _, [model] = fine_tunes("continuous", 100_000, count=1)
    moved = merged(method(density=0.25), [model], torch.zeros(100_000))
    kept = moved != 0
    factor = model.double().abs().sum() / model[kept].double().abs().sum()
    assert factor.item() == pytest.approx(4, rel=0.02)
    assert torch.equal(moved[kept], model[kept] * factor.float())


def test_on_average_nothing_is_lost():
    _, [model] = fine_tunes("continuous", 20_000, count=1)
    draws = torch.stack([merged(DARE(density=0.5), [model], torch.zeros(20_000), seed=s) for s in range(64)])
    error = (draws.mean(0) - model) / (model.abs() / math.sqrt(64))  # each draw is 0 or about 2 model
    assert abs(error.mean().item()) < 5 / math.sqrt(20_000)
    assert error.std().item() == pytest.approx(1, rel=0.05)


@BOTH
@given(families(), densities, st.integers(0, 2**64 - 1))
def test_an_element_that_no_model_changed_never_moves(method, family, density, seed):
    base, models = family
    for model in models:
        model[::2] = base[::2]
    assert torch.equal(merged(method(density=density), models, base, seed=seed)[::2], base[::2])


@given(families(), st.data())
def test_density_one_drops_nothing(family, data):
    base, models = family
    weight = data.draw(st.lists(weights, min_size=len(models), max_size=len(models)))
    assert torch.equal(
        merged(DARE(weight=weight), models, base), merged(TaskArithmetic(weight=weight), models, base)
    )
    elected = merged(TIES(weight=weight, normalize=False), models, base)
    assert torch.equal(merged(DARETIES(weight=weight), models, base), elected)


@BOTH
@given(families(), densities)
def test_density_zero_and_lambda_zero_are_the_base(method, family, density):
    base, models = family
    assert torch.equal(merged(method(density=0), models, base), base)
    assert torch.equal(merged(method(density=density, lambda_=0), models, base), base)


@BOTH
@given(families(), st.integers(-10, 10), densities)
def test_a_common_factor_of_the_weights_cancels_where_they_are_normalized(method, family, power, density):
    base, models = family
    plain, scaled = (method(weight=w, density=density, normalize=True) for w in (1.0, 2.0**power))
    assert torch.equal(merged(plain, models, base), merged(scaled, models, base))


@given(families(most=1), densities)
def test_one_model_is_the_same_with_and_without_an_election(family, density):
    base, [model] = family
    one, other = (merged(method(density=density), [model], base) for method in (DARE, DARETIES))
    assert_close(one, other, base.abs() + model.abs())


@pytest.mark.parametrize("rescale", [True, False])
def test_a_norm_below_1e_7_is_not_rescaled(rescale):
    tiny = torch.full((64,), 1e-9)
    moved = merged(DARE(density=0.5, rescale=rescale), [tiny], torch.zeros(64))
    assert set(moved.tolist()) == {0.0, tiny[0].item()}
