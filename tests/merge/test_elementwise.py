"""expo, nearswap, ram and ramplus_tl: each against its formula, element by element."""

import numpy as np
import pytest
import torch
from merge.made import KINDS, SIZES, fine_tunes, floats, merged
from polmrs.merge import RAM, ExPO, NearSwap, RAMPlusTL

F = np.float32


@pytest.mark.method("refine.expo")
@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_expo_goes_on_beyond_the_aligned_model(alpha):
    base, [model] = fine_tunes("continuous", 70_000, 1)
    result = merged(ExPO(alpha=alpha), [model], base)
    assert torch.equal(result, model + np.float32(alpha) * (model - base))
    if alpha == 0:
        assert torch.equal(result, model)


@pytest.mark.method("merge.nearswap")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [1e-3, 0.2, 10.0])
def test_nearswap_takes_over_what_is_near(kind, t):
    base, [model] = fine_tunes(kind, 70_000, 1)
    a, b = floats(base, model)
    w = np.clip(F(t) / np.maximum(np.abs(a - b), F(1e-6)), F(0), F(1))
    assert torch.equal(merged(NearSwap(t=t), [model], base), torch.from_numpy(w * b + (1 - w) * a))


def agents(base, models, epsilon, factors=None):
    deltas = [x - base for x in models]
    moved = [np.abs(delta) > F(epsilon) for delta in deltas]
    count = np.sum(moved, 0)
    out = np.zeros_like(base)
    for at, delta in enumerate(deltas):
        mine = np.where(moved[at], delta, F(0))
        factor = F(1) if factors is None else F(factors[at])
        out += np.where(count > 1, mine / np.maximum(count, 1).astype(F), mine * factor)
    return out + base, moved, count


@pytest.mark.method("merge.ram")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_ram_averages_what_several_moved(kind, size):
    base, models = fine_tunes(kind, size)
    flat_base, *flat = floats(base, *models)
    for epsilon in (1e-5, 0.2):
        expected, _, _ = agents(flat_base, flat, epsilon)
        assert torch.equal(merged(RAM(epsilon=epsilon), models, base), torch.from_numpy(expected))


@pytest.mark.method("merge.ram")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_ramplus_lifts_what_only_one_moved(kind, size):
    base, models = fine_tunes(kind, size)
    flat_base, *flat = floats(base, *models)
    _, moved, count = agents(flat_base, flat, 0.2)
    shared, unique = ([int((m & which).sum()) for m in moved] for which in (count > 1, count == 1))
    factors = [1 + 0.3 * min(s / max(u, 0.2), 0.5) for s, u in zip(shared, unique, strict=True)]
    expected, _, _ = agents(flat_base, flat, 0.2, factors)
    result = merged(RAMPlusTL(r=0.3, alpha=0.5, epsilon=0.2), models, base)
    assert torch.equal(result, torch.from_numpy(expected))
