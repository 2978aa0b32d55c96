"""Equal to mergekit 0.1.5: results, settings and whole folders, from one run of it in an environment of its own.

Both compute in f32 and round to bf16 once (mergekit: ``dtype: float32``), so results are equal within one ulp, or within
4e-6 of the tensor's standard deviation near a cancellation. Left out, and counted, is where the last bit of a sum
decides: elements tied at the TIES threshold, where mergekit's choice is arbitrary; signs elected by a sum that cancels,
|sum D| <= 4 eps sum |D|; slerp within rounding of its branch; and scores of arcee_fusion next to its threshold: mergekit's
divergence of a row is in f32, good to 1e-7, so its models are made to diverge by 5e-3.
"""

import functools
import json
import subprocess
import sys
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import polmrs.merge as pm
import pytest
import torch
from merge import twin
from merge.made import floats, folder, ulps, weights
from polmrs.errors import ConfigError
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.peer("mergekit")

SHAPES = [(1,), (7,), (33, 17), (4, 5, 6), (64, 100), (70_001,)]
KINDS = ["continuous", "brief", "tied", "sparse"]
W = [1.0, -0.5, 0.3]
METHODS = {
    "linear": [pm.Linear(weight=W), pm.Linear(weight=[0.2, 0.3, 0.5], normalize=False)],
    "slerp": [pm.SLERP(t=0.3), pm.SLERP(t=-0.1)],
    "task_arithmetic": [
        pm.TaskArithmetic(weight=W, lambda_=0.7),
        pm.TaskArithmetic(weight=W, normalize=True),
    ],
    "ties": [
        pm.TIES(weight=[1, 2, 0.7], density=[0.5, 0.2, 0.9]),
        pm.TIES(weight=W, density=0.3, normalize=False, rescale=True, lambda_=0.7),
        pm.TIES(weight=W, density=[1, 0, 0.001]),
    ],
    "dare_linear": [
        pm.DARE(weight=W, density=[0.5, 0.1, 0.9]),
        pm.DARE(weight=1, density=0.3, normalize=True),
    ],
    "dare_ties": [
        pm.DARETIES(weight=W, density=[0.5, 0.1, 0.9]),
        pm.DARETIES(weight=1, density=0.3, rescale=False),
    ],
    "passthrough": [pm.Passthrough(), pm.Passthrough(scale=0.3)],
    "breadcrumbs": [pm.Breadcrumbs(weight=W, density=0.5, gamma=0.1)],
    "breadcrumbs_ties": [pm.BreadcrumbsTIES(weight=[1, 2, 0.7], density=0.5, gamma=0.05)],
    "sce": [pm.SCE(), pm.SCE(select_topk=0.3)],
    "model_stock": [pm.ModelStock(), pm.ModelStock(filter_wise=True)],
    "nuslerp": [
        pm.NuSLERP(weight=[1, 2]),
        pm.NuSLERP(weight=[1, 2], nuslerp_flatten=False),
        pm.NuSLERP(weight=[1, 2], nuslerp_flatten=False, nuslerp_row_wise=True),
        pm.NuSLERP(weight=[1, 2], nuslerp_row_wise=True),
    ],
    "multislerp": [pm.MultiSLERP(weight=[1, 2, 0.5])],
    "karcher": [pm.Karcher()],
    "nearswap": [pm.NearSwap(t=1e-3)],
    "ram": [pm.RAM()],
    "ramplus_tl": [pm.RAMPlusTL(r=0.3)],
    "arcee_fusion": [pm.ArceeFusion()],
    "della": [pm.DELLA(weight=[1, 2, 0.7], density=0.6, epsilon=0.2)],
    "della_linear": [pm.DELLALinear(weight=W, density=0.5, epsilon=0.3, rescale="none")],
}
COUNT = {"slerp": 1, "passthrough": 1, "nuslerp": 2, "nearswap": 1, "arcee_fusion": 1}
# Where mergekit's choice among equals decides more than a few elements, only inputs that have few equals are compared.
KINDS_OF = {name: ["continuous", "sparse"] for name in ("breadcrumbs", "breadcrumbs_ties", "sce")}
KINDS_OF["arcee_fusion"] = ["diverged"]
# On so few elements directions cancel, which both refuse.
SHAPES_OF = {
    "multislerp": SHAPES[2:],
    "della": SHAPES[1:3],
    "della_linear": SHAPES[4:],
}


