"""Made tokenizers of every kind, tiny Llamas for them, and whole folders written by hand."""

import json

import torch
from merge.made import folder

PROSE = [
    "the",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
    "and",
    "the",
    "dog",
    "ran",
    "to",
    "the",
    "cat",
    "in",
    "the",
    "sun",
    "the",
    "theme",
    "of",
    "the",
    "season",
]
CODE = [
    "import",
    "numpy",
    "as",
    "np",
    "def",
    "main",
    "return",
    "self",
    "class",
    "object",
    "lambda",
    "yield",
    "the",
    "numbers",
    "function",
]
LETTERS = sorted(set(" ".join(PROSE + CODE).replace(" ", "\u0120")))


def byte_level(words, size, *added):
    """Byte-level BPE trained on some words."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = _tokenizer(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<|end|>"], initial_alphabet=LETTERS)
    tokenizer.train_from_iterator([" ".join(words)] * 5, trainer)
    return _wrapped(tokenizer, added, eos_token="<|end|>")


def bpe(*added, pieces=16):
    """The tokenizer of mergekit's own tests: pieces that no merge makes."""
    from tokenizers import Tokenizer

    words = ["<unk>", "<s>", "</s>", *(f"_tok_{at}" for at in range(3, pieces))]
    model = {"type": "BPE", "vocab": {word: at for at, word in enumerate(words)}, "merges": []}
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    return _wrapped(tokenizer, added, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def word_piece(words, size, *added):
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = _tokenizer(models.WordPiece(unk_token="[UNK]"), pre_tokenizers.Whitespace())
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[PAD]", "[CLS]"]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special)
    tokenizer.train_from_iterator([" ".join(words)] * 5, trainer)
    return _wrapped(tokenizer, added, unk_token="[UNK]", pad_token="[PAD]")


def unigram(words, size, *added):
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = _tokenizer(models.Unigram(), pre_tokenizers.Metaspace())
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.train_from_iterator([" ".join(words)] * 5, trainer)
    return _wrapped(tokenizer, added, unk_token="<unk>", eos_token="</s>")


def word_level(words, *added):
    from tokenizers import models, pre_tokenizers

    model = models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = _tokenizer(model, pre_tokenizers.WhitespaceSplit())
    return _wrapped(tokenizer, added, unk_token="<unk>", eos_token="</s>")


def _tokenizer(model, pre_tokenizer):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def _wrapped(tokenizer, added, **special):
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    if added:
        wrapped.add_tokens(list(added))
    return wrapped


def llama(path, tokenizer, *, rows=None, seed=0, tied=False, dtype=torch.float32):
    """A tiny Llama with random rows for a tokenizer; all but those rows is a fine-tune of one model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=rows or len(tokenizer),
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(7)
    model = LlamaForCausalLM(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_matrix = "embed" in name or "lm_head" in name
            parameter += torch.randn_like(parameter) * (0.3 if is_matrix else 0.01)
    model.to(dtype).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def by_hand(path, ids, matrices, *, added=(), config=None, **files):
    """A folder with a WordLevel tokenizer: ``ids`` of pieces, ``added`` as (id, text, special)."""
    tokens = [
        {"id": at, "content": text, "special": special, "normalized": False, "single_word": False,
         "lstrip": False, "rstrip": False}
        for at, text, special in added
    ]  # fmt: skip
    model = {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}
    text = json.dumps({"version": "1.0", "added_tokens": tokens, "model": model})
    rows = len(next(iter(matrices.values())))
    return folder(path, matrices, config={"vocab_size": rows} | (config or {}), tokenizer__json=text, **files)
