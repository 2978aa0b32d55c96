"""How an index finds what is near: each kind is its own configuration."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Storage: TypeAlias = Literal["float32", "float16", "bfloat16"]
"""How full vectors are kept; scores are exact for what is kept."""


@dataclass(frozen=True, kw_only=True)
class Flat:
    """Looks at every vector: exact, built at once, and the fastest for a batch of queries over few vectors.

    >>> Flat(storage="bfloat16")
    Flat(storage='bfloat16')
    """

    storage: Storage = "float32"


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Looks at codes of a few bits, then at the few vectors that may be among the best: nearly exact, and many times faster.

    Codes are those of RaBitQ ([paper](https://arxiv.org/abs/2405.12497)): signs, or 4 or 8 bits, of centred and rotated
    vectors. An estimate's standard deviation is known, so what is kept for the second look follows from ``margin`` and from how
    crowded the neighbourhood of a query is. Scores are exact, as with :class:`Flat`; only a hit may be missed.

    >>> Quantized(bits=4).margin
    3.25
    """

    bits: Literal[1, 4, 8] = 1
    """1: fastest, and takes 8-bit codes too for a second look. 4: half the memory of those. 8: hardly ever misses."""
    margin: float = 3.25
    """Standard deviations of the estimate within which vectors get the second look."""
    storage: Storage = "float32"


Kind: TypeAlias = Flat | Quantized
