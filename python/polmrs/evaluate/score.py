r"""A measured mean with its standard error.

$$\bar x = \frac{1}{n} \sum_i x_i, \qquad \mathrm{se} = \sqrt{\frac{\sum_i (x_i - \bar x)^2}{n (n - 1)}}$$
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from polmrs.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean over independent items.

    >>> print(Score.of([1, 0, 1, 1]))
    0.7500 ± 0.2500 (n = 4)
    """

    value: float
    stderr: float
    """NaN of a single item."""
    n: int

    @classmethod
    def of(cls, items: Sequence[float]) -> Score:
        """The mean of items, and its standard error with n - 1.

        Raises:
            UsageError: There is none.
        """
        n = len(items)
        if not n:
            raise UsageError("score: no items")
        mean = math.fsum(items) / n
        spread = math.fsum((x - mean) ** 2 for x in items)
        return cls(value=mean, stderr=math.sqrt(spread / (n * (n - 1))) if n > 1 else math.nan, n=n)

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.stderr:.4f} (n = {self.n})"
