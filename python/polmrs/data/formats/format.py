"""What a format of data sets is, and which format rows have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polmrs.data.formats.fields import Fields
from polmrs.data.records import Record
from polmrs.data.rows import Fault, Row
from polmrs.errors import ConfigError, UsageError


def _any(row: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Format:
    """A row of the table of formats: how to tell it, and how to read it."""

    name: str
    of: str
    """Data sets that come in it."""
    paths: tuple[str, ...]
    """What a row has: ``a.b`` is b within a, ``a[]`` the first element of the list a."""
    kind: type[Record]
    """What a row becomes."""
    read: Callable[[Fields], Iterator[Record]]
    other: Mapping[type[Record], Callable[[Fields], Iterator[Record]]] = field(default_factory=dict)
    """Other readings of a row, for those who ask for that kind."""
    when: Callable[[Mapping[str, Any]], bool] = _any
    """What paths cannot say."""
    gather: Callable[[Sequence[Row]], Iterator[Row | Fault]] | None = None
    """For formats where an example is spread over rows: all rows of a file to one row an example."""

    def fits(self, value: Any) -> bool:
        """Whether a row has all of the paths."""
        return (
            isinstance(value, Mapping) and all(has(value, path) for path in self.paths) and self.when(value)
        )

    @property
    def explanation(self) -> str:
        """The format and what gave it away.

        >>> from polmrs.data.formats import FORMATS
        >>> FORMATS["sharegpt"].explanation
        'sharegpt: conversations[].from, conversations[].value'
        """
        return f"{self.name}: {', '.join(self.paths)}"


def has(value: Any, path: str) -> bool:
    """Whether something other than null stands at a path.

    >>> has({"data": [{"text": ""}]}, "data[].text"), has({"data": []}, "data[].text")
    (True, False)
    """
    for key in path.split("."):
        name = key.removesuffix("[]")
        if not isinstance(value, Mapping) or value.get(name) is None:
            return False
        value = value[name]
        if key.endswith("[]"):
            if not isinstance(value, list | tuple) or not value:
                return False
            value = value[0]
    return True


def sniff(values: Sequence[Any], formats: Mapping[str, Format]) -> Format:
    """The format of rows: the one that most of them fit, and of those the one that asks most.

    Raises:
        ConfigError: None fits any; the message says what the nearest lacks.
    """
    counted = [
        (sum(map(f.fits, values)), len(f.paths) + (f.when is not _any), -i, f)
        for i, f in enumerate(formats.values())
    ]
    fitting, _, _, best = max(counted, key=lambda row: row[:3])
    if fitting:
        return best
    example = next((value for value in values if isinstance(value, Mapping)), None)
    if example is None:
        raise ConfigError(f"rows are {type(values[0]).__name__}, not objects; none of the formats fits")

    def lacking(f: Format) -> list[str]:
        return [path for path in f.paths if not has(example, path)]

    nearest = min(formats.values(), key=lambda f: len(lacking(f)) / len(f.paths))
    hint = (
        f"; {nearest.name} lacks {', '.join(lacking(nearest))}"
        if lacking(nearest) != list(nearest.paths)
        else ""
    )
    raise ConfigError(
        f"no format fits columns {', '.join(map(str, example))}{hint}. Known formats: {', '.join(formats)}"
    )


def lookup(name: str, formats: Mapping[str, Format]) -> Format:
    """A format by name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in formats:
        raise UsageError(f"format: {name!r} is none of {', '.join(formats)}")
    return formats[name]
