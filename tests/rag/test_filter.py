"""Metadata filters: what passes, and that a scan with one equals a filter after the scan."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs import rag
from polmrs.errors import UsageError
from rag.made import KINDS, best, clustered

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([-1.5, 0.0, 2.0, 2.5]),
    st.sampled_from(["a", "b", "c"]),
)
NAMES = st.sampled_from(["x", "y"])
BOUNDS = st.one_of(st.integers(-3, 3), st.sampled_from([-1.5, 2.0]), st.sampled_from(["a", "b"]))
TESTS = st.one_of(
    VALUES,
    st.fixed_dictionaries({}, optional={"$gt": BOUNDS, "$gte": BOUNDS, "$lt": BOUNDS, "$lte": BOUNDS}),
    st.fixed_dictionaries({}, optional={"$eq": VALUES, "$ne": VALUES, "$exists": st.booleans()}),
    st.fixed_dictionaries({"$in": st.lists(VALUES, max_size=3)}),
    st.fixed_dictionaries({"$nin": st.lists(VALUES, max_size=3)}),
)
FILTERS = st.recursive(
    st.dictionaries(NAMES, TESTS, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)
MISSING = object()


def passes(row, condition):
    """What a filter means, in Python."""
    combine = {
        "$and": lambda parts: all(passes(row, part) for part in parts),
        "$or": lambda parts: any(passes(row, part) for part in parts),
        "$not": lambda part: not passes(row, part),
    }
    for name, test in condition.items():
        if name in combine:
            if not combine[name](test):
                return False
            continue
        tests = test if isinstance(test, dict) else {"$eq": test}
        if not all(holds(row.get(name, MISSING), operator, value) for operator, value in tests.items()):
            return False
    return True


def holds(have, operator, value):
    def number(x):
        return isinstance(x, int | float) and not isinstance(x, bool)

    def same(one):
        return have == one and (type(have) is type(one) or (number(have) and number(one)))

    match operator:
        case "$eq":
            return same(value)
        case "$ne":
            return not same(value)
        case "$in":
            return any(map(same, value))
        case "$nin":
            return not any(map(same, value))
        case "$exists":
            return (have is not MISSING) == value
    if not ((number(have) and number(value)) or (isinstance(have, str) and isinstance(value, str))):
        return False
    return {"$gt": have > value, "$gte": have >= value, "$lt": have < value, "$lte": have <= value}[operator]


@given(st.lists(st.dictionaries(NAMES, VALUES), min_size=1, max_size=80), FILTERS)
def test_a_filter_means_what_python_says(rows, condition):
    index = rag.Index(2, metric="ip")
    index.add(range(len(rows)), np.ones((len(rows), 2), np.float32), rows)
    hits = index.search(np.ones(2, np.float32), len(rows), filter=condition)
    assert hits.ids.tolist() == [number for number, row in enumerate(rows) if passes(row, condition)]
    assert index.metadata(range(len(rows))) == rows


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("share", [2, 10, 300])
def test_filtering_in_the_scan_equals_filtering_after_it(kind, share):
    vectors, asked = clustered(3000, 48), clustered(30, 48, seed=1)
    index = rag.Index(48, metric="l2", kind=kind)
    index.add(range(3000), vectors, [{"part": number % share} for number in range(3000)])
    hits = index.search(asked, 10, filter={"part": {"$lt": 1}})
    kept = np.arange(0, 3000, share)
    wanted = kept[best("l2", asked, vectors[kept], 10)]
    assert (
        sum(len({*a.tolist()} & {*b}) for a, b in zip(hits.ids, wanted.tolist(), strict=True)) >= 0.99 * 300
    )
    assert all(len(ids) == 10 for ids in hits.ids)
    assert index.search(asked, 10, filter={"part": -1}).ids[0].tolist() == []


def test_metadata_goes_with_its_vector():
    index = rag.Index(2)
    both = np.eye(2, dtype=np.float32)
    index.add(["a", "b"], both, [{"n": 1, "s": "é"}, {"n": 2.5, "flag": True, "none": None}])
    assert index.metadata(["b", "a"]) == [{"n": 2.5, "flag": True, "none": None}, {"n": 1, "s": "é"}]
    index.add(["a"], both[:1])
    assert index.metadata(["a"]) == [{}]
    assert index.delete(filter={"flag": True}) == 1
    assert (len(index), "b" in index) == (1, False)


def test_metadata_survives_the_moving_together_of_rows():
    index = rag.Index(2)
    index.add(range(2000), np.ones((2000, 2), np.float32), [{"n": n, "t": str(n)} for n in range(2000)])
    assert index.delete(filter={"n": {"$lt": 1500}}) == 1500
    assert index.metadata([1500, 1999]) == [{"n": 1500, "t": "1500"}, {"n": 1999, "t": "1999"}]
    assert index.search(np.ones(2, np.float32), 9, filter={"t": "1777"}).ids.tolist() == [1777]


def test_what_cannot_be_kept_or_asked_is_refused():
    index = rag.Index(2)
    one = np.ones((1, 2), np.float32)
    for metadata, message in [
        ([{"a": [1]}], r"metadata\[0\]\.a: \[1\] is not a string"),
        ([{"a": 2**63}], r"metadata\[0\]\.a"),
        ([{"$a": 1}], r"metadata\[0\]: '\$a': names do not begin with"),
        ([{"a": float("nan")}], "metadata: "),
        ([{"a": one}], "metadata: "),
        ([{}, {}], "metadata: 2 for 1 ids"),
        (["a"], "metadata: "),
    ]:
        with pytest.raises(UsageError, match=message):
            index.add(["x"], one, metadata)
    assert len(index) == 0
    with pytest.raises(UsageError, match=r"filter: a: '\$near' is not one of"):
        index.search(one[0], filter={"a": {"$near": 1}})
    with pytest.raises(UsageError, match="filter: "):
        index.search(one[0], filter=json.loads("[" * 50 + "]" * 50))
    with pytest.raises(UsageError, match="ids, filter: exactly one"):
        index.delete()
