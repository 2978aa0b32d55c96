"""The switches that give the papers' forms: trim_scope and zero_sign of ties, rescale of what is dropped at random."""

import numpy as np
import polmrs.merge as pm
import pytest
import torch
from merge import twin
from merge.made import KINDS, fine_tunes, floats, merged
from polmrs.errors import ConfigError

SIZES = {"embed": 70_001, "layers.0.w": 5, "layers.1.w": 131_072, "norm": 333}
WEIGHTS = [1.0, -0.5, 0.3]


def whole(kind, count=3):
    """A base and its models, of several tensors; equal magnitudes lie in all of them."""
    made = {name: fine_tunes(kind, size, count) for name, size in SIZES.items()}
    base = {name: tensor for name, (tensor, _) in made.items()}
    return base, [{name: models[at] for name, (_, models) in made.items()} for at in range(count)]


def run(method, base, models, **options):
    return pm.merge({f"m{at}": model for at, model in enumerate(models)}, base=base, method=method, **options)


def deltas(base, model):
    return {name: floats(model[name] - base[name])[0] for name in base}


def masks_over_the_model(base, models, densities):
    """Per tensor, each model's mask: the largest of all its tensors in a row."""
    found = {name: [] for name in base}
    for model, density in zip(models, densities, strict=True):
        each = deltas(base, model)
        mask = twin.largest(np.concatenate(list(each.values())), density)
        for name, part in zip(each, np.split(mask, np.cumsum(list(SIZES.values()))[:-1]), strict=True):
            found[name].append(part)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [[0.2] * 3, [0.5, 1, 0], [1e-9, 0.999, 0.01]], ids=str)
def test_a_density_of_the_whole_model_equals_the_twin_bit_for_bit(kind, density):
    base, models = whole(kind)
    result = run(pm.TIES(weight=WEIGHTS, density=density, trim_scope="model"), base, models)
    for name, keep in masks_over_the_model(base, models, density).items():
        flat_base, *flat = floats(base[name], *(model[name] for model in models))
        expected = twin.task_vectors(flat_base, flat, WEIGHTS, keep=keep, consensus=True, normalize=True)
        assert torch.equal(result[name], torch.from_numpy(expected)), name


def test_a_density_of_the_whole_model_is_that_of_the_authors_code():
    # topk_values_mask keeps abs(x) >= kthvalue(n - int(K n)): one more, and all that equal it.
    base, models = whole("continuous", 1)
    result = run(pm.TIES(density=0.2, trim_scope="model"), base, models)
    flat = np.concatenate(list(deltas(base, models[0]).values()))
    threshold = np.sort(np.abs(flat))[flat.size - int(0.2 * flat.size) - 1]
    authors = np.abs(flat) >= threshold
    ours = np.concatenate([floats(result[name] != base[name])[0] for name in base]) > 0
    assert authors.sum() - ours.sum() == 1
    assert not (ours & ~authors).any()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_whole_model_does_not_depend_on_threads(threads):
    base, models = whole("tied")
    method = pm.TIES(density=0.3, trim_scope="model", zero_sign="majority", rescale="l1")
    one, some = (run(method, base, models, threads=count) for count in (2, threads))
    assert all(torch.equal(one[name], some[name]) for name in base)


