"""Merge two fine-tunes of a real language model with polmrs, and see what the merges know.

    python examples/merge_smollm2/run.py [--work .demo] [--polmrs polmrs] [--threads 2]

Takes the base model out of an installed package, trains an arithmetic expert and a Python-documentation
expert from it, merges them in four ways through the command line of polmrs, and measures the held-out loss of
all seven on both texts. The table goes to stdout, progress to stderr; results.json and results.png stay
in the work folder.
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import base
import corpora
import evaluate
import finetune
import measure
import needs
import plot
import report
from stage import Stage, cpu_seconds, say, source, stage

HERE = Path(__file__).parent
METHODS = ("linear", "task_arithmetic", "ties", "dare_ties")
RECIPE = finetune.Recipe()
READING = evaluate.Reading()
HELD_OUT = 16  # sequences of each text
SEED = 0


def main() -> int:
    """Run what is not there yet, and show the results."""
    parser = argparse.ArgumentParser(description="Merge two fine-tunes of SmolLM2-135M; evaluate the merges.")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="folder for everything that is made")
    parser.add_argument("--polmrs", default="polmrs", help="the polmrs command, a name or a path")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and of polmrs")
    options = parser.parse_args()
    work: Path = options.work
    try:
        work.mkdir(parents=True, exist_ok=True)
        with alone(work):
            polmrs = needs.check(work, options.polmrs)
            quiet_libraries(options.threads)
            rows = _models(work, polmrs, options.threads)
            _keep(work, rows)
            print(_shown(work, rows))
            say(f"this run: {cpu_seconds():.0f} CPU s")
    except KeyboardInterrupt:
        print(
            f"\ninterrupted: finished stages stay in {work}, the same command goes on there", file=sys.stderr
        )
        return 130
    except (base.BadPackage, measure.CommandFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _models(work: Path, polmrs: str, threads: int) -> list[report.Row]:
    """Build every stage that is missing or out of date: base, experts, merges, and the evaluation of each."""
    start, experts, texts = origins(work)
    merges = {name: _merge(work, name, polmrs, threads, [start, *experts.values()]) for name in METHODS}

    rows = []
    for name, model in {"base": start, **experts, **merges}.items():
        found = losses(work, name, model, texts)
        if name in experts:
            rows.append(report.Row(name=name, kind="expert", losses=found, training=model.facts))
        elif name in merges:
            rows.append(report.Row(name=name, kind="merge", losses=found, merge=model.facts))
        else:
            rows.append(report.Row(name=name, kind="base", losses=found))
    return rows


def origins(work: Path) -> tuple[Stage, dict[str, Stage], list[corpora.Corpus]]:
    """Give the base, the experts by the names of their texts, and the texts."""
    train = RECIPE.steps * RECIPE.batch
    texts = [
        corpora.arithmetic(train=train, held_out=HELD_OUT, seed=SEED),
        corpora.documentation(train=train, held_out=HELD_OUT, seed=SEED),
    ]
    start = stage(work, "base", base.inputs(), base.build)
    experts = {}
    for text in texts:
        inputs = finetune.inputs(start.key, text, RECIPE)
        build = partial(finetune.build, base=start.folder, corpus=text, recipe=RECIPE)
        experts[text.name] = stage(work, text.name, inputs, build)
    return start, experts, texts


def _merge(work: Path, method: str, polmrs: str, threads: int, models: Sequence[Stage]) -> Stage:
    """Merge through the command line, in the work folder, where the relative paths of the YAML file lead."""
    config = f"{method}.yml"
    shutil.copyfile(HERE / config, work / config)
    inputs = {
        "code": source(measure.__file__),
        "config": (HERE / config).read_text(),
        "models": [model.key for model in models],
        "polmrs": needs.build_of(polmrs),
    }

    def build(out: Path) -> Mapping[str, Any]:
        to = str(out.relative_to(work))
        command = [polmrs, "merge", config, to, "--threads", str(threads), "--overwrite"]
        return asdict(measure.measured(command, cwd=work))

    return stage(work, method, inputs, build)


def losses(
    work: Path, name: str, model: Stage, texts: Sequence[corpora.Corpus]
) -> Mapping[str, Sequence[float]]:
    """Evaluate one model; the result is a stage too, whose folder holds nothing but its facts."""
    inputs = evaluate.inputs(model.key, texts, READING)
    return stage(
        work, f"evaluation/{name}", inputs, lambda _: evaluate.losses(model.folder, texts, READING)
    ).facts


def _keep(work: Path, rows: Sequence[report.Row]) -> None:
    """Write results.json and results.png."""
    about = {
        "base": {"package": f"{base.PACKAGE} {base.VERSION}", "file": base.FILE, "sha256": base.SHA256},
        "settings": {
            "seed": SEED,
            "held_out": HELD_OUT,
            "reading": asdict(READING),
            "recipe": asdict(RECIPE),
        },
        "versions": {
            "python": sys.version.split()[0],
            **{name: metadata.version(name) for name in needs.MODULES},
        },
    }
    results = report.document(rows, about)
    new = work / "results.json.new"
    new.write_text(json.dumps(results, indent=1) + "\n")
    new.replace(work / "results.json")
    plot.save(rows, work / "results.png")


def _shown(work: Path, rows: Sequence[report.Row]) -> str:
    return f"""
held-out loss, nats per token, {HELD_OUT} sequences of {READING.length} tokens of each text
(in brackets: difference to the base ± its paired standard error)

{report.table(rows)}

{report.experts(rows)}
peak MiB is RssAnon + RssShmem of polmrs; see {work / "results.json"} and {work / "results.png"}"""


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the work folder, so that two runs do not build in it at once."""
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"{work}: another run of this demo is using the folder") from None
        shutil.rmtree(work / ".building", ignore_errors=True)  # what an interrupted run left
        yield


def quiet_libraries(threads: int) -> None:
    """Keep the libraries off the network and the terminal, before they are imported.

    Threads that wait for each other sleep: by default they spin, and where anything else is running that
    makes training several times slower (a forward pass on 2 busy cores: 10 to 20 s spinning, 4 s sleeping).
    """
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_VERBOSITY="error",
        TQDM_DISABLE="1",
        OMP_NUM_THREADS=str(threads),
        MKL_NUM_THREADS=str(threads),
        OMP_WAIT_POLICY="PASSIVE",
    )


if __name__ == "__main__":
    sys.exit(main())
