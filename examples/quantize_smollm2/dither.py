"""Take SmolLM2 off the grid that its package stores it on, and see what schemes cost a model that lies on none.

    python examples/quantize_smollm2/dither.py [--work .demo] [--polmrs polmrs] [--threads 2] [--steps 60] [--page FILE]

The base of `make demo` was stored in 4 bits (grid.py), so a codec meets weights that another codec has chosen. Noise as wide as a
step of that grid takes the linear layers off it, and costs the model a lot; a fine-tuning of all weights by `polmrs.fit`, on
worked arithmetic and documentation, makes up for it on such texts. Then both models are coded in several schemes. It takes some
ten minutes on two cores. The table goes to stdout, and with --page into a page of the documentation.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "merge_smollm2"))

import base
import measure
import needs
import run as demo
import schemes
from dithering import Recipe, dithered
from schemes import SCHEMES, perplexities

CODED = (
    "int8, channels",
    "fp8, channels",
    "nf4",
    "mxfp4",
    "int4, groups of 64",
    "int4, zero points, groups of 32",
    "int3, groups of 64",
    "int4, real zero points, groups of 32",
)
"""The schemes that both models are coded in; the last is the packaged model's own grid."""
Losses = Mapping[str, Sequence[float]]
"""Those of held-out sequences, by the name of their text."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Take SmolLM2 off its grid; quantize it before and after.")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="the folder of make demo")
    parser.add_argument("--polmrs", default="polmrs", help="the polmrs command, a name or a path")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of polmrs")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="steps of fine-tuning")
    parser.add_argument("--page", type=Path, help="also write a page of the documentation")
    options = parser.parse_args()
    work: Path = options.work.resolve()
    recipe = Recipe(steps=options.steps)
    try:
        with demo.alone(work):
            polmrs = needs.check(work, options.polmrs)
            demo.quiet_libraries(options.threads)
            quantizer = schemes.Quantizer(polmrs=polmrs, threads=options.threads)
            noisy, rows = results(work, quantizer, recipe)
    except (base.BadPackage, measure.CommandFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lines = table(noisy, rows)
    print("\n".join(lines))
    if options.page:
        options.page.write_text(page(lines, recipe))
    return 0


def results(
    work: Path, quantizer: schemes.Quantizer, recipe: Recipe
) -> tuple[Losses, dict[str, tuple[Losses, Losses]]]:
    """Losses with noise and no training; by scheme, those of the packaged model and of the one that left the grid."""
    packaged, _, texts = demo.origins(work)
    free = dithered(work, packaged, texts, recipe, quantizer.threads)
    models = {"packaged": packaged, "dithered": free}
    rows = {
        "float32": tuple(
            demo.losses(work, f"dithered/{name}", model, texts) for name, model in models.items()
        )
    }
    for name in CODED:
        rows[name] = tuple(
            schemes.losses(work, f"dithered/{name}/{at}", model, SCHEMES[name], quantizer, texts)["losses"]
            for at, model in models.items()
        )
    return free.facts["losses"], rows


def table(noisy: Losses, rows: Mapping[str, tuple[Losses, Losses]]) -> list[str]:
    """Lines of Markdown: perplexities, and what a scheme adds to them."""
    heads = [f"{model}, {text}" for model in ("packaged", "dithered") for text in noisy]
    lines = [f"| scheme | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    found = {
        name: [value for losses in pair for value in perplexities(losses)] for name, pair in rows.items()
    }
    whole = found.pop("float32")
    before = ["", "", *(f"{value:.2f}" for value in perplexities(noisy))]
    lines.append(f"| float32 | {' | '.join(f'{value:.2f}' for value in whole)} |")
    lines.append(f"| float32, before the fine-tuning | {' | '.join(before)} |")
    for name, values in found.items():
        costs = [value / plain - 1 for value, plain in zip(values, whole, strict=True)]
        cells = [f"{value:.2f} ({100 * cost:+.1f} %)" for value, cost in zip(values, costs, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def page(lines: Sequence[str], recipe: Recipe) -> str:
    return "\n".join(
        [
            "<!-- Written by `python examples/quantize_smollm2/dither.py --page docs/quantize_dithered.md`. -->",
            "# What a scheme costs a model that lies on no grid",
            "",
            "SmolLM2-135M-Instruct comes out of its package in 4 bits (Q4_1, groups of 32, real zero points), so weights that a codec",
            "meets there have been chosen by another. *Dithered* is the same model with uniform noise as wide as a step of that grid on",
            f"every linear layer, and then {recipe.steps} steps of `polmrs.fit`, of {recipe.batch * recipe.length} tokens each: half worked arithmetic, half Python's",
            f"documentation, AdamW, {recipe.lr:g}, a cosine. (So it knows both texts better than the packaged model.) Perplexity of {demo.HELD_OUT}",
            f"held-out sequences of {schemes.READING.length} tokens of each text; in brackets, what the scheme adds to that of float32. The last row",
            "is the packaged model's own grid, where it costs nothing, and says nothing about 4 bits; off it, it costs what 4 bits do.",
            "",
            *lines,
            "",
            "Made by `make demo` and then `.venv/bin/python examples/quantize_smollm2/dither.py --page docs/quantize_dithered.md`.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
