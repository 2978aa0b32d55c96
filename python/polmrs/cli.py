"""One command, two doors: native verbs run the same code as the standalone binary, the others run here."""

import json
import sys
from typing import Any

from polmrs import _core
from polmrs.errors import NonFiniteError, PolmrsError, StorageError, UsageError


def main() -> int:
    """Runs the command line of this process and gives its exit code."""
    sys.stdout.flush()
    command = ["polmrs", *sys.argv[1:]]
    try:
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
        print(f"polmrs: {error}", file=sys.stderr)
        codes = {UsageError: 2, StorageError: 4, NonFiniteError: 5, PolmrsError: 3}
        return next((code for kind, code in codes.items() if isinstance(error, kind)), 4)
    if asked["json"]:
        print(json.dumps(report))
    else:
        print(f"{report['to']}: {report['tensors']} tensors in {len(report['files'])} file(s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
