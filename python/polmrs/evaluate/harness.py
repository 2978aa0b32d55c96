"""A policy as a model of EleutherAI's lm-evaluation-harness: ``pip install 'polmrs[lm-eval]'``."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from polmrs.errors import UsageError
from polmrs.evaluate.choice import pair_of
from polmrs.evaluate.likelihood import likelihoods, pair_example
from polmrs.generate import Sampling, generate
from polmrs.models import Policy
from polmrs.train.objective import split


def harness(policy: Policy, *, batch: int = 16) -> Any:
    """A model for ``lm_eval.simple_evaluate(model=harness(policy), tasks=[...])``.

    Args:
        policy: With a tokenizer.
        batch: Prompts at once when it writes.

    Raises:
        ModuleNotFoundError: lm_eval is not installed.
        UsageError: The policy has no tokenizer.
    """
    LM: Any = importlib.import_module("lm_eval.api.model").LM

    if policy.tokenizer is None:
        raise UsageError("tokenizer: the policy has none, and texts need one")

    class PolicyLM(LM):  # type: ignore[misc]
        """Answers the three kinds of request."""

        def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            pairs = [fitting(policy, pair_of(policy.tokenizer, *request.args)) for request in requests]
            return list(zip(likelihoods(policy, pairs), greedy(policy, pairs), strict=True))

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            found = []
            for request in requests:
                found.append(sum(likelihoods(policy, windows(policy, request.args[0]))))
            return found

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            alike: dict[str, list[int]] = defaultdict(list)
            for i, request in enumerate(requests):
                alike[json.dumps(request.args[1], sort_keys=True)].append(i)
            texts: dict[int, str] = {}
            for rows in alike.values():
                contexts, settings = [requests[i].args[0] for i in rows], requests[rows[0]].args[1]
                texts |= zip(rows, written(policy, contexts, settings, batch), strict=True)
            return [texts[i] for i in range(len(requests))]

    return PolicyLM()


def fitting(policy: Policy, pair: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    """Without the beginning of a context that is too long."""
    context, continuation = pair
    room = (policy.context or sum(map(len, pair))) - len(continuation)
    return (context[-room:] if room > 0 else context), continuation


def greedy(policy: Policy, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
    """Whether each token of a continuation is the most likely one there."""
    found: list[bool] = []
    with policy.inference():
        for batch, _ in split([pair_example(*pair) for pair in pairs], rank=0, world=1, micro_tokens=4096):
            here = batch.to(policy.device)
            at = here.weights.nonzero()[:, 0]
            hidden = policy.hidden(here)[at - 1]
            rows = range(0, len(at), 512)
            best = torch.cat([policy.head(hidden[row : row + 512]).argmax(-1) for row in rows])
            misses = torch.zeros_like(here.weights)
            misses[at] = (best != here.ids[at]).to(misses.dtype)
            found += (here.sums(misses) == 0).tolist()
    return found


def windows(policy: Policy, text: str) -> list[tuple[list[int], list[int]]]:
    """A text in stretches of the context's length that do not overlap; each predicted from one token before it."""
    start, ids = pair_of(policy.tokenizer, "", text)
    room = (policy.context or len(ids) + 1) - 1
    whole = [*start, *ids]
    return [(whole[at : at + 1], whole[at + 1 : at + 1 + room]) for at in range(0, len(ids), room)]


def written(policy: Policy, contexts: Sequence[str], settings: dict[str, Any], batch: int) -> list[str]:
    """The answers to requests with the same settings, without the texts that ended them."""
    until = settings.get("until") or []
    stop = (until,) if isinstance(until, str) else tuple(until)
    drawn = bool(settings.get("do_sample", "temperature" in settings))
    sampling = Sampling(
        temperature=float(settings.get("temperature", 1.0)) if drawn else 0.0,
        top_p=float(settings.get("top_p") or 1.0),
        top_k=settings.get("top_k") or None,
        most=int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or 256),
        stop=stop,
    )
    ids = [policy.tokenizer(context)["input_ids"] for context in contexts]
    room = (policy.context or max(map(len, ids)) + sampling.most) - sampling.most
    if room < 1:
        raise UsageError(
            f"max_gen_toks: {sampling.most} leave no room for a prompt in {policy.context} tokens"
        )
    texts = []
    for answer in generate(policy, [one[-room:] for one in ids], sampling, batch=batch):
        text: str = policy.tokenizer.decode(answer.ids, skip_special_tokens=True)
        for one in stop:
            text = text.partition(one)[0]
        texts.append(text)
    return texts
