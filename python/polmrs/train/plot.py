"""The curves of a run as a picture; needs matplotlib (``polmrs[plots]``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw(rows: Sequence[Mapping[str, Any]], to: str | Path) -> None:
    """Loss, held-out loss and learning rate over steps, as a PNG.

    Args:
        rows: As in ``metrics.jsonl``.
        to: The file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for key, label, style in (("loss", "loss", "-"), ("eval_loss", "held-out loss", "o-")):
        seen = [(row["step"], row[key]) for row in rows if key in row]
        if seen:
            axes.plot(*zip(*seen, strict=True), style, label=label, markersize=3, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot([row["step"] for row in rows], [row["lr"] for row in rows], color="0.75", linewidth=0.8)
    rate.set_ylabel("learning rate", color="0.5")
    axes.legend(loc="upper right")
    figure.savefig(to, format="png")
