"""Configurations of every shape that mergekit's README, documentation and examples have, merged by both.

The files in ``shapes/`` have the structure of theirs, on tiny models of four architectures. ``dtype`` is set to float32 and
``out_dtype`` to bfloat16 in all of them, so that mergekit computes in f32 as polmrs does; results are then equal within one
ulp. Random masks are the one thing that is not compared.

| theirs | ours |
|---|---|
| `examples/` | `arcee_fusion`, `linear`, `slices_slerp` and `slerp_filters` (gradient-slerp), `slices_stack` (orcamini), `ties_gradients`, `ties_base_listed` and `ties_base_last` (ties, bio-merge) |
| README: parameters, modules, slices, raw PyTorch | `slices_scaled`, `slices_bases`, `modules_models`, `modules_slices`, `raw_files` |
| README: tokenizer, chat template; LoRA | `test_tokenizer_mergekit.py`; `test_adapter.py` |
| `docs/merge_methods.md`, `tests/test_basic_merges.py` | a file for every method |
| `docs/multimerge.md` | `multi_named`, `multi_slices`; all named: `test_documents.py` |
| what `mergekit-evolve` writes | `flags_as_numbers` |
| `docs/moe.md`, `docs/evolve.md` | not of merges: refused by the name of their command, below |
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from merge.made import ulps, weights
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.peer("mergekit")

SHAPES = {path.stem: path for path in sorted((Path(__file__).parent / "shapes").glob("*.yml"))}
RANDOM = {"dare_ties", "dare_linear", "della", "della_linear"}
COMPARED = [name for name in SHAPES if name not in RANDOM]
# Which elements survive a trim is arbitrary where several have the magnitude of its threshold: so many may differ.
ARBITRARY = {"breadcrumbs": 2e-3, "ties_gradients": 2e-3, "ties_base_last": 2e-3, "slices_bases": 2e-3, "sce": 2e-3,
             "multi_named": 2e-3, "raw_files": 2e-3, "arcee_fusion": 5e-2, "breadcrumbs_ties": 2e-3,
             "ties_base_listed": 2e-3}  # fmt: skip

# mergekit writes the tensors and stops at the config, whose `layer_types` it leaves as long as they were.
NO_CONFIG = {"qwen2_tied_stack"}


def family(home, model, tuned="tuned"):
    """A model and a fine-tune of it, as transformers writes them."""
    model.save_pretrained(home / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 3e-3
    model.save_pretrained(home / tuned)


@pytest.fixture(scope="session")
def models(llamas, tmp_path_factory):
    """Folders ``llama``, ``gpt2``, ``qwen2`` (tied, in two shards), ``mixtral`` and the files of ``raw``."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        MixtralConfig,
        MixtralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    home = tmp_path_factory.mktemp("shapes")
    (home / "llama").symlink_to(llamas)
    torch.manual_seed(1)
    small = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32"}
    family(
        home / "gpt2", GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, **small))
    )
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    qwen2 = Qwen2Config(num_hidden_layers=3, tie_word_embeddings=True, **shape, **small)
    family(home / "qwen2", Qwen2ForCausalLM(qwen2))
    for name in ("base", "tuned"):
        shards(home / "qwen2" / name)
    mixtral = MixtralConfig(num_hidden_layers=2, num_local_experts=4, **shape, **small)
    family(home / "mixtral", MixtralForCausalLM(mixtral))
    (home / "raw").mkdir()
    for name in ("base", "math", "code"):
        shutil.copy(llamas / name / "model.safetensors", home / "raw" / f"{name}.safetensors")
    return home


