"""Filters as trees, and in the languages of servers; `test_adapters.py` asks the servers themselves."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs import rag
from polmrs.errors import UsageError
from polmrs.rag import pgvector, qdrant
from polmrs.rag.conditions import AllOf, AnyOf, Beside, Equal, Exists, Not, parse
from rag.test_filter import FILTERS, MISSING, NAMES, VALUES, holds


def passes(row, condition):
    """What a tree means, in Python."""
    match condition:
        case AllOf(parts):
            return all(passes(row, part) for part in parts)
        case AnyOf(parts):
            return any(passes(row, part) for part in parts)
        case Not(part):
            return not passes(row, part)
        case Equal(name, value):
            return holds(row.get(name, MISSING), "$eq", value)
        case Beside(name, order, bound):
            return holds(row.get(name, MISSING), order, bound)
        case Exists(name):
            return name in row


@given(st.lists(st.dictionaries(NAMES, VALUES), min_size=1, max_size=40), FILTERS)
def test_a_tree_means_what_the_filter_means_to_an_index(rows, condition):
    index = rag.Index(2, metric="ip")
    index.add(range(len(rows)), np.ones((len(rows), 2), np.float32), rows)
    found = index.search(np.ones(2, np.float32), len(rows), filter=condition).ids.tolist()
    assert found == [number for number, row in enumerate(rows) if passes(row, parse(condition))]


@given(FILTERS)
def test_sql_has_a_place_for_every_parameter(condition):
    text, values = pgvector.translated(parse(condition))
    assert text.count("%s") == len(values)
    assert text.count("(") == text.count(")")


def test_a_filter_in_sql():
    text, values = pgvector.translated(
        parse(
            {
                "lang": {"$in": ["en", None]},
                "year": {"$gte": 2020},
                "name": {"$lt": "m"},
                "$not": {"draft": True},
            }
        )
    )
    assert text == (
        "(((metadata @> %s::jsonb) OR (metadata @> %s::jsonb))"
        " AND COALESCE(jsonb_typeof(metadata -> %s::text) = 'number' AND metadata -> %s::text >= %s::jsonb, FALSE)"
        " AND COALESCE(jsonb_typeof(metadata -> %s::text) = 'string'"
        ' AND (metadata ->> %s::text) COLLATE "C" < %s, FALSE)'
        " AND (NOT (metadata @> %s::jsonb)))"
    )
    years = ["year", "year", "2020"]
    assert values == ['{"lang": "en"}', '{"lang": null}', *years, "name", "name", "m", '{"draft": true}']
    assert pgvector.translated(parse({"$or": []})) == ("(FALSE)", [])


def test_a_filter_in_the_json_of_qdrant():
    condition = {"lang": {"$in": ["en", None]}, "a.b": {"$gte": 2.5}, "$not": {"draft": True}}
    assert qdrant.translated(parse(condition)) == {
        "must": [
            {
                "should": [
                    {"must": [{"key": "lang", "match": {"value": "en"}}]},
                    {"must": [{"is_null": {"key": "lang"}}]},
                ]
            },
            {"must": [{"key": '"a.b"', "range": {"gte": 2.5}}]},
            {"must_not": [{"must": [{"key": "draft", "match": {"value": True}}]}]},
        ]
    }
    assert qdrant.translated(parse({"$or": []})) == {"must": [{"has_id": []}]}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"name": {"$lt": "m"}}, r"name\.\$lt: Qdrant has no order of strings"),
        ({"n": 2**53 + 1}, "9007199254740993 is no float64"),
        ({'a"b': 1}, "no path of Qdrant leads to"),
        ({"x": {"$near": 1}}, r"filter: x\.\$near|'\$near' is not one of"),
    ],
)
def test_what_qdrant_cannot_say_is_refused(condition, message):
    with pytest.raises(UsageError, match=message):
        qdrant.translated(parse(condition))


class FakeCursor:
    """Writes down what it is asked, and answers with what it is given."""

    description, rowcount = ("id",), 7

    def __init__(self, told, answers):
        self.told, self.answers = told, answers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def execute(self, statement, values=()):
        self.told.append((statement, list(values)))

    def executemany(self, statement, rows):
        self.told.append((statement, list(rows)))

    def fetchall(self):
        return self.answers.pop(0)


class FakeConnection:
    """What an adapter sees of a driver of the DB-API."""

    def __init__(self, *answers):
        self.told, self.answers = [], list(answers)

    def cursor(self):
        return FakeCursor(self.told, self.answers)


def table(*answers, **settings):
    """An index whose table is there, and what it has said since."""
    kind = "bigint" if settings.get("ids") is int else "text"
    connection = FakeConnection([("id", kind), ("vector", "vector(2)"), ("metadata", "jsonb")], *answers)
    index = pgvector.PgvectorIndex(connection, "public.notes", 2, **settings)
    del connection.told[:]
    return index, connection.told


def test_an_index_in_postgres_says_this_and_no_more():
    vectors = np.array([[0.5, 0.1], [1, 0]], np.float32)
    index, told = table([("a", 0.75), ("b", 0.5)], [(3,)], [("a", {"x": 1})], metric="l2")
    index.add(["a", "b"], vectors, [{"x": 1}, {}])
    hits = index.search(vectors[0], 2, filter={"x": 1}, min_score=0.6)
    assert (hits.ids, hits.scores.tolist()) == (["a"], [0.75])
    assert (len(index), index.metadata(["a"]), index.delete(["a"])) == (3, [{"x": 1}], 7)
    assert index.delete(filter={"x": 1}) == 7
    one, other = "[0.5, 0.10000000149011612]", "[1.0, 0.0]"
    where = "(metadata @> %s::jsonb)"
    assert told == [
        (
            'INSERT INTO "public"."notes" (id, vector, metadata) VALUES (%s, %s::vector, %s::jsonb)'
            " ON CONFLICT (id) DO UPDATE SET vector = EXCLUDED.vector, metadata = EXCLUDED.metadata",
            [("a", one, '{"x": 1}'), ("b", other, "{}")],
        ),
        (
            'SELECT id, -((vector <-> %s::vector) ^ 2) FROM "public"."notes"'
            f" WHERE {where} ORDER BY vector <-> %s::vector LIMIT %s",
            [one, '{"x": 1}', one, 2],
        ),
        ('SELECT count(*) FROM "public"."notes"', []),
        ('SELECT id, metadata FROM "public"."notes" WHERE id = ANY(%s::text[])', [["a"]]),
        ('DELETE FROM "public"."notes" WHERE id = ANY(%s::text[])', [["a"]]),
        (f'DELETE FROM "public"."notes" WHERE {where}', ['{"x": 1}']),
    ]
    assert [np.float32(json.loads(one)[1])] == [vectors[0, 1]]


def test_a_table_is_made_with_its_extension_unless_it_is_there():
    connection = FakeConnection([], [], [])
    pgvector.PgvectorIndex(connection, "notes", 2, ids=int)
    _, extension, made = connection.told
    assert extension == ("CREATE EXTENSION IF NOT EXISTS vector", [])
    assert 'TABLE IF NOT EXISTS "notes" (id bigint PRIMARY KEY, vector vector(2) NOT NULL' in made[0]
    has = "table: notes has the columns {'id': 'text', 'vector': %s, 'metadata': 'jsonb'}, not {'id': '%s', 'vect"
    for vector, ids, kind in [("vector(3)", str, "text"), ("vector(2)", int, "bigint"), (None, str, "text")]:
        columns = [("id", "text"), ("vector", vector), ("metadata", "jsonb"), ("more", "date")]
        there = FakeConnection([column for column in columns if column[1]])
        with pytest.raises(UsageError, match=re.escape(has % (repr(vector), kind))):
            pgvector.PgvectorIndex(there, "notes", 2, ids=ids)
        assert [statement.split()[0] for statement, _ in there.told] == ["SELECT"]


def test_ids_keep_their_type_where_nothing_is_found():
    for ids, wanted in ((str, list), (int, np.ndarray)):
        index, _ = table([], ids=ids)
        assert type(index.search(np.ones(2, np.float32)).ids) is wanted


def test_a_name_that_is_none_and_ids_of_another_type_are_refused():
    for name in ['n"; DROP TABLE x', "a.b.c", "", "a b", "a%s"]:
        with pytest.raises(UsageError, match="is no name of letters, digits"):
            pgvector.PgvectorIndex(FakeConnection(), name, 2)
    index, told = table(ids=int)
    with pytest.raises(UsageError, match="ids: 'a', but the table has ids of type bigint"):
        index.add(["a"], np.ones((1, 2), np.float32))
    with pytest.raises(UsageError, match="ids: <class 'float'> is neither str nor int"):
        table(ids=float)
    assert told == []


def test_without_its_client_qdrant_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qdrant_client", None)
    with pytest.raises(UsageError, match=r"pip install 'polmrs\[qdrant\]'"):
        qdrant.QdrantIndex(None, "notes", 2)
