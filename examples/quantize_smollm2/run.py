"""Quantize real models with polmrs in every scheme, and see what each one costs.

    python examples/quantize_smollm2/run.py [--work .demo] [--polmrs polmrs] [--threads 2] [--page FILE]

Goes on from `examples/merge_smollm2/run.py` (`make demo`), whose documentation expert, a fine-tune of SmolLM2, it takes from
the work folder; each scheme also codes an encoder, MiniLM. Everything is quantized through the command line; perplexity and
recall are those of the weights that the files stand for, in float32. The table goes to stdout, and with --page into a page of
the documentation; quantized.json and quantized.png stay in the work folder.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "merge_smollm2"))

import base
import measure
import needs
import recall
import run as demo
import schemes
from neighbours import NEAREST
from schemes import SCHEMES, perplexities
from stage import cpu_seconds, say

MODEL = "docs"
MEASURED = 4  # training sequences of each text that layers' inputs are measured on


def main() -> int:
    parser = argparse.ArgumentParser(description="Quantize the demo's documentation expert in every scheme.")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="the folder of make demo")
    parser.add_argument("--polmrs", default="polmrs", help="the polmrs command, a name or a path")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of polmrs")
    parser.add_argument("--page", type=Path, help="also write a page of the documentation")
    options = parser.parse_args()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        with demo.alone(work):
            polmrs = needs.check(work, options.polmrs)
            demo.quiet_libraries(options.threads)
            rows = results(work, schemes.Quantizer(polmrs=polmrs, threads=options.threads))
            say(f"this run: {cpu_seconds():.0f} CPU s")
    except (base.BadPackage, measure.CommandFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (work / "quantized.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, work / "quantized.png")
    print("\n".join(table(rows, seconds=True)))
    print(f"\nsee {options.work / 'quantized.json'} and {options.work / 'quantized.png'}")
    if options.page:
        options.page.write_text(page(rows))
    return 0


def results(work: Path, quantizer: schemes.Quantizer) -> dict[str, dict[str, Any]]:
    """Losses, sizes, errors, recall and cost of the models as they are and in each scheme."""
    packaged, experts, texts = demo.origins(work)
    model = experts[MODEL]
    inputs = schemes.statistics(work, "quantized/statistics", model, texts, MEASURED)
    encoder = recall.full(work, "quantized/encoder")
    rows: dict[str, dict[str, Any]] = {
        "float32": {
            "losses": demo.losses(work, MODEL, model, texts),
            "bytes": schemes.weights_size(model.folder),
            "encoder": encoder.facts,
        }
    }
    for name, said in SCHEMES.items():
        at = f"quantized/{name}"
        rows[name] = {
            **schemes.losses(work, f"{at}/losses", model, said, quantizer, texts),
            "errors": schemes.errors(work, f"{at}/errors", model, packaged, said, quantizer, inputs),
        }
        if said:
            rows[name]["encoder"] = recall.recall(work, f"{at}/recall", said, quantizer, encoder)
    return rows


def table(rows: Mapping[str, Mapping[str, Any]], *, seconds: bool) -> list[str]:
    """Lines of Markdown."""
    texts = [f"perplexity, {name}" for name in rows["float32"]["losses"]]
    heads = ["scheme", "MB", "weight error", "output error", *texts, "MiniLM, MB", "recall@10"]
    lines = []
    for name, row in rows.items():
        errors, encoder = row.get("errors", {}), row.get("encoder", {})
        mark = " (source grid)" if errors.get("packaged", 1) < schemes.ON_THE_GRID else ""
        cells = [
            name + mark,
            f"{row['bytes'] / 1e6:.0f}" if "bytes" in row else "",
            *(f"{errors[kind]:.4f}" if errors else "" for kind in ("weight", "output")),
            *(f"{value:.2f}" for value in perplexities(row["losses"])),
            f"{encoder['bytes'] / 1e6:.0f}" if encoder else "",
            f"{encoder['recall']:.3f}" if "recall" in encoder else "",
        ]
        if seconds:
            cells.append(f"{row['cost']['seconds']:.2f}" if "cost" in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    heads += ["s"] * seconds
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines]


def page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(
        [
            "<!-- Written by `python examples/quantize_smollm2/run.py --page docs/quantize_results.md`. -->",
            "# Every scheme on two real models",
            "",
            f"SmolLM2-135M-Instruct, fine-tuned on documentation for {demo.RECIPE.steps} steps, and the encoder all-MiniLM-L6-v2, quantized by",
            "`polmrs quantize`. Embeddings stay in float32, and are most of the megabytes of the smaller files.",
            "",
            *table(rows, seconds=False),
            "",
            "- The errors are means over SmolLM2's layers, from `polmrs_report.json`: the norm of what the codes change, over the norm of",
            "  what was there; of the weight, and of the layer's output on the inputs that `polmrs.quantize.collect` measured on",
            f"  {2 * MEASURED} sequences of {schemes.READING.length} tokens of training text.",
            f"- Perplexity is of {demo.HELD_OUT} held-out sequences of {schemes.READING.length} tokens of each text.",
            f"- Recall@10: of the {NEAREST} passages that MiniLM in full precision has nearest to a passage, the share that the quantized",
            f"  encoder finds; {recall.PASSAGES} passages of at most {recall.TOKENS} tokens of Python's documentation, each asking for its neighbours.",
            "- *Source grid*: the packaged model was stored as Q4_1, 4 bits in groups of 32 with real zero points, and so short a fine-tune",
            "  does not take it off. A scheme that loses less than a thousandth of the packaged weights has that grid, and its row says",
            "  nothing about 4 bits elsewhere: it gives the packaged model back. (The fine-tune moved most weights by less than a cell, so it",
            "  is mostly rounded away too.) No scheme that files have has that grid: their zero points are whole codes.",
            "",
            "Made by `make demo` and then `.venv/bin/python examples/quantize_smollm2/run.py --page docs/quantize_results.md`.",
            "[The benchmarks](https://github.com/polmrs/polmrs/tree/main/benches) measure speed.",
            "",
        ]
    )


def draw(rows: Mapping[str, Mapping[str, Any]], to: Path) -> None:
    """A bar a scheme: perplexity on the text that the model was trained for, and the size beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = [name for name, row in rows.items() if "bytes" in row][::-1]
    heights = [perplexities(rows[name]["losses"])[-1] for name in names]
    colours = ["#c8500a" if name == "float32" else "#1b6ca8" for name in names]
    bars = axes.barh(names, heights, color=colours)
    labels = [
        f"{height:.2f}, {rows[name]['bytes'] / 1e6:.0f} MB"
        for name, height in zip(names, heights, strict=True)
    ]
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=2 * max(heights))
    axes.set_xlabel("held-out perplexity, documentation (logarithmic)")
    axes.set_title("SmolLM2-135M-Instruct, a fine-tune of it, quantized", loc="left")
    figure.savefig(to)


if __name__ == "__main__":
    sys.exit(main())
