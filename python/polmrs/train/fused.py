r"""Optimizers that update a tensor in the backward pass, as soon as its gradient is there, and drop the gradient: no two
gradients of a model need memory at once.

| name      | update                                                                                              | paper |
|-----------|-----------------------------------------------------------------------------------------------------|-------|
| `lomo`    | $$\theta \leftarrow \theta - \eta g$$                                                               | arXiv:2306.09782, algorithm 1 |
| `adalomo` | $$u = g / \sqrt{v}, \quad \theta \leftarrow \theta - \eta \max(\epsilon_2, \mathrm{rms}(\theta)) \frac{u}{\max(1, \mathrm{rms}(u) / d)}$$ | arXiv:2310.10195, algorithm 1 |

with v the outer product of the moving averages of row and column means of g squared, as in Adafactor (arXiv:1804.04235), and
v itself for vectors; the averages decay by $$\beta_t = 1 - t^{-0.8}$$ as in the authors' program.

A gradient is gone after its backward pass, so gradients cannot be accumulated over micro-batches. A clipped norm must be
known before the first update: clipping takes a second forward and backward pass, with the same random numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from polmrs.errors import UsageError

Tensor = torch.Tensor


class Fused(torch.optim.Optimizer, ABC):
    """What both have: hooks that update, and a mode in which they only measure."""

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        """Hooks every parameter."""
        super().__init__(params, defaults)
        self.scale, self._measuring = 1.0, False
        self._square: float | Tensor = 0.0
        self._hooks = [
            p.register_post_accumulate_grad_hook(lambda p, group=group: self._arrived(p, group))
            for group in self.param_groups
            for p in group["params"]
        ]

    @property
    def norm(self) -> float:
        """Of all gradients of the last backward pass together."""
        return math.sqrt(float(self._square))

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside, a backward pass moves nothing; ``norm`` is known afterwards."""
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False

    def begin(self, scale: float = 1.0) -> None:
        """Before a backward pass: what gradients are multiplied by."""
        self.scale, self._square = scale, 0.0

    def step(self, closure: Any = None) -> Any:
        """Nothing is left to do."""

    def close(self) -> None:
        """Removes the hooks; backward passes leave gradients again."""
        for hook in self._hooks:
            hook.remove()

    @abstractmethod
    def update(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """Moves one tensor, in place."""

    @torch.no_grad()
    def _arrived(self, p: nn.Parameter, group: dict[str, Any]) -> None:
        grad, p.grad = p.grad, None
        if grad is None:
            return
        self._square = self._square + torch.linalg.vector_norm(grad).double().square()
        if not self._measuring:
            grad = grad if self.scale == 1.0 else grad.mul_(self.scale)
            self.update(p, grad.neg_() if group.get("maximize") else grad, group)


class Lomo(Fused):
    """SGD.

    >>> weight = nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Lomo([weight], lr=0.5)
    >>> (weight * 1.0).sum().backward()
    >>> weight.item(), weight.grad
    (0.5, None)
    """

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        """Takes parameters or groups of them."""
        super().__init__(params, {"lr": lr})

    def update(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """One step of descent."""
        p.add_(grad, alpha=-group["lr"])


class AdaLomo(Fused):
    """Adafactor without momentum, each tensor normalised by itself.

    >>> weight = nn.Parameter(torch.tensor([4.0, 4.0]))
    >>> optimizer = AdaLomo([weight], lr=0.1)
    >>> (weight * 3).sum().backward()
    >>> weight.tolist()  # one tenth of its size, whatever the size of the gradient
    [3.5999999046325684, 3.5999999046325684]
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        decay: float = 0.8,
        eps: tuple[float, float] = (1e-30, 1e-3),
        d: float = 1.0,
    ) -> None:
        """Takes parameters or groups of them.

        Args:
            params: Parameters or groups.
            lr: Relative to the size of each tensor.
            decay: The exponent of the averages' decay.
            eps: Added to squared gradients; the least size of a tensor.
            d: The largest root mean square of an update before the rate.
        """
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps, "d": d})

    def update(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """One step, computed in float32 or wider."""
        state = self.state[p]
        state["step"] = state.get("step", 0) + 1
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
        least, smallest = group["eps"]
        square, fresh = wide.square() + least, state["step"] ** -group["decay"]
        if grad.ndim >= 2:
            row = _average(state, "row", square.mean(-1), fresh)
            column = _average(state, "column", square.mean(-2), fresh)
            scale = (row / row.mean(-1, keepdim=True)).rsqrt()[..., None] * column.rsqrt()[..., None, :]
        else:
            scale = _average(state, "square", square, fresh).rsqrt()
        update = wide.mul_(scale)
        size = max(smallest, _rms(p))
        p.add_(update.to(p.dtype), alpha=-group["lr"] * size / max(1.0, _rms(update) / group["d"]))


def _average(state: dict[str, Any], name: str, value: Tensor, fresh: float) -> Tensor:
    kept: Tensor = state.setdefault(name, torch.zeros_like(value))
    return kept.lerp_(value, fresh)


def _rms(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x).double()) / math.sqrt(x.numel())


def check(optimizer: Fused, *, micros: int, world: int, scaled: bool) -> None:
    """Refuses what such an optimizer cannot do.

    Raises:
        UsageError: A step has several micro-batches or ranks, or its loss is scaled.
    """
    name = type(optimizer).__name__.lower()
    if micros > 1:
        raise UsageError(
            f"optim: {name} updates in the backward pass and cannot accumulate gradients over {micros} micro-batches; "
            "leave out micro and micro_tokens, or make batch smaller"
        )
    if world > 1:
        raise UsageError(f"optim: {name} updates before gradients of {world} ranks could be summed; use one")
    if scaled:
        raise UsageError(f"optim: {name} cannot undo the scale of fp16; use bf16")
