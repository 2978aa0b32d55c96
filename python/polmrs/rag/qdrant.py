"""A collection of a Qdrant server with the face of an index (``pip install 'polmrs[qdrant]'``)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from polmrs._extras import extra
from polmrs._tensor import Array
from polmrs.errors import UsageError
from polmrs.rag.conditions import AllOf, AnyOf, Beside, Condition, Equal, Exists, Not, parse
from polmrs.rag.index import Filter, Hits, Ids, Metadata, Metric, Scalar
from polmrs.rag.staging import asked, chosen, hits, listed, staged

ID = "polmrs_id"
"""The payload's field that holds an id which Qdrant cannot have: a string that is no UUID."""
_DISTANCES = {"cosine": "Cosine", "ip": "Dot", "l2": "Euclid"}
_BATCH = 256


class QdrantIndex:
    """Vectors in a collection of Qdrant, under the ids and with the filters of :class:`~polmrs.rag.Index`.

    The client is yours: a server's, or ``QdrantClient(":memory:")``. Scores are those of an index, larger for nearer, in the
    precision of the server; equal scores come in the server's order. The collection's own index decides what is found. Qdrant
    has ids that are whole numbers from 0 on or UUIDs, so another string becomes a UUID that follows from it, and stands in the
    payload. Its filters compare numbers as float64 and have no order of strings.

    >>> from qdrant_client import QdrantClient  # doctest: +SKIP
    >>> index = QdrantIndex(QdrantClient(":memory:"), "notes", dim=2)  # doctest: +SKIP
    >>> index.add(["north", "east"], [[0, 1], [1, 0]], [{"cold": True}, {}])  # doctest: +SKIP
    >>> index.search([0.1, 0.9], k=1, filter={"cold": True}).ids  # doctest: +SKIP
    ['north']
    """

    def __init__(self, client: Any, collection: str, dim: int, *, metric: Metric = "cosine") -> None:
        """Takes a collection as it is, or makes it.

        Args:
            client: A ``QdrantClient``.
            collection: Its name.
            dim: The length of a vector.
            metric: ``ip``, ``cosine`` or ``l2``.

        Raises:
            UsageError: The collection holds other vectors, or qdrant-client is not installed.
        """
        if metric not in _DISTANCES:
            raise UsageError(f"metric: {metric!r} is not one of ip, cosine, l2")
        self._models = extra("qdrant_client.models", "qdrant-client", "qdrant")
        self.client, self.collection, self.dim, self.metric = client, collection, dim, metric
        wanted = self._models.VectorParams(size=dim, distance=_DISTANCES[metric])
        if not client.collection_exists(collection):
            client.create_collection(collection, vectors_config=wanted)
            return
        there = client.get_collection(collection).config.params.vectors
        if getattr(there, "size", None) != dim or there.distance != wanted.distance:
            raise UsageError(f"collection: {collection} holds {there}, not one vector of {dim} by {metric}")

    def __len__(self) -> int:
        """How many vectors there are."""
        return int(self.client.count(self.collection, exact=True).count)

    def add(self, ids: Ids, vectors: Array, metadata: Sequence[Metadata] | None = None) -> None:
        """Adds vectors; one whose id is there already is replaced, metadata and all. Checked as by ``Index.add``.

        They go in batches, so a server that fails may have taken some.
        """
        rows = staged(self.dim, ids, vectors, metadata)
        if taken := [one for one, fields in zip(rows.ids, rows.metadata, strict=True) if ID in fields]:
            raise UsageError(f"metadata: {taken[0]!r}: the name {ID!r} is taken")
        points = [_point(one) for one in rows.ids]
        payloads = list(map(_payload, rows.ids, points, rows.metadata))
        for first in range(0, len(points), _BATCH):
            span = slice(first, first + _BATCH)
            batch = self._models.Batch(
                ids=points[span], vectors=rows.vectors[span].tolist(), payloads=payloads[span]
            )
            self.client.upsert(self.collection, points=batch, wait=True)

    def delete(self, ids: Ids | None = None, *, filter: Filter | None = None) -> int:
        """Deletes the vectors of these ids, or those that pass a filter, and says how many that were."""
        chosen(ids, filter)
        if ids is not None:
            there = self._there(ids)
            selector = self._models.PointIdsList(points=[point.id for point in there])
            count = len(there)
        else:
            condition = self._condition(filter)
            count = int(self.client.count(self.collection, count_filter=condition, exact=True).count)
            selector = self._models.FilterSelector(filter=condition)
        if count:
            self.client.delete(self.collection, points_selector=selector, wait=True)
        return count

    def metadata(self, ids: Ids) -> list[dict[str, Scalar]]:
        """The metadata of each id.

        Raises:
            UsageError: An id is not there.
        """
        found = {point.id: dict(point.payload or {}) for point in self._there(ids)}
        out = []
        for one in listed(ids):
            if (fields := found.get(_point(one))) is None:
                raise UsageError(f"ids: {one!r} is not in the collection")
            out.append({name: value for name, value in fields.items() if name != ID})
        return out

    def search(
        self, queries: Array, k: int = 10, *, filter: Filter | None = None, min_score: float | None = None
    ) -> Hits:
        """The ``k`` best vectors for each query, or fewer. Checked as by ``Index.search``."""
        rows, condition = asked(self.dim, queries, k, filter), self._condition(filter)
        requests = [
            self._models.QueryRequest(query=row, filter=condition, limit=k, with_payload=[ID])
            for row in rows.tolist()
        ]
        answers = [
            answer
            for first in range(0, len(requests), _BATCH)
            for answer in self.client.query_batch_points(
                self.collection, requests=requests[first : first + _BATCH]
            )
        ]
        found = [[(_name(point), self._score(point.score)) for point in answer.points] for answer in answers]
        return hits(found, queries, min_score)

    def _score(self, score: float) -> float:
        return -score * score if self.metric == "l2" else score

    def _there(self, ids: Ids) -> list[Any]:
        points = list(dict.fromkeys(_point(one) for one in listed(ids)))
        return list(self.client.retrieve(self.collection, ids=points)) if points else []

    def _condition(self, filter: Filter | None) -> Any:
        return None if filter is None else self._models.Filter.model_validate(translated(parse(filter)))


