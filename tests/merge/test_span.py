"""Methods whose result lies in the span of the models: each against its formula on whole vectors, in f64."""

import numpy as np
import pytest
import torch
from merge.made import fine_tunes, floats, merged
from polmrs.errors import ConfigError
from polmrs.merge import Karcher, MetaGPT, ModelStock, MultiSLERP, NuSLERP

SIZES = [1, 7, 1000, 140_000]


def vectors(size, count=3, spread=1.0):
    """Vectors of f64 that are f32 numbers, at wide angles, and the same as tensors."""
    base, models = fine_tunes("continuous", size, count)
    models = [base + spread * (model - base) for model in models]
    flat = [x.astype(np.float64) for x in floats(base, *models)]
    return base, models, flat[0], flat[1:]


def close(result, expected):
    scale = np.abs(expected).max() + 1e-30
    assert np.abs(result.double().numpy().reshape(-1) - expected).max() <= 2e-6 * scale


def arc(a, b, t):
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    if 1 - cosine**2 <= 1e-16:
        return (1 - t) * a + t * b
    angle = np.arccos(np.clip(cosine, -1, 1))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


@pytest.mark.method("merge.nuslerp")
@pytest.mark.parametrize("size", [7, 1000, 140_000])
def test_nuslerp_is_an_arc_between_models_or_task_vectors(size):
    base, models, b, [x, y] = vectors(size, 2, 3.0)
    method = NuSLERP(weight=[1, 3])
    close(merged(method, models), arc(x, y, 0.75))
    close(merged(method, models, base), b + arc(x - b, y - b, 0.75))


@pytest.mark.method("merge.nuslerp")
def test_nuslerp_by_rows_is_an_arc_in_every_row():
    _, models, _, [x, y] = vectors(1000, 2, 3.0)
    rows = [model.reshape(20, 50) for model in models]
    expected = [arc(a, b, 0.25) for a, b in zip(x.reshape(20, 50), y.reshape(20, 50), strict=True)]
    close(merged(NuSLERP(weight=[3, 1], nuslerp_flatten=False), rows), np.concatenate(expected))


@pytest.mark.method("merge.nuslerp")
def test_nuslerp_of_opposite_vectors_and_of_weights_that_cancel():
    x = torch.tensor([1.0, 2, -3])
    assert merged(NuSLERP(weight=[1, 1]), [x, -x]).tolist() == [0, 0, 0]
    assert torch.allclose(merged(NuSLERP(weight=[1, -1]), [x, 2 * x]), 1.5 * x)


def on_sphere(xs, weights, eps=1e-8):
    weights = np.array(weights) / np.sum(weights)
    units = [x / (np.linalg.norm(x) + eps) for x in xs]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean /= np.linalg.norm(mean)
    tangent = sum(w * (u - (u @ mean) * mean) for w, u in zip(weights, units, strict=True))
    angle = np.linalg.norm(tangent) + eps
    radius = sum(w * np.linalg.norm(x) for w, x in zip(weights, xs, strict=True))
    return (mean * np.cos(angle) + tangent * np.sin(angle) / angle) * radius


@pytest.mark.method("merge.multislerp")
@pytest.mark.parametrize("size", [7, 1000, 140_000])
def test_multislerp_is_a_mean_in_the_tangent_space(size):
    base, models, b, xs = vectors(size, 3, 3.0)
    close(merged(MultiSLERP(weight=[1, 2, 0.5]), models), on_sphere(xs, [1, 2, 0.5]))
    expected = b + on_sphere([x - b for x in xs], [1, 2, 0.5])
    close(merged(MultiSLERP(weight=[1, 2, 0.5]), models, base), expected)


@pytest.mark.method("merge.multislerp")
def test_multislerp_of_one_model_is_itself_and_of_opposites_an_error_or_a_chord():
    x, y = torch.tensor([1.0, 0]), torch.tensor([0.0, 1])
    assert torch.equal(merged(MultiSLERP(), [x]), x)
    assert merged(MultiSLERP(weight=[1, 1]), [x, -3 * x]).tolist() == [-1, 0]
    with pytest.raises(ConfigError, match="cancel"):
        merged(MultiSLERP(), [x, -x, y, -y])
    with pytest.raises(ConfigError, match="sums to 0"):
        merged(MultiSLERP(weight=[1, -1]), [x, y])


