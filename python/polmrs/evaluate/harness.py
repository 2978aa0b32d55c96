"""A policy as a model of EleutherAI's lm-evaluation-harness: ``pip install 'polmrs[lm-eval]'``."""

from __future__ import annotations

import importlib
from typing import Any

from polmrs.errors import UsageError
from polmrs.evaluate.choice import pair_of
from polmrs.evaluate.likelihood import likelihoods, pair_example
from polmrs.generate import Sampling, generate
from polmrs.models import Policy


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
            pairs = [pair_of(policy.tokenizer, *request.args) for request in requests]
            logps = likelihoods(policy, pairs)
            return [(logp, greedy(policy, pair)) for pair, logp in zip(pairs, logps, strict=True)]

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            found = []
            for request in requests:
                found.append(sum(likelihoods(policy, windows(policy, request.args[0]))))
            return found

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            return [written(policy, *request.args) for request in requests]

    return PolicyLM()


def greedy(policy: Policy, pair: tuple[list[int], list[int]]) -> bool:
    """Whether each token of the continuation is the most likely one there."""
    example = pair_example(*pair).to(policy.device)
    with policy.inference():
        at = example.weights.nonzero()[:, 0]
        best = policy.head(policy.hidden(example)[at - 1]).argmax(-1)
    return bool((best == example.ids[at]).all())


def windows(policy: Policy, text: str) -> list[tuple[list[int], list[int]]]:
    """A text in stretches of the context's length that do not overlap; each predicted from one token before it."""
    start, ids = pair_of(policy.tokenizer, "", text)
    room = (policy.context or len(ids) + 1) - 1
    whole = [*start, *ids]
    return [(whole[at : at + 1], whole[at + 1 : at + 1 + room]) for at in range(0, len(ids), room)]


def written(policy: Policy, context: str, settings: dict[str, Any]) -> str:
    """The answer to one request, without the text that ended it."""
    until = settings.get("until") or []
    stop = (until,) if isinstance(until, str) else tuple(until)
    drawn = bool(settings.get("do_sample")) or "temperature" in settings
    sampling = Sampling(
        temperature=float(settings.get("temperature", 1.0)) if drawn else 0.0,
        top_p=float(settings.get("top_p") or 1.0),
        most=int(settings.get("max_gen_toks") or settings.get("max_new_tokens") or 256),
        stop=stop,
    )
    ids = policy.tokenizer(context)["input_ids"]
    room = (policy.context or len(ids) + sampling.most + 1) - sampling.most
    if room < 1:
        raise UsageError(
            f"max_gen_toks: {sampling.most} leave no room for a prompt in {policy.context} tokens"
        )
    (answer,) = generate(policy, [ids[-room:]], sampling)
    text: str = policy.tokenizer.decode(answer.ids, skip_special_tokens=True)
    for one in stop:
        text = text.partition(one)[0]
    return text
