"""MoDS (arXiv:2311.15653): data that is good, diverse, and needed by the model at hand.

1. Quality: pairs to which a reward model gives at least alpha.
2. Coverage: of these, k by k-center on embeddings of the instructions are the seeds, on which the model is tuned.
3. Necessity: the tuned model answers every good instruction; those whose answers the reward model puts below beta are needed.

Seeds and needed ones together are what the model is tuned on, from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from polmrs.data.dataset import Dataset
from polmrs.data.messages import Turns
from polmrs.data.records import PromptCompletion
from polmrs.data.screening.diversity import k_center
from polmrs.data.screening.screen import question, screen, without
from polmrs.errors import ArrayError, UsageError

Reward: TypeAlias = Callable[[Sequence[PromptCompletion]], Sequence[float]]
Answer: TypeAlias = Callable[[Sequence[PromptCompletion]], Sequence[Turns]]


@dataclass(frozen=True, kw_only=True)
class Mods:
    """What each filter left."""

    good: Dataset
    """Pairs of quality."""
    seeds: Dataset
    """Those that cover the good ones."""
    needed: Dataset | None
    """Those that the model, tuned on the seeds, still answers badly; nothing where it answers all well."""
    selected: Dataset
    """Seeds and needed ones, in the order of the data."""


def mods(
    data: Dataset,
    *,
    reward: Reward,
    embed: Callable[[Sequence[str]], Any],
    tune: Callable[[Dataset], Answer],
    k: int,
    quality: float = 0.0,
    necessity: float = 0.0,
    first: int = 0,
) -> Mods:
    """Runs the three filters.

    Args:
        data: Prompt-completion records.
        reward: Scores of question and answer; the paper's model is OpenAssistant's reward-model-deberta-v3-large-v2.
        embed: [texts, dim] of instructions; the paper takes the first hidden state of BERT.
        tune: Tunes the model on the seeds and gives what answers with it.
        k: How many seeds; never more than there are good pairs.
        quality: alpha; pairs at or above it are good.
        necessity: beta; instructions whose answers are below it are needed.
        first: The good pair with which coverage begins; the authors' code draws it at random.

    Raises:
        UsageError: The records are of another kind.
        ArrayError: A function gave another number of things than it was asked for.
        ConfigError: No pair is good.
    """
    if data.kind is not PromptCompletion:
        raise UsageError("data: MoDS screens prompt-completion records; data.to(PromptCompletion)")
    good = screen(data, reward(_pairs(data)), name="reward", at_least=quality)
    points = np.asarray(embed([question(record) for record in good]))
    if len(points) != len(good):
        raise ArrayError(f"embed: {len(points)} rows for {len(good)} texts")
    chosen = set(k_center(points, min(k, len(good)), first=first).tolist())
    seeds = without(good, {i: "covered by a seed" for i in range(len(good)) if i not in chosen})
    answers = tune(seeds)(_pairs(good))
    if len(answers) != len(good):
        raise ArrayError(f"tune: {len(answers)} answers to {len(good)} questions")
    said = [replace(pair, completion=text) for pair, text in zip(_pairs(good), answers, strict=True)]
    scores = np.asarray(reward(said), np.float64)
    if scores.shape != (len(good),):
        raise ArrayError(f"reward: shape {scores.shape} for {len(good)} answers")
    bad = set(np.flatnonzero(scores < necessity).tolist())
    well = {i: f"answered with reward {scores[i]:.6g}" for i in range(len(good)) if i not in bad}
    return Mods(
        good=good,
        seeds=seeds,
        needed=without(good, well) if bad else None,
        selected=without(good, {i: why for i, why in well.items() if i not in chosen}),
    )


def _pairs(data: Dataset) -> list[PromptCompletion]:
    return [record for record in data if isinstance(record, PromptCompletion)]