def frechet(xs, iterations=200):
    """The minimiser of the sum of squared angles, by many small steps."""
    units = [x / np.linalg.norm(x) for x in xs]
    mean = sum(units) / np.linalg.norm(sum(units))
    for _ in range(iterations):
        step = np.zeros_like(mean)
        for u in units:
            angle = np.arccos(np.clip(mean @ u, -1, 1))
            step += 0.5 / len(xs) * (angle / np.sin(angle) if angle > 1e-9 else 1) * (u - (mean @ u) * mean)
        mean = mean + step
        mean /= np.linalg.norm(mean)
    return np.mean([np.linalg.norm(x) for x in xs]) * mean


@pytest.mark.method("merge.karcher")
@pytest.mark.parametrize("size", [7, 1000, 140_000])
def test_karcher_minimises_the_squared_angles(size):
    _, models, _, xs = vectors(size, 3, 3.0)
    expected = frechet(xs)
    result = merged(Karcher(max_iter=100, tol=1e-9), models).double().numpy()
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.method("merge.karcher")
def test_karcher_leaves_out_what_has_no_direction_but_counts_its_length():
    x = torch.tensor([3.0, 4])
    assert torch.allclose(merged(Karcher(), [x, torch.zeros(2)]), x / 2)
    assert merged(Karcher(), [torch.zeros(2)] * 2).tolist() == [0, 0]
    assert torch.equal(merged(Karcher(), [x]), x)


def stock(b, xs):
    deltas = [x - b for x in xs]
    n = len(xs)
    cosines = [
        deltas[i] @ deltas[j] / max(np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[j]), 1e-6)
        for i in range(n)
        for j in range(i)
    ]
    cosine = np.mean(np.clip(cosines, -1, 1))
    t = n * cosine / (1 + (n - 1) * cosine)
    return t * np.mean(xs, 0) + (1 - t) * b


@pytest.mark.method("merge.model-stock")
@pytest.mark.parametrize("size", SIZES[1:])
def test_model_stock_interpolates_by_the_angle(size):
    base, models, _, _ = vectors(size)
    models = [model + 0.3 * (models[0] - base) for model in models]  # an angle of less than 90 degrees
    b, *xs = [x.astype(np.float64) for x in floats(base, *models)]
    close(merged(ModelStock(), models, base), stock(b, xs))


@pytest.mark.method("merge.model-stock")
def test_model_stock_by_rows_has_an_angle_for_every_row():
    base, models, b, xs = vectors(1000)
    expected = [stock(b[at : at + 50], [x[at : at + 50] for x in xs]) for at in range(0, 1000, 50)]
    rows = [model.reshape(20, 50) for model in models]
    close(merged(ModelStock(filter_wise=True), rows, base.reshape(20, 50)), np.concatenate(expected))


@pytest.mark.method("merge.model-stock")
def test_model_stock_of_opposite_models_is_the_base():
    base, x = torch.tensor([1.0, 1]), torch.tensor([0.5, 0.25])
    assert torch.equal(merged(ModelStock(), [base + x, base - x], base), base)


@pytest.mark.method("merge.metagpt")
def test_metagpt_weighs_by_the_squared_length_over_the_whole_model():
    import polmrs.merge as pm

    random = np.random.default_rng(0)
    names = {"embed": 1000, "h.0.w": 140_000, "h.1.w": 7}
    base = {name: random.standard_normal(size).astype(np.float32) for name, size in names.items()}
    models = {
        model: {
            name: base[name] + np.float32(scale) * random.standard_normal(size).astype(np.float32)
            for name, size in names.items()
        }
        for model, scale in [("a", 0.1), ("b", 0.3), ("c", 0.01)]
    }
    energy = {
        model: sum(np.sum((tensors[n].astype(np.float64) - base[n]) ** 2) for n in names)
        for model, tensors in models.items()
    }
    merged_model = pm.merge(models, base=base, method=MetaGPT())
    for name in names:
        shares = [
            energy[m] / sum(energy.values()) * (models[m][name].astype(np.float64) - base[name])
            for m in models
        ]
        close(torch.from_numpy(merged_model[name]), base[name] + sum(shares))


@pytest.mark.method("merge.metagpt")
def test_metagpt_of_models_that_equal_the_base_is_the_base():
    base = torch.tensor([1.0, 2])
    assert torch.equal(merged(MetaGPT(), [base, base], base), base)
