"""Adapters in files of several documents: a merged adapter is an adapter of later documents, alone or on a model."""

from pathlib import Path

import pytest
import torch
from merge.lora import config, factors, made
from merge.made import folder, same_bits, weights
from polmrs.errors import CheckpointError, ConfigError
from polmrs.merge import merge, plan

MODULES = {f"model.layers.{at}.up": (30, 20) for at in range(3)}
BOTH = """
name: both
merge_method: ties
models: [{model: a, parameters: {weight: 1, density: 0.6}}, {model: b, parameters: {weight: 2, density: 0.5}}]
svd_rank: 5
"""
AGAIN = """
merge_method: linear
models: [{model: both, parameters: {weight: 0.7}}, {model: c, parameters: {weight: 0.3}}]
"""
ON_A_MODEL = """
merge_method: linear
models: [{model: base+both, parameters: {weight: 1}}, {model: other, parameters: {weight: 3}}]
"""
MODEL = """
name: mean
merge_method: linear
models: [{model: base, parameters: {weight: 1}}, {model: other, parameters: {weight: 1}}]
dtype: float32
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        made(tmp_path / name, MODULES, rank=2 + seed, seed=seed)
    for seed, name in enumerate(["base", "other"]):
        generator = torch.Generator().manual_seed(10 + seed)
        tensors = {
            f"{module}.weight": torch.randn(shape, generator=generator) for module, shape in MODULES.items()
        }
        folder(tmp_path / name, tensors, config={"num_hidden_layers": 3})
    return tmp_path


def write(*documents, to="c.yml"):
    Path(to).write_text("\n---\n".join(documents))
    return to


def same(a, b):
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_merged_adapter_is_an_adapter_of_a_later_document(home, order):
    documents = [BOTH, AGAIN]
    planned = plan(write(*(documents[at] for at in order)))
    assert [(one["name"], one["output"]["tensors"]) for one in planned["documents"]] == [("both", 6)]
    report = merge("c.yml", to="out")
    assert report["adapter"]["rank"] == planned["adapter"]["rank"] == 5
    merge(write(BOTH, to="one.yml"), to="both")
    merge(write(AGAIN, to="one.yml"), to="last")
    assert same(factors(home / "out"), factors(home / "last"))
    assert config(home / "out") == config(home / "last")
    assert not list(home.glob("out.*"))


@pytest.mark.parametrize("model", ["base", "mean"])
def test_a_merged_adapter_on_a_model_is_the_model_with_the_adapter(home, model):
    """The model may be an earlier result, too."""
    last = ON_A_MODEL.replace("base+both", f"{model}+both")
    before = [MODEL] if model == "mean" else []
    merge(write(*before, BOTH, last), to="out")
    for document in [*before, BOTH]:
        merge(write(document, to="one.yml"), to=document.split()[1])
    merge(write(last, to="one.yml"), to="last")
    assert same(weights("out"), weights("last"))


def test_an_adapter_on_an_earlier_result(home):
    last = ON_A_MODEL.replace("base+both", "mean+a")
    merge(write(MODEL, last), to="out")
    merge(write(MODEL, to="one.yml"), to="mean")
    merge(write(last, to="one.yml"), to="last")
    assert same(weights("out"), weights("last"))


@pytest.mark.parametrize("last", [AGAIN, ON_A_MODEL])
def test_the_configuration_in_the_folder_makes_the_same_folder_again(home, last):
    merge(write(BOTH, last), to="out")
    merge("out/mergekit_config.yml", to="again")
    read = factors if last == AGAIN else weights
    assert same(read(home / "out"), read(home / "again"))


@pytest.mark.parametrize(
    ("documents", "error", "message"),
    [
        ([BOTH, AGAIN.replace("model: c", "model: base")], ConfigError, "'both' is an adapter, and 'base' .* a model"),
        ([MODEL, ON_A_MODEL.replace("base+both", "base+mean")], CheckpointError, r"base\+mean: what stands after the '\+' is no adapter"),
        ([BOTH, ON_A_MODEL.replace("base+both", "both+a")], CheckpointError, r"both\+a: what stands before the '\+' is no model"),
        ([BOTH, MODEL.replace("name: mean", ""), AGAIN.replace("\n", "\nname: more\n", 1)], ConfigError, "the result does not use this document"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_found_before_anything_is_written(home, documents, error, message):
    with pytest.raises(error, match=message):
        merge(write(*documents), to="out")
    assert not list(home.glob("out*"))
