"""The ledger is whole: one well-formed row for each method, and no id that changed.

    python tools/check_ledger.py

Ids are what `polmrs methods` prints and what tests are marked with, so an id is never renamed, moved or dropped. A new
row changes the number and the digest here, on purpose.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from pathlib import Path

LEDGER = Path(__file__).resolve().parent.parent / "docs" / "ledger.tsv"
COLUMNS = ["id", "name", "family", "paper", "computes"]
ROWS = 395
IDS_SHA256 = "b76abcb68929049c3dbafa892cfd6efbdeadd4f7eba0839681f75285ede0e057"


def main() -> int:
    head, *rows = (line.split("\t") for line in LEDGER.read_text(encoding="utf-8").splitlines())
    faults = [] if head == COLUMNS else [f"the columns are {head}, not {COLUMNS}"]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS) or not all(field and field == field.strip() for field in row):
            faults.append(f"line {number}: not {len(COLUMNS)} filled fields without outer spaces")
        elif not re.fullmatch(r"[a-z]+\.[a-z0-9]+(-[a-z0-9]+)*", row[0]):
            faults.append(f"line {number}: {row[0]!r} is not an id of the form area.some-name")
    ids = [row[0] for row in rows]
    faults += [f"{name} stands {times} times" for name, times in Counter(ids).items() if times > 1]
    if len(ids) != ROWS or hashlib.sha256("\n".join(ids).encode()).hexdigest() != IDS_SHA256:
        faults.append(f"{len(ids)} ids, and not the {ROWS} that this check knows, in their order")
    for fault in faults:
        print(f"docs/ledger.tsv: {fault}", file=sys.stderr)
    print(f"{len(ids)} ledger rows, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
