"""One command, two doors: native verbs run the same code as the standalone binary, the others run here."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from polmrs import _core
from polmrs.errors import NonFiniteError, PolmrsError, StorageError, UsageError


def main() -> int:
    """Runs the command line of this process and gives its exit code."""
    sys.stdout.flush()
    command = ["polmrs", *sys.argv[1:]]
    try:
        if command[1:2] == ["report"] and any(word.split("=")[0] == "--png" for word in command):
            return _picture(command[2:])
        if command[1:2] == ["data"] and command[2:3] in (["inspect"], ["convert"], ["show"]):
            return _printed("polmrs.data.command", command[2:])
        if command[1:2] == ["train"]:
            return _printed("polmrs.train.command", command[2:])
        if command[1:3] == ["schema", "train"]:
            return _printed("polmrs.train.command", command[3:], "schema")
        asked = _core.python_verb(command)
        return _core.cli(command) if asked is None else _python(json.loads(asked))
    except KeyboardInterrupt:
        return 130


def _python(asked: dict[str, Any]) -> int:
    """A verb of Python, with the exit codes of the native ones."""
    from polmrs.convert import convert

    try:
        report = convert(asked["source"], to=asked["to"], shard_size=asked["shard_size"])
    except (PolmrsError, OSError) as error:
        return _failed(error)
    if asked["json"]:
        print(json.dumps(report))
    else:
        print(f"{report['to']}: {report['tensors']} tensors in {len(report['files'])} file(s)")
    return 0


def _printed(module: str, arguments: list[str], verb: str = "run") -> int:
    """A verb of Python: prints what the function of that name in its module gives."""
    try:
        call = getattr(importlib.import_module(module), verb)
        print(call(arguments, color=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    except (PolmrsError, OSError) as error:
        return _failed(error)
    except ModuleNotFoundError as error:
        print(f"polmrs: this needs {error.name}: pip install 'polmrs[train]'", file=sys.stderr)
        return 1
    return 0


def _failed(error: Exception) -> int:
    """Says what went wrong, and gives the exit code of the native verbs."""
    print(f"polmrs: {error}", file=sys.stderr)
    codes = {UsageError: 2, StorageError: 4, NonFiniteError: 5, PolmrsError: 3}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 4)


def _picture(arguments: list[str]) -> int:
    """``polmrs report OUT --png FILE``: the native table, then the picture."""
    from polmrs.merge.picture import draw

    parser = argparse.ArgumentParser(prog="polmrs report", add_help=False, allow_abbrev=False)
    parser.add_argument("out")
    parser.add_argument("--by", default="relative")
    parser.add_argument("--top", default="20")
    parser.add_argument("--png", required=True)
    asked = parser.parse_args(arguments)
    code = _core.cli(["polmrs", "report", asked.out, "--by", asked.by, "--top", asked.top])
    if code:
        return code
    report = json.loads((Path(asked.out) / "polmrs_report.json").read_text(encoding="utf-8"))
    try:
        draw(report, asked.by, asked.png)
    except ModuleNotFoundError as error:
        print(f"polmrs: --png needs {error.name}: pip install 'polmrs[plots]'", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"polmrs: {asked.png}: cannot write: {error.strerror}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
