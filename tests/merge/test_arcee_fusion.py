"""arcee_fusion: the other model's most important elements in the base."""

import numpy as np
import pytest
import torch
from merge import twin
from merge.made import fine_tunes, floats, merged
from polmrs.merge import ArceeFusion

pytestmark = pytest.mark.method("merge.arcee-fusion")


@pytest.mark.parametrize("shape", [(1,), (1000,), (30, 17), (700, 300), (3, 40_000)], ids=str)
def test_what_matters_is_taken_over(shape):
    base, [model] = fine_tunes("continuous", int(np.prod(shape)), 1)
    a, b = (x.reshape(-1, shape[-1]) for x in floats(base, model))
    score, threshold = twin.fusion(a, b)
    expected = torch.from_numpy(np.where(score >= threshold, a + (b - a), a))
    result = merged(ArceeFusion(), [model.reshape(shape)], base.reshape(shape)).reshape(expected.shape)
    near = torch.from_numpy(
        np.abs(score - threshold) <= 1e-5 * threshold
    )  # exp and log differ in their last bit
    assert near.float().mean() < 0.01 or base.numel() == 1
    assert torch.equal(result[~near], expected[~near])
    taken = (result != torch.from_numpy(a)).float().mean().item()
    if base.numel() > 100:
        assert 0.01 < taken < 0.3
