"""Slices and modules: which layers of which models make the output, and what the parameters are there.

Every tensor is filled with a number that says where it comes from: 100 m + 10 n for layer n of model m, m + 0.25 for its
embedding, m + 0.5 for its final norm and head. A passthrough shows the source of every output tensor.
"""

import json
import time
from pathlib import Path

import pytest
import torch
from merge.made import folder, weights
from polmrs.errors import CheckpointError, ConfigError
from polmrs.merge import merge, plan

PARTS = ["self_attn.q_proj.weight", "mlp.up_proj.weight"]


def model(path, number, layers=4, prefix="model", **config):
    tensors = {f"{prefix}.embed_tokens.weight": torch.full((3,), number + 0.25)}
    for layer in range(layers):
        for part in PARTS:
            tensors[f"{prefix}.layers.{layer}.{part}"] = torch.full((2,), 100.0 * number + 10 * layer)
    tensors |= {
        f"{prefix}.norm.weight": torch.full((2,), number + 0.5),
        "lm_head.weight": torch.full((3,), number + 0.5),
    }
    return folder(path, tensors, config={"model_type": "llama", "num_hidden_layers": layers} | config)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["a", "b"], start=1):
        model(tmp_path / name, number)

    def run(text):
        (tmp_path / "config.yml").write_text(text)
        report = merge("config.yml", to="out", overwrite=True)
        return {name: tensor[0].item() for name, tensor in weights("out").items()}, report["notes"]

    return run


def layers(found, part=PARTS[0]):
    numbers = [name for name in found if name.endswith(part)]
    return [found[f"model.layers.{layer}.{part}"] for layer in range(len(numbers))]


def sources(*rows):
    return "slices:\n" + "".join(
        f"  - sources: [{', '.join(f'{{model: {model}, layer_range: [{start}, {end}]}}' for model, start, end in row)}]\n"
        for row in rows
    )


def test_layers_are_stacked_and_numbered_anew(run):
    found, _ = run("merge_method: passthrough\n" + sources([("a", 0, 3)], [("b", 1, 4)], [("a", 3, 4)]))
    for part in PARTS:
        assert layers(found, part) == [100, 110, 120, 210, 220, 230, 130]
    assert len(found) == 7 * 2 + 3
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 7


def test_embeddings_come_from_the_first_slice_and_norm_and_head_from_the_last(run):
    found, _ = run("merge_method: passthrough\n" + sources([("b", 0, 1)], [("a", 0, 1)]))
    assert found["model.embed_tokens.weight"] == 2.25
    assert found["model.norm.weight"] == found["lm_head.weight"] == 1.5


def test_a_gradient_runs_over_the_layers_of_its_slice(run):
    text = "merge_method: linear\nparameters: {normalize: false, weight: [1, 0]}\n" + sources(
        [("a", 0, 3)], [("b", 0, 1)], [("b", 2, 4)]
    )
    found, _ = run(text)
    assert layers(found) == [100, 55, 0, 0, 220, 0]  # one layer alone is at t = 1
    assert found["model.embed_tokens.weight"] == 1.25  # and what is outside the layers at t = 0
    assert found["lm_head.weight"] == 2.5


def test_the_source_comes_before_the_slice_the_slice_before_the_module_and_that_before_the_top(run):
    own = [
        " parameters: {scale: 2},",
        "    parameters: {scale: 3}\n",
        "    parameters: {scale: 5}\n",
        "parameters: {scale: 7}\n",
    ]
    expected = [2, 3, 5, 7, 1]
    for given in range(5):
        source, part, module, top = ["" if at < given else text for at, text in enumerate(own)]
        text = (
            "merge_method: passthrough\nmodules:\n  default:\n"
            f"    slices:\n      - sources: [{{model: a,{source} layer_range: [1, 2]}}]\n    {part}{module}{top}"
        )
        assert layers(run(text)[0]) == [110 * expected[given]]


def test_filters_see_the_output_s_names(run):
    text = "merge_method: passthrough\nparameters: {scale: [{filter: layers.1., value: 0.5}, {value: 1}]}\n"
    assert layers(run(text + sources([("a", 0, 1)], [("a", 3, 4)]))[0]) == [100, 65]


def test_a_slice_may_have_a_base_of_its_own(run):
    rows = sources([("a", 0, 2), ("b", 2, 4)], [("a", 2, 4), ("b", 2, 4)]).splitlines(keepends=True)
    text = "merge_method: slerp\nbase_model: a\nparameters: {t: 0}\n" + "".join(rows) + "    base_model: b\n"
    assert layers(run(text)[0]) == [100, 110, 220, 230]


