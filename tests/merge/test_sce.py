"""sce: select by variance, calculate weights, erase minorities."""

import numpy as np
import pytest
import torch
from merge import twin
from merge.made import KINDS, SIZES, fine_tunes, floats, merged
from polmrs.merge import SCE

pytestmark = pytest.mark.method("merge.sce")
F = np.float32


def by_hand(base, models, share):
    deltas = [x - base for x in models]
    n = F(len(models))
    mean = twin.ordered(deltas) / n
    variance = twin.ordered([(delta - mean) * (delta - mean) for delta in deltas]) / n
    if share < 1:
        count = int(share * np.count_nonzero(variance))
        mask = np.zeros(base.size, bool)
        mask[np.argsort(-variance, kind="stable")[:count]] = True
        deltas = [np.where(mask & (variance != 0), delta, F(0)) for delta in deltas]
    energy = [twin.dot(delta, delta) / base.size for delta in deltas]
    weights = [F(e / sum(energy) if sum(energy) >= 1e-6 else 1 / len(models)) for e in energy]
    elected = twin.ordered(deltas)
    agrees = [np.where(elected >= 0, delta > 0, delta < 0) for delta in deltas]
    out = twin.ordered([np.where(a, d * w, F(0)) for a, d, w in zip(agrees, deltas, weights, strict=True)])
    total = twin.ordered([np.where(a, w, F(0)) for a, w in zip(agrees, weights, strict=True)])
    return base + out / np.maximum(total, F(1e-6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.05, 0.0])
def test_equals_the_twin_bit_for_bit(size, kind, share):
    base, models = fine_tunes(kind, size)
    expected = by_hand(*floats(base)[:1], floats(*models), share)
    assert torch.equal(merged(SCE(select_topk=share), models, base), torch.from_numpy(expected))


def test_small_task_vectors_weigh_the_same():
    base = torch.zeros(3)
    models = [torch.tensor([1e-4, 2e-4, 0]), torch.tensor([3e-4, 0, 0])]
    assert torch.allclose(merged(SCE(), models, base), torch.tensor([2e-4, 2e-4, 0]))
