"""A short full fine-tuning of the base model on one text; what comes out is an expert to merge.

Plain next-token loss, AdamW at a constant learning rate without weight decay (a weight that the text says
nothing about should stay where it is), every sequence once. Saved in float32: so short a training moves many
weights by less than half a bfloat16 step, and rounding would throw that away.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import corpora
from base import card
from stage import say, source


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Size and speed of the training, in sequences of `length` tokens."""

    steps: int = 24
    batch: int = 4
    length: int = 128
    lr: float = 1e-4
    seed: int = 0


def inputs(base_key: str, corpus: corpora.Corpus, recipe: Recipe) -> dict[str, Any]:
    """Give what an expert folder is made from."""
    return {
        "code": source(__file__),
        "base": base_key,
        "corpus": corpus.inputs(),
        "recipe": asdict(recipe),
        "torch": metadata.version("torch"),
    }


def build(out: Path, base: Path, corpus: corpora.Corpus, recipe: Recipe) -> dict[str, Any]:
    """Train the model in `base` on the training passages of `corpus` and save it to `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    tokenizer = AutoTokenizer.from_pretrained(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.0, fused=True)
    data = corpora.sequences(corpus.train, tokenizer, length=recipe.length)
    for step, batch in enumerate(_batches(data, recipe), start=1):
        ids_BT = torch.tensor(batch)
        loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step % 4 == 0:
            say(f"{corpus.name}: step {step} of {recipe.steps}, training loss {loss.item():.3f}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    tokens = recipe.steps * recipe.batch * recipe.length
    training = f"A short full fine-tuning of the base model: {recipe.steps} steps, {tokens:,} tokens."
    (out / "README.md").write_text(card(f"SmolLM2-135M-Instruct, {corpus.name} expert", training))
    return {"tokens": tokens, **_distance(model.state_dict(), base)}


def _batches(data: Sequence[list[int]], recipe: Recipe) -> list[list[list[int]]]:
    """Shuffle, then cut into `steps` batches; every sequence is used once."""
    if len(data) != recipe.steps * recipe.batch:
        raise ValueError(f"{len(data)} sequences do not make {recipe.steps} batches of {recipe.batch}")
    order = random.Random(recipe.seed).sample(data, len(data))
    return [order[i : i + recipe.batch] for i in range(0, len(order), recipe.batch)]


def _distance(weights: dict[str, Any], base: Path) -> dict[str, float]:
    """Give the shares of weights that differ from the base, and |weights - base| / |base|."""
    import torch
    from safetensors import safe_open

    moved = moved_bf16 = total = 0
    delta_square = base_square = 0.0
    with safe_open(base / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            old, new = file.get_tensor(name), weights[name]
            total += old.numel()
            moved += int((new != old).sum())
            moved_bf16 += int((new.to(torch.bfloat16) != old.to(torch.bfloat16)).sum())
            delta_square += (new - old).square().sum(dtype=torch.float64).item()
            base_square += old.square().sum(dtype=torch.float64).item()
    return {
        "moved_float32": moved / total,
        "moved_bfloat16": moved_bf16 / total,
        "delta_over_base": (delta_square / base_square) ** 0.5,
    }
