"""What the demo has to show: rows of results as a table for the terminal, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evaluate import Difference, difference

SCHEMA = "polmrs.demo/1"
TEXTS = ("arithmetic", "docs")
COLUMNS = "{:<16} {:<25} {:<25} {:>7} {:>9}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model: its held-out loss per sequence, by text; what its training told, or what its merge cost."""

    name: str
    kind: Literal["base", "expert", "merge"]
    losses: Mapping[str, Sequence[float]]
    training: Mapping[str, Any] | None = None
    merge: Mapping[str, Any] | None = None

    def loss(self, text: str) -> float:
        """Mean loss over the held-out sequences of one text."""
        return sum(self.losses[text]) / len(self.losses[text])

    def against(self, base: "Row", text: str) -> Difference:
        """Compare with another model on one text, in pairs of sequences."""
        return difference(self.losses[text], base.losses[text])


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out for the terminal; the first one is the base."""
    base, *_ = rows
    lines = [COLUMNS.format("model", *(f"loss {text}" for text in TEXTS), "merge s", "peak MiB")]
    for row in rows:
        cells = [f"{row.loss(text):.3f}" + _shift(row, base, text) for text in TEXTS]
        lines.append(COLUMNS.format(row.name, *cells, *_costs(row)).rstrip())
    return "\n".join(lines)


def experts(rows: Sequence[Row]) -> str:
    """Say of each expert how far the training took it from the base."""
    return "\n".join(
        f"expert {row.name}: {row.training['tokens']:,} tokens; "
        f"{100 * row.training['moved_float32']:.1f} % of the weights moved, "
        f"{100 * row.training['moved_bfloat16']:.1f} % if rounded to bfloat16; "
        f"|delta| / |base| = {100 * row.training['delta_over_base']:.2f} %"
        for row in rows
        if row.training
    )


def document(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """Give the same results, and the losses of every sequence, as one JSON object."""
    base, *_ = rows
    models = []
    for row in rows:
        loss = {
            text: {
                "mean": row.loss(text),
                "difference_to_base": asdict(row.against(base, text)),
                "per_sequence": list(row.losses[text]),
            }
            for text in TEXTS
        }
        extra = {"training": row.training, "merge": row.merge}
        told = {name: value for name, value in extra.items() if value}
        models.append({"name": row.name, "kind": row.kind, "loss": loss, **told})
    return {"schema": SCHEMA, **about, "models": models}


def _shift(row: Row, base: Row, text: str) -> str:
    if row is base:
        return ""
    shift = row.against(base, text)
    return f" ({shift.mean:+.3f} ± {shift.standard_error:.3f})"


def _costs(row: Row) -> tuple[str, str]:
    if not row.merge:
        return "", ""
    peak = row.merge["peak_private_mib"]
    return f"{row.merge['seconds']:.2f}", "-" if peak is None else f"{peak:.0f}"
