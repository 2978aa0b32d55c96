"""A filter as a tree, for those who say it in another language than the index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from polmrs.rag.index import Filter, Index, Scalar
from polmrs.rag.kinds import Flat

Order: TypeAlias = Literal["$gt", "$gte", "$lt", "$lte"]


@dataclass(frozen=True)
class AllOf:
    """Every part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """A part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: Condition


@dataclass(frozen=True)
class Equal:
    """The field is there and has this value; integers and floats compare as numbers, and are never booleans."""

    name: str
    value: Scalar


@dataclass(frozen=True)
class Beside:
    """The field is a number, or a string, on this side of another; strings by their characters' numbers."""

    name: str
    order: Order
    bound: str | int | float


@dataclass(frozen=True)
class Exists:
    """The field is there; it may be nothing."""

    name: str


Condition: TypeAlias = AllOf | AnyOf | Not | Equal | Beside | Exists


def parse(filter: Filter) -> Condition:
    """The tree of a filter.

    >>> parse({"lang": "en", "year": {"$gte": 2020}})
    AllOf(parts=(Equal(name='lang', value='en'), Beside(name='year', order='$gte', bound=2020)))
    >>> parse({"draft": {"$ne": True}})
    Not(part=Equal(name='draft', value=True))

    Raises:
        UsageError: It is no filter, in the words of the index.
    """
    Index(1, kind=Flat()).delete(filter=filter)  # refuses what is none
    return _all(json.loads(json.dumps(filter)))


def _all(filter: Mapping[str, Any]) -> Condition:
    parts: list[Condition] = []
    for name, value in filter.items():
        match name:
            case "$and":
                parts.append(AllOf(tuple(map(_all, value))))
            case "$or":
                parts.append(AnyOf(tuple(map(_all, value))))
            case "$not":
                parts.append(Not(_all(value)))
            case _:
                tests = value if isinstance(value, Mapping) else {"$eq": value}
                parts += [_test(name, operator, wanted) for operator, wanted in tests.items()]
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _test(name: str, operator: str, wanted: Any) -> Condition:
    among = AnyOf(tuple(Equal(name, one) for one in wanted)) if operator in ("$in", "$nin") else None
    match operator:
        case "$eq":
            return Equal(name, wanted)
        case "$ne":
            return Not(Equal(name, wanted))
        case "$in":
            return cast(AnyOf, among)
        case "$nin":
            return Not(cast(AnyOf, among))
        case "$exists":
            return Exists(name) if wanted else Not(Exists(name))
        case _:
            return Beside(name, cast(Order, operator), wanted)
