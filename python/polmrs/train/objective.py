r"""What an objective is, and the one reducer: how sums of terms become a loss.

$$L = \sum_k c_k \frac{S_k}{W_k}$$

with $$S_k$$ the sum of term k over the tokens or sequences of the whole optimizer step and $$W_k$$ the sum of their weights,
over all micro-batches and ranks, known before the first forward pass. So a step does not depend on how its examples were
cut into micro-batches, packed, padded or spread over ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from polmrs.data.ragged import Batch
from polmrs.engine import Engine
from polmrs.errors import UsageError
from polmrs.models import Policy

Tensor = torch.Tensor
Terms = Mapping[str, Tensor]

RESERVED = {"step", "loss", "grad_norm", "lr", "tokens", "seconds"}
"""What every row of metrics has."""


class Objective(Protocol):
    """A loss as named terms. Optional, where the class has them:

    - ``coefficients: Mapping[str, float]``: of the terms, 1 for those left out; a term with 0 is only measured;
    - ``prepare(policy, batches, total) -> shared``: runs first, without gradient, on all micro-batches of this rank;
      ``total(numbers)`` gives each number summed over all ranks, as a baseline of the whole step needs. Every rank calls the
      policy and ``total`` as often as the others; a batch whose weights are all 0 is there for that alone;
    - ``init(policy) -> nn.Module``: weights of the objective's own, trained and saved with the policy;
    - ``after_step(policy, state, step)``: runs after each optimizer step;
    - ``per_batch: str``: why the loss depends on how a step is cut into micro-batches, for the few where it does.
    """

    def weights(self, batch: Batch) -> Mapping[str, float]:
        """What each term's sum is divided by, of this batch; looks at masks only."""
        ...

    def __call__(self, policy: Policy, batch: Batch, shared: Any, state: nn.Module | None) -> Terms:
        """The unnormalised sum of each term."""
        ...


def coefficients(objective: Objective, terms: Sequence[str]) -> dict[str, float]:
    """The factor of each term in the loss.

    Raises:
        UsageError: The objective has a factor for a term that it does not compute, or a term with the name of a metric.
    """
    if taken := RESERVED & set(terms):
        raise UsageError(
            f"{type(objective).__name__}: {sorted(taken)} cannot be names of terms; metrics have them already"
        )
    given: Mapping[str, float] = getattr(objective, "coefficients", {})
    if unknown := set(given) - set(terms):
        raise UsageError(
            f"{type(objective).__name__}.coefficients: {sorted(unknown)} are none of its terms {list(terms)}"
        )
    return {term: given.get(term, 1.0) for term in terms}


def divisors_of(
    objective: Objective, micros: Sequence[tuple[Batch, bool]], engine: Engine
) -> dict[str, float]:
    """W of every term, over the micro-batches that count, of all ranks.

    Raises:
        UsageError: Nothing in the whole step counts.
    """
    each = [(objective.weights(batch), counts) for batch, counts in micros]
    names = sorted(each[0][0])
    summed = engine.sum([sum(float(one[name]) for one, counts in each if counts) for name in names])
    found = dict(zip(names, summed, strict=True))
    scale = coefficients(objective, names)
    if not any(found[name] and scale[name] for name in names):
        raise UsageError(f"{type(objective).__name__}: no token or sequence of the step counts: {found}")
    return found


def loss_of(objective: Objective, sums: Terms, divisors: Mapping[str, float]) -> Tensor:
    """This micro-batch's part of the loss, float64."""
    scale = coefficients(objective, list(divisors))
    if set(sums) != set(divisors):
        raise UsageError(
            f"{type(objective).__name__}: terms {sorted(sums)}, but weights of {sorted(divisors)}"
        )
    parts = [sums[k].double() * (scale[k] / divisors[k]) for k in sums if scale[k] and divisors[k]]
    return torch.stack(parts).sum() if parts else next(iter(sums.values())).double() * 0


def prepared(
    objective: Objective, policy: Policy, micros: Sequence[tuple[Batch, bool]], engine: Engine
) -> Any:
    """What ``prepare`` gives, or nothing. A batch that does not count has weights of 0."""
    prepare = getattr(objective, "prepare", None)
    if prepare is None:
        return None
    silent = [b if counts else replace(b, weights=torch.zeros_like(b.weights)) for b, counts in micros]
    with torch.no_grad():
        return prepare(policy, silent, engine.sum)


def split(
    examples: Sequence[Batch],
    *,
    rank: int,
    world: int,
    micro: int | None = None,
    micro_tokens: int | None = None,
) -> list[tuple[Batch, bool]]:
    """The micro-batches of one rank, and whether each counts. All ranks get as many: one that has fewer examples goes
    through the step's first example, which then does not count, because ranks wait for each other in every pass.

    Args:
        examples: Of the step, the same on all ranks.
        rank: This one.
        world: Ranks.
        micro: Examples of a micro-batch; all of the share unless given.
        micro_tokens: Tokens of a micro-batch instead; an example longer than that is one of its own.

    >>> examples = [Batch.of([[i, i]]) for i in range(3)]
    >>> [(batch.ids[0].item(), counts) for batch, counts in split(examples, rank=1, world=2, micro=1)]
    [(1, True), (0, False)]
    """
    if micro is not None and micro_tokens is not None:
        raise UsageError("micro, micro_tokens: one or the other")
    for name, size in (("micro", micro), ("micro_tokens", micro_tokens)):
        if size is not None and size < 1:
            raise UsageError(f"{name}: {size} is not 1 or more")
    shares = [_cut(examples[r::world], micro or len(examples), micro_tokens) for r in range(world)]
    passes = max(map(len, shares))
    mine = [(Batch.cat(group), True) for group in shares[rank]]
    return mine + [(examples[0], False)] * (passes - len(mine))


def _cut(share: Sequence[Batch], micro: int, tokens: int | None) -> list[list[Batch]]:
    groups: list[list[Batch]] = []
    room = 0
    for example in share:
        size = 1 if tokens is None else len(example.ids)
        if not groups or size > room:
            groups.append([])
            room = micro if tokens is None else tokens
        groups[-1].append(example)
        room -= size
    return groups
