"""Held-out examples during training: the objective's own terms on them, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polmrs.data.ragged import Batch
from polmrs.engine import Engine
from polmrs.errors import UsageError
from polmrs.models import Policy
from polmrs.train.objective import Objective, divisors_of, loss_of, prepared, split


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which examples, how often, and how long to wait for something better.

    >>> Evaluation(examples=[Batch.of([[1, 2]])], every=10, patience=3).metric
    'loss'
    """

    examples: Sequence[Batch]
    every: int
    """Steps between evaluations; there is one after the last step too."""
    patience: int | None = None
    """Evaluations without a better value before training stops; None for never."""
    metric: str = "loss"
    """What is to become smaller: ``loss``, or a term."""
    micro: int = 8

    def __post_init__(self) -> None:
        if not len(self.examples) or self.every < 1 or (self.patience is not None and self.patience < 1):
            raise UsageError("evaluation: there are examples, every and patience are 1 or more")


@torch.no_grad()
def measure(
    policy: Policy, objective: Objective, state: nn.Module | None, evaluation: Evaluation, engine: Engine
) -> dict[str, float]:
    """The loss and every term's mean over all held-out examples, in evaluation mode; the same for any cut and any ranks."""
    shares = split(evaluation.examples, rank=engine.rank, world=engine.world, micro=evaluation.micro)
    micros = [(batch.to(engine.device), counts) for batch, counts in shares]
    divisors = divisors_of(objective, micros, engine)
    modes = [
        (module, module.training) for part in (policy, state) if part is not None for module in part.modules()
    ]
    policy.eval()
    if state is not None:
        state.eval()
    try:
        shared = prepared(objective, policy, micros, engine)
        sums = dict.fromkeys(["loss", *divisors], 0.0)
        for batch, counts in micros:
            terms = objective(policy, batch, shared, state)
            if counts:
                sums["loss"] += float(loss_of(objective, terms, divisors))
                for name in divisors:
                    sums[name] += float(terms[name])
    finally:
        for module, training in modes:
            module.training = training
    found = dict(zip(sums, engine.sum(list(sums.values())), strict=True))
    return {"loss": found["loss"]} | {
        name: found[name] / divisors[name] for name in divisors if divisors[name]
    }


class Stopper:
    """Counts evaluations without a better value."""

    def __init__(self, evaluation: Evaluation | None) -> None:
        """Begins with no value."""
        self._of = evaluation
        self.best, self.waited = math.inf, 0

    def ends(self, row: Mapping[str, Any]) -> bool:
        """Whether training stops after this row.

        Raises:
            UsageError: The metric is none of the row's.
        """
        if self._of is None or self._of.patience is None or "eval_loss" not in row:
            return False
        name = f"eval_{self._of.metric}"
        if name not in row:
            raise UsageError(f"evaluation.metric: {self._of.metric!r} is none of the terms")
        if row[name] < self.best:
            self.best, self.waited = row[name], 0
        else:
            self.waited += 1
        return self.waited >= self._of.patience

    def state_dict(self) -> dict[str, float | None]:
        """Best value and evaluations waited; None before the first."""
        return {"best": None if math.isinf(self.best) else self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on counting."""
        self.best = math.inf if state["best"] is None else state["best"]
        self.waited = state["waited"]
