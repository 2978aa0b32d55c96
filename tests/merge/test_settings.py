"""What a configuration says about each tensor: values, filters, gradients, precedence, and what is refused.

The probe is a model of ones: passthrough shows a parameter as the result, linear shows a sum of weights.
"""

import pytest
import torch
from merge.made import folder, weights
from polmrs.errors import ConfigError, NotFoundError
from polmrs.merge import DARE, TIES, Linear, merge

LAYERS = [
    f"model.layers.{layer}.{part}.weight"
    for layer in range(5)
    for part in ("self_attn.q_proj", "mlp.up_proj")
]
OUTSIDE = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


@pytest.fixture
def probe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a", "b"):
        folder(tmp_path / name, {name: torch.ones(1) for name in LAYERS + OUTSIDE})

    def run(text):
        (tmp_path / "config.yml").write_text(text)
        report = merge("config.yml", to="out", overwrite=True)
        return {name: tensor.item() for name, tensor in weights("out").items()}, report["notes"]

    return run


@pytest.fixture
def scales(probe):
    """The scale of every tensor that a passthrough resolves from a setting at the model, and one at the top."""

    def run(setting, top=None):
        above = "" if top is None else f"parameters: {{scale: {top}}}\n"
        text = f"merge_method: passthrough\nmodels: [{{model: a, parameters: {{scale: {setting}}}}}]\n{above}"
        return probe(text)[0]

    return run


def by_part(found):
    return {
        part: {value for name, value in found.items() if part in name}
        for part in ("mlp", "attn", "norm", "head")
    }


@pytest.mark.parametrize(
    "setting",
    ["[{filter: mlp, value: 2}, {value: 3}]", "[{filter: mlp, value: 2}, {filter: null, value: 3}]",
     "[{filter: mlp, value: 2}, {filter: '*', value: 3}, {filter: norm, value: 9}]"],
)  # fmt: skip
def test_a_filter_is_a_substring_and_the_first_match_wins(scales, setting):
    assert by_part(scales(setting)) == {"mlp": {2}, "attn": {3}, "norm": {3}, "head": {3}}


def test_a_filter_is_no_pattern(scales):
    assert set(scales("{filter: 'layers.*.mlp', value: 2}").values()) == {1}


def test_where_no_filter_matches_the_top_level_is_asked_and_then_the_default(scales):
    assert by_part(scales("{filter: mlp, value: 2}", "{filter: norm, value: 3}")) == {
        "mlp": {2},
        "attn": {1},
        "norm": {3},
        "head": {1},
    }


def test_the_model_comes_before_the_top_level_and_nothing_before_the_default(scales):
    assert set(scales(2, 3).values()) == {2}
    assert set(scales("null", 3).values()) == {3}
    assert set(scales("null").values()) == {1}


def test_a_gradient_runs_through_the_layers_and_is_at_its_start_outside(scales):
    found = scales("[0, 1, 3]")
    assert [found[name] for name in LAYERS] == [0, 0, 0.5, 0.5, 1, 1, 2, 2, 3, 3]
    assert [found[name] for name in OUTSIDE] == [0, 0, 0]


def test_a_gradient_may_stand_behind_a_filter(scales):
    found = scales("[{filter: mlp, value: [0, 4]}, {value: 7}]")
    assert [found[name] for name in LAYERS if "mlp" in name] == [0, 1, 2, 3, 4]
    assert by_part(found)["attn"] == {7}


def test_a_gradient_of_one_value_is_that_value(scales):
    assert set(scales("[5]").values()) == {5}


def test_one_layer_is_at_the_end_of_a_gradient(tmp_path):
    folder(tmp_path / "m", {"model.layers.0.w.weight": torch.ones(1), "lm_head.weight": torch.ones(1)})
    text = f"merge_method: passthrough\nmodels: [{{model: {tmp_path}/m, parameters: {{scale: [2, 3]}}}}]"
    (tmp_path / "c.yml").write_text(text)
    merge(tmp_path / "c.yml", to=tmp_path / "out")
    assert {name: x.item() for name, x in weights(tmp_path / "out").items()} == {
        "model.layers.0.w.weight": 3,
        "lm_head.weight": 2,
    }


def test_a_gradient_of_flags_takes_one_of_them(probe):
    found, _ = probe("""
merge_method: linear
models: [{model: a, parameters: {weight: 4}}]
parameters: {normalize: [yes, off]}
""")
    assert [found[name] for name in LAYERS[::2]] == [1, 1, 1, 1, 4]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("'1e-3'", 0.001), ("-.5", -0.5), ("0x10", 16), ("010", 8), ("1_000", 1000), ("+2", 2),
     ("1.e+1", 10), ("!!float 3", 3), ("!!int '3'", 3), ("0b11", 3), ("&x 2", 2)],
)  # fmt: skip
def test_numbers_are_those_of_yaml_1_1(scales, text, value):
    assert scales(text)["lm_head.weight"] == torch.tensor(value, dtype=torch.float32).item()


@pytest.mark.parametrize(
    "text", ["abc", "1:30", "'0x10'", ".nan", ".inf", "1.0e+400", "[1, [2]]", "[1, {value: 2}]", "[]"]
)
def test_what_is_no_number_is_refused_at_its_place(scales, text):
    with pytest.raises(ConfigError, match=r"scale"):
        scales(text)


def test_yaml_anchors_and_merge_keys_work(probe):
    found, _ = probe("""
merge_method: linear
models:
  - model: a
    parameters: &shared {weight: 2}
  - model: b
    parameters: {<<: *shared}
parameters: {normalize: no}
""")
    assert set(found.values()) == {4}


