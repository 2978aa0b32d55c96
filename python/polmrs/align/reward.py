r"""Reward models from comparisons: a scalar r(x, y) whose differences explain which answer was preferred.

With K answers of an example, best first,

| class           | loss of an example                                                                            |
|-----------------|-----------------------------------------------------------------------------------------------|
| `BradleyTerry`  | $$-\binom{K}{2}^{-1} \sum_{i<j} \log \sigma(r_i - r_j - m)$$: eq. 18 for K = 2, InstructGPT's (arXiv:2203.02155, eq. 1) beyond |
| `PlackettLuce`  | $$-\sum_{i<K} \left[r_i - \log \sum_{j \ge i} e^{r_j}\right]$$                                |

and the mean over the examples of the step. The head has one output: ``load(..., head=Scores())``; it is read at the last token
that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from polmrs.data.ragged import Batch
from polmrs.errors import ArrayError, ConfigError
from polmrs.models import Policy

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class BradleyTerry:
    r"""All pairs of each example.

    What an example carries is used: ``per_example["margin"]`` is m (Llama 2, arXiv:2307.09288, eq. 2);
    ``per_example["preference"]``, of two answers, is the probability p that the first is the better one, and the loss
    $$-p \log \sigma(\Delta) - (1 - p) \log \sigma(-\Delta)$$.

    >>> BradleyTerry(centering=0.01).coefficients
    {'centering': 0.01, 'accuracy': 0.0}
    """

    centering: float = 0.0
    r"""Coefficient of the mean of $$(r_i + r_j)^2$$, which keeps rewards around 0 (arXiv:2312.09244); there 0.01."""

    def __post_init__(self) -> None:
        if self.centering < 0:
            raise ConfigError(f"reward.centering: {self.centering} is not 0 or more")

    @property
    def coefficients(self) -> dict[str, float]:
        """Centring as asked for; accuracy, the share of pairs in the right order, is only measured."""
        return {"centering": self.centering, "accuracy": 0.0}

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """The number of examples, for every term."""
        return dict.fromkeys(("preference", "centering", "accuracy"), float(batch.examples))

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """Sums over examples of means over their pairs."""
        rewards = rewards_of(policy, batch)
        better, worse, share = pairs(batch)
        example = batch.example[better]
        delta = rewards[better] - rewards[worse]
        if "margin" in batch.per_example:
            delta = delta - batch.per_example["margin"].to(delta.dtype)[example]
        loss = -logsigmoid(delta)
        if "preference" in batch.per_example:
            p = batch.per_example["preference"].to(delta.dtype)[example]
            if bool((share != 1).any()) or bool(((p < 0) | (p > 1)).any()):
                raise ArrayError("preference: probabilities in [0, 1], of examples with two answers")
            loss = p * loss - (1 - p) * logsigmoid(-delta)
        return {
            "preference": (loss * share).sum(),
            "centering": ((rewards[better] + rewards[worse]).square() * share).sum(),
            "accuracy": ((rewards[better] > rewards[worse]) * share).sum(),
        }


@dataclass(frozen=True, kw_only=True)
class PlackettLuce:
    """The whole order of each example, best first.

    >>> PlackettLuce().coefficients
    {'accuracy': 0.0}
    """

    @property
    def coefficients(self) -> dict[str, float]:
        """Accuracy, the share of pairs in the right order, is only measured."""
        return {"accuracy": 0.0}

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """The number of examples."""
        return {"ranking": float(batch.examples), "accuracy": float(batch.examples)}

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: Any) -> dict[str, Tensor]:
        """Sums over examples."""
        rewards = rewards_of(policy, batch)
        better, worse, share = pairs(batch)
        sizes = torch.bincount(batch.example, minlength=batch.examples).tolist()
        ranking = torch.stack([plackett_luce(part) for part in torch.split(rewards, sizes)]).sum()
        return {"ranking": ranking, "accuracy": ((rewards[better] > rewards[worse]) * share).sum()}


def plackett_luce(rewards: Tensor) -> Tensor:
    r"""$$-\sum_i [r_i - \log \sum_{j \ge i} e^{r_j}]$$ of one ranking [K], best first.

    >>> round(plackett_luce(torch.zeros(3)).item(), 4)  # log 3!
    1.7918
    """
    return (rewards.flip(0).logcumsumexp(0).flip(0) - rewards).sum()


def shaped(rewards: Tensor, logps: Tensor, reference: Tensor, batch: Batch, *, beta: float) -> Tensor:
    r"""[B]: what a policy is given (eq. 13), $$r(x, y) - \beta \log \frac{\pi(y | x)}{\rho(y | x)}$$.

    Args:
        rewards: [B]
        logps: [T], of the policy; 0 outside completions.
        reference: [T], likewise.
        batch: Whose tokens they are.
        beta: The price of a nat.

    >>> batch = Batch.of([[1, 2, 3]])
    >>> shaped(torch.ones(1), torch.tensor([0.0, -1, -1]), torch.tensor([0.0, -2, -1]), batch, beta=0.5)
    tensor([0.5000])
    """
    return rewards - beta * batch.sums(logps - reference)


def rewards_of(policy: Policy, batch: Batch) -> Tensor:
    """[B]: the one output of the policy's head.

    Raises:
        ArrayError: It has more.
    """
    scores = policy.scores(batch)
    if scores.shape[1] != 1:
        raise ArrayError(f"head: {scores.shape[1]} outputs; a reward is one: load(..., head=Scores())")
    return scores[:, 0]


def pairs(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The better and the worse sequence of every pair [P], and the share of its example that a pair is [P].

    Raises:
        ArrayError: An example has no two sequences.

    >>> [part.tolist() for part in pairs(Batch.of([[1, 2], [1, 3]]))]
    [[0], [1], [1.0]]
    """
    sizes = torch.bincount(batch.example, minlength=batch.examples)
    if int(sizes.min()) < 2:
        lone = int(sizes.argmin())
        raise ArrayError(
            f"example {lone}{batch.named(lone)}: {int(sizes[lone])} sequences; a comparison has 2 or more"
        )
    same = batch.example[:, None] == batch.example[None, :]
    better, worse = same.triu(1).nonzero().unbind(1)
    k = sizes[batch.example[better]].double()
    return better, worse, 2 / (k * (k - 1))
