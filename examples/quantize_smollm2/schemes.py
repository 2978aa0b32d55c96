"""A model in a scheme: what the files hold, how far its weights and its layers' outputs are off, and its losses."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import corpora
import evaluate
import grid
import measure
import needs
from stage import Stage, source, stage

READING = evaluate.Reading()
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
    # What the packaged model lies on. No file has it, so this one is arithmetic (grid.py).
    "int4, real zero points, groups of 32": [],
}
ON_THE_GRID = 1e-3
"""A scheme that loses less than this of the packaged weights has their grid."""


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """The polmrs command, and how many threads it has."""

    polmrs: str
    threads: int

    def inputs(self, model: str, said: Sequence[str]) -> dict[str, Any]:
        """What a stage depends on that quantizes the model of this key."""
        return {
            "model": model,
            "said": list(said),
            "polmrs": needs.build_of(self.polmrs),
            "code": [source(file) for file in (__file__, grid.__file__, measure.__file__)],
        }

    def write(self, model: Path, to: Path, said: Sequence[str], *more: str | Path) -> measure.Cost:
        """Quantizes a folder."""
        words = [
            "quantize",
            model,
            to,
            "--scheme",
            *said,
            *more,
            "--threads",
            self.threads,
            "--quiet",
            "--overwrite",
        ]
        return measure.measured([self.polmrs, *map(str, words)], cwd=to.parent)

    def dense(self, model: Path, to: Path, said: Sequence[str]) -> dict[str, Any]:
        """Writes the weights that a quantized folder stands for; tells what the quantization took, and the size of its files."""
        from polmrs import merge

        codes = to.with_name("codes")
        cost = asdict(self.write(model, codes, said))
        merge.merge([codes], method=merge.Passthrough(), to=to, threads=self.threads)
        size = weights_size(codes)
        shutil.rmtree(codes)
        return {"cost": cost, "bytes": size}


def losses(
    work: Path,
    at: str,
    model: Stage,
    said: Sequence[str],
    quantizer: Quantizer,
    texts: Sequence[corpora.Corpus],
) -> Mapping[str, Any]:
    """Losses of a model in a scheme, or on the packaged model's grid if nothing is said; with its cost and size."""

    def build(out: Path) -> dict[str, Any]:
        out.mkdir(parents=True)
        dense = out / "dense"
        told = quantizer.dense(model.folder, dense, said) if said else on_the_grid(model.folder, dense)
        found = evaluate.losses(dense, texts, READING)
        shutil.rmtree(dense)
        return {"losses": found, **told}

    inputs = {"codes": quantizer.inputs(model.key, said), **evaluate.inputs(model.key, texts, READING)}
    return stage(work, at, inputs, build).facts


def errors(
    work: Path,
    at: str,
    model: Stage,
    packaged: Stage,
    said: Sequence[str],
    quantizer: Quantizer,
    statistics: Stage,
) -> Mapping[str, float]:
    """The mean over layers of the errors of weight and output, and of the weight of the packaged model."""

    def build(out: Path) -> dict[str, float]:
        out.mkdir(parents=True)
        to = out / "codes"
        file = statistics.folder / "stats.safetensors"
        if said:
            quantizer.write(model.folder, to, said, "--stats", file)
            found = {"weight": reported(to, "relative"), "output": reported(to, "output")}
            quantizer.write(packaged.folder, to, said, "--report")
            found["packaged"] = reported(to, "relative")
            shutil.rmtree(to)
            return found
        return {
            **errors_of_grid(model.folder, file),
            "packaged": errors_of_grid(packaged.folder, file)["weight"],
        }

    inputs = {**quantizer.inputs(model.key, said), "packaged": packaged.key, "statistics": statistics.key}
    return stage(work, at, inputs, build).facts


def statistics(work: Path, at: str, model: Stage, texts: Sequence[corpora.Corpus], sequences: int) -> Stage:
    """A statistics file of a model's layers on training text."""
    from polmrs import quantize

    def build(out: Path) -> dict[str, Any]:
        from transformers import AutoTokenizer

        out.mkdir(parents=True)
        tokenizer = AutoTokenizer.from_pretrained(model.folder)
        passages = [passage for text in texts for passage in text.train[:sequences]]
        ids = corpora.sequences(passages, tokenizer, length=READING.length)
        return quantize.collect(
            model.folder, ids, to=out / "stats.safetensors", source="the demo's training text"
        )

    inputs = {
        "code": [source(file) for file in (__file__, evaluate.__file__)],
        "model": model.key,
        "texts": [text.inputs() for text in texts],
        "sequences": sequences,
    }
    return stage(work, at, inputs, build)


def perplexities(losses: Mapping[str, Sequence[float]]) -> list[float]:
    """Of each text."""
    return [math.exp(fmean(of_text)) for of_text in losses.values()]


def reported(folder: Path, column: str) -> float:
    """The mean over layers of a column of the report; rows of zero points tell of those before they are rounded."""
    rows = json.loads((folder / "polmrs_report.json").read_text())["tensors"]
    return fmean(row[column] for row in rows if not row["copied"] and "zero" not in row["name"])


def weights_size(folder: Path) -> int:
    """Bytes of a model's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def on_the_grid(model: Path, to: Path) -> dict[str, Any]:
    """Writes a model whose linear layers are rounded to the packaged model's grid."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    rounded = {
        name: grid.rounded(weight) if grid.linear(name) else weight for name, weight in tensors.items()
    }
    shutil.copytree(model, to, ignore=shutil.ignore_patterns("*.safetensors*", "stage.json"))
    save_file(rounded, to / "model.safetensors", metadata={"format": "pt"})
    return {}


def errors_of_grid(model: Path, statistics: Path) -> dict[str, float]:
    """What `errors` tells, of weights rounded to the packaged model's grid."""
    from safetensors import safe_open

    weights, outputs = [], []
    with safe_open(model / "model.safetensors", "pt") as tensors, safe_open(statistics, "pt") as stats:
        for name in filter(grid.linear, tensors.keys()):
            weight, gram = tensors.get_tensor(name), stats.get_tensor(f"{name}::gram")
            off = grid.rounded(weight) - weight
            weights.append(float(off.norm() / weight.norm()))
            outputs.append(math.sqrt(((off @ gram) * off).sum() / ((weight @ gram) * weight).sum()))
    return {"weight": fmean(weights), "output": fmean(outputs)}
