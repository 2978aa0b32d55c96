"""One picture: each model is a point, its held-out loss on one text against that on the other."""

from collections.abc import Sequence
from pathlib import Path

from report import TEXTS, Row

COLOURS = {"base": "#555555", "expert": "#d95f02", "merge": "#1b6ca8"}


def save(rows: Sequence[Row], to: Path) -> None:
    """Draw `rows` (the first is the base) and write a PNG file.

    Labels stand in a column at the right in the order of their points, so that they cannot cover each other
    however close the points lie.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    base, *_ = rows
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row in rows:
        x, y = (row.loss(text) for text in TEXTS)
        if row is not base:
            bars = [row.against(base, text).standard_error for text in TEXTS]
            axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], color=COLOURS[row.kind], alpha=0.35, linewidth=1)
        axes.plot(x, y, "o", color=COLOURS[row.kind], markersize=7)
    axes.margins(x=0.08, y=0.12)
    axes.autoscale_view()
    for rank, row in enumerate(sorted(rows, key=lambda row: row.loss(TEXTS[1]))):
        axes.annotate(
            row.name,
            xy=(row.loss(TEXTS[0]), row.loss(TEXTS[1])),
            xytext=(1.06, 0.04 + 0.92 * rank / (len(rows) - 1)),
            textcoords="axes fraction",
            color=COLOURS[row.kind],
            va="center",
            arrowprops={"arrowstyle": "-", "color": COLOURS[row.kind], "alpha": 0.5, "lw": 0.7, "shrinkB": 5},
        )
    axes.set_xlabel(f"held-out loss, {TEXTS[0]} (nats per token)")
    axes.set_ylabel(f"held-out loss, {TEXTS[1]} (nats per token)")
    axes.set_title("SmolLM2-135M, two experts and their merges\n", fontsize=12)
    axes.text(0, 1.02, "lower left is better; bars: paired standard error of the difference to the base",
              transform=axes.transAxes, fontsize=9, color="#555555")  # fmt: skip
    axes.grid(alpha=0.25)
    figure.savefig(to, dpi=150)
