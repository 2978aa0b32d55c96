"""YAML through the one reader: mergekit's scalars, strict about keys, positions in every error."""

import json
from pathlib import Path
from typing import Any

from polmrs import _core


def loads(text: str, origin: str = "text") -> list[Any]:
    """Every document of a YAML text; ``origin`` is its name in messages.

    Raises ``ConfigError`` as ``origin:line:column: message``.

    >>> loads("density: 1e-1")
    [{'density': 0.1}]
    """
    documents: list[Any] = json.loads(_core.config.parse(text, origin))
    return documents


def load(path: str | Path) -> list[Any]:
    """Every document of a YAML file."""
    return loads(Path(path).read_text(encoding="utf-8"), str(path))


def dumps(value: object) -> str:
    """A value of JSON's types as YAML.

    >>> print(dumps({"merge_method": "ties", "models": [{"model": "a"}]}), end="")
    merge_method: ties
    models:
      - model: a
    """
    return _core.config.emit(json.dumps(value))
