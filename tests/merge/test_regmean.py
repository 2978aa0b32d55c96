"""regmean: linear layers whose outputs come nearest to those of every model on its own data."""

import json

import numpy as np
import polmrs.merge as pm
import pytest
import torch
from merge.made import folder, merged, statistics, weights
from polmrs.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.method("merge.regmean")


def layers(rows, columns, count=3, tokens=None, seed=0):
    """Weights of one layer, and inputs to each that lie in different directions."""
    random = np.random.default_rng(seed)
    base = random.normal(size=(rows, columns))
    models = [base + random.normal(size=(rows, columns)) / 3 for _ in range(count)]
    tokens = tokens or 4 * columns
    scales = [np.exp(random.normal(size=columns)) for _ in range(count)]
    mixing = random.normal(size=(columns, columns)) / columns**0.5 + np.eye(columns)
    inputs = [random.normal(size=(tokens, columns)) * scale @ mixing for scale in scales]
    return [torch.tensor(model, dtype=torch.float32) for model in models], inputs


def files(tmp_path, inputs, name="w"):
    def tensors(x):
        gram = torch.tensor(x.T @ x, dtype=torch.float32)
        return {f"{name}::gram": (gram + gram.T) / 2, f"{name}::count": torch.tensor(len(x))}

    return [statistics(tmp_path / f"{at}.safetensors", tensors(x)) for at, x in enumerate(inputs)]


def twin(models, inputs, weight, alpha, ridge):
    left = right = 0
    ridge *= np.mean([np.square(x).sum(0).mean() for x in inputs])
    for model, x, w in zip(models, inputs, weight, strict=True):
        products = (x.T @ x).astype(np.float32).astype(np.float64)
        products = (products + products.T) / 2
        gram = alpha * products + (1 - alpha) * np.diag(np.diag(products))
        gram += ridge * np.eye(len(gram))
        left, right = left + w * gram, right + w * model.double().numpy() @ gram
    return right @ np.linalg.inv(left)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 3), (16, 40), (70, 129), (33, 200)])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_equals_the_twin(tmp_path, rows, columns, alpha):
    models, inputs = layers(rows, columns)
    method = pm.RegMean(statistics=files(tmp_path, inputs), weight=[1, 0.5, 2], alpha=alpha)
    result = merged(method, models)
    expected = twin(models, inputs, [1, 0.5, 2], alpha, 1e-6)
    assert np.abs(result.numpy() - expected).max() < 2e-5 * np.abs(expected).max()


def test_equal_models_are_recovered(tmp_path):
    models, inputs = layers(40, 60)
    result = merged(pm.RegMean(statistics=files(tmp_path, inputs)), [models[0]] * 3)
    assert (result - models[0]).abs().max() < 1e-6


def test_shared_data_give_the_average(tmp_path):
    models, inputs = layers(40, 60)
    path = files(tmp_path, inputs[:1])[0]
    result = merged(pm.RegMean(statistics=path), models)
    assert (result - merged(pm.Linear(), models)).abs().max() < 1e-5


def test_outputs_are_nearer_than_those_of_the_average(tmp_path):
    models, inputs = layers(40, 60)
    paths = files(tmp_path, inputs)

    def error(merged_weight):
        outputs = [
            (x @ (merged_weight.double() - model.double()).numpy().T)
            for model, x in zip(models, inputs, strict=True)
        ]
        return sum((output**2).sum() for output in outputs)

    exact, shrunk = (error(merged(pm.RegMean(statistics=paths, alpha=alpha), models)) for alpha in (1.0, 0.9))
    average = error(merged(pm.Linear(), models))
    assert exact < 0.9 * average
    assert exact <= shrunk < average
    # The exact solution is the least of all: a step in any direction is worse.
    best = merged(pm.RegMean(statistics=paths, alpha=1.0, ridge=0), models)
    step = torch.randn(best.shape, generator=torch.Generator().manual_seed(0)) * 1e-2
    assert error(best) < min(error(best + step), error(best - step))


def test_inputs_that_never_occurred_get_the_average(tmp_path):
    models, inputs = layers(8, 12)
    for x in inputs:
        x[:, 5] = 0
    result = merged(pm.RegMean(statistics=files(tmp_path, inputs)), models)
    assert (result[:, 5] - merged(pm.Linear(), models)[:, 5]).abs().max() < 1e-5
    with pytest.raises(ConfigError, match=r"w: regmean.ridge: .* not positive definite at input 5"):
        merged(pm.RegMean(statistics=files(tmp_path, inputs), ridge=0), models)


def test_a_folder_whose_plan_states_the_workspace(tmp_path):
    models, inputs = layers(30, 400)
    paths = files(tmp_path, inputs, "layer.weight")
    folders = [
        folder(tmp_path / f"m{at}", {"layer.weight": model, "norm.weight": model[0].clone()})
        for at, model in enumerate(models)
    ]
    method = pm.RegMean(statistics=paths)
    plan = pm.plan(folders, method=method)
    assert plan["peak_memory_bytes"] >= 4 * (4 * 30 * 400 + 3 * 400 * 400) + 8 * 400 * 400
    assert "1 tensors have no gram in any statistics file: they are averaged" in plan["notes"]
    pm.merge(folders, method=method, to=tmp_path / "out")
    result = weights(tmp_path / "out")
    expected = twin(models, inputs, [1, 1, 1], 0.9, 1e-6)
    assert np.abs(result["layer.weight"].numpy() - expected).max() < 2e-5 * np.abs(expected).max()
    assert (result["norm.weight"] - torch.stack(models)[:, 0].mean(0)).abs().max() < 1e-6
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"


def test_threads_do_not_matter(tmp_path):
    models, inputs = layers(50, 90)
    method = pm.RegMean(statistics=files(tmp_path, inputs))
    assert torch.equal(merged(method, models, threads=1), merged(method, models, threads=3))


def test_products_of_another_layer_are_refused(tmp_path):
    models, _ = layers(6, 4)
    _, inputs = layers(6, 5)
    with pytest.raises(CheckpointError, match=r"'w::gram' of shape \[5, 5\] does not fit \[6, 4\]"):
        merged(pm.RegMean(statistics=files(tmp_path, inputs)), models)
