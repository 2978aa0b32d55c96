"""Noise on every linear layer of the base model, then a fine-tuning of all its weights by `polmrs.fit`.

What the noise costs the model is measured between the two. The fine-tuning reads every passage once, half of them worked
arithmetic, half documentation; those that are held out are the demonstration's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import corpora
import evaluate
import grid
import run as demo
from schemes import READING, perplexities
from stage import Stage, say, source, stage


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Size and speed of the fine-tuning, in sequences of `length` tokens, half of them of each text."""

    steps: int = 60
    batch: int = 4
    length: int = 128
    lr: float = 1e-4
    seed: int = 0


def dithered(
    work: Path, packaged: Stage, texts: Sequence[corpora.Corpus], recipe: Recipe, threads: int
) -> Stage:
    """The model off its grid; its facts hold the losses on `texts` before the fine-tuning, too."""
    each = recipe.steps * recipe.batch // 2
    train = [
        corpora.arithmetic(train=each, held_out=demo.HELD_OUT, seed=demo.SEED),
        corpora.documentation(train=each, held_out=demo.HELD_OUT, seed=demo.SEED),
    ]
    inputs = {
        **evaluate.inputs(packaged.key, texts, READING),
        "code": [source(file) for file in (__file__, grid.__file__, evaluate.__file__)],
        "train": [text.inputs() for text in train],
        "recipe": asdict(recipe),
        "polmrs": metadata.version("polmrs"),
    }
    return stage(
        work, "dithered/model", inputs, lambda out: build(out, packaged.folder, train, texts, recipe, threads)
    )


def build(
    out: Path,
    packaged: Path,
    train: Sequence[corpora.Corpus],
    texts: Sequence[corpora.Corpus],
    recipe: Recipe,
    threads: int,
) -> dict[str, Any]:
    """Dither, measure, train, save."""
    import polmrs as pm
    import torch
    from polmrs.data.epochs import Epochs
    from polmrs.data.ragged import Batch
    from polmrs.finetune import SFT

    policy = pm.load(packaged)
    random = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for name, weight in policy.plain.named_parameters():
            if grid.linear(name):
                weight.copy_(grid.dithered(weight, random))
    pm.models.save(policy, out)
    noisy = evaluate.losses(out, texts, READING)
    say(f"dithered: perplexities {', '.join(f'{value:.2f}' for value in perplexities(noisy))}")
    passages = [passage for text in train for passage in text.train]
    ids = corpora.sequences(passages, policy.tokenizer, length=recipe.length)
    run = pm.fit(
        policy,
        Epochs([Batch.of([row]) for row in ids], batch=recipe.batch, seed=recipe.seed),
        SFT(),
        steps=recipe.steps,
        lr=recipe.lr,
        schedule="cosine",
        activation_checkpointing=False,
        num_threads=threads,
        seed=recipe.seed,
        listeners=[told],
    )
    pm.models.save(policy, out, overwrite=True)
    return {"losses": noisy, "loss": [row["loss"] for row in run.rows]}


def told(row: Mapping[str, Any]) -> None:
    if row["step"] == 1 or row["step"] % 10 == 0:
        say(f"dithered: step {row['step']}, training loss {row['loss']:.3f}")
