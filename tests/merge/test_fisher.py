"""fisher: the average of models, weighted by each parameter's Fisher information."""

import numpy as np
import polmrs.merge as pm
import pytest
import torch
from merge.made import fine_tunes, floats, folder, merged, same_bits, statistics, weights
from polmrs.errors import CheckpointError, ConfigError, NotFoundError

pytestmark = pytest.mark.method("merge.fisher")
W = [1.0, 0.5, 2.0]


def information(size, count=3, seed=0):
    """Fisher information over many orders of magnitude, some of it zero."""
    random = np.random.default_rng(seed)
    values = 10.0 ** random.uniform(-12, -2, (count, size)) * (random.random((count, size)) < 0.8)
    values[:, 0] = 0
    return [torch.tensor(row, dtype=torch.float32) for row in values]


def files(tmp_path, fishers, name="w"):
    return [
        statistics(tmp_path / f"{at}.safetensors", {f"{name}::fisher": one}) for at, one in enumerate(fishers)
    ]


def twin(models, fishers, weight):
    xs, fs = (np.stack([x.double().numpy() for x in each]) for each in (models, fishers))
    ws = np.array(weight)[:, None]
    certainty, average = np.zeros(xs.shape[1]), np.zeros(xs.shape[1])
    merged = np.zeros(xs.shape[1])
    for x, f, w in zip(xs, fs, ws, strict=True):
        average += w * x
        merged += w * f * x
        certainty += w * f
    none = certainty == 0
    return torch.from_numpy(
        np.where(none, average / ws.sum(), merged / np.where(none, 1, certainty)).astype(np.float32)
    )


@pytest.mark.parametrize("size", [1, 7, 70_001])
def test_equals_the_twin_bit_for_bit(tmp_path, size):
    _, models = fine_tunes("continuous", size)
    fishers = information(size)
    result = merged(pm.Fisher(statistics=files(tmp_path, fishers), weight=W), models)
    assert torch.equal(result, twin(models, fishers, W))


def test_equal_information_is_the_average(tmp_path):
    _, models = fine_tunes("continuous", 70_001)
    same = [torch.full((70_001,), 1e-9)] * 3
    result = merged(pm.Fisher(statistics=files(tmp_path, same), weight=W), models)
    average = merged(pm.Linear(weight=W), models)
    assert (result - average).abs().max() <= 4e-7 * max(model.abs().max() for model in models)


def test_a_model_that_alone_knows_a_parameter_decides_it(tmp_path):
    _, models = fine_tunes("continuous", 1000)
    fishers = [torch.zeros(1000) for _ in models]
    for at, fisher in enumerate(fishers):
        fisher[at::3] = 1e-20
    result = merged(pm.Fisher(statistics=files(tmp_path, fishers)), models)
    for at, model in enumerate(models):
        assert torch.equal(result[at::3], model[at::3])


def test_folders_by_a_configuration_with_a_tensor_that_nobody_measured(tmp_path):
    _, models = fine_tunes("continuous", 4000, dtype=torch.bfloat16)
    fishers = information(4000)
    paths = files(tmp_path, [fisher.reshape(40, 100) for fisher in fishers], "a.weight")
    lines = ["merge_method: fisher", "models:"]
    for at, (model, path) in enumerate(zip(models, paths, strict=True)):
        tensors = {"a.weight": model.reshape(40, 100), "b.weight": model.clone()}
        where = folder(tmp_path / f"m{at}", tensors)
        lines += [f"- model: {where}", f"  parameters: {{statistics: {path}, weight: {W[at]}}}"]
    config = tmp_path / "fisher.yml"
    config.write_text("\n".join(lines) + "\nout_dtype: float32\n")
    plan_text = pm.merge(config, to=tmp_path / "out")
    assert "1 tensors have no fisher in any statistics file: they are averaged" in plan_text["notes"]
    result = weights(tmp_path / "out")
    assert torch.equal(result["a.weight"].flatten(), twin([model.float() for model in models], fishers, W))
    average = np.average(np.stack(floats(*models)).astype(np.float64), 0, W)
    assert np.abs(result["b.weight"].numpy() - average).max() < 1e-6


def test_one_file_may_serve_all_models_and_threads_do_not_matter(tmp_path):
    _, models = fine_tunes("continuous", 200_000)
    [path] = files(tmp_path, information(200_000, 1))
    one, two = (merged(pm.Fisher(statistics=path), models, threads=threads) for threads in (1, 3))
    assert same_bits(one, two)


def test_what_does_not_fit_is_refused(tmp_path):
    _, models = fine_tunes("continuous", 12)
    a, b = files(tmp_path, information(12, 2))
    other = statistics(tmp_path / "other.safetensors", {"v::fisher": torch.ones(12)})
    short = statistics(tmp_path / "short.safetensors", {"w::fisher": torch.ones(11)})
    for statistic, error, message in [
        ([a, b, other], CheckpointError, "'w::fisher' is missing, and other models have it"),
        ([a, b, short], CheckpointError, r"'w::fisher' of shape \[11\] does not fit \[12\]"),
        ([a, b, tmp_path / "none"], NotFoundError, "none: no such file"),
        ([a, b], ConfigError, "2 values for 3 models"),
    ]:
        with pytest.raises(error, match=message):
            merged(pm.Fisher(statistics=statistic), models)
    with pytest.raises(ConfigError, match=r"fisher.weight: .* are not 0 or more"):
        merged(pm.Fisher(statistics=a, weight=[1, -1, 1]), models)
