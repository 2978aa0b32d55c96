"""The columns of one row, taken by name and type; what nobody takes is the record's ``meta``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from polmrs.errors import UsageError

_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_MISSING = object()


class Fields:
    """Takes values out of a row. Every refusal is a ``UsageError`` that names the column.

    >>> row = Fields({"question": {"full_text": "Why?"}, "label": "True", "lang": "en"})
    >>> row.text("question.full_text"), row.flag("label"), row.meta
    ('Why?', True, {'lang': 'en'})
    """

    def __init__(self, row: Mapping[str, Any], *, repair: bool = False) -> None:
        """Begins with every column untaken.

        Args:
            row: The columns.
            repair: Whether ``mend`` may mend.
        """
        self.row = row
        self.repair = repair
        self.repairs: list[str] = []
        self._taken: set[str] = set()

    @property
    def meta(self) -> dict[str, Any]:
        """The columns that nothing has taken."""
        return {key: value for key, value in self.row.items() if key not in self._taken and value is not None}

    def mend(self, problem: str, remedy: str) -> None:
        """Notes a repair, or refuses the row where repairs are not asked for."""
        if not self.repair:
            raise UsageError(problem)
        self.repairs.append(f"{problem}: {remedy}")

    def has(self, path: str) -> bool:
        """Whether something other than null stands at ``a.b``."""
        return _at(self.row, path) not in (_MISSING, None)

    def value(self, path: str) -> Any:
        """What stands at ``a.b``."""
        self._taken.add(path.split(".")[0])
        found = _at(self.row, path)
        if found is _MISSING or found is None:
            raise UsageError(f"{path}: missing")
        return found

    def text(self, path: str, default: str | None = None) -> str:
        """A text; the default where there is none."""
        if default is not None and not self.has(path):
            self._taken.add(path.split(".")[0])
            return default
        return as_text(path, self.value(path))

    def number(self, path: str) -> float:
        """A finite number; a table's texts are read as numbers."""
        return as_number(path, self.value(path))

    def flag(self, path: str) -> bool:
        """A truth value; ``1``, ``yes`` and ``true`` in any case are true."""
        found = self.value(path)
        if isinstance(found, bool):
            return found
        known = _TRUTH.get(str(found).strip().lower())
        if known is None:
            raise UsageError(f"{path}: {found!r} is neither true nor false")
        return known

    def items(self, path: str) -> list[Any]:
        """A list; one that was written as JSON text, as tables have it, is read."""
        return as_list(path, self.value(path))


def _at(row: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(row, Mapping) or key not in row:
            return _MISSING
        row = row[key]
    return row


def as_text(name: str, value: Any) -> str:
    """A text, or a refusal by name."""
    if not isinstance(value, str):
        raise UsageError(f"{name}: expected text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{name}: character {error.start} is half of a surrogate pair, which is no text"
        ) from error
    return value


def as_number(name: str, value: Any) -> float:
    """A finite number, or a refusal by name."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{name}: {value!r} is not a number")
    return number


def as_list(name: str, value: Any) -> list[Any]:
    """A list, or a refusal by name."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = as_json(name, value)
    if not isinstance(value, list | tuple):
        raise UsageError(f"{name}: expected a list, got {type(value).__name__}")
    return list(value)


def as_object(name: str, value: Any) -> Mapping[str, Any]:
    """An object, or a refusal by name."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}: expected an object, got {type(value).__name__}")
    return value


def as_json(name: str, value: Any) -> Any:
    """What a text says in JSON; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: not JSON: {error}") from error