def translated(condition: Condition) -> dict[str, Any]:
    """A filter in Qdrant's JSON.

    >>> translated(parse({"lang": "en", "year": {"$ne": 2020}}))["must"][0]
    {'must': [{'key': 'lang', 'match': {'value': 'en'}}]}

    Raises:
        UsageError: It orders strings, names a field that no path can name, or has a number that float64 has not.
    """
    match condition:
        case AllOf(parts):
            return {"must": [translated(part) for part in parts]}
        case AnyOf(parts):
            # No part, no vector; to Qdrant, an empty list is no condition.
            return {"should": [translated(part) for part in parts]} if parts else {"must": [{"has_id": []}]}
        case Not(part):
            return {"must_not": [translated(part)]}
        case Equal(name, None):
            return {"must": [{"is_null": {"key": _path(name)}}]}
        case Equal(name, bool() | str() as value):
            return {"must": [{"key": _path(name), "match": {"value": value}}]}
        case Equal(name, value):  # a match would tell 1 from 1.0
            return _between(name, {"gte": value, "lte": value})
        case Beside(name, order, str()):
            raise UsageError(f"filter: {name}.{order}: Qdrant has no order of strings")
        case Beside(name, order, bound):
            return _between(name, {order[1:]: bound})
        case Exists(name):  # what is there is not empty, or is nothing
            at = {"key": _path(name)}
            return {"should": [{"is_null": at}, {"must_not": [{"is_empty": at}]}]}


def _between(name: str, bounds: Mapping[str, Any]) -> dict[str, Any]:
    for bound in bounds.values():
        if float(bound) != bound:
            raise UsageError(f"filter: {name}: {bound} is no float64, as which Qdrant compares numbers")
    return {"must": [{"key": _path(name), "range": dict(bounds)}]}


def _path(name: str) -> str:
    """The field of this name, which dots and brackets of a path would look for inside of another."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return name
    if not name or '"' in name:
        raise UsageError(f"filter: no path of Qdrant leads to a field that is called {name!r}")
    return f'"{name}"'


def _point(one: str | int) -> str | int:
    """The id that Qdrant has for an id."""
    if isinstance(one, str):
        return one if _is_uuid(one) else str(uuid.uuid5(uuid.NAMESPACE_OID, one))
    if one < 0:
        raise UsageError(f"ids: {one} is negative, which Qdrant has not")
    return one


def _is_uuid(one: str) -> bool:
    try:
        return str(uuid.UUID(one)) == one
    except ValueError:
        return False


def _payload(one: str | int, point: str | int, fields: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return dict(fields) if one == point else {**fields, ID: str(one)}


def _name(point: Any) -> str | int:
    """The id of what was found."""
    name: str | int = (point.payload or {}).get(ID, point.id)
    return name
