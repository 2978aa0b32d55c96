"""Pictures and a page of the last search benchmark: `python benches/search_plot.py [--curves FILE] [--docs FOLDER]`.

Reads `search_curves.json`, which `search.py` writes, and makes `img/search_NAME.svg`, recall and queries a second, for each set of
vectors, and `search_results.md`, the figures. Needs matplotlib (`polmrs[plots]`).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from record import ROOT

TITLES = {
    "real": "Real embeddings (MiniLM)",
    "made": "Made clusters",
    "wide": "Made clusters, twice as long",
    "words": "Words",
}
LEAST = 0.9
"""The recall that the pictures begin with."""
COLOURS = {
    "polmrs": "#1b6ca8",
    "faiss": "#c8500a",
    "hnswlib": "#5a8f29",
    "usearch": "#8e44ad",
    "turbovec": "#b8860b",
}
MARKS = "os^Dvph"


def draw(rows: Sequence[dict[str, Any]], title: str, to: Path) -> None:
    """One colour a library, one mark an index; what has settings is a line."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    drawn = dict.fromkeys(COLOURS, 0)
    for name, some in groupby(rows, key=lambda row: row["name"]):
        points = sorted((row["recall"], 1e6 / row["batch_us"]) for row in some if row["recall"] >= LEAST)
        library = name.split()[0]
        mark = MARKS[drawn[library] % len(MARKS)]
        drawn[library] += 1
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker=mark, color=COLOURS[library], linewidth=1, markersize=5, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("recall of the true ten")
    axes.set_ylabel("queries a second of CPU, in a batch")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25, which="both")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    # Texts as texts and ids from a fixed salt: small, and the same for the same figures.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "polmrs"}):
        figure.savefig(to, format="svg", metadata={"Date": None})


def section(name: str, measured: dict[str, Any]) -> str:
    """A set's figures, every setting of each index."""
    title = f"## {TITLES[name]}: {measured['size']}"
    versions = ", ".join(f"{package} {version}" for package, version in measured["versions"].items())
    head = (
        f"Commit {measured['commit']}, {measured['date'][:10]}, {measured['machine']}; {versions}.\n\n"
        "| index | setting | recall | batch QPS | alone QPS | build s | load ms | file MB | bytes each in memory |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    lines = [
        f"| {row['name']} | {'' if row['argument'] is None else row['argument']} | {row['recall']:.4f}"
        f" | {1e6 / row['batch_us']:.0f} | {1e6 / row['single_us']:.0f} | {row['build_s']:.1f}"
        f" | {row['load_ms']:.1f} | {row['bytes'] / 1e6:.1f} | {round(row['memory']) if 'memory' in row else ''} |"
        for row in measured["rows"]
    ]
    picture = [] if name == "words" else [f"![Recall and queries a second](img/search_{name}.svg)"]
    return "\n\n".join([title, *picture, "\n".join([head, *lines])])


PAGE = """<!-- Written by `python benches/search_plot.py`. -->
# Search beside other libraries

One thread each; seconds are those of the processor, so that a busy machine flatters nobody. Recall is the share of the true ten
that is found; for words, of the ten that Lucene's formula gives in float64, where tantivy rounds lengths. The file of turbovec holds
codes alone, and its user keeps the vectors. Memory is what a fresh process holds more, for each vector or text, once it has opened
the file and searched it thoroughly; what is mapped leaves vectors in the file, and its scores are those of codes.
`python benches/run.py --only search` measures anew ([how](../benches/README.md#search)).
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Pictures and a page of the last search benchmark.")
    parser.add_argument("--curves", type=Path, default=ROOT / "benches" / "search_curves.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    curves = json.loads(args.curves.read_text())
    (args.docs / "img").mkdir(parents=True, exist_ok=True)
    for name, measured in curves.items():
        if name != "words":
            draw(
                measured["rows"], f"{TITLES[name]}, {measured['size']}", args.docs / f"img/search_{name}.svg"
            )
    sections = [section(name, curves[name]) for name in TITLES if name in curves]
    (args.docs / "search_results.md").write_text("\n".join([PAGE, "\n\n".join(sections)]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
