"""Every crate that polmrs is built from must be under a permissive licence.

    python tools/check_licences.py

Reads `cargo metadata`, for all platforms and features, development crates included; prints what it saw, and fails on
a licence that is not allowed or when it saw no crate.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter

ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib",
}  # fmt: skip


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences alone; the old form "MIT/Apache-2.0" means OR.

    >>> allowed("(MIT OR GPL-3.0-only) AND Unicode-3.0"), allowed("MIT AND LGPL-3.0-only"), allowed("")
    (True, False, False)
    """
    expression = expression.replace("/", " OR ")
    tokens = re.findall(r"\(|\)|AND\b|OR\b|[^\s()]+(?: WITH [^\s()]+)?", expression)
    logic = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    words = [logic.get(token, str(token in ALLOWED)) for token in tokens]
    return bool(words) and bool(eval(" ".join(words)))  # nothing but True, False, and, or, brackets


def main() -> int:
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    crates = [package for package in metadata["packages"] if package["source"] is not None]
    seen = Counter(crate["license"] or "none stated" for crate in crates)
    for licence, count in seen.most_common():
        print(f"{count:5}  {licence}")
    refused = [crate for crate in crates if not allowed(crate["license"] or "")]
    for crate in refused:
        print(f"{crate['name']} {crate['version']}: {crate['license']} is not allowed", file=sys.stderr)
    print(f"{len(crates)} crates, {len(refused)} refused")
    return int(not crates or bool(refused))


if __name__ == "__main__":
    sys.exit(main())
