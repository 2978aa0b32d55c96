r"""Process reward models: whether each step of a solution is right (arXiv:2305.20050), read at the step's last token.

$$L = -\frac{1}{S} \sum_{s} \left[y_s \log p_s + (1 - y_s) \log (1 - p_s)\right]$$

over all S steps of the optimizer step. y may be soft: the share of continuations that reach the right answer
(Math-Shepherd, arXiv:2312.08935).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch.nn.functional import logsigmoid

from polmrs.data.ragged import Batch
from polmrs.errors import ArrayError, UsageError
from polmrs.models import Policy

Tensor = torch.Tensor
By: TypeAlias = Literal["min", "product", "last", "mean"]


@dataclass(frozen=True, kw_only=True)
class ProcessReward:
    """Cross-entropy at the ends of steps, where ``per_token["step"]`` is from 0 to 1; -1 marks every other token.

    The head has one output, the logit of a right step, or two, of a wrong and a right one: ``load(..., head=StepScores())``.

    >>> ProcessReward().coefficients
    {'accuracy': 0.0}
    """

    @property
    def coefficients(self) -> dict[str, float]:
        """Accuracy, with 0.5 as the border of both label and probability, is only measured."""
        return {"accuracy": 0.0}

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """The number of steps."""
        steps = float((_labels(batch) >= 0).sum())
        return {"cross_entropy": steps, "accuracy": steps}

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """Sums over steps."""
        labels = _labels(batch)
        at = (labels >= 0).nonzero()[:, 0]
        logit = step_logits(policy, batch, at)
        right = labels[at].to(logit.dtype)
        loss = -(right * logsigmoid(logit) + (1 - right) * logsigmoid(-logit))
        return {"cross_entropy": loss.sum(), "accuracy": ((logit > 0) == (right > 0.5)).sum()}


def step_logits(policy: Policy, batch: Batch, at: Tensor) -> Tensor:
    """[n] log-odds that the steps which end at tokens ``at`` [n] are right."""
    scores = policy.scores(batch, at)
    if scores.shape[1] == 1:
        return scores[:, 0]
    if scores.shape[1] != 2:
        raise ArrayError(f"head: {scores.shape[1]} outputs; a step has 1 or 2: load(..., head=StepScores())")
    return scores[:, 1] - scores[:, 0]


def solution_scores(probabilities: Tensor, solution: Tensor, *, by: By = "product") -> Tensor:
    """[solutions]: one score from the probabilities of its steps.

    ``product`` is the probability that all steps are right, as in arXiv:2305.20050; ``min`` the weakest step; ``last`` the
    final one; ``mean`` the average.

    Args:
        probabilities: [steps], each that a step is right, in order.
        solution: [steps] int64, 0, 0, 1, ...: the solution of each step; none is left out.
        by: How.

    >>> p, of = torch.tensor([0.9, 0.5, 0.8]), torch.tensor([0, 0, 1])
    >>> [solution_scores(p, of, by=by).tolist() for by in ("min", "last")]
    [[0.5, 0.800000011920929], [0.5, 0.800000011920929]]
    """
    if by not in ("min", "product", "last", "mean"):
        raise UsageError(f"by: {by!r} is none of min, product, last, mean")
    counts = torch.bincount(solution)
    if not len(solution) or int(counts.min()) == 0 or bool((solution.diff() < 0).any()):
        raise ArrayError("solution: numbers rise from 0, and each has a step")
    if by == "last":
        return probabilities[counts.cumsum(0) - 1]
    how = {"min": "amin", "product": "prod", "mean": "mean"}[by]
    start = probabilities.new_ones(len(counts)) if by == "product" else probabilities.new_zeros(len(counts))
    return start.scatter_reduce(0, solution, probabilities, how, include_self=by == "product")


def _labels(batch: Batch) -> Tensor:
    if "step" not in batch.per_token:
        raise ArrayError('process reward: the batch lacks per_token["step"]')
    labels = batch.per_token["step"]
    if bool((labels > 1).any()) or bool(((labels < 0) & (labels != -1)).any()):
        raise ArrayError("step: labels are from 0 to 1, or -1 where no step ends")
    return labels
