r"""Linear mode connectivity: how far the loss rises on the straight line between two models (arXiv:1912.05671).

$$\mathrm{barrier} = \max_t\;L((1-t)\,a + t\,b) - \left((1-t)\,L(a) + t\,L(b)\right)$$
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

from polmrs.errors import UsageError
from polmrs.merge.method import PathOrName
from polmrs.merge.methods import Linear
from polmrs.merge.run import StateDict, merge


@dataclass(frozen=True, kw_only=True)
class Connectivity:
    """The curve: ``losses[i]`` at ``(1 - ts[i]) a + ts[i] b``; how far it rises above its chord at most, and where."""

    ts: tuple[float, ...]
    losses: tuple[float, ...]
    barrier: float
    at: float


def lmc(
    a: PathOrName | StateDict,
    b: PathOrName | StateDict,
    *,
    loss: Callable[[Any], float],
    steps: int = 11,
    **options: Any,
) -> Connectivity:
    """The loss at ``steps`` points of the line from ``a`` to ``b``, both ends among them, and its barrier.

    ``loss`` gets the folder (a ``Path``) of a model, or its state dict, and gives a number; it is called once a point, the
    ends with ``a`` and ``b`` themselves. Models between are made in a temporary folder, one at a time. The barrier is 0
    where the curve stays below its chord. ``options`` are those of ``merge``: ``dtype``, ``threads``, and so on.

    Raises ``UsageError`` for fewer than two steps, or for a folder and a state dict together.

    >>> import numpy as np
    >>> a, b = {"w": np.array([-1.0])}, {"w": np.array([1.0])}
    >>> found = lmc(a, b, loss=lambda tensors: (tensors["w"][0] ** 2 - 1) ** 2, steps=5)
    >>> found.losses, found.barrier, found.at
    ((0.0, 0.5625, 1.0, 0.5625, 0.0), 1.0, 0.5)
    """
    if steps < 2:
        raise UsageError(f"steps: {steps} is not 2 or more, which the ends alone are")
    if isinstance(a, Mapping) != isinstance(b, Mapping):
        raise UsageError("a, b: one is a state dict and the other is not")
    ts = tuple(step / (steps - 1) for step in range(steps))
    losses = [float(loss(_end(a)))]
    losses += [float(_between(a, b, t, loss, options)) for t in ts[1:-1]]
    losses.append(float(loss(_end(b))))
    rises = [value - ((1 - t) * losses[0] + t * losses[-1]) for t, value in zip(ts, losses, strict=True)]
    barrier = max(0.0, *rises)
    at = ts[rises.index(max(rises))]
    return Connectivity(ts=ts, losses=tuple(losses), barrier=barrier, at=at)


def _end(model: PathOrName | StateDict) -> Path | StateDict:
    return model if isinstance(model, Mapping) else Path(model)


def _between(a: Any, b: Any, t: float, loss: Callable[[Any], float], options: dict[str, Any]) -> float:
    method = Linear(weight=[1 - t, t], normalize=False)
    if isinstance(a, Mapping):
        return loss(merge({"a": a, "b": b}, method=method, **options))
    with tempfile.TemporaryDirectory(prefix="polmrs-lmc-") as folder:
        merge([fspath(a), fspath(b)], method=method, to=Path(folder) / "between", **options)
        return loss(Path(folder) / "between")
