"""Indexes in servers beside our own: `.peers/NAME/bin/python -m pytest peers/server_index.py`, for `qdrant` and `pgvector`.

Qdrant runs inside its client, which scores every vector, as the server does where a collection is small. PostgreSQL is a real
server, out of the package `pgserver`, in a folder that goes with the tests.
"""

import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polmrs import rag
from polmrs.errors import ArrayError, NonFiniteError, UsageError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rag.made import clustered
from rag.test_filter import FILTERS, NAMES, VALUES

NAME = "qdrant" if importlib.util.find_spec("qdrant_client") else "pgvector"
METRICS = ["cosine", "ip", "l2"]
Make = Callable[..., Any]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """``make(dim, **settings)`` gives a new index in the server; ``make(dim, name=...)`` one of that name."""
    numbers = itertools.count()
    if NAME == "qdrant":
        from polmrs.rag.qdrant import QdrantIndex
        from qdrant_client import QdrantClient

        client = QdrantClient(":memory:")

        def collection(dim: int, *, ids: type = str, name: str | None = None, **settings: Any) -> QdrantIndex:
            return QdrantIndex(client, name or f"c{next(numbers)}", dim, **settings)

        yield collection
        return
    import pgserver
    import psycopg
    from polmrs.rag.pgvector import PgvectorIndex

    server = pgserver.get_server(tmp_path_factory.mktemp("data"))
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:

        def table(dim: int, *, name: str | None = None, **settings: Any) -> PgvectorIndex:
            return PgvectorIndex(connection, name or f"t{next(numbers)}", dim, **settings)

        yield table
    server.cleanup()


def both(make: Make, n: int = 300, dim: int = 24, **settings: Any) -> tuple[Any, rag.Index]:
    """The same vectors in the server and in our own index."""
    theirs, ours = (
        make(dim, **settings),
        rag.Index(dim, metric=settings.get("metric", "cosine"), kind=rag.Flat()),
    )
    ids = range(n) if settings.get("ids") is int else [f"n{at}" for at in range(n)]
    about = [{"year": 2000 + at % 7, "lang": "de" if at % 3 else "en", "at": at / 2} for at in range(n)]
    for index in (theirs, ours):
        index.add(ids, clustered(n, dim), about)
    return theirs, ours


def same(theirs: rag.Hits, ours: rag.Hits) -> None:
    """The same ids in order, and scores but for the server's precision."""
    for mine, wanted in zip(theirs.ids, ours.ids, strict=True):
        assert list(mine) == list(wanted)
    for mine, wanted in zip(theirs.scores, ours.scores, strict=True):
        assert mine.dtype == np.float32
        assert np.allclose(mine, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ids", [str, int])
def test_a_search_finds_what_our_index_finds(make: Make, metric: str, ids: type) -> None:
    """In batches, alone, filtered, above a score, and as many as there are."""
    theirs, ours = both(make, metric=metric, ids=ids)
    queries = clustered(12, 24, seed=1)
    assert len(theirs) == len(ours) == 300
    same(theirs.search(queries, 10), ours.search(queries, 10))
    condition = {"lang": "en", "$or": [{"year": {"$gte": 2004}}, {"at": {"$lt": 20.5}}]}
    same(theirs.search(queries, 7, filter=condition), ours.search(queries, 7, filter=condition))
    alone, wanted = theirs.search(queries[0], 3), ours.search(queries[0], 3)
    assert list(alone.ids) == list(wanted.ids)
    middle = float(wanted.scores[1]) - 1e-3
    assert len(theirs.search(queries[0], 3, min_score=middle).ids) >= 2
    assert len(theirs.search(queries[0], 3, min_score=float(wanted.scores[0]) + 1e-2).ids) == 0
    assert len(theirs.search(queries[0], 1000).ids) == 300


@pytest.mark.parametrize("ids", [str, int])
def test_what_is_added_again_is_replaced_and_what_is_deleted_is_gone(make: Make, ids: type) -> None:
    """With its metadata; deletions are counted as ours are."""
    theirs, ours = both(make, ids=ids)
    one, other, unknown = (1, 2, 9999) if ids is int else ("n1", "n2", "unknown")
    again = clustered(2, 24, seed=5)
    queries = clustered(5, 24, seed=1)
    for index in (theirs, ours):
        index.add([one, one], again, [{"new": False}, {"new": True}])
        assert index.metadata([one, other]) == [{"new": True}, {"year": 2002, "lang": "de", "at": 1.0}]
        assert index.delete([other, unknown, other]) == 1
        assert index.delete(filter={"lang": "en"}) == 100
        assert index.delete(filter={"lang": "en"}) == 0
        assert len(index) == 199
        with pytest.raises(UsageError, match="is not in the"):
            index.metadata([other])
    same(theirs.search(queries, 10), ours.search(queries, 10))
    assert theirs.delete(filter={}) == ours.delete(filter={}) == 199
    assert len(theirs) == 0
    nothing = theirs.search(queries[0]).ids
    assert len(nothing) == 0
    # Qdrant does not say of what type the ids would have been.
    assert NAME == "qdrant" or type(nothing) is type(ours.search(queries[0]).ids)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.dictionaries(NAMES, VALUES), min_size=1, max_size=12), condition=FILTERS)
