"""Whitening, with moments that merge over ranks."""

from __future__ import annotations

from dataclasses import dataclass

from polmrs import _core
from polmrs._arrays import A, mask_bytes, output, view
from polmrs._tensor import Array


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean and sum of squared deviations from the mean."""

    n: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan, Golub and LeVeque, 1979).

        >>> import numpy as np
        >>> x = np.arange(10.0)
        >>> moments(x[:3]).merge(moments(x[3:]))
        Moments(n=10.0, mean=4.5, m2=82.5)
        """
        if self.n == 0:
            return other
        if other.n == 0:
            return self
        n = self.n + other.n
        apart = other.mean - self.mean
        return Moments(
            n=n,
            mean=self.mean + apart * (other.n / n),
            m2=self.m2 + other.m2 + apart * apart * (self.n * other.n / n),
        )

    def variance(self, ddof: float = 1.0) -> float:
        """The variance, ``n - ddof`` below the sum; NaN where that is not positive."""
        return self.m2 / (self.n - ddof) if self.n > ddof else float("nan")


def moments(x: Array, mask: Array | None = None) -> Moments:
    """The moments of the elements that the mask keeps.

    Ranks merge theirs in rank order: ``functools.reduce(Moments.merge, gathered)``.

    Args:
        x: Any shape, float32 or float64.
        mask: Of the shape of ``x``, bool or uint8, false on holes.

    Raises:
        ArrayError: An array has another type, length or layout.
        NonFiniteError: An element outside the holes is NaN or infinite.

    >>> import numpy as np
    >>> moments(np.array([1.0, 2.0, 3.0, 100.0]), np.array([True, True, True, False]))
    Moments(n=3.0, mean=2.0, m2=2.0)
    """
    n, mean, m2 = _core.rl.moments_of(view("x", x), mask_bytes("mask", mask))
    return Moments(n=n, mean=mean, m2=m2)


def whiten(
    x: A,
    mask: Array | None = None,
    *,
    moments: Moments | None = None,
    ddof: float = 1.0,
    eps: float = 1e-8,
    center: bool = True,
    out: A | None = None,
) -> A:
    r"""Scales the elements that the mask keeps to variance 1, and moves them to mean 0.

    $$ y = (x - \mu) / \sqrt{\sigma^2 + \varepsilon} $$

    The eps stands inside the root, as in verl and TRL. ``center=False`` adds the mean again after scaling, which
    torchtune and old TRL call ``shift_mean=True`` and verl ``shift_mean=False``.

    Args:
        x: Any shape, float32 or float64.
        mask: Of the shape of ``x``, bool or uint8, false on holes.
        moments: Those to whiten with, if not of ``x`` alone: of all ranks, say.
        ddof: Taken off the count in the variance.
        eps: Added to the variance.
        center: Whether the mean is taken away for good.
        out: An array to write into, instead of a new one.

    Returns:
        Of the shape, kind and type of ``x``; 0 on holes, and everywhere if the mask keeps nothing.

    Raises:
        ArrayError: An array has another type, length or layout; there are not more elements than ``ddof``; or the
            variance and ``eps`` are both 0.
        NonFiniteError: An element outside the holes is NaN or infinite.

    >>> import numpy as np
    >>> whiten(np.array([1.0, 2.0, 3.0]), eps=0.0)
    array([-1.,  0.,  1.])
    """
    values, hidden = view("x", x), mask_bytes("mask", mask)
    own = _core.rl.moments_of(values, hidden) if moments is None else (moments.n, moments.mean, moments.m2)
    whitened, whitened_flat = output("out", out, x, values)
    _core.rl.whiten(values, hidden, own, ddof, eps, center, whitened_flat)
    return whitened
