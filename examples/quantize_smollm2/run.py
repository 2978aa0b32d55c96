"""Quantize a fine-tune of a real language model with polmrs in every scheme, and see what each one costs.

    python examples/quantize_smollm2/run.py [--work .demo] [--polmrs polmrs] [--threads 2]

Goes on from `examples/merge_smollm2/run.py` (`make demo`), whose documentation expert it takes from the work folder. Each
scheme runs through the command line; perplexity is that of the weights that the files stand for, in float32, on the
held-out text of both kinds. The table goes to stdout; quantized.json and quantized.png stay in the work folder.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "merge_smollm2"))

import base  # noqa: E402
import corpora  # noqa: E402
import evaluate  # noqa: E402
import measure  # noqa: E402
import needs  # noqa: E402
import run as demo  # noqa: E402
from stage import Stage, source, stage  # noqa: E402

MODEL = "docs"
# The packaged model lies on a grid of 4 bits in groups of 32 whose zero points are real (Q4_1), and a short fine-tune does
# not take it off. No scheme here matches that grid: zero points of these files are whole codes.
SCHEMES: Mapping[str, Sequence[str]] = {
    "int8, channels": ["w8a16"],
    "fp8, channels": ["fp8"],
    "int4, zero points, groups of 32": ["w4a16", "--group", "32", "--asym"],
    "nvfp4": ["nvfp4"],
    "nf4": ["nf4"],
    "mxfp4": ["mxfp4"],
    "int4, groups of 64": ["w4a16", "--group", "64"],
    "int4, groups of 64, mse": ["w4a16", "--group", "64", "--method", "mse"],
    "int4, zero points, groups of 64": ["w4a16", "--group", "64", "--asym"],
    "int4, zero points, groups of 64, hqq": ["w4a16", "--group", "64", "--asym", "--method", "hqq"],
    "int3, groups of 64": ["w3a16", "--group", "64"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Quantize the demo's documentation expert in every scheme.")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="the folder of make demo")
    parser.add_argument("--polmrs", default="polmrs", help="the polmrs command, a name or a path")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of polmrs")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    try:
        with demo.alone(work):
            polmrs = needs.check(work, options.polmrs)
            demo.quiet_libraries(options.threads)
            rows = results(work, polmrs, options.threads)
    except (base.BadPackage, measure.CommandFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (work / "quantized.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, work / "quantized.png")
    print("\n".join(table(rows)))
    print(f"\nsee {work / 'quantized.json'} and {work / 'quantized.png'}")
    return 0


def results(work: Path, polmrs: str, threads: int) -> dict[str, dict[str, Any]]:
    """Losses, size, error and cost of the model as it is and of each scheme."""
    _, experts, texts = demo.origins(work)
    model = experts[MODEL]
    weights = sum(file.stat().st_size for file in model.folder.glob("*.safetensors"))
    whole = {"losses": demo.losses(work, MODEL, model, texts), "bytes": weights}
    rows: dict[str, dict[str, Any]] = {"float32": whole}
    for name, said in SCHEMES.items():
        inputs = {
            "model": model.key,
            "said": list(said),
            "polmrs": needs.build_of(polmrs),
            "reading": asdict(demo.READING),
            "code": [source(__file__), source(evaluate.__file__), source(measure.__file__)],
        }
        build = partial(quantized, work, model, polmrs, said, threads, texts)
        rows[name] = dict(stage(work, f"quantized/{name}", inputs, build).facts)
    return rows


def quantized(
    work: Path,
    model: Stage,
    polmrs: str,
    said: Sequence[str],
    threads: int,
    texts: Sequence[corpora.Corpus],
    out: Path,
) -> dict[str, Any]:
    """Quantize, measure, delete."""
    out.mkdir(parents=True)
    to, dense = out / "model", out / "dense"
    scheme, *settings = said
    words = ["quantize", str(model.folder.relative_to(work)), str(to.relative_to(work)), "--scheme", scheme]
    command = [polmrs, *words, *settings, "--threads", str(threads), "--quiet"]
    cost = asdict(measure.measured(command, cwd=work))
    size = sum(file.stat().st_size for file in to.glob("*.safetensors"))
    error = restore(to, model.folder, dense)
    losses = evaluate.losses(dense, texts, demo.READING)
    shutil.rmtree(to)
    shutil.rmtree(dense)
    return {"losses": losses, "cost": cost, "bytes": size, "error": error}


def restore(quantized: Path, model: Path, dense: Path) -> float:
    """Write the weights that a quantized folder stands for, in float32; gives their distance over the norm of the model's."""
    from polmrs.quantize import from_format
    from safetensors.torch import load_file, save_file

    stated = json.loads((quantized / "config.json").read_text())["quantization_config"]["quant_method"]
    format = {"bitsandbytes": "bnb"}.get(stated, stated)
    tensors = {
        name: tensor for file in quantized.glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    plain = {name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()}
    lost = norm = 0.0
    for name, weight in plain.items():
        module = name.removesuffix("weight")
        parts = {
            key.removeprefix(module): tensor for key, tensor in tensors.items() if key.startswith(module)
        }
        if set(parts) == {"weight"} and parts["weight"].shape == weight.shape:
            continue
        back = from_format(parts, format=format)
        lost += float((back - weight).double().square().sum())
        norm += float(weight.double().square().sum())
        plain[name] = back
    shutil.copytree(model, dense, ignore=shutil.ignore_patterns("*.safetensors*", "stage.json"))
    save_file(plain, dense / "model.safetensors", metadata={"format": "pt"})
    return math.sqrt(lost / norm)


def perplexities(row: Mapping[str, Any]) -> list[float]:
    return [math.exp(fmean(losses)) for losses in row["losses"].values()]


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    texts = [f"perplexity, {name}" for name in rows["float32"]["losses"]]
    lines = [f"| scheme | MB | weight error | {' | '.join(texts)} | s |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        error = f"{row['error']:.4f}" if "error" in row else ""
        seconds = f"{row['cost']['seconds']:.2f}" if "cost" in row else ""
        cells = " | ".join(f"{value:.2f}" for value in perplexities(row))
        lines.append(f"| {name} | {row['bytes'] / 1e6:.0f} | {error} | {cells} | {seconds} |")
    return lines


def draw(rows: Mapping[str, Mapping[str, Any]], to: Path) -> None:
    """A bar a scheme: perplexity on the text that the model was trained for, and the size beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(rows)[::-1]
    heights = [perplexities(rows[name])[-1] for name in names]
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
