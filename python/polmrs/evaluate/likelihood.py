r"""What a policy thinks of given text: loss and perplexity of examples, log-likelihoods of continuations.

$$L = \frac{\sum_t w_t (-\log p_t)}{\sum_t w_t}, \qquad \mathrm{PPL} = e^L$$

over the tokens that count. The standard error of L is that of a ratio of sums over examples,
$$\frac{1}{W} \sqrt{\frac{n}{n - 1} \sum_i (\ell_i - L w_i)^2}$$, since tokens of one example hang together. Two policies on the
same examples are compared in pairs: the same formula, of the differences of $\ell_i$, is far narrower than either of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from polmrs.data.ragged import Batch
from polmrs.errors import UsageError
from polmrs.evaluate.score import Score
from polmrs.models import Policy
from polmrs.train.objective import split

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Loss in nats a token, e to the power of it, and of how much."""

    loss: float
    perplexity: float
    stderr: float
    """Of the loss; NaN of a single example."""
    tokens: float
    """The sum of token weights."""
    losses: tuple[float, ...] = field(repr=False)
    """The weighted sum of each example, in nats."""
    weights: tuple[float, ...] = field(repr=False)
    """The token weights of each example."""

    def minus(self, other: Perplexity) -> Score:
        """How much higher this loss is than another of the same examples, in nats a token, with the standard error of
        that difference.

        Raises:
            UsageError: The weights of examples differ. That they are the same examples is not seen otherwise.
        """
        if self.weights != other.weights:
            raise UsageError("minus: the two are not of the same examples, whose losses could be paired")
        changes = [one - two for one, two in zip(self.losses, other.losses, strict=True)]
        value, stderr = _ratio(changes, self.weights)
        return Score(value=value, stderr=stderr, n=len(changes))


def perplexity(policy: Policy, examples: Sequence[Batch], *, micro_tokens: int = 4096) -> Perplexity:
    """The weighted mean loss over all examples.

    Args:
        policy: Of a language model.
        examples: With weights on the tokens that count.
        micro_tokens: Tokens of a forward pass. No result depends on it.

    Raises:
        UsageError: No token counts.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    >>> policy = Policy(LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=1, **shape)))
    >>> 25 < perplexity(policy, [Batch.of([[1, 2, 3]]), Batch.of([[4, 5]])]).perplexity < 40
    True
    """
    losses: list[float] = []
    weights: list[float] = []
    for batch, logps in _logps(policy, examples, micro_tokens):
        for values, into in ((-logps * batch.weights, losses), (batch.weights.double(), weights)):
            of_example = values.new_zeros(batch.examples).index_add(0, batch.example, batch.sums(values))
            into += of_example.tolist()
    total = math.fsum(weights)
    if not total:
        raise UsageError("perplexity: no token counts")
    loss, stderr = _ratio(losses, weights)
    return Perplexity(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        stderr=stderr,
        tokens=total,
        losses=tuple(losses),
        weights=tuple(weights),
    )


def _ratio(values: Sequence[float], weights: Sequence[float]) -> tuple[float, float]:
    """The sum of values over the sum of weights, and its standard error."""
    total, n = math.fsum(weights), len(weights)
    mean = math.fsum(values) / total
    spread = math.fsum((one - mean * w) ** 2 for one, w in zip(values, weights, strict=True))
    return mean, math.sqrt(spread * n / (n - 1)) / total if n > 1 else math.nan


def likelihoods(
    policy: Policy, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, micro_tokens: int = 4096
) -> list[float]:
    """The log-likelihood of each continuation after its context, in nats.

    Args:
        policy: Of a language model.
        pairs: Context and continuation as token ids; neither is empty.
        micro_tokens: Tokens of a forward pass.
    """
    found: list[float] = []
    for batch, logps in _logps(policy, [pair_example(*pair) for pair in pairs], micro_tokens):
        found += batch.sums(logps).tolist()
    return found


def pair_example(context: Sequence[int], continuation: Sequence[int]) -> Batch:
    """An example in which the continuation counts.

    >>> pair_example([1, 2], [3]).weights
    tensor([0., 0., 1.])
    """
    if not len(context) or not len(continuation):
        raise UsageError("continuation: context and continuation have tokens")
    return Batch.of([[*context, *continuation]], [[0.0] * len(context) + [1.0] * len(continuation)])


def _logps(policy: Policy, examples: Sequence[Batch], micro_tokens: int) -> list[tuple[Batch, Tensor]]:
    if not len(examples):
        raise UsageError("evaluate: there are no examples")
    found = []
    with policy.inference():
        for batch, _ in split(examples, rank=0, world=1, micro_tokens=micro_tokens):
            here = batch.to(policy.device)
            found.append((batch, policy.logps(here).double().cpu()))
    return found
