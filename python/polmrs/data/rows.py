"""Rows of files: JSON Lines, JSON, CSV, text and Parquet, each with the place that it stands at.

A row that cannot be read is a ``Fault`` with its place and the reason; the rows after it are still read.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from polmrs._extras import extra
from polmrs.data.store import PathLike
from polmrs.errors import ConfigError, NotFoundError, StorageError, UsageError

TextUnit: TypeAlias = Literal["document", "paragraph", "line"]
Source: TypeAlias = PathLike | Iterable[Mapping[str, Any]]
"""A path, ``hf://datasets/OWNER/NAME/FILE``, a ``datasets.Dataset``, or rows in memory."""

HUB = "hf://datasets/"


class Row(NamedTuple):
    """What one example is made of."""

    origin: str
    """``file:line``, or ``file:row N`` where a format has no lines."""
    value: Any
    """As JSON has it: mostly an object."""


class Fault(NamedTuple):
    """A row that was not taken, or not as it stands."""

    origin: str
    reason: str


def rows(source: Source, *, text: TextUnit = "document") -> Iterator[Row | Fault]:
    r"""The rows of a source, in order.

    ``.json`` may be an array, or JSON Lines under another name, or one object. ``.gz`` around anything is taken off.
    JSON Lines, CSV, text by lines and Parquet are read as they are asked for; the others are held in memory.

    Args:
        source: What to read.
        text: What a row of a ``.txt`` file is: all of it, what stands between empty lines, or a line.

    Raises:
        NotFoundError: There is no such file.
        ConfigError: No reader is known for its suffix, or it is not what its suffix says.
        UsageError: It is on the Hub or in Parquet, and the package that reads it is missing.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "a.jsonl")
    ...     _ = file.write_text('{"text": "one"}\n{"text": \n')
    ...     good, bad = rows(file)
    >>> good.value, bad.origin.endswith("a.jsonl:2")
    ({'text': 'one'}, True)
    """
    if not isinstance(source, str | os.PathLike):
        yield from _in_memory(source)
        return
    path = _fetched(source) if str(source).startswith(HUB) else Path(source)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    suffix = (suffixes[:-1] if zipped else suffixes)[-1:]
    reader = _READERS.get(suffix[0] if suffix else "")
    if reader is None:
        raise ConfigError(
            f"{path}: no reader for it; known are {', '.join(sorted(_READERS))}, each also as .gz"
        )
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file")
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            yield from reader(str(path), file, text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: not gzip, or cut: {error}") from error
    except OSError as error:
        raise StorageError(error.errno, f"{path}: cannot read: {error.strerror}") from error


def _fetched(address: PathLike) -> Path:
    """A file of a data set on the Hub, in the cache of huggingface_hub."""
    owner, name, *file = str(address).removeprefix(HUB).split("/")
    if not file:
        raise UsageError(f"{address}: name a file of the data set, {HUB}OWNER/NAME/FILE")
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise UsageError(f"{address}: needs huggingface_hub: pip install huggingface_hub") from error
    return Path(hf_hub_download(f"{owner}/{name}", "/".join(file), repo_type="dataset"))


def _in_memory(source: Any) -> Iterator[Row | Fault]:
    if isinstance(source, Mapping):
        raise UsageError("source: one mapping; pass a path, a data set, or a list of rows")
    name = getattr(source, "builder_name", None) or "rows"
    yield from (Row(f"{name}:row {number}", value) for number, value in enumerate(source, start=1))


def _decoded(path: str, file: Any) -> str:
    try:
        text: str = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from error
    return text


def _json_lines(path: str, file: Any, _text: TextUnit) -> Iterator[Row | Fault]:
    for number, raw in enumerate(file, start=1):
        origin = f"{path}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if line:
                yield Row(origin, json.loads(line))
        except UnicodeDecodeError as error:
            yield Fault(origin, f"byte {error.start} is not UTF-8")
        except json.JSONDecodeError as error:
            yield Fault(origin, f"not JSON: {error.msg} at column {error.colno}")
        except ValueError as error:  # a number of more digits than Python reads
            yield Fault(origin, f"not JSON: {error}")
        except RecursionError:
            yield Fault(origin, "JSON nested too deep")


def _json(path: str, file: Any, _text: TextUnit) -> Iterator[Row | Fault]:
    text = _decoded(path, file)
    values = _values(path, text)
    if text.lstrip()[:1] == "[":
        yield from values
        return
    first = next(values, None)
    if first is None:
        return
    second = next(values, None)
    if second is None:
        yield first
        return
    # More than one value: JSON Lines by another name, where a bad line does not end the file.
    yield from _json_lines(path, io.BytesIO(text.encode()), "line")


def _values(path: str, text: str) -> Iterator[Row | Fault]:
    """The elements of an array, or the values of a text one after the other, each with its line."""
    decoder = json.JSONDecoder()
    at, line, array = 0, 1, False

    def skip(characters: str) -> str:
        nonlocal at, line
        while at < len(text) and text[at] in characters:
            line += text[at] == "\n"
            at += 1
        return text[at : at + 1]

    if skip(" \t\r\n") == "[":
        array, at = True, at + 1
    while skip(" \t\r\n"):
        if array and text[at] == "]":
            at += 1
            if skip(" \t\r\n"):
                yield Fault(f"{path}:{line}", "something follows the array")
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            reason = (
                "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
            )
            yield Fault(f"{path}:{line}", f"not JSON: {reason}; nothing after it is read")
            return
        yield Row(f"{path}:{line}", value)
        line += text.count("\n", at, end)
        at = end
        if array:
            after = skip(" \t\r\n")
            if after not in (",", "]"):
                yield Fault(f"{path}:{line}", "not JSON: ',' or ']' expected; nothing after it is read")
                return
            at += after == ","
    if array:
        yield Fault(f"{path}:{line}", "not JSON: the array has no end")


def _table(delimiter: str) -> Callable[[str, Any, TextUnit], Iterator[Row | Fault]]:
    def read(path: str, file: Any, _text: TextUnit) -> Iterator[Row | Fault]:
        with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            yield from _cells(path, csv.reader(text, delimiter=delimiter, strict=True))

    return read


def _cells(path: str, lines: Any) -> Iterator[Row | Fault]:
    columns: list[str] | None = None
    begin = 1
    try:
        for cells in _advanced(lines):
            origin, begin = f"{path}:{begin}", lines.line_num + 1
            if not cells:
                continue
            if columns is None:
                columns = cells
                if len(set(columns)) < len(columns):
                    raise ConfigError(f"{path}: two columns have one name among {columns}")
            elif len(cells) != len(columns):
                yield Fault(origin, f"{len(cells)} cells, but there are {len(columns)} columns")
            else:
                yield Row(origin, dict(zip(columns, cells, strict=True)))
    except (csv.Error, UnicodeDecodeError) as error:
        yield Fault(f"{path}:{begin}", f"not CSV: {error}; nothing after it is read")


def _advanced(lines: Any) -> Iterator[list[str]]:
    """The rows of a CSV reader. How long a field may be is the process's, so it is put back before each is given."""
    while True:
        limit = csv.field_size_limit(1 << 27)
        try:
            cells = next(lines, None)
        finally:
            csv.field_size_limit(limit)
        if cells is None:
            return
        yield cells


def _plain(path: str, file: Any, text: TextUnit) -> Iterator[Row | Fault]:
    whole = _decoded(path, file)
    if text == "document":
        if whole.strip():
            yield Row(f"{path}:1", {"text": whole})
        return
    if text not in ("line", "paragraph"):
        raise UsageError(f"text: {text!r} is none of document, paragraph, line")
    # Lines end where editors end them; str.splitlines would also cut at form feeds and the like.
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(whole.split("\n"), start=1)]
    for filled, group in itertools.groupby(lines, key=lambda line: bool(line[1].strip())):
        block = list(group)
        parts = [block] if text == "paragraph" else [[line] for line in block]
        for part in parts if filled else []:
            yield Row(f"{path}:{part[0][0]}", {"text": "\n".join(line for _, line in part)})


def _parquet(path: str, file: Any, _text: TextUnit) -> Iterator[Row | Fault]:
    parquet = extra("pyarrow.parquet", "pyarrow", "parquet")
    number = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield Row(f"{path}:row {number}", value)
    except extra("pyarrow", "pyarrow", "parquet").ArrowException as error:
        raise ConfigError(f"{path}: not Parquet: {error}") from error


_READERS: dict[str, Callable[[str, Any, TextUnit], Iterator[Row | Fault]]] = {
    ".csv": _table(","),
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".tsv": _table("\t"),
    ".txt": _plain,
}