def test_an_unlisted_base_is_a_model_of_linear_and_comes_last(probe):
    found, _ = probe("""
merge_method: linear
base_model: base
models: [{model: a, parameters: {weight: 2}}]
parameters: {normalize: false, weight: 5}
""")
    assert set(found.values()) == {7}
    with pytest.raises(
        ConfigError, match=r"base_model \('base'\): parameter 'weight' is missing; linear needs it"
    ):
        probe("merge_method: linear\nbase_model: base\nmodels: [{model: a, parameters: {weight: 2}}]")


def test_a_listed_base_is_no_task_vector_and_its_parameters_do_nothing(probe):
    text = (
        "merge_method: task_arithmetic\nbase_model: base\nmodels: [{{model: a, parameters: {{weight: 2}}}}{}]"
    )
    assert probe(text.format(""))[0] == probe(text.format(", {model: base, parameters: {weight: 9}}"))[0]


def test_slerp_takes_the_base_and_one_other_in_either_order(probe):
    for models in ("[{model: a}]", "[{model: base}, {model: a}]", "[{model: a}, {model: base}]"):
        found, _ = probe(
            f"merge_method: slerp\nbase_model: base\nmodels: {models}\nparameters: {{t: [0, 1]}}"
        )
        assert set(found.values()) == {1}
    with pytest.raises(ConfigError, match="slerp takes 1 besides the base, not 2"):
        probe("merge_method: slerp\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0}")


def test_what_mergekit_documents_but_ignores_is_noted(probe):
    _, notes = probe("""
merge_method: task_arithmetic
base_model: base
models: [{model: a, parameters: {weight: 1, density: 0.3}}]
parameters: {int8_mask: true, rescale: false}
""")
    assert len(notes) == 3
    assert all("has no effect on task_arithmetic" in note for note in notes)
    assert any(note.startswith("config.yml:4:54: models[0].parameters.density: ") for note in notes)


TIES_OF_A = "merge_method: ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1}}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: tise\nmodels: [{model: a}]", "1:15: .*'tise' is not one of .*; did you mean 'ties'"),
        (TIES_OF_A + "paramters: {}", r"4:1: paramters: unknown key; did you mean 'parameters'"),
        (
            TIES_OF_A + "parameters: {desnity: 0.5}",
            r"4:14: parameters.desnity: unknown key; did you mean 'density'",
        ),
        (TIES_OF_A + "parameters: {temperature: 1}", r"temperature: unknown key; ties takes weight, density"),
        (
            TIES_OF_A + "parameters: {normalize: maybe}",
            r"4:25: parameters.normalize: 'maybe' is not true or false",
        ),
        (TIES_OF_A + "parameters: {density: 1.4}", r"density: 1.4 is not in \[0, 1\]"),
        (
            TIES_OF_A + "parameters: {density: [0.5, 2]}",
            r"layers.1.*density: 2|layers.2.*density: .* is not in",
        ),
        (TIES_OF_A + "dtype: bfloat61", r"4:8: dtype: 'bfloat61' is not one of .*; did you mean 'bfloat16'"),
        (TIES_OF_A + "out_dtype: int64", r"4:12: out_dtype: 'int64' is not one of"),
        (TIES_OF_A + "tokenizer_source: [base]", r"4:19: tokenizer_source: a list is not text"),
        (TIES_OF_A + "slices: []", r"1:1: .models. and .slices. exclude each other"),
        (TIES_OF_A + "merge_method: ties", r"4:1: the key 'merge_method' is given twice, first at 1:1"),
        (
            TIES_OF_A.replace("weight: 1", ""),
            r"models\[0\] \('a'\): parameter 'weight' is missing; ties needs it",
        ),
        (TIES_OF_A.replace("weight", "wieght"), r"3:34: .*wieght: unknown key; did you mean 'weight'"),
        (
            TIES_OF_A.replace("weight", "lambda"),
            r"lambda: is for all models at once; .* top-level 'parameters'",
        ),
        (TIES_OF_A.replace("base_model: base\n", ""), r"'base_model' is missing; ties needs it"),
        (TIES_OF_A.replace("model: a", "model: base"), r"ties takes 1 or more besides the base, not 0"),
        (
            "merge_method: slerp\nbase_model: base\nmodels: [{model: a}]",
            r"parameter 't' is missing; slerp needs it",
        ),
        ("merge_method: linear\nmodels: []", "models: linear takes 1 or more, not 0"),
        ("merge_method: linear", "1:1: 'models' is missing"),
        ("models: [{model: a}]", "1:1: 'merge_method' is missing"),
        ("", "the file is empty"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_rule(probe, text, message):
    with pytest.raises(ConfigError, match=message):
        probe(text)


def test_a_model_that_is_not_there_is_named(probe):
    with pytest.raises(NotFoundError, match=r"models\[0\]: nowhere: no such file or folder"):
        probe(TIES_OF_A.replace("model: a", "model: nowhere"))


def test_a_sequence_gives_every_model_its_number():
    models = {name: {"w": torch.ones(1)} for name in ("a", "b", "c")}
    assert merge(models, method=Linear(weight=[1, 2, 4], normalize=False))["w"].item() == 7
    with pytest.raises(ConfigError, match=r"linear.weight: 2 values for 3 models"):
        merge(models, method=Linear(weight=[1, 2]))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e400])
@pytest.mark.parametrize("method", [Linear, TIES, DARE])
def test_a_weight_is_a_finite_number_through_python_too(method, weight):
    base = {"w": torch.ones(1)} if method.base == "required" else None
    with pytest.raises(ConfigError, match="weight"):
        merge({"a": {"w": torch.ones(1)}}, base=base, method=method(weight=weight))
