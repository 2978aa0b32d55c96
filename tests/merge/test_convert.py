"""`polmrs convert`: pickles in, safetensors out, and nothing run on the way."""

import json
import os

import polmrs as pm
import pytest
import torch
from polmrs.convert import convert
from polmrs.errors import CheckpointError, NotFoundError, OutputExistsError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel


def pickled(model, folder, shards=1):
    """Saves a model as transformers did before safetensors: one .bin, or several with an index."""
    folder.mkdir(parents=True)
    model.config.save_pretrained(folder)
    state = dict(model.state_dict())
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    del state["lm_head.weight"]  # transformers stored a tied head once, as the embedding
    names = list(state)
    weight_map = {}
    for at in range(shards):
        file = f"pytorch_model-{at + 1:05}-of-{shards:05}.bin"
        torch.save({name: state[name] for name in names[at::shards]}, folder / file)
        weight_map |= dict.fromkeys(names[at::shards], file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("shards", [1, 3])
def test_a_converted_model_gives_the_same_logits(gpt2, tmp_path, shards):
    source = pickled(gpt2, tmp_path / "in", shards)
    report = convert(source, to=tmp_path / "out", shard_size=20_000)
    assert report["tied"] == ({"lm_head.weight": "transformer.wte.weight"} if shards == 1 else {})
    assert len(report["files"]) > 1
    assert sorted(report["files"]) == report["files"]
    assert all((tmp_path / "out" / file).stat().st_size < 22_000 for file in report["files"])
    tokens = torch.arange(12)[None]
    outside = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(outside(tokens).logits, gpt2(tokens).logits)
    assert (
        pm.merge.merge([tmp_path / "out"], method=pm.merge.Linear(), to=tmp_path / "merged")["output"][
            "tensors"
        ]
        > 10
    )


def test_shared_and_odd_memory_becomes_plain_tensors(tmp_path):
    whole = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    state = {
        "whole": whole,
        "same": whole,
        "rows": whole[1:],
        "turned": whole.T,
        "none": torch.zeros(0),
        "one": whole[0, 0],
    }
    torch.save({"state_dict": state, "step": 3}, tmp_path / "model.pt")
    report = convert(tmp_path / "model.pt", to=tmp_path / "out")
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert report["files"] == ["model.safetensors"]
    assert report["tied"] == {}
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_a_head_that_the_config_keeps_apart_is_kept(gpt2, tmp_path):
    source = pickled(gpt2, tmp_path / "in")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert convert(source, to=tmp_path / "out")["tied"] == {}
    assert "lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")


def test_files_of_the_old_format_and_sidecars_come_along(llamas, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    state = load_file(llamas / "base" / "model.safetensors")
    torch.save(state, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    torch.save({"lr": 0.1}, source / "training_args.bin")
    for path in (llamas / "base").glob("*.json"):
        (source / path.name).write_bytes(path.read_bytes())
    convert(source, to=tmp_path / "out")
    assert not (tmp_path / "out" / "training_args.bin").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("w3 w4") == ["w3", "w4"]
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


class Payload:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_a_pickle_that_would_run_code_does_not(tmp_path, polmrs):
    torch.save({"w": torch.zeros(2), "x": Payload(tmp_path / "proof")}, tmp_path / "bad.bin")
    with pytest.raises(CheckpointError, match=r"bad\.bin: not a file of tensors alone, so it was not loaded"):
        convert(tmp_path / "bad.bin", to=tmp_path / "out")
    done = polmrs("convert", tmp_path / "bad.bin", tmp_path / "out")
    assert done.returncode == 3
    assert "bad.bin: not a file of tensors alone" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.bin"]  # no proof, no output, no leftover


def test_what_is_no_state_dict_is_named(tmp_path):
    torch.save({"w": torch.zeros(2), "step": 3}, tmp_path / "mixed.bin")
    with pytest.raises(CheckpointError, match=r"mixed\.bin: 'step' is a int, not a tensor"):
        convert(tmp_path / "mixed.bin", to=tmp_path / "out")
    torch.save([torch.zeros(2)], tmp_path / "list.bin")
    with pytest.raises(CheckpointError, match="holds a list, not a dict of tensors"):
        convert(tmp_path / "list.bin", to=tmp_path / "out")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "mixed.bin").read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cut\.bin: not a file of tensors alone"):
        convert(tmp_path / "cut.bin", to=tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds cut\.bin, list\.bin, mixed\.bin; name one"):
        convert(tmp_path, to=tmp_path / "out")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputExistsError):
        convert(tmp_path / "list.bin", to=tmp_path / "taken")
    with pytest.raises(NotFoundError, match=r"holds no \.bin"):
        convert(tmp_path / "taken", to=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_index_leads_nowhere_else(tmp_path):
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "../x.bin"}}')
    with pytest.raises(CheckpointError, match="plain file name"):
        convert(tmp_path, to=tmp_path / "out")


def test_the_command_that_a_refusal_names_is_the_one_that_works(gpt2, tmp_path, polmrs):
    source = pickled(gpt2, tmp_path / "in")
    refused = polmrs("inspect", source)
    assert refused.returncode == 3
    assert f"polmrs convert '{source}' OUT" in refused.stderr
    done = polmrs("convert", source, tmp_path / "out", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema"] == "polmrs.convert/1"
    assert polmrs("inspect", tmp_path / "out").returncode == 0