def test_a_model_s_own_layers_can_be_averaged(run):
    text = "merge_method: linear\nparameters: {weight: 1}\n" + sources([("a", 0, 2), ("a", 2, 4)])
    assert layers(run(text)[0]) == [110, 120]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[("a", 0, 5)]], r"slices\[0\].sources\[0\].layer_range: \[0, 5\] ends beyond the 4 layers of a"),
        ([[("a", 3, 1)]], r"slices\[0\].sources\[0\].layer_range: \[3, 1\] holds no layer"),
        ([[("a", 1, 1)]], r"holds no layer"),
        ([[("a", 0, 2), ("b", 0, 3)]], r"slices\[0\].sources\[0\] has 2 layers, but slices\[0\].sources\[1\] has 3"),
        ([], r"an empty list has no layers|empty value"),
    ],
)  # fmt: skip
def test_slices_that_cannot_be(run, rows, message):
    text = "merge_method: linear\nparameters: {weight: 1}\n" + (sources(*rows) if rows else "slices: []\n")
    with pytest.raises(ConfigError, match=message):
        run(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: linear\nslices: []\nmodels: []\n", "'models' and 'slices' exclude each other"),
        ("merge_method: linear\nmodules: {}\n", "an empty map names no module"),
        ("merge_method: slerp\nbase_model: b\nparameters: {t: 0}\n" + sources([("a", 0, 1), ("a", 1, 2)]),
         r"slices\[0\]: the base 'b' is not among the sources"),
        ("merge_method: slerp\nparameters: {t: 0}\n" + sources([("a", 0, 1), ("b", 1, 2)]),
         r"slices\[0\]: 'base_model' is missing; slerp needs it"),
        ("merge_method: linear\nslices: [{sources: [{model: a}]}]\n", r"slices\[0\].sources\[0\]: 'layer_range' is missing"),
        ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1]}], wieght: 1}]\n", "wieght: unknown key"),
    ],
)  # fmt: skip
def test_mistakes_are_named(run, text, message):
    with pytest.raises(ConfigError, match=message):
        run(text)


def test_a_method_that_looks_at_the_whole_model_needs_the_same_models_everywhere(run):
    head = "merge_method: metagpt\nbase_model: a\n"
    run(head + sources([("a", 0, 2), ("b", 0, 2)], [("a", 1, 3), ("b", 0, 2)]))
    with pytest.raises(ConfigError, match="metagpt: looks at the whole model here"):
        run(head + sources([("a", 0, 2), ("b", 0, 2)], [("b", 1, 3), ("a", 0, 2)]))


def test_what_mergekit_accepts_and_ignores_is_noted(run):
    rows = sources([("a", 0, 1)]) + "    residual_weight: 0.5\n"
    _, notes = run("merge_method: passthrough\n" + rows)
    assert notes == [
        "config.yml:4:22: slices[0].residual_weight: has no effect: mergekit accepts it and never reads it"
    ]


def test_several_stacks_of_layers_need_modules(run, tmp_path):
    both = weights(model(tmp_path / "t", 1, prefix="encoder")) | weights(
        model(tmp_path / "u", 2, prefix="decoder")
    )
    folder(tmp_path / "both", both, config={"encoder_layers": 4, "decoder_layers": 4})
    with pytest.raises(CheckpointError, match=r"several: decoder\.layers, encoder\.layers"):
        run("merge_method: passthrough\n" + sources([("both", 0, 1)]))
    text = (
        "merge_method: passthrough\nmodules:\n  encoder:\n    slices: [{sources: [{model: both, layer_range: [2, 4]}]}]\n"
        "  decoder: {models: [{model: both}]}\n"
    )
    found, _ = run(text)
    assert found["encoder.layers.0." + PARTS[0]] == 120
    assert "encoder.layers.2." + PARTS[0] not in found
    assert found["decoder.layers.3." + PARTS[0]] == 230
    assert json.loads(Path("out/config.json").read_text()) == {
        "encoder_layers": 2,
        "decoder_layers": 4,
        "dtype": "float32",
    }


def test_modules_take_their_tensors_and_the_rest_is_copied(run, tmp_path):
    for name, number in (("v1", 1), ("v2", 2)):
        tensors = weights(model(tmp_path / name, number, prefix="language_model.model"))
        tensors |= {
            f"vision_tower.blocks.{layer}.norm.weight": torch.full((2,), number + 0.1) for layer in range(2)
        }
        tensors["multi_modal_projector.linear.weight"] = torch.full((2,), number + 0.2)
        folder(tmp_path / name, tensors, config={"text_config": {"num_hidden_layers": 4}})
    text = (
        "merge_method: linear\nparameters: {weight: 1}\nmodules:\n  text_decoder: {models: [{model: v1}, {model: v2}]}\n"
        "  vision_tower: {models: [{model: v2}]}\n"
    )
    found, notes = run(text)
    assert found["language_model.model.layers.3." + PARTS[1]] == 180
    assert found["lm_head.weight"] == 2.0
    assert found["multi_modal_projector.linear.weight"] == pytest.approx(1.7)
    assert found["vision_tower.blocks.1.norm.weight"] == pytest.approx(2.1)
    assert notes == []
    text = "merge_method: passthrough\nbase_model: v1\nmodules: {vision_tower: {models: [{model: v2}]}}\n"
    with pytest.raises(ConfigError, match=r"modules.vision_tower: models: passthrough takes 1, not 2"):
        run(text)
    found, notes = run(
        "merge_method: slerp\nbase_model: v1\nparameters: {t: 1}\nmodules: {vision_tower: {models: [{model: v2}]}}\n"
    )
    assert found["vision_tower.blocks.1.norm.weight"] == pytest.approx(2.1)
    assert found["multi_modal_projector.linear.weight"] == pytest.approx(1.2)
    assert found["lm_head.weight"] == 1.5
    assert notes == [
        "copied untouched: 12 tensors of v1 that belong to no module, such as 'language_model.model.embed_tokens.weight'"
    ]
    with pytest.raises(
        ConfigError, match=r"modules.audio: no tensor of v1 belongs to it; its tensors begin with"
    ):
        run(
            "merge_method: slerp\nbase_model: v1\nparameters: {t: 1}\nmodules: {audio: {models: [{model: v2}]}}\n"
        )


