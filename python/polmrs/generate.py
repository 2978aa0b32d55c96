r"""Sampling from a policy: prompts in batches, a key-value cache, and a seed for every prompt.

A token is drawn from $$p_v \propto e^{z_v / \tau}$$, restricted to the k most likely tokens, and to the fewest whose mass
reaches p (nucleus sampling, arXiv:1904.09751, after top-k and over its renormalised mass); with τ = 0 it is the most likely
one. Prompt i draws from its own generator, seeded by (seed, i), so its tokens do not depend on what it is batched with,
but for the rounding of larger products.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from polmrs.errors import UsageError
from polmrs.models import Policy

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn.

    >>> Sampling(temperature=0.0).top_p
    1.0
    """

    temperature: float = 1.0
    """τ; 0 for the most likely token."""
    top_k: int | None = None
    top_p: float = 1.0
    most: int = 128
    """The most new tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, where the policy has a tokenizer; they stay in its tokens."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or (self.top_k is not None and self.top_k < 1):
            raise UsageError("sampling: temperature is 0 or more, top_p in (0, 1], top_k 1 or more")
        if self.most < 1:
            raise UsageError(f"sampling.most: {self.most} is not 1 or more")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a policy said to one prompt."""

    ids: tuple[int, ...]
    """The new tokens, the one that ended them included."""
    logps: tuple[float, ...]
    """Their log-probabilities at the temperature, before top-k and top-p; at temperature 1 where that is 0."""
    end: Literal["finished", "truncated"]
    """Whether the model ended it, or ``most`` or the context did."""


def generate(
    policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sampling | None = None, *, batch: int = 16
) -> list[Answer]:
    """One answer a prompt, in order.

    Args:
        policy: Of a language model, not in shards.
        prompts: Token ids.
        sampling: How.
        batch: Prompts at once; those of similar length go together.

    Raises:
        UsageError: A prompt is empty, or fills the model's context.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    >>> policy = Policy(LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=1, **shape)))
    >>> [len(answer.ids) for answer in generate(policy, [[5, 6], [7]], Sampling(most=3))]
    [3, 3]
    """
    sampling = sampling or Sampling()
    if any(isinstance(p, DTensor) for p in policy.parameters()):
        raise UsageError(
            "generate: the policy is in shards; load what fit saved, or sample before placing it"
        )
    if sampling.stop and policy.tokenizer is None:
        raise UsageError("sampling.stop: texts need a tokenizer, and the policy has none")
    for i, prompt in enumerate(prompts):
        if not len(prompt) or len(prompt) >= (policy.context or len(prompt) + 1):
            raise UsageError(
                f"prompts[{i}]: {len(prompt)} tokens; 1 to fewer than the context, {policy.context}"
            )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, Answer] = {}
    with policy.inference():
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            made = _together(policy, [list(prompts[i]) for i in rows], rows, sampling)
            answers |= dict(zip(rows, made, strict=True))
    return [answers[i] for i in range(len(prompts))]


def _together(
    policy: Policy, prompts: list[list[int]], numbers: list[int], sampling: Sampling
) -> list[Answer]:
    ends = _ends(policy)
    context = policy.context or math.inf
    room = [min(sampling.most, context - len(prompt)) for prompt in prompts]
    random = [np.random.default_rng((sampling.seed, number)) for number in numbers]
    taken: list[list[tuple[int, float]]] = [[] for _ in prompts]
    finished, full = [False] * len(prompts), [False] * len(prompts)
    stream = _logits(policy, prompts)
    logits = next(stream)
    while True:
        uniform = torch.tensor([one.random() for one in random], dtype=torch.float64)
        ids, logps = _drawn(logits, uniform.to(logits.device), sampling)
        for row, (token, logp) in enumerate(zip(ids.tolist(), logps.tolist(), strict=True)):
            if not finished[row] and not full[row]:
                taken[row].append((token, logp))
                finished[row] = token in ends or _stopped(policy, taken[row], sampling.stop)
                full[row] = len(taken[row]) == room[row]
        if all(map(operator.or_, finished, full)):
            break
        logits = stream.send(ids)
    return [
        Answer(
            ids=tuple(token for token, _ in row),
            logps=tuple(logp for _, logp in row),
            end="finished" if done else "truncated",
        )
        for row, done in zip(taken, finished, strict=True)
    ]


def _logits(policy: Policy, prompts: list[list[int]]) -> Generator[Tensor, Tensor, None]:
    """[B, V] of the next token; takes the tokens that were drawn. Prompts are padded on the left, with a mask."""
    model: Any = policy.plain
    device = policy.device
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    takes = inspect.signature(model.forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    kept = "cache" if "cache" in takes else "past_key_values"
    cache: Any = None
    while True:
        # Rows that are done go on as long as the others; what they say beyond the context is not looked at.
        positions = (mask.cumsum(1) - 1).clamp(0, (policy.context or mask.shape[1]) - 1)[:, -ids.shape[1] :]
        given: dict[str, Any] = {"attention_mask": mask, "position_ids": positions} | last
        if "position_ids" not in takes:
            del given["position_ids"]
        out: Any = model(input_ids=ids, **{kept: cache}, use_cache=True, **given)
        cache = out[kept]
        drawn = yield out.logits[:, -1]
        ids = drawn[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)


def _drawn(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """[B] tokens and [B] log-probabilities; ``uniform`` [B] in [0, 1) decides."""
    z = logits.double()
    logp = (z / (sampling.temperature or 1.0)).log_softmax(-1)
    if not sampling.temperature:
        picked = z.argmax(-1)
        return picked, logp.gather(1, picked[:, None])[:, 0]
    ordered, index = logp.sort(dim=-1, descending=True, stable=True)
    p = ordered.exp()
    if sampling.top_k is not None:
        p[:, sampling.top_k :] = 0
    p /= p.sum(-1, keepdim=True)
    before = p.cumsum(-1) - p
    p = torch.where(before < sampling.top_p, p, 0.0)
    total = p.cumsum(-1)
    place = torch.searchsorted(total, (uniform * total[:, -1])[:, None], right=True)
    place = torch.minimum(place, (p > 0).sum(-1, keepdim=True) - 1)
    return index.gather(1, place)[:, 0], ordered.gather(1, place)[:, 0]


def _stopped(policy: Policy, taken: list[tuple[int, float]], stop: tuple[str, ...]) -> bool:
    if not stop:
        return False
    tail = [token for token, _ in taken[-4 * max(map(len, stop)) :]]
    text = policy.tokenizer.decode(tail, skip_special_tokens=False)
    return any(one in text for one in stop)


def _ends(policy: Policy) -> set[int]:
    """The tokens that end an answer: the model's own, and the tokenizer's."""
    found: set[int] = set()
    for holder in (getattr(policy.plain, "generation_config", None), policy.config, policy.tokenizer):
        given = getattr(holder, "eos_token_id", None)
        found |= {given} if isinstance(given, int) else set(given or ())
    return found
