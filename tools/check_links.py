"""Every link inside the documentation must lead somewhere: files, anchors, and the pages that mkdocs.yml lists.

    python tools/check_links.py

Reads all Markdown files of the project; prints how many links it checked, and fails on a broken one, on a page of docs/
that nothing leads to, and when it saw no link. Links to other sites are not followed.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = {"target", "site", "dist"}

FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)|^ *\[[^\]]+\]: +(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)
PLACE = re.compile(r"<[^>]*\b(?:id|name)=[\"']([^\"']+)[\"']")
PAGE = re.compile(r"^ *- (?:.*: )?(\S+\.md) *$", re.MULTILINE)


def pages() -> Iterator[Path]:
    """Markdown files, but none that was built or belongs to an environment."""
    for path in sorted(ROOT.rglob("*.md")):
        parts = path.relative_to(ROOT).parts
        if parts[0] not in BUILT and not any(part.startswith(".") for part in parts):
            yield path


@cache
def anchors(page: Path) -> set[str]:
    """What `page.md#...` may name: headings as GitHub spells them, and explicit ids."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        seen[f"{slug}-{seen[slug]}" if seen[slug] else slug] += 1
    return {*seen, *PLACE.findall(text)}


def fault(page: Path, target: str) -> str | None:
    """Why this link of this page leads nowhere; none if it leads somewhere."""
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    if not file.is_relative_to(ROOT):
        return "leaves the project"
    if not file.exists():
        return "no such file"
    if anchor and file.suffix == ".md" and anchor not in anchors(file):
        return "no such heading"
    return None


def links(page: Path) -> Iterator[str]:
    """Targets inside the project, without those in code."""
    for found in LINK.findall(CODE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))):
        target = found[0] or found[1]
        if not re.match(r"[a-z][a-z0-9+.-]*:", target):
            yield target


def main() -> int:
    faults = []
    checked = 0
    reached = set()
    for page in pages():
        for target in links(page):
            checked += 1
            reached.add((page.parent / target.partition("#")[0]).resolve())
            if why := fault(page, target):
                faults.append(f"{page.relative_to(ROOT)}: {target}: {why}")

    for name in PAGE.findall((ROOT / "mkdocs.yml").read_text(encoding="utf-8")):
        checked += 1
        reached.add(ROOT / "docs" / name)
        if not (ROOT / "docs" / name).is_file():
            faults.append(f"mkdocs.yml: {name}: no such file")

    for page in pages():
        if page.is_relative_to(ROOT / "docs") and page not in reached:
            faults.append(f"{page.relative_to(ROOT)}: neither listed in mkdocs.yml nor linked from a page")

    for line in faults:
        print(line, file=sys.stderr)
    print(f"{checked} links, {len(faults)} broken")
    return int(not checked or bool(faults))


if __name__ == "__main__":
    sys.exit(main())
