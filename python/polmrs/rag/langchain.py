"""An index as a vector store of LangChain (``pip install 'polmrs[langchain]'``)."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from polmrs.errors import UsageError
from polmrs.rag.fusion import cosines, mmr
from polmrs.rag.index import Filter, Index, Metric, PathLike, Scalar
from polmrs.rag.kinds import Kind

DOCUMENT = "polmrs.document"
"""The field that holds a document's text and metadata, as JSON."""


class PolmrsVectorStore(VectorStore):
    """Documents in an :class:`~polmrs.rag.Index`: text and metadata, whatever it is, stand beside the vector.

    Metadata that are strings, numbers, booleans or nothing are fields that ``filter=`` sees, in the form of
    :data:`~polmrs.rag.index.Filter`. Scores are those of the index: larger is nearer. Async methods run the sync ones on
    threads, and searches do not hold the GIL.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> store = PolmrsVectorStore(DeterministicFakeEmbedding(size=8))
    >>> store.add_texts(["red wine", "white wine"], [{"year": 1999}, {"year": 2020}], ids=["a", "b"])
    ['a', 'b']
    >>> [found.page_content for found in store.similarity_search("wine", filter={"year": {"$gt": 2000}})]
    ['white wine']
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        metric: Metric = "cosine",
        kind: Kind | None = None,
        index: Index | None = None,
    ) -> None:
        """An empty store, whose index is made when the first documents tell the length of a vector.

        Args:
            embedding: Of LangChain.
            metric: As in :class:`~polmrs.rag.Index`.
            kind: As in :class:`~polmrs.rag.Index`.
            index: One that such a store has filled, instead of a new one.
        """
        self._embedding, self._metric, self._kind = embedding, metric, kind
        self.index = index
        self._making = threading.Lock()  # asynchronous additions come from several threads

    @property
    def embeddings(self) -> Embeddings:
        """The embedding."""
        return self._embedding

    @classmethod
    def open(cls, path: PathLike, embedding: Embeddings, *, mmap: bool = False) -> Self:
        """A store from the file that :meth:`save` wrote.

        Raises:
            NotFoundError: There is no such file.
            CheckpointError: It is no index, of another version, or damaged.
        """
        return cls(embedding, index=Index.open(path, mmap=mmap))

    def save(self, path: PathLike) -> None:
        """Writes everything to one file, no pickle, which appears whole or not at all.

        Raises:
            UsageError: Nothing was ever added.
            StorageError: It cannot be written.
        """
        if self.index is None:
            raise UsageError("save: nothing was ever added")
        self.index.save(path)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embeds and adds texts; one whose id is there already is replaced. Ids that are None are drawn."""
        given = list(texts)
        names = [one or str(uuid.uuid4()) for one in (ids or [None] * len(given))]
        about = metadatas or [{}] * len(given)
        if not len(given) == len(names) == len(about):
            raise UsageError(f"texts: {len(given)}, but {len(names)} ids and {len(about)} metadatas")
        if given:
            vectors = np.array(self._embedding.embed_documents(given), np.float32)
            with self._making:
                if self.index is None:
                    self.index = Index(vectors.shape[1], metric=self._metric, kind=self._kind)
            self.index.add(names, vectors, [_fields(*one) for one in zip(given, about, strict=True)])
        return names

    def delete(self, ids: list[str] | None = None, *, filter: Filter | None = None, **kwargs: Any) -> bool:
        """Deletes by ids, which need not be there, or by a filter."""
        if self.index is not None:
            self.index.delete(ids, filter=filter)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of those ids that are there."""
        return [document for document in self._documents(list(ids)) if document]

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The ``k`` nearest documents, or fewer."""
        return [found for found, _ in self.similarity_search_with_score(query, k, filter=filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The ``k`` nearest documents and their scores, larger for nearer."""
        return self.similarity_search_with_score_by_vector(
            self._embedding.embed_query(query), k, filter=filter
        )

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The ``k`` documents nearest to a vector."""
        return [
            found for found, _ in self.similarity_search_with_score_by_vector(embedding, k, filter=filter)
        ]

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The ``k`` documents nearest to a vector, and their scores."""
        if self.index is None:
            return []
        hits = self.index.search(np.array(embedding, np.float32), k, filter=filter)
        pairs = zip(self._documents(hits.ids), hits.scores.tolist(), strict=True)
        return [(document, score) for document, score in pairs if document]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """``k`` of the ``fetch_k`` nearest documents that are unlike each other, by :func:`~polmrs.rag.mmr`."""
        asked = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(asked, k, fetch_k, lambda_mult, filter=filter)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """The same, for a vector."""
        if self.index is None:
            return []
        asked = np.array(embedding, np.float32)
        ids = self.index.search(asked, max(k, fetch_k), filter=filter).ids
        there = [one for one in ids if one in self.index]
        vectors = self.index.vectors(there)
        chosen = mmr(cosines(asked, vectors), vectors, k, balance=lambda_mult)
        return self.get_by_ids([there[at] for at in chosen])

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store of these texts; further arguments are those of the constructor."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """From scores to 0..1, as LangChain's thresholds want them."""
        metric = self._metric if self.index is None else self.index.metric
        if metric == "cosine":
            return lambda cosine: (1 + cosine) / 2
        if metric == "l2":
            return lambda score: 1 / (1 - score)
        raise UsageError("metric: inner products have no bounds, so no relevance; take cosine or l2")

    def _documents(self, ids: list[str]) -> list[Document | None]:
        """The document of each id, or None where there is none (any more)."""
        if self.index is None or not ids:
            return []
        there = [one for one in ids if one in self.index]
        found = dict(zip(there, map(_document, there, self.index.metadata(there)), strict=True))
        return [found.get(one) for one in ids]


def _fields(text: str, metadata: Mapping[str, Any]) -> dict[str, Scalar]:
    """What filters see, and everything."""
    if DOCUMENT in metadata:
        raise UsageError(f"metadata: the name {DOCUMENT!r} is taken")
    try:
        whole = json.dumps({"text": text, "metadata": metadata})
    except (TypeError, ValueError) as error:
        raise UsageError(f"metadata: {error}; it must be what JSON can hold") from None
    seen = {
        name: value
        for name, value in metadata.items()
        if isinstance(value, str | int | float | None) and not name.startswith("$")
    }
    return {**seen, DOCUMENT: whole}


def _document(name: str, fields: Mapping[str, Scalar]) -> Document:
    whole = json.loads(str(fields[DOCUMENT]))
    return Document(id=name, page_content=whole["text"], metadata=whole["metadata"])
