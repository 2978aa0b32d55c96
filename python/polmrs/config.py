"""YAML through the one reader: mergekit's scalars, strict about keys, positions in every error; and YAML as dataclasses.

A configuration of Python is a frozen dataclass. Its fields are the only definition: ``into`` reads YAML's values into it,
``plain`` gives them back with every default, ``schema`` is its JSON Schema, ``put`` changes one value by its dotted name.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from polmrs import _core
from polmrs.errors import ConfigError

T = TypeVar("T")

SCALARS: dict[Any, tuple[str, tuple[type, ...]]] = {
    str: ("string", (str,)),
    bool: ("boolean", (bool,)),
    int: ("integer", (int,)),
    float: ("number", (int, float)),
}


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


def into(kind: type[T], value: Any, at: str = "") -> T:
    """YAML's value as a dataclass. Missing keys take the defaults of the fields, unknown ones are refused.

    Args:
        kind: The dataclass; its fields are scalars, ``Literal``, ``X | None``, lists, tuples, mappings or dataclasses.
        value: Of JSON's types.
        at: The name of the value in messages.

    Raises:
        ConfigError: A key is unknown, missing, or of another type; the message names it.

    >>> from polmrs.train import Schedule
    >>> into(Schedule, {"shape": "cosine", "warmup": 0.1}).warmup
    0.1
    >>> into(Schedule, {"warm_up": 0.1}, "schedule")
    Traceback (most recent call last):
    ...
    polmrs.errors.ConfigError: schedule.warm_up: no such key; the nearest is 'warmup'
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{at or 'the configuration'}: expected keys and values, got {_shown(value)}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind)) if field.init}
    hints = typing.get_type_hints(kind)
    for key in value:
        if key not in fields:
            raise ConfigError(f"{_join(at, key)}: no such key{nearest(str(key), fields)}")
    missing = [name for name, field in fields.items() if _required(field) and name not in value]
    if missing:
        raise ConfigError(f"{_join(at, missing[0])}: is missing")
    return kind(**{key: _read(hints[key], one, _join(at, key)) for key, one in value.items()})


def plain(value: Any) -> Any:
    """A dataclass as values of JSON's types, every field included.

    >>> from polmrs.train import Schedule
    >>> plain(Schedule())
    {'shape': 'constant', 'warmup': 0, 'floor': 0.0, 'decay': 0.1}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def put(tree: dict[str, Any], setting: str) -> None:
    """Changes a tree of values by ``key.key=value``, with the value as YAML; keys on the way are made.

    Raises:
        ConfigError: There is no ``=``, or a key on the way holds something else.

    >>> tree = {"optim": {"name": "sgd"}}
    >>> put(tree, "optim.name=adamw"), put(tree, "lr=1e-3")
    (None, None)
    >>> tree
    {'optim': {'name': 'adamw'}, 'lr': 0.001}
    """
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {setting}: expected key=value")
    *way, last = name.split(".")
    for key in way:
        inner = tree.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {setting}: {key} holds {_shown(inner)}, no keys")
        tree = inner
    documents = loads(text, f"--set {name}") if text.strip() else []
    tree[last] = documents[0] if documents else ""


def schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a dataclass, or of the type of a field.

    >>> from polmrs.train import Schedule
    >>> schema(Schedule)["properties"]["floor"]
    {'type': 'number', 'default': 0.0}
    """
    if kind is Any:
        return {}
    if kind in SCALARS:
        return {"type": SCALARS[kind][0]}
    if kind is type(None):
        return {"type": "null"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema(one) for one in inner]}
    if origin in (list, tuple, Sequence):
        return {"type": "array", "items": schema(inner[0])}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": schema(inner[1])}
    hints, made = typing.get_type_hints(kind), {}
    fields = [field for field in dataclasses.fields(kind) if field.init]
    for field in fields:
        default = {} if _required(field) else {"default": plain(_default(field))}
        made[field.name] = schema(hints[field.name]) | default
    required = [field.name for field in fields if _required(field)]
    found = {"type": "object", "properties": made, "additionalProperties": False}
    return found | ({"required": required} if required else {})


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word.

    >>> nearest("adamm", ["adam", "sgd"])
    "; the nearest is 'adam'"
    """
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; the nearest is {close[0]!r}" if close else f"; known: {', '.join(sorted(known))}"


def _read(kind: Any, value: Any, at: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if kind in SCALARS:
        name, allowed = SCALARS[kind]
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{at}: expected {name}, got {_shown(value)}")
        return float(typing.cast(float, value)) if kind is float else value
    if origin is Literal:
        if value not in inner:
            raise ConfigError(f"{at}: {value!r} is none of {', '.join(map(str, inner))}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, at)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list):
            raise ConfigError(f"{at}: expected a list, got {_shown(value)}")
        return (tuple if origin is tuple else list)(
            _read(inner[0], one, f"{at}[{i}]") for i, one in enumerate(value)
        )
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{at}: expected keys and values, got {_shown(value)}")
        return {key: _read(inner[1], one, _join(at, key)) for key, one in value.items()}
    return into(kind, value, at)


def _one_of(kinds: tuple[Any, ...], value: Any, at: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    failed: list[ConfigError] = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _read(kind, value, at)
            except ConfigError as error:
                failed.append(error)
    raise next((e for e in failed if isinstance(value, Mapping) and "expected" not in str(e)), failed[0])


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _join(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