def test_a_filter_means_what_it_means_to_our_index(make: Make, rows: list[Any], condition: Any) -> None:
    """Every operator, nested, on values of every type and where the field is not there."""
    theirs, ours = make(2), rag.Index(2, kind=rag.Flat())
    ids, vectors = [str(at) for at in range(len(rows))], np.ones((len(rows), 2), np.float32)
    for index in (theirs, ours):
        index.add(ids, vectors, rows)
    wanted = ours.search(vectors[0], len(rows), filter=condition).ids
    if NAME == "qdrant" and re.search(r'"\$[gl]te?": "', json.dumps(condition)):
        with pytest.raises(UsageError, match="no order of strings"):
            theirs.search(vectors[0], filter=condition)
        return
    found = theirs.search(vectors[0], len(rows), filter=condition).ids
    assert sorted(found) == sorted(wanted)
    assert theirs.metadata(ids) == rows


def test_names_and_texts_are_taken_as_they_are(make: Make) -> None:
    """Whatever they mean in a path or in SQL."""
    theirs, ours = make(2), rag.Index(2, kind=rag.Flat())
    names = ["a.b", "a[]", "a'b", "%s", "ü ß", "a-b", "1", "must"]
    for index in (theirs, ours):
        index.add(names, np.ones((len(names), 2), np.float32), [{name: 'it\'s; "%s"'} for name in names])
        for name in names:
            for condition in ({name: 'it\'s; "%s"'}, {name: {"$exists": True}}):
                assert index.search(np.ones(2, np.float32), filter=condition).ids == [name]


def test_an_index_that_is_there_is_taken_as_it_is(make: Make) -> None:
    """If it is of this shape."""
    name = "that_is_there"
    make(3, name=name).add(["a"], np.ones((1, 3), np.float32))
    assert make(3, name=name).search(np.ones(3, np.float32)).ids == ["a"]
    with pytest.raises(UsageError, match=r"vector\(3\)|size=3"):
        make(4, name=name)
    if NAME == "qdrant":
        return
    with pytest.raises(UsageError, match=r"'id': 'text'.*not.*'id': 'bigint'"):
        make(3, name=name, ids=int)
    with make(3).connection.cursor() as cursor:
        cursor.execute("CREATE TABLE other (id text)")
        cursor.execute(f"CREATE ROLE reader; GRANT SELECT ON {name} TO reader; SET ROLE reader")
        assert make(3, name=name).search(np.ones(3, np.float32)).ids == ["a"]
        cursor.execute("RESET ROLE")
    with pytest.raises(UsageError, match="'vector': None"):
        make(3, name="other")


def test_the_cosine_of_a_zero_vector_is_zero(make: Make) -> None:
    """In the table and as a query, as in our index; but it may come last."""
    for index in (make(2), rag.Index(2, kind=rag.Flat())):
        index.add(["same", "none", "opposite"], np.array([[1, 0], [0, 0], [-1, 0]], np.float32))
        for query, wanted in [([1, 0], [1, 0, -1]), ([0, 0], [0, 0, 0])]:
            hits = index.search(np.array(query, np.float32))
            found = dict(zip(hits.ids, hits.scores.tolist(), strict=True))
            assert [found[one] for one in ("same", "none", "opposite")] == pytest.approx(wanted)


def test_what_our_index_refuses_is_refused_in_its_words(make: Make) -> None:
    """And nothing is added."""
    index = make(3)
    one = np.ones((1, 3), np.float32)
    for error, message, call in [
        (ArrayError, r"shape \(1, 2\)", lambda: index.add(["a"], np.ones((1, 2), np.float32))),
        (NonFiniteError, "", lambda: index.add(["a"], one * np.nan)),
        (UsageError, "metadata", lambda: index.add(["a"], one, [{"x": [1]}])),
        (UsageError, "ids: 1.5", lambda: index.add([1.5], one)),
        (ArrayError, "queries: shape", lambda: index.search(np.ones(4, np.float32))),
        (UsageError, "k: 0 is not", lambda: index.search(one[0], 0)),
        (
            UsageError,
            r"filter: x.\$near|.\$near. is not",
            lambda: index.search(one, filter={"x": {"$near": 1}}),
        ),
        (UsageError, "exactly one", index.delete),
        (UsageError, "metric: 'dot'", lambda: make(3, metric="dot")),
    ]:
        with pytest.raises(error, match=message):
            call()
    assert len(index) == 0
    index.add([], np.empty((0, 3), np.float32))
    assert index.search(np.empty((0, 3), np.float32)).ids == []


def test_our_index_goes_into_it_whole(make: Make) -> None:
    """And is found there, by many queries at once."""
    _, ours = both(make)
    theirs, queries = make(24), clustered(300, 24, seed=1)
    rag.export.to_index(ours, theirs)
    same(theirs.search(queries, 3), ours.search(queries, 3))


def test_a_hybrid_searches_it_beside_words(make: Make) -> None:
    """As it does ours."""
    found = []
    for index in (make(2), rag.Index(2, kind=rag.Flat())):
        both = rag.Hybrid(index, rag.BM25())
        both.add(["a", "b"], ["red wine", "green tea"], vectors=np.eye(2, dtype=np.float32))
        assert both.delete(["a"]) == 1
        hits = both.search("tea", vectors=np.array([1, 0.1], np.float32))
        found.append((hits.ids, hits.scores.tolist()))
    assert found[0] == found[1]
    words = rag.Hybrid(make(2), both.bm25)
    assert words.search("tea", vectors=np.ones(2, np.float32)).ids == ["b"]
