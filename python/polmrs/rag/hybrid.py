"""Search by meaning and by words at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from polmrs._tensor import Array
from polmrs.errors import UsageError
from polmrs.rag.bm25 import BM25
from polmrs.rag.fusion import RRF, Fusion, fuse
from polmrs.rag.index import Filter, Hits, Ids, Metadata


class VectorIndex(Protocol):
    """What is asked of an index of vectors: :class:`Index`, :class:`~polmrs.rag.qdrant.QdrantIndex` and others have it."""

    dim: int

    def add(self, ids: Ids, vectors: Array, metadata: Sequence[Metadata] | None = None) -> None:
        """Adds or replaces vectors."""

    def delete(self, ids: Ids | None = None, *, filter: Filter | None = None) -> int:
        """Deletes by ids or by a filter, and says how many."""

    def search(self, queries: Array, k: int = 10, *, filter: Filter | None = None) -> Hits:
        """The ``k`` best for each query."""


class Hybrid:
    """An index of vectors and one of words under the same ids, whose rankings are fused.

    Both stay what they are: save, open (with ``mmap=True``, too) and search them on their own as you like.

    >>> embed = lambda texts: np.array([[text.count("a"), text.count("o")] for text in texts], np.float32)
    >>> from polmrs.rag import Index
    >>> both = Hybrid(Index(dim=2), BM25(), embed=embed)
    >>> both.add(["cat", "dog"], ["a cat and a rat", "one good dog"])
    >>> both.search("dog", k=1).ids
    ['dog']
    """

    def __init__(
        self,
        index: VectorIndex,
        bm25: BM25,
        *,
        embed: Callable[[Sequence[str]], Array] | None = None,
        embed_query: Callable[[Sequence[str]], Array] | None = None,
        fusion: Fusion | None = None,
        depth: int = 50,
    ) -> None:
        """Takes two indexes as they are.

        Args:
            index: Of vectors, here or in a server.
            bm25: Of words.
            embed: Texts to vectors: an :class:`Embedder`, say. Without one, vectors must be given.
            embed_query: Queries to vectors, where that is another thing; ``embed`` if nothing is said.
            fusion: ``RRF()`` if nothing is said.
            depth: How many hits of each are fused; ``k`` if that is more.

        Raises:
            UsageError: ``depth`` is out of range.
        """
        if depth < 1:
            raise UsageError(f"depth: {depth} is not at least 1")
        self.index, self.bm25, self.depth = index, bm25, depth
        self.fusion: Fusion = fusion or RRF()
        self._embed, self._embed_query = embed, embed_query or embed

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.bm25)

    def add(
        self,
        ids: Ids,
        texts: Sequence[str],
        metadata: Sequence[Metadata] | None = None,
        *,
        vectors: Array | None = None,
    ) -> None:
        """Adds documents to both; one whose id is there already is replaced.

        What the index of vectors refuses is added to neither; where a stemmer raises, the vectors are there already.

        Args:
            ids: As many as texts.
            texts: What is searched.
            metadata: A dictionary for each, or nothing.
            vectors: [n, dim], if they are known already.

        Raises:
            UsageError: No vectors, and nothing to make them; or as in :meth:`Index.add` and :meth:`BM25.add`.
        """
        if len(ids) != len(texts):
            raise UsageError(f"texts: {len(texts)} for {len(ids)} ids")
        if odd := [text for text in texts if not isinstance(text, str)]:
            raise UsageError(f"texts: {odd[0]!r} is not a text")
        found = self._vectors(self._embed, texts, vectors)
        self.index.add(ids, found, metadata)
        self.bm25.add(ids, texts, metadata)

    def delete(self, ids: Ids | None = None, *, filter: Filter | None = None) -> int:
        """Deletes from both, by ids or by a filter, and says how many documents that were."""
        self.index.delete(ids, filter=filter)
        return self.bm25.delete(ids, filter=filter)

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        filter: Filter | None = None,
        vectors: Array | None = None,
    ) -> Hits:
        """The ``k`` best documents for each query; scores are those of the fusion.

        Args:
            queries: One text, or a batch.
            k: At least 1.
            filter: Only what passes counts.
            vectors: [dim] or [n, dim] of the queries, if they are known already.

        Raises:
            UsageError: No vectors, and nothing to make them; ``k`` is out of range, or ``filter`` is none.
        """
        alone = isinstance(queries, str)
        given = [queries] if isinstance(queries, str) else list(queries)
        found = self._vectors(self._embed_query, given, vectors)
        if alone and found.ndim == 2:
            found = found[0]
        depth = max(k, self.depth)
        by_meaning = self.index.search(found, depth, filter=filter)
        by_words = self.bm25.search(queries, depth, filter=filter)
        return fuse(by_meaning, by_words, fusion=self.fusion, k=k)

    def _vectors(
        self, embed: Callable[[Sequence[str]], Array] | None, texts: Sequence[str], vectors: Array | None
    ) -> Array:
        if vectors is not None:
            return vectors
        if embed is None:
            raise UsageError("vectors: none given, and this Hybrid was made without embed")
        return np.atleast_2d(embed(list(texts))) if len(texts) else np.empty((0, self.index.dim), np.float32)