def family(kind, shape, count):
    """A base and its models: all different in f32; a brief fine-tune in bf16; few magnitudes; mostly zero deltas; a
    model far from its base."""
    random = np.random.default_rng(zlib.crc32(f"{kind} {shape} {count}".encode()))
    base = torch.tensor(random.normal(0, 0.02, shape), dtype=torch.float32)
    deltas = torch.tensor(random.normal(0, 1e-3, (count, *shape)), dtype=torch.float32)
    if kind == "brief":
        return base.bfloat16(), [(base + delta / 10).bfloat16() for delta in deltas]
    if kind == "diverged":
        deltas *= 100
    if kind == "tied":
        base, deltas = torch.round(base * 512) / 512, torch.round(deltas * 1024) / 1024
    if kind == "sparse":
        base *= torch.tensor(random.random(shape) < 0.5)
        deltas *= torch.tensor(random.random((count, *shape)) < 0.1)
    return base, [base + delta for delta in deltas]


def mergekits(parameters):
    """Shared parameters as mergekit has them: its flag for our choice, and none of the switches that it lacks."""
    flags = {"rescale": {"l1": True, "none": False}}
    return {
        name: flags[name].get(value, value) if name in flags else value
        for name, value in parameters.items()
        if name not in ("trim_scope", "zero_sign")
    }


class Case:
    """One merge of one tensor, by both."""

    def __init__(self, name, method, kind, shape, count=3):
        self.name, self.method, self.kind = name, method, kind
        self.base, self.models = family(kind, shape, count)
        self.inputs = {f"m{at}": model for at, model in enumerate(self.models)}
        self.masks = []
        if method.name.startswith("della"):
            base, *models = floats(self.base, *self.models)
            rows = zip(models, self.each("density"), self.each("epsilon"), strict=True)
            drawn = [
                twin.drawn_by_rank(model - base, shape[-1], share, epsilon, model=at)
                for at, (model, share, epsilon) in enumerate(rows)
            ]
            self.masks = [torch.tensor(mask).reshape(shape).float() for mask in drawn]
        if method.name.startswith("dare"):
            drawn = [
                twin.drawn(self.base.numel(), share, model=at)
                for at, share in enumerate(self.each("density"))
            ]
            self.masks = [torch.tensor(mask).reshape(shape).float() for mask in drawn]

    def each(self, parameter):
        return [row[parameter] for row in self.method.model_parameters(len(self.models))]

    def for_mergekit(self):
        """The case as the oracle reads it, and its tensors."""
        based = self.method.base == "required"
        models = self.inputs | ({"base": self.base} if based else {})
        rows = zip(self.inputs, self.method.model_parameters(len(self.models)), strict=True)
        parameters = {name: {} for name in self.method.per_model}
        for model, row in rows:
            for name, value in row.items():
                parameters[name][model] = value
        case = {
            "method": self.method.name,
            "models": list(models),
            "base": "base" if based else None,
            "parameters": parameters | mergekits(self.method.shared_parameters()),
            "dtype": "float32",
            "out_dtype": "bfloat16",
        }
        tensors = {f"{self.name}/{model}/w": tensor for model, tensor in models.items()}
        return case, tensors | {f"{self.name}/mask/{at}": mask for at, mask in enumerate(self.masks)}

    @functools.cached_property
    def ours(self):
        base = {"w": self.base} if self.method.base == "required" else None
        models = {name: {"w": tensor} for name, tensor in self.inputs.items()}
        return pm.merge(models, base=base, method=self.method, dtype="float32", out_dtype="bfloat16")["w"]

    @functools.cached_property
    def undecided(self):
        """Where the last bit of a sum decides, or mergekit's choice among equals."""
        base, *models = floats(self.base, *self.models)
        undecided = np.zeros(base.size, bool)
        if self.method.name == "slerp":
            a, b = base.astype(np.float64), models[0].astype(np.float64)
            cosine = a @ b / np.sqrt(a @ a * (b @ b))
            undecided[:] = abs(abs(cosine) - 0.9995) < 1e-6
        if self.method.name == "arcee_fusion":
            columns = self.base.shape[-1]
            score, threshold = twin.fusion(base.reshape(-1, columns), models[0].reshape(-1, columns))
            undecided = (np.abs(score - threshold) <= 1e-4 * threshold).reshape(-1) & (threshold > 0)
        if self.method.name in ("ties", "dare_ties", "della"):
            shares = []
            for at, (model, density, weight) in enumerate(
                zip(models, self.each("density"), self.each("weight"), strict=True)
            ):
                delta = model - base
                keep = self.masks[at].numpy().reshape(-1) > 0 if self.masks else twin.largest(delta, density)
                if not self.masks and keep.any():
                    threshold = np.abs(delta[keep]).min()
                    tied = (np.abs(delta) == threshold) & (threshold > 0)
                    undecided |= tied & (not keep[tied].all())
                shares.append(np.where(keep, delta, 0) * np.float32(weight))
            mass = np.abs(shares).sum(0)
            undecided |= (np.abs(np.sum(shares, 0)) <= 4 * np.finfo(np.float32).eps * mass) & (mass > 0)
        return torch.tensor(undecided).reshape(self.base.shape)


