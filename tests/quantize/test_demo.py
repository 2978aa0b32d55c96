"""The parts of the demonstration of quantization that compute: the packaged model's grid, dither, recall."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "quantize_smollm2"


def part(name):
    """A module of the demonstration, whose folder is not in the path."""
    spec = importlib.util.spec_from_file_location(f"demo_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


grid, neighbours = part("grid"), part("neighbours")


def stored():
    """What Q4_1 gives back: codes times a step in half precision, plus a minimum, in blocks of 32."""
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (6, 3, 32), generator=random)
    codes[..., 0], codes[..., 1] = 0, 15
    step = torch.rand(6, 3, 1, generator=random).half().float() / 64
    low = -torch.rand(6, 3, 1, generator=random).half().float() / 4
    return (codes * step + low).flatten(1), step


def test_weights_that_lie_on_the_grid_stay_where_they_are_and_others_do_not():
    weight, _ = stored()
    torch.testing.assert_close(grid.rounded(weight), weight, rtol=0, atol=1e-6)
    other = torch.randn(6, 96, generator=torch.Generator().manual_seed(1))
    off = (grid.rounded(other) - other).unflatten(1, (3, 32)).abs()
    widest = (other.unflatten(1, (3, 32)).amax(-1) - other.unflatten(1, (3, 32)).amin(-1)) / 15
    assert bool((off.amax(-1) <= 0.501 * widest).all())
    assert float(off.mean()) > 0.2 * float(widest.mean())


def test_dither_is_noise_as_wide_as_a_step_and_leads_off_the_grid():
    weight, step = stored()
    noisy = grid.dithered(weight, torch.Generator().manual_seed(2))
    moved = (noisy - weight).unflatten(1, (3, 32)) / step
    assert float(moved.abs().max()) <= 0.5001
    assert (
        abs(float(moved.square().mean()) - 1 / 12) < 0.01
    )  # the variance of a uniform distribution of width 1
    assert float((grid.rounded(noisy) - noisy).norm() / noisy.norm()) > 0.02
    assert torch.equal(noisy, grid.dithered(weight, torch.Generator().manual_seed(2)))


def test_recall_counts_neighbours_in_any_order_and_nobody_is_its_own():
    vectors = np.random.default_rng(0).standard_normal((40, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    true = neighbours.nearest(vectors)
    assert true.shape == (40, neighbours.NEAREST)
    assert not (true == np.arange(40)[:, None]).any()
    assert neighbours.shared(true[:, ::-1], true) == 1
    other = true.copy()
    other[:, 0] = -1
    assert neighbours.shared(other, true) == 0.9
