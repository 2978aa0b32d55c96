"""Optimizers by name, with groups of parameters by name pattern.

Names are those of torch in lower case: ``adamw``, ``sgd``, ``adafactor``, ``muon``, ..., and ``lomo`` and ``adalomo``
(``polmrs.train.fused``); options are the class's own keyword arguments, checked against its signature. Two defaults differ
from torch's: ``adamw`` has no weight decay, and whole tensors on a CPU are updated in one pass (``fused``), which takes a sixth
of the time and no memory of the size of a tensor.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from polmrs.config import nearest
from polmrs.errors import ConfigError
from polmrs.train.fused import AdaLomo, Lomo

NAMES: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind not in (torch.optim.Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam)
} | {"lomo": Lomo, "adalomo": AdaLomo}


ONE_PASS = {"adam", "adamw", "sgd"}
OTHER_PASSES = {"fused", "foreach", "differentiable", "capturable"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters whose whole name matches a regular expression, and what is different for them.

    >>> Group(pattern=r".*score.*", lr=1e-3).maximize
    False
    """

    pattern: str
    lr: float | None = None
    maximize: bool = False
    freeze: bool = False
    """Leaves them as they are."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """An optimizer of torch by name, its options, and groups; the first group that matches a parameter has it.

    >>> Optim(name="adamm")
    Traceback (most recent call last):
    ...
    polmrs.errors.ConfigError: optim: 'adamm' is no optimizer; the nearest is 'adam'
    """

    name: str = "adamw"
    options: Mapping[str, Any] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(f"optim: {self.name!r} is no optimizer{nearest(self.name, NAMES)}")
        known = set(inspect.signature(NAMES[self.name]).parameters) - {"params", "lr"}
        for key in [*self.options, *(key for group in self.groups for key in group.options)]:
            if key not in known:
                raise ConfigError(f"optim.options: {key!r} is none of {self.name}'s{nearest(key, known)}")

    def build(self, modules: nn.Module, lr: float) -> torch.optim.Optimizer:
        """The optimizer of a module's trainable parameters; each group keeps its peak rate as ``peak``.

        Raises:
            ConfigError: A pattern matches nothing, or nothing is left to train.
        """
        left = {name: p for name, p in modules.named_parameters() if p.requires_grad}
        groups: list[dict[str, Any]] = []
        for group in self.groups:
            mine = [name for name in left if re.fullmatch(group.pattern, name)]
            if not mine:
                raise ConfigError(
                    f"optim.groups: {group.pattern!r} matches no trainable parameter that is left"
                )
            params = [left.pop(name) for name in mine]
            if group.freeze:
                for p in params:
                    p.requires_grad_(False)
                continue
            peak = lr if group.lr is None else group.lr
            groups.append({"params": params, "lr": peak, "peak": peak, **group.options})
            if group.maximize:
                groups[-1]["maximize"] = True
        if left:
            groups.append({"params": list(left.values()), "lr": lr, "peak": lr})
        if not groups:
            raise ConfigError("optim: nothing is left to train")
        options = dict(self.options)
        if self.name == "adamw":
            options.setdefault("weight_decay", 0.0)
        if self.name in ONE_PASS and not OTHER_PASSES & {*options, *(key for g in groups for key in g)}:
            trained = [p for group in groups for p in group["params"]]
            options["fused"] = all(p.device.type == "cpu" and not isinstance(p, DTensor) for p in trained)
        kind: Any = NAMES[self.name]
        made: torch.optim.Optimizer = kind(groups, lr=lr, **options)
        return made