@functools.cache
def all_cases():
    """Every method on every kind of input and shape; made when a test runs, not when it is collected."""
    return [
        Case(f"{name} {at} {kind} {'x'.join(map(str, shape))}", method, kind, shape, COUNT.get(name, 3))
        for name, methods in METHODS.items()
        for at, method in enumerate(methods)
        for kind in KINDS_OF.get(name, KINDS)
        for shape in SHAPES_OF.get(name, SHAPES)
    ]


@functools.cache
def equals():
    return Case("equals", pm.TIES(density=0.3), "tied", (70_001,), 1)


DRAWN = {"density": 0.25, "size": 1 << 19, "draws": 48}

PROBE = [("model.embed_tokens.weight", 0.0), ("model.layers.0.self_attn.q_proj.weight", 0.0),
         ("model.layers.1.mlp.up_proj.weight", 0.5), ("model.layers.2.mlp.up_proj.weight", 1.0),
         ("model.norm.weight", 0.0), ("lm_head.weight", 0.0)]  # fmt: skip
NUMBERS = [
    "1", "0.5", "-.5", ".5", "+.5", "1.", "1e-5", "1e5", "1.0e-5", "1E3", "-2e+2", "0x10", "010", "0b11", "1_000", "'0.25'",
    "'1e-3'", '"-3"', "!!float 3", "abc", "'0x10'", "'1:30'", "8.5.1", "[0, 1]", "[1, 0, 4]", "[3]", "['1', 2e0]",
    "{value: 2}", "{value: 2, filter: mlp}", "[{filter: mlp, value: [1, 5]}, {value: 9}]",
    "[{filter: mlp, value: 2}, {filter: '*', value: 3}, {filter: norm, value: 4}]", "[{filter: null, value: 2}]",
    "[{filter: '', value: 2}]", "[{filter: nothing, value: 2}]", "[1, [2]]", "[1, {value: 2}]", "{value: abc}",
]  # fmt: skip
FLAGS = [
    "true", "True", "FALSE", "yes", "No", "ON", "off", "y", "n", "'true'", "'no'", "1", "0", "1.0", "2", "maybe", "[true, false]",
    "[no, yes, no]", "{filter: mlp, value: false}", "[{filter: norm, value: no}, {value: yes}]",
]  # fmt: skip
# Where one of the two refuses what the other reads, on purpose: who refuses, and why.
PARTED = {
    "null": ("mergekit", "a key without a value is not given, so polmrs asks the top level"),
    "{filter: mlp}": ("mergekit", "likewise"),
    "{value: {value: 2}}": ("mergekit", "a setting may stand behind a filter"),
    "{filter: 0, value: 2}": ("mergekit", "text needs no quotes where text is wanted"),
    "yes": ("polmrs", "a flag is no number"),
    "[]": ("polmrs", "an empty list is a slip"),
    "[{filter: mlp, value: []}, {value: 2}]": ("polmrs", "likewise"),
    "1:30": ("polmrs", "base 60 is never meant"),
    ".inf": ("polmrs", "a scale is finite"),
    "{value: 2, fitler: mlp}": ("polmrs", "an unknown key is a slip"),
}


