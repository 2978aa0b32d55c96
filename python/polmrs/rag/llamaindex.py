"""An index as a vector store of LlamaIndex (``pip install 'polmrs[llamaindex]'``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from polmrs.errors import UsageError
from polmrs.rag.fusion import cosines, mmr
from polmrs.rag.index import Index, Metric, PathLike, Scalar
from polmrs.rag.kinds import Kind
from polmrs.rag.staging import everything

NODE_ID = "polmrs.node_id"
"""The field that holds a node's id, so that filters can name it."""

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}
_INSIDE: Mapping[FilterOperator, Callable[[Any, Any], bool]] = {
    FilterOperator.CONTAINS: lambda have, wanted: wanted in have,
    FilterOperator.ANY: lambda have, wanted: any(one in have for one in wanted),
    FilterOperator.ALL: lambda have, wanted: all(one in have for one in wanted),
    FilterOperator.TEXT_MATCH: lambda have, wanted: isinstance(have, str) and wanted in have,
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda have, wanted: (
        isinstance(have, str) and wanted.lower() in have.lower()
    ),
}
"""What looks inside a text or a list."""


class PolmrsVectorStore(BasePydanticVectorStore):  # type: ignore[misc, unused-ignore]
    """Nodes in an :class:`~polmrs.rag.Index`: the whole node stands beside its vector.

    Metadata that are strings, numbers, booleans or nothing are fields that filters see, before the scan. Nested filters work.
    Booleans are no numbers here, nothing equals nothing, and a list or a dictionary is not compared as a whole.
    Operators that look inside a text or a list, and ``is_empty``, read every node first. Similarities are the scores of the
    index: larger is nearer.
    """

    stores_text: bool = True
    _index: Index | None = PrivateAttr(default=None)
    _settings: dict[str, Any] = PrivateAttr()

    def __init__(
        self, *, metric: Metric = "cosine", kind: Kind | None = None, index: Index | None = None
    ) -> None:
        """An empty store, whose index is made when the first nodes tell the length of a vector.

        Args:
            metric: As in :class:`~polmrs.rag.Index`.
            kind: As in :class:`~polmrs.rag.Index`.
            index: One that such a store has filled, instead of a new one.
        """
        super().__init__(stores_text=True)
        self._index, self._settings = index, {"metric": metric, "kind": kind}

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex knows it by."""
        return "PolmrsVectorStore"

    @classmethod
    def from_persist_path(cls, path: PathLike, *, mmap: bool = False) -> PolmrsVectorStore:
        """A store from the file that :meth:`persist` wrote.

        Raises:
            NotFoundError: There is no such file.
            CheckpointError: It is no index, of another version, or damaged.
        """
        return cls(index=Index.open(path, mmap=mmap))

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Writes everything to one file, no pickle, which appears whole or not at all.

        Raises:
            UsageError: Nothing was ever added, or a file system other than the local one is asked for.
            StorageError: It cannot be written.
        """
        if self._index is None or fs is not None:
            raise UsageError("persist: " + ("nothing was ever added" if fs is None else "local files only"))
        self._index.save(persist_path)

    @property
    def client(self) -> Index | None:
        """The index, once there is one."""
        return self._index

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Adds nodes with their embeddings; one whose id is there already is replaced."""
        if nodes:
            vectors = np.array([node.get_embedding() for node in nodes], np.float32)
            if self._index is None:
                self._index = Index(vectors.shape[1], **self._settings)
            self._index.add([node.node_id for node in nodes], vectors, [_fields(node) for node in nodes])
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Deletes the nodes of a document."""
        if self._index is not None:
            self._index.delete(filter={"ref_doc_id": ref_doc_id})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Deletes the nodes that have one of these ids and pass; all of them if neither is given."""
        if self._index is not None:
            self._index.delete(filter=_condition(self._index, filters, node_ids))

    def clear(self) -> None:
        """Deletes every node."""
        self.delete_nodes()

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """The nodes that have one of these ids and pass, in no order."""
        if self._index is None:
            return []
        ids = everything(self._index, _condition(self._index, filters, node_ids))
        return [metadata_dict_to_node(fields) for fields in self._index.metadata(ids)]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nearest nodes that pass; ``DEFAULT`` and ``MMR``.

        Raises:
            UsageError: Another mode, no embedding, or a filter that the index has not.
        """
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            raise UsageError(f"mode: {query.mode!s} is not one of default, mmr")
        if query.query_embedding is None:
            raise UsageError("query_embedding: none given")
        if self._index is None:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        asked = np.array(query.query_embedding, np.float32)
        is_mmr = query.mode == VectorStoreQueryMode.MMR
        k = query.similarity_top_k
        # A retriever of LlamaIndex asks with an empty list where any node will do.
        condition = _condition(self._index, query.filters, query.node_ids or None, query.doc_ids or None)
        hits = self._index.search(asked, 4 * k if is_mmr else k, filter=condition)
        ids, scores = list(hits.ids), hits.scores.tolist()
        if is_mmr and ids:
            threshold = kwargs.get("mmr_threshold", query.mmr_threshold)
            balance = 0.5 if threshold is None else threshold
            vectors = self._index.vectors(ids)
            chosen = mmr(cosines(asked, vectors), vectors, k, balance=balance).tolist()
            ids, scores = [ids[at] for at in chosen], [scores[at] for at in chosen]
        nodes = [metadata_dict_to_node(fields) for fields in self._index.metadata(ids)] if ids else []
        return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=ids)


def _fields(node: BaseNode) -> dict[str, Scalar]:
    """What filters see, and the whole node as JSON."""
    everything: Mapping[str, Any] = node_to_metadata_dict(node)
    seen: dict[str, Scalar] = {
        name: value
        for name, value in everything.items()
        if isinstance(value, str | int | float | None) and not name.startswith("$")
    }
    return {**seen, NODE_ID: node.node_id}


def _condition(
    index: Index,
    filters: MetadataFilters | None,
    node_ids: Sequence[str] | None = None,
    doc_ids: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A filter of the index."""
    parts: list[dict[str, Any]] = [] if filters is None else [_filters(index, filters)]
    if node_ids is not None:
        parts.append({NODE_ID: {"$in": list(node_ids)}})
    if doc_ids is not None:
        parts.append({"ref_doc_id": {"$in": list(doc_ids)}})
    return {"$and": parts}


def _filters(index: Index, filters: MetadataFilters) -> dict[str, Any]:
    parts = [
        _filters(index, one) if isinstance(one, MetadataFilters) else _one(index, one)
        for one in filters.filters
    ]
    if filters.condition == FilterCondition.OR and parts:
        return {"$or": parts}
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {"$and": parts}


def _one(index: Index, one: Any) -> dict[str, Any]:
    if one.operator in _OPERATORS:
        return {one.key: {_OPERATORS[one.operator]: one.value}}
    ids = everything(index)
    nodes = map(metadata_dict_to_node, index.metadata(ids)) if len(ids) else []
    passing = [node.node_id for node in nodes if _holds(node.metadata.get(one.key), one)]
    return {NODE_ID: {"$in": passing}}


def _holds(have: Any, one: Any) -> bool:
    if one.operator == FilterOperator.IS_EMPTY:
        return have is None or have in ("", [])
    if one.operator not in _INSIDE:
        raise UsageError(f"filters: {one.key}: the operator {one.operator.value!r} is not known")
    return isinstance(have, str | list) and _INSIDE[one.operator](have, one.value)
