"""Longest common subsequences by rapidfuzz: `.peers/rapidfuzz/bin/python peers/rapidfuzz_oracle.py FOLDER`.

Reads FOLDER/cases.json (`left` and `right`, lists of rows of token numbers), writes FOLDER/out.json: `lengths` of the longest
common subsequence of every row on the left with every row on the right, and the CPU `seconds` that all of them took.
"""

import json
import sys
import time
from pathlib import Path

from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist


def main() -> None:
    """Answers the case of the folder."""
    folder = Path(sys.argv[1])
    case = json.loads((folder / "cases.json").read_text())
    begun = time.process_time()
    lengths = cdist(case["left"], case["right"], scorer=LCSseq.similarity, workers=1)
    seconds = time.process_time() - begun
    (folder / "out.json").write_text(json.dumps({"lengths": lengths.tolist(), "seconds": seconds}))


if __name__ == "__main__":
    main()