def passthrough(text):
    return f"merge_method: passthrough\nmodels:\n- model: m\n  parameters:\n    scale: {text}\nparameters: {{scale: 7}}\n"


def linear(text):
    return f"merge_method: linear\nmodels:\n- model: m\n  parameters: {{weight: 2}}\nparameters:\n  normalize: {text}\n"


RECIPES = {
    "linear": "models: [{model: base, parameters: {weight: .5}}, {model: math, parameters: {weight: [0.2, 1]}}]",
    "slerp": """
models: [{model: base}, {model: math}]
parameters:
  t: [{filter: self_attn, value: [0, 0.5, 0.3, 1]}, {filter: mlp, value: [1, 0.5, 0]}, {value: 0.5}]""",
    "ties": """
models:
  - {model: math, parameters: {density: [1, .5, .25], weight: [0, .3, .7, 1]}}
  - {model: code, parameters: {density: .33, weight: [{filter: mlp, value: 0.5}, {value: 1e-1}]}}""",
    "task_arithmetic": "models: [{model: math, parameters: {weight: 1}}, {model: code, parameters: {weight: -5e-1}}]",
}


@pytest.fixture(scope="module")
def recipes(llamas):
    """Configuration files, and the folders for the results of both."""
    files = {}
    for name, models in RECIPES.items():
        text = f"merge_method: {name}\nbase_model: base\n{models}\ndtype: float32\nout_dtype: bfloat16\n"
        for model in ("base", "math", "code"):
            text = text.replace(f"{model},", f"{llamas / model},").replace(
                f"{model}}}", f"{llamas / model}}}"
            )
        text = text.replace("base_model: base", f"base_model: {llamas / 'base'}")
        files[name] = llamas / f"{name}.yml"
        files[name].write_text(text)
    return {
        name: (path, llamas / f"{name}-mergekit", llamas / f"{name}-polmrs") for name, path in files.items()
    }


