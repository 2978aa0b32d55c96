"""``Custom``: a merge method of one's own, as a function of arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from polmrs.errors import UsageError
from polmrs.merge.method import BaseRole, Method

Floats: TypeAlias = NDArray[np.float32]

MergeFunction: TypeAlias = Callable[[str, Floats | None, list[Floats]], Any]
"""``fn(name, base, models)``: the tensor's name, the base's part of it (or ``None``), and each model's."""


@dataclass(frozen=True)
class Custom(Method):
    """Merges by ``fn(name, base, models)``, called with f32 arrays; what it gives is rounded once.

    ``grain`` says what one call sees: some ``"elements"`` (vectors), some whole ``"rows"`` (matrices whose last dimension
    is the tensor's), or a whole ``"tensor"`` in its own shape. The result must have the shape of its arguments. Calls come
    one after the other, in the order of the tensors, on one thread under Python's lock, so this is as fast as ``fn``.
    Memory stays bounded by blocks at the first two grains; a whole tensor needs its size in f32, for every model.

    An exception in ``fn`` ends the merge and is raised as it is, with a note that names the tensor.

    >>> import numpy as np
    >>> from polmrs.merge import merge
    >>> models = {name: {"w": np.array(values, np.float32)} for name, values in {"a": [1, 5], "b": [3, 4]}.items()}
    >>> merge(models, method=Custom(lambda name, base, models: np.maximum(*models)))["w"]
    array([3., 5.], dtype=float32)
    """

    name: ClassVar[str] = "custom"
    base: ClassVar[BaseRole] = "optional"
    per_model: ClassVar[tuple[str, ...]] = ()

    fn: MergeFunction
    """The function."""
    grain: Literal["elements", "rows", "tensor"] = "elements"
    """What one call sees."""

    def __post_init__(self) -> None:
        """Raises ``UsageError`` for another grain, or something that cannot be called."""
        if self.grain not in ("elements", "rows", "tensor"):
            raise UsageError(f"custom.grain: {self.grain!r} is not one of 'elements', 'rows', 'tensor'")
        if not callable(self.fn):
            raise UsageError(f"custom.fn: {self.fn!r} cannot be called")

    def shared_parameters(self) -> dict[str, Any]:
        """None: a function has no place in a configuration."""
        return {}
