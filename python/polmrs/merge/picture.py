"""``polmrs report OUT --png FILE``: one figure of a report as a heat map, layers down and kinds of tensors across."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

_LAYER = re.compile(r"^(?P<stack>.*?)\.(?P<layer>\d+)\.(?P<kind>.*)$")


def cells(report: dict[str, Any], key: str) -> tuple[list[str], list[str], list[list[float]]]:
    """The rows (layers, in order), the columns (kinds, in order of appearance) and the values; NaN where there is none."""
    found: dict[tuple[str, str], float] = {}
    layers: dict[tuple[str, int], str] = {}
    kinds: dict[str, None] = {}
    for row in report["tensors"]:
        match = _LAYER.match(row["name"])
        if match is None or row.get(key) is None:
            continue
        stack, number, kind = match["stack"], int(match["layer"]), match["kind"]
        name = layers.setdefault((stack, number), f"{stack}.{number}")
        kinds.setdefault(kind)
        found[name, kind] = row[key]
    rows = [layers[at] for at in sorted(layers)]
    values = [[found.get((row, kind), float("nan")) for kind in kinds] for row in rows]
    return rows, list(kinds), values


def draw(report: dict[str, Any], key: str, file: str) -> None:
    """Writes the picture. Raises ``ModuleNotFoundError`` without matplotlib, ``OSError`` if the file cannot be written."""
    figures: Any = import_module("matplotlib.figure")
    rows, kinds, values = cells(report, key)
    figure = figures.Figure(figsize=(2 + 0.5 * len(kinds), 2 + 0.25 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    if rows:
        figure.colorbar(axes.imshow(values, aspect="auto", interpolation="nearest"), label=key)
    axes.set_xticks(range(len(kinds)), kinds, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(f"{report['method']}: {key}, against {report['reference']}")
    figure.savefig(file, dpi=120, format="png")
