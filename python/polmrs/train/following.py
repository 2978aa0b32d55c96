r"""Weights that follow those in training: a moving average of them, and a reference policy that keeps up with the trained one.

After every n-th optimizer step, with the trained weights $$\theta$$,

$$\theta' \leftarrow (1 - \alpha) \theta' + \alpha \theta$$

| what                      | alpha | n   | from                                                        |
|---------------------------|-------|-----|-------------------------------------------------------------|
| `fit(..., average=d)`     | 1 - d | 1   | exponential moving average, which begins at the first weights |
| `Reference(...)`          | 0.6   | 512 | the soft update of TR-DPO (arXiv:2404.09656); defaults of TRL 1.16 |
| `Reference.hard(...)`     | 1     | 512 | the hard update of TR-DPO: a copy every n steps              |
| `Reference.ema(...)`      | 1 - d | 1   | a reference that is the moving average                       |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from polmrs.engine import Engine, whole
from polmrs.errors import ConfigError, UsageError
from polmrs.models import Frozen, Policy

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A frozen policy that ``fit`` keeps up with the trained one. Who holds the same policy, such as ``scored_by``, sees it move.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    >>> policy = Policy(LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=1, **shape)))
    >>> Reference.ema(policy.frozen(), decay=0.75).alpha
    0.25
    """

    policy: Frozen
    """A copy of its own: ``policy.frozen()``; under adapters, ``Frozen(copy.deepcopy(policy.model))``."""
    alpha: float = 0.6
    """The share of the trained weights in an update; 1 copies them. A reference in half precision does not see small steps."""
    every: int = 512
    """Optimizer steps between updates."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"reference.alpha: {self.alpha} is not in (0, 1]")
        if self.every < 1:
            raise ConfigError(f"reference.every: {self.every} is not 1 or more")

    @classmethod
    def hard(cls, policy: Frozen, *, every: int = 512) -> Self:
        """A copy of the trained policy, made anew every so many steps."""
        return cls(policy=policy, alpha=1.0, every=every)

    @classmethod
    def ema(cls, policy: Frozen, *, decay: float) -> Self:
        """The exponential moving average of the trained policy."""
        return cls(policy=policy, alpha=1 - decay, every=1)


class Following:
    """Tensors by name, and those that they follow.

    >>> one = Following({"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}, alpha=0.25, every=2)
    >>> for step in (1, 2, 3, 4):
    ...     one.after(step)
    >>> one.tensors["w"]
    tensor([0.4375])
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        leaders: Mapping[str, Tensor],
        *,
        alpha: float,
        every: int,
        sharded: Sequence[FSDPModule] = (),
    ) -> None:
        """Begins.

        Args:
            tensors: What follows; shards follow shards.
            leaders: What each follows, by the same name.
            alpha: The share of the leader in an update.
            every: Optimizer steps between updates.
            sharded: Modules that have ``tensors``; a forward pass without a backward one leaves them gathered.
        """
        self.tensors, self._leaders = dict(tensors), leaders
        self._alpha, self._every, self._sharded = alpha, every, sharded

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Moves, if this many optimizer steps ask for it; every rank calls it."""
        if step % self._every:
            return
        for module in self._sharded:
            module.reshard()
        for name, tensor in self.tensors.items():
            leader = self._leaders[name].detach()
            if isinstance(tensor, DTensor) and isinstance(leader, DTensor):
                tensor, leader = tensor.to_local(), leader.to_local()
            elif isinstance(leader, DTensor):
                leader = leader.full_tensor()
            tensor.lerp_(leader.to(tensor), self._alpha)


def average_of(modules: nn.Module, decay: float) -> Following:
    """The moving average of all trained weights, in CPU memory.

    Raises:
        UsageError: The decay is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise UsageError(f"average: {decay} is not in [0, 1)")
    leaders = {name: p for name, p in modules.named_parameters() if p.requires_grad}
    kept = {name: whole(p).clone() for name, p in leaders.items()}
    return Following(kept, leaders, alpha=1 - decay, every=1)


def reference_of(reference: Reference, policy: Policy, engine: Engine) -> Following:
    """A reference that follows a policy, both where the engine wants them; what is not trained stays as it is.

    Raises:
        UsageError: The reference shares weights with the policy, or has others.
    """
    leaders = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    trained = {id(p) for p in leaders.values()}
    if any(id(p) in trained for p in reference.policy.parameters()):
        raise UsageError(
            "reference: it is the policy with its adapters off and cannot move by itself; "
            "give a copy, Frozen(copy.deepcopy(policy.model))"
        )
    engine.place(reference.policy)
    kept = dict(reference.policy.named_parameters())
    for name, p in leaders.items():
        if name not in kept or kept[name].shape != p.shape:
            raise UsageError(f"reference: {name} {list(p.shape)} is trained, and the reference has none such")
    return Following(
        {name: kept[name] for name in leaders},
        leaders,
        alpha=reference.alpha,
        every=reference.every,
        sharded=[module for module in reference.policy.modules() if isinstance(module, FSDPModule)],
    )


def averaged(policy: Policy, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's state dict with averages, named as in ``fit``, in place of what was trained; every rank calls it."""
    state = policy.model.state_dict(keep_vars=True)  # first: it puts shards back in their places
    instead = {p: average[f"policy.{name}"] for name, p in policy.named_parameters() if p.requires_grad}
    return {name: instead[t] if t in instead else whole(t) for name, t in state.items()}
