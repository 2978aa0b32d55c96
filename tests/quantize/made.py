"""Made model folders for the tests of quantization."""

import json
import zlib

import torch
from safetensors.torch import load_file, save_file

CONFIG = {
    "model_type": "llama",
    "dtype": "bfloat16",
    "tie_word_embeddings": True,
    "_name_or_path": "/somewhere",
}
LINEAR = {
    "model.layers.0.self_attn.q_proj": (192, 192),
    "model.layers.0.self_attn.k_proj": (64, 192),
    "model.layers.0.self_attn.v_proj": (64, 192),
    "model.layers.0.self_attn.o_proj": (192, 192),
    "model.layers.0.mlp.gate_proj": (320, 192),
    "model.layers.0.mlp.up_proj": (320, 192),
    "model.layers.0.mlp.down_proj": (192, 320),
}
OTHER = {"model.embed_tokens": (96, 192), "model.norm": (192,), "model.layers.0.mlp.gate": (4, 192)}


def weights(dtype=torch.bfloat16):
    """Linear layers with a large value here and there and a group of zeros, an embedding, a norm, a router."""
    random = torch.Generator().manual_seed(zlib.crc32(str(dtype).encode()))
    made = {}
    for name, shape in {**LINEAR, **OTHER}.items():
        weight = torch.randn(shape, generator=random) / 16
        weight[..., ::61] *= 6
        weight[..., :64] = 0 if name.endswith("o_proj") else weight[..., :64]
        made[f"{name}.weight"] = weight.to(dtype)
    return made


def folder(path, tensors=None, config=None):
    """A model folder of these tensors."""
    path.mkdir(parents=True)
    save_file(weights() if tensors is None else tensors, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (path / "tokenizer.json").write_text("{}")
    return path


def read(path):
    """All tensors of a folder, and its config."""
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors, json.loads((path / "config.json").read_text())


def files(path):
    """Every file's bytes."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}
