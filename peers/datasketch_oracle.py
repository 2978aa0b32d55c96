"""MinHash-LSH of datasketch on texts: `.peers/datasketch/bin/python peers/datasketch_oracle.py FOLDER`.

Reads FOLDER/cases.json (`documents`, `n`, `threshold`, `functions`), writes FOLDER/out.json: `pairs` found (candidates of the
index, not compared further) and `seconds` of CPU. Word n-grams are made as polmrs makes them, outside the clock.
"""

import json
import re
import sys
import time
from pathlib import Path

from datasketch import MinHash, MinHashLSH


def main() -> None:
    """Answers the case of the folder."""
    folder = Path(sys.argv[1])
    case = json.loads((folder / "cases.json").read_text())
    sets = []
    for text in case["documents"]:
        words = re.findall(r"[^\W_]+", text.lower())
        n = min(case["n"], len(words))
        sets.append(list({" ".join(words[i : i + n]).encode() for i in range(len(words) - n + 1)}))
    begun = time.process_time()
    index = MinHashLSH(threshold=case["threshold"], num_perm=case["functions"])
    pairs = []
    for number, signature in enumerate(MinHash.generator(sets, num_perm=case["functions"])):
        pairs += [[other, number] for other in index.query(signature)]
        index.insert(number, signature)
    seconds = time.process_time() - begun
    (folder / "out.json").write_text(json.dumps({"pairs": sorted(pairs), "seconds": seconds}))


if __name__ == "__main__":
    main()
