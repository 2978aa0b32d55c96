"""``python -m polmrs``: the command line."""

import sys

from polmrs.cli import main

sys.exit(main())
