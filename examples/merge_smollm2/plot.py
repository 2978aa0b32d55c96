"""One picture: each model is a point, its held-out loss on one text against that on the other."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from report import TEXTS, Row

COLOURS = {"base": "#444444", "expert": "#c8500a", "merge": "#1b6ca8"}
DPI = 150
GAP_POINTS = 14  # from one label to the next
ASIDE_POINTS = 42  # from the nearest point to the column of labels


def save(rows: Sequence[Row], to: Path) -> None:
    """Draw `rows` (the first is the base) and write a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    base, *_ = rows
    figure = Figure(figsize=(8, 5.4), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.11, 0.87, 0.77))
    for row in rows:
        x, y = _place(row)
        colour = COLOURS[row.kind]
        if row is not base:
            bars = [row.against(base, text).standard_error for text in TEXTS]
            axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], color=colour, alpha=0.35, linewidth=1)
        axes.plot(x, y, "o", color=colour, markersize=7)
    axes.margins(x=0.08, y=0.1)
    axes.set_xlabel(f"held-out loss, {TEXTS[0]} (nats per token)")
    axes.set_ylabel(f"held-out loss, {TEXTS[1]} (nats per token)")
    axes.set_title("SmolLM2-135M-Instruct, two experts, and their merges", loc="left", pad=24)
    note = "lower left is better at both; bars: paired standard error of the difference to the base"
    axes.text(0, 1.025, note, transform=axes.transAxes, fontsize=9, color=COLOURS["base"])
    axes.grid(alpha=0.25)
    _label(axes, rows)
    figure.savefig(to)


def _label(axes: Any, rows: Sequence[Row]) -> None:
    """Name the points in two columns, inwards of those on the left and of those on the right."""
    axes.autoscale_view()
    points = axes.transData.transform([_place(row) for row in rows]) * 72 / DPI
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    for aside, align, inmost in ((ASIDE_POINTS, "left", max), (-ASIDE_POINTS, "right", min)):
        here = [(y, x, row) for (x, y), row in zip(points, rows, strict=True) if (x <= middle) == (aside > 0)]
        here.sort(key=lambda point: point[0])
        column = inmost((x for _, x, _ in here), default=middle) + aside
        for (y, x, row), height in zip(here, _spread([y for y, _, _ in here]), strict=True):
            colour = COLOURS[row.kind]
            axes.annotate(
                row.name,
                xy=_place(row),
                xytext=(column - x, height - y),
                textcoords="offset points",
                color=colour,
                ha=align,
                va="center",
                arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.5, "lw": 0.7},
            )


def _place(row: Row) -> tuple[float, float]:
    return row.loss(TEXTS[0]), row.loss(TEXTS[1])


def _spread(heights: Sequence[float]) -> list[float]:
    """Move ascending heights a gap apart, as little as least squares allow (isotonic regression)."""
    pools: list[list[float]] = []
    for rank, height in enumerate(heights):
        pools.append([height - rank * GAP_POINTS])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    flat = [fmean(pool) for pool in pools for _ in pool]
    return [height + rank * GAP_POINTS for rank, height in enumerate(flat)]
