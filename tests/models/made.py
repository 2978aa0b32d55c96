"""Tiny models of real architectures with random weights, and batches for them."""

import torch
from polmrs.data.ragged import Batch
from polmrs.models import Policy
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}


def config(kind="llama", **more):
    shape = SHAPE | ({"head_dim": 8} if kind.startswith(("gemma", "qwen3")) else {})
    return AutoConfig.for_model(
        kind, **(shape | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | more)
    )


def model(kind="llama", dtype=torch.float64, auto=AutoModelForCausalLM, seed=0, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(
            config(kind, **more), dtype=dtype, attn_implementation="eager" if kind == "gemma2" else "sdpa"
        )


def policy(kind="llama", door=None, **more):
    return Policy(model(kind, **more), door=door)


def examples(n=8, seed=0, longest=9, sequences=1, vocabulary=50):
    """``n`` examples of random tokens with random lengths; about a third of the tokens are a prompt."""
    random = torch.Generator().manual_seed(seed)

    def row():
        length = int(torch.randint(3, longest + 1, (), generator=random))
        return torch.randint(3, vocabulary, (length,), generator=random)

    made = []
    for _ in range(n):
        rows = [row() for _ in range(sequences)]
        made.append(Batch.of(rows, [(torch.arange(len(one)) > len(one) // 3).float() for one in rows]))
    return made


def tokenizer(letters="abcdefghijklmnopqrstuvwxyz0123456789 .,+=?#\n"):
    """One token a character, with ids from 3 on; no token begins or ends a text."""
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {letter: 3 + i for i, letter in enumerate(letters)}
    made = Tokenizer(WordLevel(words, unk_token="?"))
    made.pre_tokenizer = Split("", "isolated")
    made.decoder = Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False)
    fast.add_special_tokens({"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"})
    return fast
