"""Data sets in any of the formats of ``polmrs.data.formats``, read to records; every row that is not taken is accounted for."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from polmrs.data.conversion import routes
from polmrs.data.dataset import Account, Dataset
from polmrs.data.formats import FORMATS, Format
from polmrs.data.formats.fields import Fields
from polmrs.data.formats.format import has, lookup, sniff
from polmrs.data.records import KINDS, Preference, Record, named
from polmrs.data.rows import Fault, Row, Source, TextUnit, rows
from polmrs.errors import ConfigError, PolmrsError, UsageError

Policy: TypeAlias = Literal["strict", "repair", "skip"]
Event: TypeAlias = tuple[Literal["record", "rejected", "repaired", "row", "format"], Any]

PROBED = 64
"""Rows that a format is told by."""

_log = logging.getLogger("polmrs")


def read(
    source: Source | list[Source],
    *,
    kind: type[Record] | str | None = None,
    format: str | None = None,
    policy: Policy = "strict",
    text: TextUnit = "document",
) -> Dataset:
    """Reads a data set.

    The format is told by the columns and stands in ``account.formats`` ("sharegpt: conversations[].from, ..."). A row that
    does not fit it is rejected, with its file, line and reason:

    | ``policy`` | what becomes of it                                                                      |
    |------------|-----------------------------------------------------------------------------------------|
    | ``strict`` | an error that lists the rejected rows                                                   |
    | ``repair`` | mended where that is safe and listed in ``account.repaired``, otherwise left out        |
    | ``skip``   | left out and listed in ``account.rejected``                                             |

    Args:
        source: A file, ``hf://datasets/OWNER/NAME/FILE``, a ``datasets.Dataset``, rows in memory, or a list of files.
        kind: What the records shall be, a class of ``polmrs.data.records`` or its name; what the format gives by default.
        format: The name of a format, if it shall not be told.
        policy: What becomes of rows that do not fit.
        text: What a record of a ``.txt`` file is.

    Raises:
        NotFoundError: There is no such file.
        ConfigError: No format fits, rows were rejected under ``strict``, or nothing is left.
        UsageError: There is no such kind, format or policy, or no way from the format's kind to the one asked for.

    >>> rows = [{"instruction": "Add 2 and 2.", "input": "", "output": "4"}, {"instruction": "Smile.", "output": ""}]
    >>> found = read(rows, policy="skip")
    >>> print(found)
    1 records, prompt_completion
    rows: alpaca: instruction, output
    2 rows
    1 rejected
      rows:row 2: output: an empty answer
    """
    wanted = kind_of(kind)
    records: list[Record] = []
    told: dict[str, list[Any]] = {"rejected": [], "repaired": [], "format": [], "row": []}
    for what, value in events(source, kind=wanted, format=format, policy=policy, text=text):
        (records if what == "record" else told[what]).append(value)
    account = Account(
        formats=tuple(told["format"]),
        rows=len(told["row"]),
        rejected=tuple(told["rejected"]),
        repaired=tuple(told["repaired"]),
    )
    if account.rejected and policy == "strict":
        raise ConfigError(f"{account}\npolicy skip leaves them out, repair mends what it can")
    if not records:
        raise ConfigError(f"no record is left\n{account}")
    for fault in account.rejected:
        _log.debug("%s: %s", *fault)
    if account.rejected or account.repaired:
        _log.warning("%s", account)
    kinds = {type(record) for record in records}
    if wanted is None and len(kinds) > 1:
        names = sorted(named(one) for one in kinds)
        raise UsageError(
            f"source: files of several kinds, {', '.join(names)}; say which kind to make of them"
        )
    found = Dataset(records=tuple(records), kind=kinds.pop(), account=account)
    return found if wanted is None else found.to(wanted)


def preferences(source: Source | list[Source], **settings: Any) -> Dataset:
    """Pairs of a better and a worse answer; rankings give all of theirs. ``read`` with that kind.

    >>> rows = [{"prompt": "2 + 2 =", "answers": [" 4", " 5"], "scores": [1, 0]}]
    >>> preferences(rows)[0].chosen
    ' 4'
    """
    return read(source, kind=Preference, **settings)


def kind_of(kind: type[Record] | str | None) -> type[Record] | None:
    """A kind by its class or name.

    Raises:
        UsageError: There is none of that name.
    """
    if isinstance(kind, str):
        if kind not in KINDS:
            raise UsageError(f"kind: {kind!r} is none of {', '.join(KINDS)}")
        return KINDS[kind]
    return kind


def events(
    source: Source | list[Source],
    *,
    kind: type[Record] | None = None,
    format: str | None = None,
    policy: Policy = "strict",
    text: TextUnit = "document",
) -> Iterator[Event]:
    """Records as they are read, in constant memory for line formats, with what else happens: for streams and ``read``.

    Yields:
        ``("format", explanation)`` once a source, ``("row", origin)`` for every row, and what became of it: ``("record",
        record)``, ``("rejected", fault)``, ``("repaired", fault)``.
    """
    if policy not in ("strict", "repair", "skip"):
        raise UsageError(f"policy: {policy!r} is none of strict, repair, skip")
    sources: list[Any] = source if isinstance(source, list) and not _in_memory(source) else [source]
    for one in sources:
        yield from _of_source(one, kind, format, policy == "repair", text)


def _in_memory(source: list[Any]) -> bool:
    return bool(source) and isinstance(source[0], Mapping)


def _of_source(
    source: Source, kind: type[Record] | None, format: str | None, repair: bool, text: TextUnit
) -> Iterator[Event]:
    stream = rows(source, text=text)
    head = list(itertools.islice(stream, PROBED))
    while head and not any(isinstance(row, Row) for row in head) and (more := next(stream, None)):
        head.append(more)
    read_rows = [row for row in head if isinstance(row, Row)]
    if len(read_rows) == 1:  # one object may hold the rows
        faults = [row for row in head if isinstance(row, Fault)]
        read_rows = _unwrapped(read_rows[0])
        head = [*read_rows, *faults]
    name = source if isinstance(source, str | os.PathLike) else "rows"
    if not read_rows:
        yield from (event for fault in head for event in (("row", fault.origin), ("rejected", fault)))
        return
    chosen = _told(str(name), [_columns(row.value) for row in read_rows], format)
    take = chosen.read if kind is None else chosen.other.get(kind, chosen.read)
    if (
        kind is not None
        and kind not in (chosen.kind, *chosen.other)
        and named(kind) not in routes(chosen.kind)
    ):
        given = ", ".join([named(chosen.kind), *routes(chosen.kind)])
        raise UsageError(f"{name}: {chosen.name} gives {given}, not {named(kind)}")
    yield "format", f"{name}: {chosen.explanation}"
    everything: Iterable[Row | Fault] = itertools.chain(head, stream)
    if chosen.gather is not None:
        held = list(everything)
        yield from (("row", row.origin) for row in held)
        faults = [row for row in held if isinstance(row, Fault)]
        gathered = chosen.gather([row for row in held if isinstance(row, Row)])
        for row in itertools.chain(faults, gathered):
            yield from _of_row(row, take, repair)
        return
    for row in everything:
        yield "row", row.origin
        yield from _of_row(row, take, repair)


def _told(name: str, values: list[Any], format: str | None) -> Format:
    if format is not None:
        return lookup(format, FORMATS)
    try:
        return sniff(values, FORMATS)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _unwrapped(row: Row) -> list[Row]:
    """The rows within one object: those of its only list of objects, or its values where all are objects; else itself."""
    value = row.value
    if not isinstance(value, Mapping) or any(form.fits(value) for form in FORMATS.values()):
        return [row]
    lists = [key for key in value if has(value, f"{key}[]") and isinstance(value[key][0], Mapping)]
    if len(lists) == 1:
        return [Row(f"{row.origin}:{lists[0]}[{i}]", one) for i, one in enumerate(value[lists[0]])]
    if len(value) > 1 and all(isinstance(one, Mapping) for one in value.values()):
        return [Row(f"{row.origin}:{key}", one) for key, one in value.items()]
    return [row]


def _of_row(row: Row | Fault, take: Callable[[Fields], Iterator[Record]], repair: bool) -> Iterator[Event]:
    if isinstance(row, Fault):
        yield "rejected", row
        return
    value = _columns(row.value)
    if not isinstance(value, Mapping):
        yield "rejected", Fault(row.origin, f"expected an object, got {type(value).__name__}")
        return
    columns = Fields(value, repair=repair)
    made: list[Record] = []
    try:
        made.extend(take(columns))
    except PolmrsError as error:
        yield "rejected", Fault(row.origin, str(error))
        return
    if not made:
        yield "rejected", Fault(row.origin, "no record in it")
        return
    if columns.repairs:
        yield "repaired", Fault(row.origin, "; ".join(columns.repairs))
    yield from (("record", replace(record, origin=row.origin)) for record in made)


def _columns(value: Any) -> Any:
    """A row; a bare text is one of plain text."""
    return {"text": value} if isinstance(value, str) else value
