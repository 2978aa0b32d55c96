"""peft adapters for the tests of merging: made, loaded, merged by peft itself."""

import json

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def train(base, to, seed=0, **settings):
    """Saves an adapter whose every trainable number has moved."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(**({"r": 4, "lora_alpha": 6} | settings))
    )
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=random) * 0.05
    model.save_pretrained(to)
    return to


def made(path, modules, *, rank=4, alpha=6, seed=0):
    """Writes an adapter without a model: ``modules`` are shapes of weights by name. Gives its changes, in float32."""
    random, tensors, changes = torch.Generator().manual_seed(seed), {}, {}
    for name, (outputs, inputs) in modules.items():
        a, b = (torch.randn(shape, generator=random) for shape in ((rank, inputs), (outputs, rank)))
        part = f"base_model.model.{name}"
        tensors |= {f"{part}.lora_A.weight": a, f"{part}.lora_B.weight": b}
        changes[name] = (alpha / rank * b.double() @ a.double()).float()
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": sorted(modules)}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return changes


def changes(model, name="default"):
    """What an adapter of a peft model adds to every weight, by peft itself."""
    modules = {path: module for path, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    has = {path for path, module in modules.items() if name in {*module.lora_A, *module.lora_embedding_A}}
    return {
        path.removeprefix("base_model.model."): modules[path].get_delta_weight(name).detach() for path in has
    }


def loaded(base, adapter):
    """A model with an adapter as peft loads it."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)


def merged_by_peft(base, adapters, weights, combination, **options):
    """The changes that peft's own merge of adapters makes."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters[0], "0")
    for at, adapter in enumerate(adapters[1:], 1):
        model.load_adapter(adapter, str(at))
    names = [str(at) for at in range(len(adapters))]
    model.add_weighted_adapter(names, weights, "merged", combination_type=combination, **options)
    return changes(model, "merged")


def pair(base, home, first=None, second=None, **settings):
    """Two adapters of one model."""
    return [
        train(base, home / "a", seed=1, **{**settings, **(first or {})}),
        train(base, home / "b", seed=2, **{**settings, **(second or {})}),
    ]


def factors(folder):
    return load_file(folder / "adapter_model.safetensors")


def config(folder):
    return json.loads((folder / "adapter_config.json").read_text())
