"""``model+adapter``: what peft's ``merge_and_unload`` gives, without a merged model on the way."""

import json
import subprocess

import polmrs.merge as pm
import pytest
import torch
from merge.lora import train
from merge.made import same_bits, ulps
from peft import PeftModel
from polmrs.errors import CheckpointError, NotFoundError, UsageError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore")
LINEAR = ["q_proj", "v_proj", "down_proj"]
CONV = ["c_attn", "c_proj", "c_fc"]
CASES = {
    "plain": ("llama", {"target_modules": LINEAR}),
    "rslora": ("llama", {"target_modules": LINEAR, "use_rslora": True}),
    "dora": ("llama", {"target_modules": "all-linear", "use_dora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": LINEAR,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "(v|k)_proj": 7},
            "alpha_pattern": {"^model.layers.0.mlp.down_proj": 3, "1.self_attn.v_proj": 20},
        },
    ),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "dora of an embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "head": ("llama", {"target_modules": ["lm_head", "o_proj"]}),
    "modules_to_save": ("llama", {"target_modules": LINEAR, "modules_to_save": ["lm_head", "norm"]}),
    "gpt2": ("gpt2", {"target_modules": CONV}),
    "gpt2 dora": ("gpt2", {"target_modules": CONV, "use_dora": True}),
    "gpt2 all biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "all"}),
    "gpt2 lora_bias": (
        "gpt2",
        {"target_modules": ["c_attn", "c_fc"], "lora_bias": True, "bias": "lora_only"},
    ),
    "gpt2 embedding": ("gpt2", {"target_modules": ["wte", "wpe", "c_attn"]}),
    "gpt2 square": ("gpt2 untied", {"target_modules": ["attn.c_proj", "c_fc", "lm_head"]}),
}


def merged_by_peft(base, adapter, dtype):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def merged(reference, to, **options):
    pm.merge([reference], method=pm.Linear(), to=to, **options)
    return load_file(to / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_equals_peft(bases, tmp_path, case, dtype):
    which, settings = CASES[case]
    base = bases / which
    adapter = train(base, tmp_path / "adapter", **settings)
    if dtype is torch.bfloat16:
        AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(tmp_path / "base")
        base = tmp_path / "base"
    theirs = merged_by_peft(base, adapter, dtype)
    ours = merged(f"{base}+{adapter}", tmp_path / "out")
    plain = load_file(base / "model.safetensors")
    changed = 0
    assert ours.keys() == plain.keys() <= theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == dtype
        expected = theirs[name].to(dtype)  # peft leaves a module that was trained whole in f32
        changed += not same_bits(tensor, plain[name])
        if dtype is torch.float32:
            assert torch.allclose(tensor, expected, rtol=2e-6, atol=2e-7), name
        else:
            # peft rounds the change of an embedding to bf16 before it adds it
            apart, change = (
                (tensor.float() - expected.float()).abs(),
                (expected.float() - plain[name].float()).abs(),
            )
            twice = apart <= 2**-8 * change if "embedding" in case else apart <= 2e-7
            assert bool(((ulps(tensor, expected) <= 1) | twice).all()), name
    assert changed >= (2 if "head" in case or "embedding" in case else 4)


def test_the_bits_do_not_depend_on_threads_and_the_model_gives_its_logits(bases, tmp_path):
    adapter = train(bases / "llama", tmp_path / "adapter", target_modules="all-linear", use_dora=True)
    reference = f"{bases / 'llama'}+{adapter}"
    one, three = (merged(reference, tmp_path / f"out{threads}", threads=threads) for threads in (1, 3))
    assert all(same_bits(one[name], three[name]) for name in one)
    tokens = torch.arange(1, 13)[None]
    outside = AutoModelForCausalLM.from_pretrained(tmp_path / "out1")
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases / "llama"), adapter)
    assert torch.allclose(outside(tokens).logits, live(tokens).logits, atol=1e-5)
    card = (tmp_path / "out1" / "README.md").read_text()
    assert "base+adapter" in card
    assert str(tmp_path) not in card


