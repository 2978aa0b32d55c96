"""One command, two doors: the console script runs the same native code as the standalone binary."""

import sys

from polmrs import _core


def main() -> int:
    """Runs the command line of this process and gives its exit code."""
    sys.stdout.flush()
    try:
        return _core.cli(["polmrs", *sys.argv[1:]])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
