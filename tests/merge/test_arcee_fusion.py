"""arcee_fusion: the other model's most important elements in the base."""

import numpy as np
import pytest
import torch
from merge.made import fine_tunes, floats, merged
from polmrs.merge import ArceeFusion

pytestmark = pytest.mark.method("merge.arcee-fusion")


def importance(a, b):
    def softmax(x):
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True) + 1e-8

    p, q = softmax(b.astype(np.float64)), softmax(a.astype(np.float64))
    divergence = (p * np.log(p / q)).sum(1, keepdims=True).astype(np.float32)
    return np.abs(b - a) * divergence


@pytest.mark.parametrize("shape", [(1,), (1000,), (30, 17), (700, 300), (3, 40_000)], ids=str)
def test_what_matters_is_taken_over(shape):
    base, [model] = fine_tunes("continuous", int(np.prod(shape)), 1)
    a, b = (x.reshape(-1, shape[-1]) for x in floats(base, model))
    score = importance(a, b)
    ordered = np.sort(score, axis=None)
    q1, median, q3 = (ordered[int(q * (ordered.size - 1))] for q in (0.25, 0.5, 0.75))
    threshold = median + np.float32(1.5) * (q3 - q1)
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