def test_a_density_of_the_whole_model_is_one_for_all_tensors(tmp_path):
    from safetensors.torch import save_file

    base, [model] = whole("continuous", 1)
    for name, tensors in {"base": base, "model": model}.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    config = tmp_path / "config.yml"
    density = "[{filter: norm, value: 0.5}, {value: 0.2}]"
    config.write_text(
        f"merge_method: ties\nbase_model: {tmp_path / 'base'}\nmodels: [{{model: {tmp_path / 'model'}, "
        f"parameters: {{weight: 1, density: {density}}}}}]\nparameters: {{trim_scope: model}}\n"
    )
    with pytest.raises(ConfigError, match=r"ties: density: \[.*\] here and \[.*\] elsewhere"):
        pm.merge(config, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lean", [-1, 1])
def test_where_signs_cancel_the_majority_of_the_model_decides(lean):
    a = {"w": torch.tensor([2.0, 1, 3]) * lean, "v": torch.tensor([-5.0, 4])}
    b = {"w": torch.tensor([-2.0, 1, 1]) * lean, "v": torch.tensor([5.0, -4])}
    base = {name: torch.zeros_like(tensor) for name, tensor in a.items()}
    method = pm.TIES(zero_sign="majority")
    result = run(method, base, [a, b])
    assert result["w"].tolist() == [2 * lean, lean, 2 * lean]
    assert result["v"].tolist() == [5 * lean, 4 * lean]
    positive = run(pm.TIES(), base, [a, b])
    assert positive["v"].tolist() == [5, 4]


def test_with_as_many_sums_of_either_sign_zero_is_positive():
    a, b = {"w": torch.tensor([1.0, 3, -3])}, {"w": torch.tensor([-1.0, 1, -1])}
    result = run(pm.TIES(zero_sign="majority"), {"w": torch.zeros(3)}, [a, b])
    assert result["w"].tolist() == [1, 2, -2]


METHODS_THAT_ELECT = [
    pm.DARETIES(density=0.6, rescale="none", zero_sign="majority"),
    pm.BreadcrumbsTIES(density=0.6, gamma=0.1, zero_sign="majority"),
    pm.DELLA(density=0.6, epsilon=0.1, rescale="none", zero_sign="majority"),
]


@pytest.mark.parametrize("method", METHODS_THAT_ELECT, ids=lambda method: method.name)
def test_every_method_that_elects_knows_the_majority(method):
    base, models = whole("tied", 2)
    models = [{name: base[name] - abs(model[name] - base[name]) for name in base} for model in models]
    models[1] = {
        name: 2 * base[name] - models[1][name] if name == "norm" else models[1][name] for name in base
    }
    result = run(method, base, models)
    other = run(type(method)(**{**vars(method), "zero_sign": "positive"}), base, models)
    changed = {name: (result[name] != other[name]).sum().item() for name in base}
    assert changed.pop("norm") > 0
    assert not any(changed.values())
    moved = result["norm"] - base["norm"]
    assert (moved[result["norm"] != other["norm"]] < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_dare_divides_by_the_density_as_its_paper_does(kind):
    base, models = fine_tunes(kind, 70_001)
    density = [0.5, 0.1, 0.9]
    flat_base, *flat = floats(base, *models)
    shares = [
        np.where(twin.drawn(base.numel(), share, model=at), x - flat_base, np.float32(0))
        * np.float32(1 / share)
        * np.float32(weight)
        for at, (x, share, weight) in enumerate(zip(flat, density, WEIGHTS, strict=True))
    ]
    result = merged(pm.DARE(weight=WEIGHTS, density=density, rescale="expected"), models, base)
    assert torch.equal(result, torch.from_numpy(flat_base + twin.ordered(shares)))


def test_della_divides_by_each_elements_probability():
    columns, epsilon, density = 1000, 0.2, 0.5
    delta = torch.arange(1.0, columns + 1)[
        torch.randperm(columns, generator=torch.Generator().manual_seed(0))
    ]
    base, model = torch.zeros(400, columns), delta.repeat(400, 1)
    method = pm.DELLALinear(density=density, epsilon=epsilon, rescale="expected")
    result = merged(method, [model], base)
    probability = density - epsilon + 2 * epsilon * (delta.double() - 1) / (columns - 1)
    kept = result != 0
    assert torch.equal(result[kept], (model * (1 / probability).float())[kept])
    spread = (result.double().mean(0) - delta).abs() / (delta * ((1 / probability - 1) / 400).sqrt())
    assert spread.max() < 5  # unbiased: five standard errors for a thousand columns


@pytest.mark.parametrize(("flag", "choice"), [(True, "l1"), (False, "none")])
@pytest.mark.parametrize("method", [pm.TIES, pm.DARE, pm.DELLA], ids=lambda method: method.name)
def test_mergekits_flag_is_a_choice(method, flag, choice):
    base, models = fine_tunes("continuous", 1000)
    results = [merged(method(density=0.5, rescale=value), models, base) for value in (flag, choice)]
    assert torch.equal(*results)


def test_presets_have_the_authors_values():
    """As their published commands and configurations have them; what stands there as a drop rate is one minus the density."""
    drawn = {"rescale": "expected", "normalize": False}
    magprune = {"density": 1 - 0.3, "epsilon": 0.14 / 2, "rescale": "expected"}
    assert pm.DARE.paper() == pm.DARE(density=1 - 0.2, weight=1.0, lambda_=1.0, **drawn)
    assert pm.DARETIES.paper() == pm.DARETIES(density=1 - 0.2, weight=1.0, lambda_=1.0, **drawn)
    assert pm.DELLA.paper() == pm.DELLA(weight=1.0, lambda_=1.1, normalize=True, **magprune)
    assert pm.DELLALinear.paper() == pm.DELLALinear(**magprune)
    assert pm.SCE.paper() == pm.SCE(select_topk=0.1)
    base, models = fine_tunes("continuous", 5000)
    for method in (pm.DARE, pm.DARETIES, pm.DELLA, pm.DELLALinear):
        moved = (merged(method.paper(), models[:1], base) != base).double().mean().item()
        assert moved == pytest.approx(method.paper().density, abs=0.03)


def test_an_unknown_choice_is_refused_with_the_nearest():
    base, models = fine_tunes("continuous", 10)
    for method, message in [
        (pm.DARE(rescale="expectd"), "'expectd' is not one of l1, expected, none; did you mean 'expected'?"),
        (pm.TIES(trim_scope="layer"), "'layer' is not one of tensor, model"),
        (pm.TIES(rescale="expected"), "'expected' is not one of l1, none"),
        (pm.TIES(zero_sign=True), "'true' is not one of positive, majority"),
    ]:
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
            merged(method, models, base)