def shards(path):
    """Splits a checkpoint in two."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    index = {}
    for at in range(2):
        file = f"model-{at + 1:05}-of-00002.safetensors"
        part = {name: tensor for i, (name, tensor) in enumerate(tensors.items()) if i % 2 == at}
        save_file(part, path / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (path / "model.safetensors.index.json").write_text(text)


@pytest.fixture(scope="session")
def configs(models):
    """Every shape on the models of the test, computed in f32."""
    found = {}
    for name, path in SHAPES.items():
        text = re.sub(r"\b(llama|gpt2|qwen2|mixtral|raw)/", rf"{models}/\1/", path.read_text())
        text = re.sub(r"^(out_)?dtype: .*\n", "", text, flags=re.MULTILINE)
        documents = [
            f"{part.rstrip()}\ndtype: float32\nout_dtype: bfloat16\n" for part in text.split("---\n")
        ]
        found[name] = models / f"{name}.yml"
        found[name].write_text("---\n".join(documents))
    return found


@pytest.fixture(scope="session")
def theirs(peer, models, configs, tmp_path_factory):
    """The folders that mergekit makes."""
    home = tmp_path_factory.mktemp("oracle")
    folders = [(str(configs[name]), str(models / f"{name}-mergekit")) for name in COMPARED]
    (home / "cases.json").write_text(json.dumps({"merges": {}, "settings": {}, "folders": folders}))
    save_file({}, home / "in.safetensors")
    script = Path(__file__).parents[2] / "peers" / "mergekit_oracle.py"
    run = subprocess.run([peer("mergekit"), script, home], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    answers = json.loads((home / "out.json").read_text())["folders"]
    errors = {name: answers[str(models / f"{name}-mergekit")] for name in COMPARED}
    stopped = {name: error for name, error in errors.items() if error}
    assert stopped.keys() == NO_CONFIG, stopped
    assert "must be equal to the number of `layer_types`" in stopped["qwen2_tied_stack"]
    return {name: models / f"{name}-mergekit" for name in COMPARED}


@pytest.fixture(scope="session")
def ours(models, configs):
    """The folders that polmrs makes, each once."""
    from polmrs.merge import merge

    made = {}

    def run(name):
        if name not in made:
            made[name] = models / f"{name}-polmrs"
            merge(configs[name], to=made[name])
        return made[name]

    return run


def per_expert(tensors):
    """mergekit's stacked experts as a checkpoint has them: one matrix for each."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(tensor):
                w1, w3 = both.chunk(2)
                found[f"{name.removesuffix('gate_up_proj')}{expert}.w1.weight"] = w1
                found[f"{name.removesuffix('gate_up_proj')}{expert}.w3.weight"] = w3
        elif name.endswith("experts.down_proj"):
            for expert, w2 in enumerate(tensor):
                found[f"{name.removesuffix('down_proj')}{expert}.w2.weight"] = w2
        else:
            found[name] = tensor
    return {name.replace(".mlp.", ".block_sparse_moe."): tensor for name, tensor in found.items()}


@pytest.mark.parametrize("name", SHAPES)
def test_it_plans(configs, name):
    from polmrs.merge import plan

    assert plan(configs[name])["output"]["tensors"] > 0


@pytest.mark.parametrize("name", COMPARED)
def test_tensors_are_mergekit_s(theirs, ours, name):
    a, b = weights(theirs[name]), weights(ours(name))
    if name.startswith("mixtral"):
        a = per_expert(a)
    assert a.keys() == b.keys()
    far = elements = 0
    for tensor, value in a.items():
        assert (value.dtype, value.shape) == (b[tensor].dtype, b[tensor].shape), tensor
        near = 4e-6 * value.float().std(correction=0)
        apart = (ulps(value.contiguous(), b[tensor]) > 1) & ((value.float() - b[tensor].float()).abs() > near)
        far += int(apart.sum())
        elements += value.numel()
    assert far <= ARBITRARY.get(name, 0) * elements


@pytest.mark.parametrize("name", [name for name in COMPARED if name not in NO_CONFIG | {"raw_files"}])
def test_the_config_is_mergekit_s(theirs, ours, name):
    a, b = (json.loads((path / "config.json").read_text()) for path in (theirs[name], ours(name)))
    assert a.get("architectures") == b.get("architectures")
    differ = {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
    assert differ <= {"transformers_version", "layer_types"}, differ


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in COMPARED
        if name not in NO_CONFIG and ("stack" in name or name.startswith(("multi", "modules")))
    ],
)
def test_transformers_loads_both_alike(theirs, ours, name):
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(3, 30)[None]
    logits = []
    for path in (theirs[name], ours(name)):
        model, info = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True
        )
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        with torch.no_grad():
            logits.append(model(tokens).logits)
    assert torch.allclose(*logits, atol=1e-3 * logits[0].abs().max().item())


def test_bare_files_give_tensors_alone(ours):
    assert {path.name for path in ours("raw_files").iterdir()} == {"model.safetensors"}


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("base_model: a\ngate_mode: hidden\ndtype: bfloat16\nexperts: [{source_model: b, positive_prompts: [x]}]", "mergekit-moe"),
        ("genome: {models: [a, b], merge_method: ties}\ntasks: [{name: arc}]", "mergekit-evolve"),
    ],
)  # fmt: skip
def test_a_configuration_of_another_command_is_refused_by_its_name(tmp_path, text, command):
    from polmrs.errors import ConfigError
    from polmrs.merge import plan

    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(ConfigError, match=f"is a configuration of {command}"):
        plan(tmp_path / "c.yml")
