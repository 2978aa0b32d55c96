"""Near-duplicates: documents that share most of their word n-grams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from polmrs import _core
from polmrs.data.documents import Documents, Unit, given, positive

Method: TypeAlias = Literal["minhash", "exact"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """Documents joined by likeness. The first of a cluster stays."""

    first: npt.NDArray[np.int64]
    """[documents]: the first of its cluster; itself if it is kept."""
    jaccard: npt.NDArray[np.float64]
    """[documents]: the Jaccard index with that document; may be below the threshold where others lie between."""
    clusters: int
    """Clusters of two documents or more."""
    wordless: int
    """Documents without a word; they are like nothing, and kept."""

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """The documents to keep."""
        return np.flatnonzero(self.first == np.arange(len(self.first)))

    @property
    def dropped(self) -> npt.NDArray[np.int64]:
        """The documents to leave out."""
        return np.flatnonzero(self.first != np.arange(len(self.first)))


def near_duplicates(
    documents: Documents,
    *,
    threshold: float = 0.8,
    n: int = 3,
    unit: Unit = "word",
    method: Method = "minhash",
    functions: int = 128,
    recall: float = 0.95,
    seed: int = 0,
) -> Clusters:
    """Clusters of documents whose sets of word n-grams have a Jaccard index of at least ``threshold``.

    ``minhash`` (Broder, 1997) signs every document with ``functions`` hash functions, cuts the signatures into bands as
    long as ``recall`` allows, and compares the sets of documents that agree in a band, so it may miss a pair but never
    joins one below the threshold. ``exact`` finds all, by an index of rare n-grams. Documents of a cluster may be alike
    only through others. Memory: eight bytes for each n-gram, four for each hash function of a document.

    Args:
        documents: Texts, or rows of tokens.
        threshold: In (0, 1].
        n: Words (or tokens) of an n-gram; a shorter document is one n-gram.
        unit: ``word``: runs of letters and digits, in lower case. ``char``: single ones, for scripts without spaces.
        method: How pairs are found.
        functions: Hash functions of a signature, a multiple of 16.
        recall: The least chance of finding a pair at the threshold; pairs above it have a better one.
        seed: Of the hash functions.

    Raises:
        UsageError: A setting is out of range, or ``functions`` are too few for ``recall``.

    >>> texts = ["a b c d e f g h", "x y z", "A B C D E F G H!", "a b c d e f g h i"]
    >>> near_duplicates(texts, threshold=0.8).first
    array([0, 1, 0, 0])
    """
    first, jaccard, clusters, wordless = _core.data.near_duplicates(
        given(documents), unit, positive("n", n), threshold, (method, functions, recall, seed)
    )
    return Clusters(first=first, jaccard=jaccard, clusters=clusters, wordless=wordless)


def near_pairs(
    documents: Documents,
    *,
    threshold: float = 0.8,
    n: int = 3,
    unit: Unit = "word",
    method: Method = "minhash",
    functions: int = 128,
    recall: float = 0.95,
    seed: int = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The pairs themselves, in order; equal documents make a pair each with each, so there may be many.

    Args and errors are those of ``near_duplicates``.

    Returns:
        [pairs, 2], the earlier and the later document, and [pairs], their Jaccard index.

    >>> pairs, jaccard = near_pairs(["a b c d", "x", "a b c d e"], threshold=0.6, method="exact")
    >>> pairs.tolist(), jaccard.round(3).tolist()
    ([[0, 2]], [0.667])
    """
    earlier, later, jaccard = _core.data.near_pairs(
        given(documents), unit, positive("n", n), threshold, (method, functions, recall, seed)
    )
    return np.stack([earlier, later], axis=1), jaccard