@pytest.fixture(scope="module")
def mergekit(peer, tmp_path_factory, recipes):
    """What mergekit makes of everything: tensors by case, settings by text; and the folders are filled."""
    home = tmp_path_factory.mktemp("mergekit")
    tensors, cases = {}, {"merges": {}, "settings": {}, "folders": []}
    for case in [*all_cases(), equals()]:
        cases["merges"][case.name], more = case.for_mergekit()
        tensors |= more
    for seed in range(DRAWN["draws"]):
        name, size = f"drawn {seed}", DRAWN["size"] if seed == 0 else 4096
        parameters = {"weight": {"m": 1}, "density": {"m": DRAWN["density"]}}
        cases["merges"][name] = {"method": "dare_linear", "models": ["base", "m"], "base": "base", "seed": seed,
                                 "parameters": parameters, "dtype": "float32", "out_dtype": "float32"}  # fmt: skip
        tensors |= {f"{name}/base/w": torch.zeros(size), f"{name}/m/w": drawn_model()[:size].clone()}
    for text in [*NUMBERS, *PARTED]:
        cases["settings"][f"scale {text}"] = {
            "config": passthrough(text),
            "parameter": "scale",
            "tensors": PROBE,
        }
    for text in FLAGS:
        cases["settings"][f"normalize {text}"] = {
            "config": linear(text),
            "parameter": "normalize",
            "tensors": PROBE,
        }
    cases["folders"] = [(str(config), str(out)) for config, out, _ in recipes.values()]
    save_file(tensors, home / "in.safetensors")
    (home / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).parents[2] / "peers" / "mergekit_oracle.py"
    run = subprocess.run([peer("mergekit"), script, home], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    answers = json.loads((home / "out.json").read_text())
    assert not any(answers["folders"].values()), answers["folders"]
    return load_file(home / "out.safetensors"), answers


def drawn_model():
    return torch.from_numpy(np.random.default_rng(0).normal(0, 1, DRAWN["size"]).astype(np.float32))


@pytest.mark.parametrize("name", METHODS)
def test_results_are_equal_within_one_ulp(mergekit, name):
    for case in all_cases():
        if case.method.name == name:
            ours, theirs = case.ours, mergekit[0][f"{case.name}/w"]
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            near = 4e-6 * theirs.float().std(correction=0)
            far = (ulps(ours, theirs) > 1) & ((ours.float() - theirs.float()).abs() > near) & ~case.undecided
            assert not far.any(), (
                f"{case.name}: {int(far.sum())} elements, {ours[far][0]} and {theirs[far][0]}"
            )


def test_hardly_anything_is_left_out_and_hardly_anything_differs(mergekit, capsys):
    elements, left_out, differ = defaultdict(int), defaultdict(int), 0
    for case in all_cases():
        undecided = case.undecided
        elements[case.kind] += undecided.numel()
        left_out[case.kind] += int(undecided.sum())
        differ += int((ulps(case.ours, mergekit[0][f"{case.name}/w"]) > 0)[~undecided].sum())
    shares = ", ".join(f"{kind} {left_out[kind] / elements[kind]:.3%}" for kind in elements)
    compared = sum(elements.values()) - sum(left_out.values())
    with capsys.disabled():
        print(
            f"\nmergekit: {len(all_cases())} merges, {compared} elements, {differ / compared:.3%} of them one ulp apart;"
            f"\nleft out as undecided: {shares}",
            file=sys.stderr,  # where workers of pytest-xdist are heard
        )
    assert all(left_out[kind] < 0.01 * elements[kind] for kind in ("continuous", "diverged"))
    assert differ < 0.01 * compared


def test_as_many_of_the_elements_tied_at_the_threshold_stay(mergekit):
    """Which of them is arbitrary in mergekit, and how many is not: sums on this grid are exact, even in bf16."""
    case = equals()
    base, ours, theirs = (x.double() for x in (case.base, case.ours, mergekit[0]["equals/w"]))
    moved = [(result - base).abs().sort().values for result in (ours, theirs)]
    assert torch.equal(*moved)
    assert case.undecided.sum() > 1000


def test_dare_drops_and_rescales_alike(mergekit):
    """With masks of its own: the same share stays, and what stays is the task vector times the factor that L1 asks for."""
    model, density = drawn_model(), DRAWN["density"]
    ours = pm.merge(
        {"m": {"w": model}}, base={"w": torch.zeros_like(model)}, method=pm.DARE(density=density)
    )["w"]
    for result in (ours, mergekit[0]["drawn 0/w"]):
        kept = result != 0
        size = model.numel()
        assert abs(kept.sum().item() - density * size) < 5 * (size * density * (1 - density)) ** 0.5
        factor = model.double().abs().sum() / model[kept].double().abs().sum()
        assert torch.allclose(result[kept], model[kept] * factor.float(), rtol=1e-6, atol=0)
        assert result.double().abs().sum().item() == pytest.approx(
            model.double().abs().sum().item(), rel=1e-5
        )


def test_dare_has_the_same_expectation(mergekit):
    model, seeds = drawn_model()[:4096], range(1, DRAWN["draws"])
    method, base = pm.DARE(density=DRAWN["density"]), {"w": torch.zeros(4096)}
    ours = torch.stack(
        [pm.merge({"m": {"w": model}}, base=base, method=method, seed=seed)["w"] for seed in seeds]
    )
    theirs = torch.stack([mergekit[0][f"drawn {seed}/w"] for seed in seeds])
    spread = model.abs() * ((1 / DRAWN["density"] - 1) / len(seeds)) ** 0.5
    for draws in (ours, theirs):
        error = (draws.mean(0) - model) / spread
        assert abs(error.mean().item()) < 5 / 4096**0.5
        assert error.std().item() == pytest.approx(1, rel=0.1)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What polmrs makes of a configuration: the result for every tensor of a model of ones, or the error."""
    home = tmp_path_factory.mktemp("probe")
    folder(home / "m", {name: torch.ones(1) for name, _ in PROBE})

    def run(config):
        path = home / "config.yml"
        path.write_text(config.replace("model: m", f"model: {home / 'm'}"))
        try:
            pm.merge(path, to=home / "out", overwrite=True)
        except ConfigError as error:
            return str(error)
        found = weights(home / "out")
        return [found[name].item() for name, _ in PROBE]

    return run


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_reads_alike(mergekit, read, text):
    theirs, ours = mergekit[1][f"scale {text}"], read(passthrough(text))
    if isinstance(theirs, str):
        assert isinstance(ours, str), f"mergekit: {theirs}"
    else:
        assert ours == [float(np.float32(value)) for value in theirs]


@pytest.mark.parametrize("text", FLAGS)
def test_a_flag_reads_alike(mergekit, read, text):
    theirs, ours = mergekit[1][f"normalize {text}"], read(linear(text))
    if isinstance(theirs, str):
        assert isinstance(ours, str), f"mergekit: {theirs}"
    else:
        assert ours == [1.0 if normalize else 2.0 for normalize in theirs]


@pytest.mark.parametrize("text", PARTED)
def test_where_readings_part_it_is_on_purpose(mergekit, read, text):
    theirs, ours = mergekit[1][f"scale {text}"], read(passthrough(text))
    refused = [name for name, answer in (("mergekit", theirs), ("polmrs", ours)) if isinstance(answer, str)]
    assert refused == [PARTED[text][0]]


@pytest.fixture(scope="module")
def merged_folders(mergekit, recipes, polmrs):
    """Every recipe's folder as mergekit made it, and as the command line of polmrs does."""
    for config, _, out in recipes.values():
        assert polmrs("merge", config, out).returncode == 0
    return {name: (theirs, ours) for name, (_, theirs, ours) in recipes.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_folder_holds_the_same_tensors(merged_folders, name):
    theirs, ours = (weights(path) for path in merged_folders[name])
    assert theirs.keys() == ours.keys()
    for tensor, value in theirs.items():
        assert (value.dtype, value.shape) == (ours[tensor].dtype, ours[tensor].shape)
        assert ulps(value, ours[tensor]).max() <= 1, tensor


@pytest.mark.parametrize("name", RECIPES)
def test_a_folder_holds_the_same_files(merged_folders, name):
    theirs, ours = merged_folders[name]
    assert {path.name for path in theirs.iterdir()} == {path.name for path in ours.iterdir()}
    assert json.loads((theirs / "config.json").read_text()) == json.loads((ours / "config.json").read_text())
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (theirs / file).read_bytes() == (ours / file).read_bytes(), file


@pytest.mark.parametrize("name", RECIPES)
def test_a_folder_loads_in_transformers_and_speaks_alike(merged_folders, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = torch.arange(3, 40)[None]
    logits = []
    for path in merged_folders[name]:
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
        assert model.dtype == torch.bfloat16
        assert all(torch.equal(value, model.state_dict()[tensor]) for tensor, value in weights(path).items())
        assert AutoTokenizer.from_pretrained(path).decode([3, 4]) == "w0 w1"
        with torch.no_grad():
            logits.append(model.float()(tokens).logits)
    assert torch.allclose(*logits, atol=1e-3 * logits[0].abs().max().item())
