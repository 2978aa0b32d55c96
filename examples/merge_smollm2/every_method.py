"""Merge the demo's two experts by every method of polmrs, and measure what each merge knows.

    python examples/merge_smollm2/every_method.py [--work .demo] [--polmrs polmrs] [--threads 2] [--page FILE]

Goes on from `run.py` (`make demo`), whose base and experts it takes from the work folder. Each merge runs through the
command line with the parameters of METHODS, is evaluated on the same held-out text, and is deleted. Fisher-weighted
averaging and RegMean read statistics files, which this measures on the experts' training text. The table goes to stdout,
and with --page into a page of the documentation.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import base
import corpora
import evaluate
import measure
import needs
import run
from stage import Stage, say, source, stage

EXPERTS = ("arithmetic", "docs")
HALF = {"weight": 0.5}
SPARSE = {"weight": 1.0, "density": 0.5}
MEASURED = 8  # training sequences of each expert that statistics are measured on


@dataclass(frozen=True, kw_only=True)
class Merge:
    """One configuration: parameters of each expert, of all, and whether there is a base."""

    each: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    base: bool = True
    experts: Sequence[str] = EXPERTS
    statistics: bool = False


METHODS: Mapping[str, Merge] = {
    "linear": Merge(each=HALF, base=False),
    "nuslerp": Merge(each=HALF),
    "multislerp": Merge(each=HALF),
    "karcher": Merge(base=False),
    "model_stock": Merge(),
    "task_arithmetic": Merge(each={"weight": 0.7}),
    "metagpt": Merge(),
    "ties": Merge(each=SPARSE),
    "dare_ties": Merge(each=SPARSE),
    "dare_linear": Merge(each={"weight": 0.7, "density": 0.5}),
    "breadcrumbs": Merge(each={"weight": 0.7, "density": 0.9, "gamma": 0.01}),
    "breadcrumbs_ties": Merge(each={"weight": 0.7, "density": 0.9, "gamma": 0.01}),
    "della": Merge(each=SPARSE),
    "della_linear": Merge(each={"weight": 0.7, "density": 0.5}),
    "sce": Merge(parameters={"select_topk": 0.5}),
    "ram": Merge(),
    "ramplus_tl": Merge(),
    "fisher": Merge(base=False, statistics=True),
    "regmean": Merge(base=False, statistics=True),
    # From the base or the first expert to one other model.
    "slerp": Merge(parameters={"t": 0.5}, experts=EXPERTS[1:]),
    "nearswap": Merge(parameters={"t": 1e-4}, experts=EXPERTS[1:]),
    "arcee_fusion": Merge(experts=EXPERTS[1:]),
    "expo": Merge(parameters={"alpha": 0.5}, experts=EXPERTS[:1]),
    "passthrough": Merge(base=False, experts=EXPERTS[:1]),
}
FROM_THE_FIRST_EXPERT = ("slerp", "nearswap", "arcee_fusion")


def main() -> int:
    parser = argparse.ArgumentParser(description="Merge the demo's experts by every method.")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="the folder of run.py")
    parser.add_argument("--polmrs", default="polmrs", help="the polmrs command, a name or a path")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of polmrs")
    parser.add_argument("--page", type=Path, help="also write a page of the documentation")
    options = parser.parse_args()
    with run.alone(options.work):
        polmrs = needs.check(options.work, options.polmrs)
        run.quiet_libraries(options.threads)
        rows = results(options.work, polmrs, options.threads)
    lines = table(rows)
    print("\n".join(lines))
    if options.page:
        options.page.write_text(page(lines))
    return 0


def results(work: Path, polmrs: str, threads: int) -> dict[str, dict[str, Any]]:
    """Losses of the base, the experts and every merge; a merge's configuration and seconds too."""
    start, experts, texts = run.origins(work)
    rows: dict[str, dict[str, Any]] = {}
    for name, model in {"base": start, **experts}.items():
        rows[name] = {"losses": run.losses(work, name, model, texts)}
    measured = [stage(work, f"statistics/{name}", statistics_inputs(experts[name], text), partial(
        statistics, experts[name].folder, text)) for name, text in zip(EXPERTS, texts, strict=True)]  # fmt: skip
    for name, merge in METHODS.items():
        config = configuration(name, merge)
        keys = [model.key for model in (start, *experts.values(), *(measured if merge.statistics else ()))]
        inputs = {
            "config": config,
            "models": keys,
            "polmrs": needs.build_of(polmrs),
            "reading": asdict(run.READING),
            "code": [source(evaluate.__file__), source(measure.__file__)],
        }
        build = partial(merged, work, polmrs, threads, config, texts)
        rows[name] = {"config": config, **stage(work, f"every/{name}", inputs, build).facts}
    return rows


def configuration(name: str, merge: Merge) -> dict[str, Any]:
    """A merge configuration, whose paths lead from the work folder."""
    path = "./statistics/{}/stats.safetensors"
    models = [
        {"model": f"./{expert}", "parameters": {
            **merge.each, **({"statistics": path.format(expert)} if merge.statistics else {})}}
        for expert in merge.experts
    ]  # fmt: skip
    origin = "arithmetic" if name in FROM_THE_FIRST_EXPERT else "base"
    based = {"base_model": f"./{origin}"} if merge.base else {}
    return {
        "merge_method": name,
        **based,
        "models": models,
        "parameters": dict(merge.parameters),
        "dtype": "float32",
    }


