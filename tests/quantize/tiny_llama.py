"""A tiny Llama on disk."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}


def weights(dtype):
    """Names and tensors of a tiny Llama of random weights, 256 wide."""
    rng = torch.Generator().manual_seed(0)
    wide, inner, kv = SHAPE["hidden_size"], SHAPE["intermediate_size"], 128

    def normal(*shape):
        return (torch.randn(shape, generator=rng) / shape[-1] ** 0.5).to(dtype)

    made = {"model.embed_tokens.weight": normal(SHAPE["vocab_size"], wide) * 16}
    for layer in range(SHAPE["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        made |= {
            f"{at}.{norm}_layernorm.weight": torch.ones(wide, dtype=dtype)
            for norm in ("input", "post_attention")
        }
        made |= {
            f"{at}.self_attn.{name}_proj.weight": normal(rows, wide)
            for name, rows in (("q", wide), ("k", kv), ("v", kv), ("o", wide))
        }
        made |= {f"{at}.mlp.{name}_proj.weight": normal(inner, wide) for name in ("gate", "up")}
        made[f"{at}.mlp.down_proj.weight"] = normal(wide, inner)
    made["model.norm.weight"] = torch.ones(wide, dtype=dtype)
    made["lm_head.weight"] = normal(SHAPE["vocab_size"], wide)
    return made  # fmt: skip


def write(folder, tensors, dtype):
    """A folder that transformers loads."""
    folder.mkdir()
    name = str(dtype).removeprefix("torch.")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": name, **SHAPE}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    words = {f"w{at}": at for at in range(SHAPE["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", pad_token="w2").save_pretrained(
        folder
    )
    return folder
