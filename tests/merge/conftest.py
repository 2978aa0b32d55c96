"""What the tests of merging share: a tiny language model with fine-tunes, and the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def llamas(tmp_path_factory):
    """The folders ``base``, ``math`` and ``code``: a tiny Llama in f32 with its tokenizer, and two fine-tunes of it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    home = tmp_path_factory.mktemp("llamas")
    words = ["<unk>", "<s>", "</s>", *(f"w{at}" for at in range(61))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, max_new_tokens=5)
    for name in ("base", "math", "code"):
        model.save_pretrained(home / name)
        wrapped.save_pretrained(home / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter) * 3e-3
    return home


@pytest.fixture(scope="session")
def bases(llamas, tmp_path_factory):
    """A tiny Llama and tiny GPT-2s, with a tied head and without."""
    from transformers import GPT2Config, GPT2LMHeadModel

    home = tmp_path_factory.mktemp("bases")
    torch.manual_seed(1)
    for name, tied in (("gpt2", True), ("gpt2 untied", False)):
        config = GPT2Config(
            vocab_size=48,
            n_positions=16,
            n_embd=24,
            n_layer=2,
            n_head=2,
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
        )
        GPT2LMHeadModel(config).save_pretrained(home / name)
    (home / "llama").symlink_to(llamas / "base")
    return home


@pytest.fixture(scope="session")
def polmrs():
    """Runs the command line; gives its exit code and what it printed."""

    def run(*args, **options):
        command = [Path(sys.executable).with_name("polmrs"), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)

    return run
