"""breadcrumbs: drop the smallest and the very largest elements of each task vector."""

import numpy as np
import pytest
import torch
from merge import twin
from merge.made import KINDS, SIZES, fine_tunes, floats, merged
from polmrs.merge import TIES, Breadcrumbs, BreadcrumbsTIES

pytestmark = pytest.mark.method("merge.breadcrumbs")
WEIGHTS = [1.0, -0.5, 0.3]


def band(delta, density, gamma):
    """Ranks gamma n .. (gamma + density) n from the largest down; the band slides up rather than shrink."""
    n = delta.size
    target, top = int(density * n), int(gamma * n)
    upper = n - max(0, n - target - top)
    mask = np.zeros(n, bool)
    mask[np.argsort(-np.abs(delta), kind="stable")[upper - target : upper]] = True
    return mask if density < 1 else np.ones(n, bool)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.01), (0.9, 0.2), (0.0, 0.1), (1.0, 0.1), (0.3, 0.0)])
def test_equals_the_twin_bit_for_bit(size, kind, density, gamma):
    base, models = fine_tunes(kind, size)
    flat_base, *flat = floats(base, *models)
    keep = [band(x - flat_base, density, gamma) for x in flat]
    for method, consensus in [(Breadcrumbs, False), (BreadcrumbsTIES, True)]:
        expected = twin.task_vectors(flat_base, flat, WEIGHTS, keep=keep, consensus=consensus)
        result = merged(method(weight=WEIGHTS, density=density, gamma=gamma), models, base)
        assert torch.equal(result, torch.from_numpy(expected))


def test_the_largest_go_and_the_next_stay():
    result = merged(Breadcrumbs(density=0.3, gamma=0.1), [torch.arange(1.0, 11)], torch.zeros(10))
    assert result.tolist() == [0, 0, 0, 0, 0, 0, 7, 8, 9, 0]


def test_without_outliers_it_trims_as_ties_does():
    base, models = fine_tunes("tied", 200_000)
    trimmed = merged(TIES(density=0.4, normalize=False), models, base)
    assert torch.equal(merged(BreadcrumbsTIES(density=0.4, gamma=0), models, base), trimmed)