def test_adapters_merge_as_the_models_that_they_make(bases, tmp_path):
    """Applied while reading, or merged into files first: the same bits."""
    base = bases / "llama"
    adapters = [train(base, tmp_path / f"a{seed}", seed, target_modules=LINEAR) for seed in (1, 2)]
    for at, adapter in enumerate(adapters):
        merged(f"{base}+{adapter}", tmp_path / f"m{at}")
    method = pm.TIES(density=0.4)
    pm.merge([f"{base}+{adapter}" for adapter in adapters], base=base, method=method, to=tmp_path / "live")
    pm.merge([tmp_path / "m0", tmp_path / "m1"], base=base, method=method, to=tmp_path / "filed")
    live, filed = (load_file(tmp_path / name / "model.safetensors") for name in ("live", "filed"))
    assert all(same_bits(live[name], filed[name]) for name in filed)


def test_a_checkpoint_without_the_class_in_its_names_is_found(bases, tmp_path):
    """GPT-2's own checkpoint says h.0.attn..., peft says transformer.h.0.attn..."""
    adapter = train(bases / "gpt2", tmp_path / "adapter", target_modules=["c_attn"])
    whole = merged(f"{bases / 'gpt2'}+{adapter}", tmp_path / "whole")
    bare = tmp_path / "bare"
    bare.mkdir()
    state = load_file(bases / "gpt2" / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): value for name, value in state.items()},
        bare / "model.safetensors",
    )
    result = merged(f"{bare}+{adapter}", tmp_path / "out")
    assert all(same_bits(result[name.removeprefix("transformer.")], value) for name, value in whole.items())


def edited(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_not_read_is_refused_by_name(bases, tmp_path):
    base = bases / "llama"
    adapter = train(base, tmp_path / "adapter", target_modules=["q_proj"])

    def refused(match, error=CheckpointError):
        with pytest.raises(error, match=match):
            merged(f"{base}+{adapter}", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    edited(adapter, peft_type="LOHA")
    refused(r"adapter: adapter_config\.json: peft_type is LOHA; of peft's adapters only LORA")
    edited(adapter, peft_type="LORA", use_qalora=True)
    refused("'use_qalora' is set")
    edited(adapter, use_qalora=False, r=5)
    refused(r"q_proj': A of \[4, 32\] and B of \[32, 4\] are not of rank 5")
    edited(adapter, r=4, use_dora=True)
    refused("has magnitudes if, and only if")
    edited(adapter, use_dora=False)
    state = load_file(adapter / "adapter_model.safetensors")
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for name, match in {
        first.replace("layers.0", "layers.9"): r"layers\.0.*has one factor of its pair",
        first.replace("lora_A", "lora_E"): "lora_E.weight': is none that a plain LoRA has",
        first.removeprefix("base_model."): "does not begin with",
    }.items():
        save_file(
            {(name if key == first else key): value for key, value in state.items()},
            adapter / "adapter_model.safetensors",
        )
        refused(match)
    renamed = {key.replace("layers.0", "layers.9"): value for key, value in state.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    refused(
        r"changes 'model\.layers\.9\.self_attn\.q_proj\.weight', a tensor that .*llama does not have; did you mean"
    )
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(state, adapter / "adapter_model.bin")
    refused("polmrs convert '")
    (adapter / "adapter_config.json").unlink()
    refused("is no peft adapter", NotFoundError)


def test_an_adapter_is_no_model_and_its_folder_is_kept(bases, tmp_path):
    adapter = train(bases / "llama", tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match=r"is an adapter, not a model; write 'MODEL\+"):
        merged(f"{adapter}+{adapter}", tmp_path / "out")
    with pytest.raises(UsageError, match="is also the input"):
        merged(f"{bases / 'llama'}+{adapter}", adapter, overwrite=True)


@pytest.mark.peer("mergekit")
def test_equals_mergekit(bases, tmp_path, peer):
    base = bases / "llama"
    adapter = train(base, tmp_path / "adapter", target_modules="all-linear", use_rslora=True)
    config = {
        "merge_method": "linear",
        "models": [{"model": f"{base}+{adapter}", "parameters": {"weight": 1}}],
        "dtype": "float32",
    }
    (tmp_path / "config.yml").write_text(json.dumps(config))
    command = [
        peer("mergekit").with_name("mergekit-yaml"),
        tmp_path / "config.yml",
        tmp_path / "theirs",
        "--quiet",
    ]
    done = subprocess.run(
        [*command, "--lora-merge-cache", tmp_path / "cache"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pm.merge(tmp_path / "config.yml", to=tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], rtol=2e-6, atol=2e-7) for name in ours)
