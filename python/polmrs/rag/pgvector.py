"""A table of PostgreSQL with pgvector, with the face of an index; the driver is yours."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from polmrs._tensor import Array
from polmrs.errors import UsageError
from polmrs.rag.conditions import AllOf, AnyOf, Beside, Condition, Equal, Exists, Not, parse
from polmrs.rag.index import Filter, Hits, Ids, Metadata, Metric, Scalar
from polmrs.rag.staging import asked, chosen, hits, listed, staged

_SCORES = {
    "cosine": ("<=>", "1 - COALESCE(NULLIF({}, 'NaN'), 1)"),
    "ip": ("<#>", "-({})"),
    "l2": ("<->", "-(({}) ^ 2)"),
}
"""The operator that orders, and the score that its distance stands for; pgvector has NaN for the cosine of a zero vector."""
_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class PgvectorIndex:
    """Vectors in a table, under the ids and with the filters of :class:`~polmrs.rag.Index`.

    The connection is yours: psycopg's, or of another driver of the DB-API that writes parameters as ``%s``. Statements are part
    of its transaction, so vectors can appear together with other rows: commit, or connect with ``autocommit=True``. The table has
    the columns ``id``, ``vector`` and ``metadata`` (jsonb). It is searched exactly until you index it, by ``CREATE INDEX ON
    notes USING hnsw (vector vector_cosine_ops)`` say. Scores are those of an index, larger for nearer, in pgvector's precision;
    equal scores come in no order. The cosine of a zero vector is 0, as in an index, but it comes last, after negative ones, and
    pgvector's own indexes of cosines leave it out.

    >>> import psycopg  # doctest: +SKIP
    >>> with psycopg.connect("dbname=notes") as connection:  # doctest: +SKIP
    ...     index = PgvectorIndex(connection, "notes", dim=2)
    ...     index.add(["north", "east"], [[0, 1], [1, 0]], [{"cold": True}, {}])
    ...     index.search([0.1, 0.9], k=1, filter={"cold": True}).ids
    ['north']
    """

    def __init__(
        self,
        connection: Any,
        table: str,
        dim: int,
        *,
        metric: Metric = "cosine",
        ids: type[str] | type[int] = str,
    ) -> None:
        """Takes a table as it is, for which it need only be readable, or makes it, and the extension ``vector`` too.

        Args:
            connection: To a database.
            table: Its name, in upper and lower case as it is written; ``schema.name`` too.
            dim: The length of a vector.
            metric: ``ip``, ``cosine`` or ``l2``.
            ids: ``str`` or ``int``: what ids the table has.

        Raises:
            UsageError: The table has other columns, ids or vectors, or its name is none.
        """
        if metric not in _SCORES:
            raise UsageError(f"metric: {metric!r} is not one of ip, cosine, l2")
        if not re.fullmatch(r"\w+(\.\w+)?", table):
            raise UsageError(f"table: {table!r} is no name of letters, digits and underscores")
        if ids not in (str, int):
            raise UsageError(f"ids: {ids!r} is neither str nor int")
        self.connection, self.dim, self.metric = connection, dim, metric
        self._table = ".".join(f'"{part}"' for part in table.split("."))
        self._type = "text" if ids is str else "bigint"
        wanted = {"id": self._type, "vector": f"vector({dim})", "metadata": "jsonb"}
        columns = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        )
        there = dict(self._run(columns, [self._table]))
        if not there:
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            self._run(
                f"CREATE TABLE IF NOT EXISTS {self._table} (id {self._type} PRIMARY KEY, vector vector({dim}) NOT NULL,"
                " metadata jsonb NOT NULL)"
            )
        elif (have := {name: there.get(name) for name in wanted}) != wanted:
            raise UsageError(f"table: {table} has the columns {have}, not {wanted}")

    def __len__(self) -> int:
        """How many vectors there are."""
        [(count,)] = self._run(f"SELECT count(*) FROM {self._table}")
        return int(count)

    def add(self, ids: Ids, vectors: Array, metadata: Sequence[Metadata] | None = None) -> None:
        """Adds vectors; one whose id is there already is replaced, metadata and all. Checked as by ``Index.add``."""
        rows = staged(self.dim, ids, vectors, metadata)
        if rows.ids and isinstance(rows.ids[0], str) != (self._type == "text"):
            raise UsageError(f"ids: {rows.ids[0]!r}, but the table has ids of type {self._type}")
        values = zip(rows.ids, rows.vectors, rows.metadata, strict=True)
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {self._table} (id, vector, metadata) VALUES (%s, %s::vector, %s::jsonb)"
                " ON CONFLICT (id) DO UPDATE SET vector = EXCLUDED.vector, metadata = EXCLUDED.metadata",
                [(one, _text(vector), json.dumps(fields)) for one, vector, fields in values],
            )

    def delete(self, ids: Ids | None = None, *, filter: Filter | None = None) -> int:
        """Deletes the vectors of these ids, or those that pass a filter, and says how many that were."""
        chosen(ids, filter)
        where, values = self._among(ids) if ids is not None else _condition(filter)
        with self.connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {self._table} WHERE {where}", values)
            return int(cursor.rowcount)

    def metadata(self, ids: Ids) -> list[dict[str, Scalar]]:
        """The metadata of each id.

        Raises:
            UsageError: An id is not there.
        """
        where, values = self._among(ids)
        found = dict(self._run(f"SELECT id, metadata FROM {self._table} WHERE {where}", values))
        names = listed(ids)
        if missing := [one for one in names if one not in found]:
            raise UsageError(f"ids: {missing[0]!r} is not in the table")
        return [found[one] for one in names]

    def search(
        self, queries: Array, k: int = 10, *, filter: Filter | None = None, min_score: float | None = None
    ) -> Hits:
        """The ``k`` best vectors for each query, or fewer. Checked as by ``Index.search``."""
        rows = asked(self.dim, queries, k, filter)
        where, values = _condition(filter)
        operator, score = _SCORES[self.metric]
        distance = f"vector {operator} %s::vector"
        wanted = f"SELECT id, {score.format(distance)} FROM {self._table} WHERE {where} ORDER BY {distance} LIMIT %s"
        found = [self._run(wanted, [_text(row), *values, _text(row), k]) for row in rows]
        return hits(found, queries, min_score, strings=self._type == "text")

    def _among(self, ids: Ids) -> tuple[str, list[Any]]:
        return f"id = ANY(%s::{self._type}[])", [listed(ids)]

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a statement gives."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else []


def translated(condition: Condition) -> tuple[str, list[Any]]:
    """A filter as an expression that is true or false, never null, and the parameters in it.

    >>> translated(parse({"lang": "en", "year": {"$gte": 2020}}))[1]
    ['{"lang": "en"}', 'year', 'year', '2020']
    """
    match condition:
        case AllOf(parts) | AnyOf(parts):
            both = [translated(part) for part in parts]
            word, none = (" AND ", "TRUE") if isinstance(condition, AllOf) else (" OR ", "FALSE")
            return f"({word.join(text for text, _ in both) or none})", [
                one for _, values in both for one in values
            ]
        case Not(part):
            text, values = translated(part)
            return f"(NOT {text})", values
        case Equal(name, value):  # jsonb compares numbers as numbers, and tells them from booleans
            return "(metadata @> %s::jsonb)", [json.dumps({name: value})]
        case Beside(name, order, str() as bound):
            beside = f'(metadata ->> %s::text) COLLATE "C" {_SIGNS[order]} %s'
            return _of("string", name, beside, [name, bound])
        case Beside(name, order, bound):
            return _of(
                "number", name, f"metadata -> %s::text {_SIGNS[order]} %s::jsonb", [name, json.dumps(bound)]
            )
        case Exists(name):
            return "(metadata ? %s)", [name]


def _of(kind: str, name: str, holds: str, values: list[Any]) -> tuple[str, list[Any]]:
    return f"COALESCE(jsonb_typeof(metadata -> %s::text) = '{kind}' AND {holds}, FALSE)", [name, *values]


def _condition(filter: Filter | None) -> tuple[str, list[Any]]:
    return ("TRUE", []) if filter is None else translated(parse(filter))


def _text(vector: Any) -> str:
    """A vector as pgvector reads it; float64 has every digit of float32."""
    return str(vector.tolist())
