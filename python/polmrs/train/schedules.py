r"""Learning-rate schedules: the factor of the peak rate at a step, by name. Functions of the step alone, so resuming needs
no state.

Warm-up rises linearly from 0 over the first ``warmup`` steps; with u the share of the steps after it,

| name           | factor                                                         |
|----------------|----------------------------------------------------------------|
| `constant`     | 1                                                              |
| `linear`       | $$1 - (1 - m) u$$                                              |
| `cosine`       | $$m + (1 - m) (1 + \cos \pi u) / 2$$                           |
| `inverse_sqrt` | $$\sqrt{w / t}$$ after w warm-up steps, at least 1             |
| `wsd`          | 1, then over the last ``decay`` share of the steps down to m, linearly (arXiv:2404.06395) |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from polmrs.errors import ConfigError

Shape: TypeAlias = Literal["constant", "linear", "cosine", "inverse_sqrt", "wsd"]
SHAPES: tuple[Shape, ...] = ("constant", "linear", "cosine", "inverse_sqrt", "wsd")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A shape, its warm-up and its floor.

    >>> [round(Schedule(shape="cosine", warmup=2).factor(step, steps=6), 3) for step in range(6)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146]
    """

    shape: Shape = "constant"
    warmup: float = 0
    """Steps; below 1, a share of all steps, rounded up."""
    floor: float = 0.0
    """m, the factor at the end."""
    decay: float = 0.1
    """The share of the steps in which ``wsd`` goes down."""

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigError(f"schedule: {self.shape!r} is none of {', '.join(SHAPES)}")
        if self.warmup < 0 or not 0 <= self.floor <= 1 or not 0 < self.decay <= 1:
            raise ConfigError("schedule: warmup is 0 or more, floor in [0, 1], decay in (0, 1]")

    def factor(self, step: int, *, steps: int) -> float:
        """The factor of step 0, 1, ... of ``steps``."""
        warmup = math.ceil(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        if step < warmup:
            return step / warmup
        u = (step - warmup) / max(1, steps - warmup)
        if self.shape == "linear":
            return 1 - (1 - self.floor) * u
        if self.shape == "cosine":
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * u)) / 2
        if self.shape == "inverse_sqrt":
            return math.sqrt(max(warmup, 1) / max(step, warmup, 1))
        if self.shape == "wsd":
            left = (1 - step / steps) / self.decay
            return self.floor + (1 - self.floor) * min(1.0, left)
        return 1.0
