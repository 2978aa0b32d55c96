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
    """1: fastest for a query alone; it has 8-bit codes too, for the second look and for batches of 8 queries or more. 4: half the
    memory of those. 8: hardly ever misses."""
    margin: float = 3.25
    """Standard deviations of the estimate within which vectors get the second look."""
    storage: Storage = "float32"


@dataclass(frozen=True, kw_only=True)
class HNSW:
    """Walks along a graph towards the query, then looks at the nearest vectors: for 100,000 vectors and more.

    HNSW ([paper](https://arxiv.org/abs/1603.09320), algorithms 1 to 5) over codes of two bytes or one byte a coordinate. Scores
    are exact, as with :class:`Flat`; a hit may be missed. The graph follows from the seed and the calls of ``add``, whatever the
    number of threads. Deleted vectors are walked through until half are, or the index is saved; then links are mended. Equal
    vectors share one node, so thousands of copies do no harm. A filter is part of the walk, and few that pass it are all
    looked at.

    >>> HNSW(m=32).ef_search
    64
    """

    m: int = 16
    """Links of a new vector on each layer; the lowest has room for twice as many."""
    ef_construction: int = 200
    """How many near vectors are looked for to link a new one."""
    ef_search: int = 64
    """How many near vectors a search looks for; ``k`` if that is more."""
    codes: Literal["bf16", "int8"] = "int8"
    """What walks compare."""
    seed: int = 0
    """Of the layers that vectors are on."""
    storage: Storage = "float32"


@dataclass(frozen=True, kw_only=True)
class IVF:
    """Looks at the lists around the centres that are nearest to the query: for vectors that memory cannot hold.

    An inverted file ([paper](https://doi.org/10.1109/TPAMI.2010.57), section IV) whose centres are those of k-means, with the
    codes of :class:`Quantized` inside each list. Opened with ``mmap=True``, a search reads the codes of its lists and a dozen
    vectors. Scores are exact; a hit may be missed. The same lists and hits for any number of threads.

    >>> IVF(probes=16).lists is None
    True
    """

    lists: int | None = None
    """How many; ``None`` for twice the square root of the number of vectors, when there are twice as many as before."""
    probes: int = 64
    """How many lists a search looks at; more, if a filter leaves few vectors."""
    margin: float = 3.25
    """Standard deviations of the 1-bit estimate within which vectors get the second look."""
    seed: int = 0
    """Of the vectors that k-means begins with."""
    storage: Storage = "float32"


Kind: TypeAlias = Flat | Quantized | HNSW | IVF
NAMES: dict[str, type[Flat] | type[Quantized] | type[HNSW] | type[IVF]] = {
    "flat": Flat,
    "quantized": Quantized,
    "hnsw": HNSW,
    "ivf": IVF,
}
"""Kinds by the names that files have for them."""