def test_tensors_that_only_the_base_knows_survive(run, tmp_path):
    more = {"mtp.0.proj.weight": torch.ones(2), "model.layers.2.extra.weight": torch.ones(2)}
    folder(tmp_path / "base", weights(tmp_path / "a") | more)
    found, notes = run(
        "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: b, parameters: {weight: 1}}]\n"
    )
    assert found["mtp.0.proj.weight"] == found["model.layers.2.extra.weight"] == 1
    assert layers(found) == [200, 210, 220, 230]
    assert notes == ["copied untouched: 2 tensors that only base has, such as 'model.layers.2.extra.weight'"]
    fewer = {name: tensor for name, tensor in weights(tmp_path / "b").items() if "layers.3" not in name}
    folder(tmp_path / "c", fewer)
    with pytest.raises(CheckpointError, match=r"c: tensor 'model.layers.3..*' of base is missing"):
        run(
            "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: c, parameters: {weight: 1}}]\n"
        )


def test_experts_are_no_layers(run, tmp_path):
    for name, experts in (("mixtral", "block_sparse_moe.experts.{}.w1"), ("qwen", "mlp.experts.{}.up_proj")):
        tensors = weights(model(tmp_path / name, 1))
        for layer in range(4):
            for expert in range(6):
                tensors[f"model.layers.{layer}.{experts.format(expert)}.weight"] = torch.full(
                    (2,), 10.0 * layer + expert
                )
        folder(tmp_path / name, tensors, config={"num_hidden_layers": 4})
        found, _ = run("merge_method: passthrough\n" + sources([(name, 0, 2)], [(name, 1, 4)]))
        assert len(found) == 5 * (2 + 6) + 3
        for layer, origin in enumerate([0, 1, 1, 2, 3]):
            for expert in range(6):
                assert found[f"model.layers.{layer}.{experts.format(expert)}.weight"] == 10 * origin + expert


def test_lists_by_layer_go_with_their_layers(run, tmp_path):
    model(tmp_path / "a", 1, layer_types=["p", "q", "r", "s"])
    model(tmp_path / "b", 2, layer_types=["P", "Q", "R", "S"])
    run("merge_method: passthrough\n" + sources([("a", 1, 3)], [("b", 0, 1)]))
    config = json.loads(Path("out/config.json").read_text())
    assert config["layer_types"] == ["q", "r", "P"]
    assert config["num_hidden_layers"] == 3


@pytest.mark.parametrize("tied", ["a", "b"])
def test_the_head_is_what_the_config_says(run, tmp_path, tied):
    untied = {"a": "b", "b": "a"}[tied]
    tensors = weights(tmp_path / tied)
    del tensors["lm_head.weight"]
    folder(tmp_path / tied, tensors, config={"num_hidden_layers": 4, "tie_word_embeddings": True})
    found, notes = run("merge_method: passthrough\n" + sources([(tied, 0, 1)], [(untied, 0, 1)]))
    assert "lm_head.weight" not in found
    assert notes == [f"{untied}: 'lm_head.weight' is left out, because {tied} ties it to the embedding"]
    found, notes = run("merge_method: passthrough\n" + sources([(untied, 0, 1)], [(tied, 0, 1)]))
    assert found["lm_head.weight"] == tensors["model.embed_tokens.weight"][0].item()
    assert notes == []


def test_many_small_tensors_plan_in_no_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        tensors = {
            f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight": torch.zeros(1)
            for layer in range(50)
            for expert in range(400)
        }
        folder(tmp_path / name, tensors, config={"num_hidden_layers": 50})
    (tmp_path / "config.yml").write_text(
        "merge_method: linear\nparameters: {weight: 1}\n"
        + sources([("a", 0, 25), ("b", 25, 50)], [("b", 0, 25), ("a", 25, 50)])
    )
    begun = time.perf_counter()
    assert plan("config.yml")["output"]["tensors"] == 20_000
    assert time.perf_counter() - begun < 3  # about 0.3 s on a quiet machine
