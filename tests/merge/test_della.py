"""della: drop elements at random, small ones of a row more often."""

import numpy as np
import pytest
import torch
from merge import twin
from merge.made import KINDS, fine_tunes, floats, merged
from polmrs.errors import ConfigError
from polmrs.merge import DELLA, DELLALinear

pytestmark = pytest.mark.method("merge.della")
SHAPES = [(1,), (1000,), (30, 17), (5, 1), (3, 4, 5), (700, 300), (2, 70_000)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_twin_bit_for_bit(shape, kind):
    base, models = fine_tunes(kind, int(np.prod(shape)))
    flat_base, *flat = floats(base, *models)
    masks = [twin.drawn_by_rank(x - flat_base, shape[-1], 0.6, 0.3, model=at) for at, x in enumerate(flat)]
    for method, options in [(DELLA, {"consensus": True, "normalize": True}), (DELLALinear, {})]:
        expected = twin.task_vectors(flat_base, flat, [1, -0.5, 0.3], keep=masks, rescale=True, **options)
        models_as_shaped = [model.reshape(shape) for model in models]
        result = merged(
            method(weight=[1, -0.5, 0.3], density=0.6, epsilon=0.3), models_as_shaped, base.reshape(shape)
        )
        difference = (result.reshape(-1) - torch.from_numpy(expected)).abs()
        # The L1 norms are added up row block by row block, so a factor may differ in its last bit.
        assert difference.max() <= 1e-6 * torch.from_numpy(np.abs(expected)).max() + 1e-7


def test_large_elements_stay_more_often():
    delta = torch.arange(1.0, 1001).repeat(400, 1)
    stayed = (
        merged(DELLALinear(density=0.5, epsilon=0.4, rescale=False), [delta], torch.zeros(400, 1000)) != 0
    )
    rate = stayed.float().mean(0)
    assert rate[:50].mean().item() == pytest.approx(0.12, abs=0.02)
    assert rate[-50:].mean().item() == pytest.approx(0.88, abs=0.02)
    assert rate.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.15), (0.9, 0.1), (0.5, 0.5)])
def test_a_probability_outside_0_to_1_is_refused(density, epsilon):
    with pytest.raises(ConfigError, match=r"della\.epsilon: .* is not inside \(0, 1\)"):
        merged(DELLA(density=density, epsilon=epsilon), [torch.ones(9)], torch.zeros(9))