def merged(
    work: Path, polmrs: str, threads: int, config: dict[str, Any], texts: Sequence[corpora.Corpus], out: Path
) -> Mapping[str, Any]:
    """Merge, evaluate, delete."""
    out.mkdir(parents=True)
    file = work / "every.yml"
    file.write_text(json.dumps(config, indent=1))
    to = out / "model"
    command = [
        polmrs,
        "merge",
        file.name,
        str(to.relative_to(work)),
        "--threads",
        str(threads),
        "--overwrite",
    ]
    cost = asdict(measure.measured(command, cwd=work))
    losses = evaluate.losses(to, texts, run.READING)
    shutil.rmtree(to)
    return {"losses": losses, "cost": cost}


def statistics_inputs(expert: Stage, text: corpora.Corpus) -> dict[str, Any]:
    return {"code": source(__file__), "model": expert.key, "text": text.inputs(), "sequences": MEASURED}


def statistics(model: Path, text: corpora.Corpus, out: Path) -> Mapping[str, Any]:
    """A statistics file: Gram matrices of every linear layer's inputs, and the diagonal Fisher information.

    The Fisher information is the empirical one: the mean over sequences of the squared gradient of their loss.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids_BT = torch.tensor(corpora.sequences(text.train[:MEASURED], tokenizer, length=run.READING.length))
    grams: dict[str, torch.Tensor] = {}

    def watch(name: str, x_BTD: torch.Tensor) -> None:
        flat = x_BTD.detach().flatten(0, -2)
        grams[name] = grams.get(name, 0) + flat.T @ flat

    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Linear) and not name.endswith("lm_head"):
            layer.register_forward_pre_hook(lambda _, inputs, name=name: watch(f"{name}.weight", inputs[0]))
    parameters = dict(network.named_parameters())
    fisher = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for ids_T in ids_BT:
        loss = network(input_ids=ids_T[None], labels=ids_T[None], use_cache=False).loss
        for name, gradient in zip(
            parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True
        ):
            fisher[name] += gradient.square() / len(ids_BT)
    tokens = torch.tensor(ids_BT.numel())
    tensors = {f"{name}::fisher": value for name, value in fisher.items()}
    for name, gram in grams.items():
        tensors |= {f"{name}::gram": (gram + gram.T) / 2, f"{name}::count": tokens.clone()}
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "schema": "polmrs.stats/1",
        "model": "the demo's expert",
        "source": f"{text.name}, training text",
    }
    save_file(tensors, out / "stats.safetensors", metadata=about)
    return {"sequences": len(ids_BT)}


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown; the best loss of a merge of both experts on each text, and on average, in bold."""
    means = {
        name: [sum(row["losses"][text]) / len(row["losses"][text]) for text in EXPERTS]
        for name, row in rows.items()
    }
    full = {name: [*pair, sum(pair) / 2] for name, pair in means.items()}
    both = [name for name in METHODS if len(METHODS[name].experts) == 2 or name in FROM_THE_FIRST_EXPERT]
    best = [min(full[name][column] for name in both) for column in range(3)]
    lines = ["| model | parameters | arithmetic | docs | mean | merge s |", "|---|---|---|---|---|---|"]
    for name, values in full.items():
        cells = [
            f"**{value:.3f}**" if name in both and value == least else f"{value:.3f}"
            for value, least in zip(values, best, strict=True)
        ]
        seconds = f"{rows[name]['cost']['seconds']:.2f}" if "cost" in rows[name] else ""
        lines.append(f"| {name} | {shown(rows[name].get('config'))} | {' | '.join(cells)} | {seconds} |")
    return lines


def shown(config: Mapping[str, Any] | None) -> str:
    """A configuration in few words."""
    if config is None:
        return ""
    each = {key: value for key, value in config["models"][0]["parameters"].items() if key != "statistics"}
    words = [f"{key} {value}" for key, value in {**each, **config["parameters"]}.items()]
    models = [model["model"].removeprefix("./") for model in config["models"]]
    if models != list(EXPERTS):
        origin = config.get("base_model", "").removeprefix("./")
        words.insert(0, f"{origin} to {models[0]}" if origin else models[0])
    return ", ".join(words)


def page(lines: Sequence[str]) -> str:
    return "\n".join(
        [
            "<!-- Written by `python examples/merge_smollm2/every_method.py --page docs/merge_results.md`. -->",
            "# Every merge method on two fine-tunes",
            "",
            f"Held-out loss in nats per token, over {run.HELD_OUT} sequences of {run.READING.length} tokens of each text, of",
            "SmolLM2-135M-Instruct, of two short fine-tunes of it, and of their merges (f32). Lower is better; the least of the",
            "merges of both experts is in bold. A row shows one setting of its method, not the best one: the settings were",
            "chosen before, and not tuned. Fisher information and Gram matrices were measured on",
            f"{MEASURED} training sequences of each expert.",
            "",
            *lines,
            "",
            "Made by `make demo` and then `.venv/bin/python examples/merge_smollm2/every_method.py --page",
            "docs/merge_results.md`. The seconds are those of one run of `polmrs merge` with two threads, on whatever else the",
            "machine was doing; [the benchmarks](https://github.com/polmrs/polmrs/tree/main/benches) measure speed.",
            "",
        ]
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (base.BadPackage, measure.CommandFailed) as error:
        say(f"error: {error}")
        sys.exit(1)
