"""What a recipe trains on: records read, made the kind that the verb takes, tokenized; what is held out; the plan of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from polmrs.data.dataset import Dataset
from polmrs.data.encoding import examples
from polmrs.data.epochs import Epochs
from polmrs.data.ragged import Batch
from polmrs.data.reading import read
from polmrs.data.records import LanguageModelling, Preference, PromptCompletion, Ranked, Stepwise
from polmrs.errors import ConfigError
from polmrs.finetune.continual import Replayed, marked
from polmrs.models.loading import Head, Scores, StepScores, Tokens
from polmrs.train.objective import split
from polmrs.train.recipe import Files, Recipe


@dataclass(frozen=True, kw_only=True)
class Supply:
    """The examples of a run."""

    train: tuple[Batch, ...]
    replayed: tuple[Batch, ...]
    """General examples, for ``replay``."""
    held_out: tuple[Batch, ...]
    classes: tuple[str, ...]
    """In the order of the head's outputs, for ``classify``."""
    account: str
    """How the files were read, and what was left out or cut."""

    def epochs(self, recipe: Recipe) -> Epochs | Replayed:
        """The stream of steps."""
        if recipe.replay is not None:
            given: dict[str, Any] = {"batch": recipe.batch, "seed": recipe.seed, "shuffle": recipe.shuffle}
            return Replayed(self.train, self.replayed, share=recipe.replay.share, **given)
        epochs = recipe.epochs or (1 if recipe.steps is None else None)
        return Epochs(self.train, batch=recipe.batch, seed=recipe.seed, shuffle=recipe.shuffle, epochs=epochs)

    def steps(self, recipe: Recipe) -> int:
        """Optimizer steps of the run. With replay, an epoch is over when all of the domain has been seen."""
        epochs = recipe.epochs or 1
        if recipe.replay is not None:
            share = recipe.batch * (1 - recipe.replay.share)
            # The replayed examples of a run are rounded down.
            return recipe.steps or int((epochs * len(self.train) - 1 + 1e-9) / share) + 1
        return recipe.steps or epochs * math.ceil(len(self.train) / recipe.batch)


def head_of(recipe: Recipe, classes: Sequence[str]) -> Head:
    """The head that the verb trains."""
    heads: dict[str, Head] = {"sft": Tokens(), "reward": Scores(), "prm": StepScores()}
    return Scores(outputs=len(classes)) if recipe.method == "classify" else heads[recipe.method]


def prepare(recipe: Recipe, tokenizer: Any, context: int | None) -> Supply:
    """Reads and tokenizes the data of a recipe.

    Raises:
        ConfigError: Rows do not fit, nothing is left, or a class is unknown.
        UsageError: A record is too long, and ``too_long`` does not say what to do.
    """
    limit = min((n for n in (recipe.max_length, context) if n is not None), default=None)
    classes: list[str] = [] if recipe.classes is None else list(recipe.classes)
    accounts: list[str] = []

    def made(files: Files, known: bool, format: str | None = recipe.format) -> list[Batch]:
        source: Any = files
        data = _kind_of(recipe, read(source, format=format, policy=recipe.policy, text=recipe.text))
        found = examples(data.records, tokenizer, max_length=limit, too_long=recipe.too_long)
        accounts.append(str(data))
        accounts.extend(f"{origin}: {why}" for faults in (found.dropped, found.cut) for origin, why in faults)
        if recipe.method != "classify":
            return list(found)
        labels = [_label(recipe, record) for record in found.records]
        if not known:
            classes.extend(sorted(set(labels)))
        return list(_classed(found.batches, labels, classes, recipe.label))

    train = made(recipe.data, bool(classes))
    general: list[Batch] = []
    if recipe.replay is not None:
        general = made(recipe.replay.data, True, recipe.replay.format)
    held: list[Batch] = []
    held_general: list[Batch] = []
    if recipe.held_out is not None and recipe.held_out.data is not None:
        held = made(recipe.held_out.data, True)
    elif recipe.held_out is not None and recipe.held_out.share is not None:
        train, held = _apart(train, recipe.held_out.share, recipe.seed)
        if general:
            general, held_general = _apart(general, recipe.held_out.share, recipe.seed, "replay.data")
    if general:
        held = [marked(one, 0) for one in held] + [marked(one, 1) for one in held_general]
    if recipe.method == "classify" and len(classes) < 2:
        raise ConfigError(f"classes: {classes}; a classifier tells 2 or more apart")
    return Supply(
        train=tuple(train),
        replayed=tuple(general),
        held_out=tuple(held),
        classes=tuple(classes),
        account="\n".join(accounts),
    )


def micro_batches(recipe: Recipe, stream: Epochs | Replayed, steps: int, world: int) -> Iterator[list[Batch]]:
    """The micro-batches of the first rank in every step, which has the most examples."""
    for _, step in zip(range(steps), stream, strict=False):
        shares = split(step, rank=0, world=world, micro=recipe.micro, micro_tokens=recipe.micro_tokens)
        yield [batch for batch, _ in shares]


def _kind_of(recipe: Recipe, data: Dataset) -> Dataset:
    """The records as the verb takes them."""
    if recipe.method == "prm":
        return data.to(Stepwise)
    if recipe.method == "reward":
        if recipe.objective_name in ("regression", "likert"):
            return data.to(Ranked)
        tied = any(isinstance(one, Ranked) and len(set(one.scores)) < len(one.scores) for one in data)
        return data if data.kind is Ranked and not tied else data.to(Preference)
    return data if data.kind in (LanguageModelling, PromptCompletion) else data.to(PromptCompletion)


def _label(recipe: Recipe, record: Any) -> str:
    if recipe.label not in record.meta:
        raise ConfigError(
            f"{record.origin}: no column {recipe.label!r}; label: names the column of the class"
        )
    return str(record.meta[recipe.label])


def _classed(
    batches: Sequence[Batch], labels: Sequence[str], classes: Sequence[str], column: str
) -> Iterator[Batch]:
    number = {name: i for i, name in enumerate(classes)}
    for batch, label in zip(batches, labels, strict=True):
        if label not in number:
            raise ConfigError(f"{batch.names[0]}: {column} {label!r} is none of {', '.join(classes)}")
        yield replace(batch, per_sequence={**batch.per_sequence, "class": torch.tensor([number[label]])})


def _apart(
    batches: list[Batch], share: float, seed: int, of: str = "data"
) -> tuple[list[Batch], list[Batch]]:
    n = round(len(batches) * share)
    if not 0 < n < len(batches):
        raise ConfigError(f"held_out.share: {share} of {len(batches)} examples of {of} leaves one side empty")
    order = np.random.default_rng((seed, 0x4E1D)).permutation(len(batches)).tolist()
    held = set(order[:n])
    return (
        [batch for i, batch in enumerate(batches) if i not in held],
        [batch for i, batch in enumerate(batches) if i in held],
    )
