"""Time and memory of `polmrs merge`, against the copy limit of the machine and against mergekit.

    python benches/merge.py [--only NAME] [--no-peers] [--reps N] [--peer-reps N] [--out FILE]

NAME is a method, `memory`, `bounded` or `start`. README.md, beside this file, says what each number means.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from agree import alike, equal
from checkpoints import CROWD, HOME, LARGE, LLAMA, MANY, Checkpoint, holes, read
from measure import SAMPLE_S, Command, Run, measured, warm
from record import HISTORY, ROOT, Measurement, record

POLMRS = ROOT / "target" / "release" / "polmrs"
COPY_LIMIT = ROOT / "target" / "release" / "examples" / "copy_limit"
STREAM = ROOT / "target" / "release" / "examples" / "stream"
PEER = ROOT / ".peers" / "mergekit" / "bin"
OUT = HOME / "out"

THREADS = 2
MEMORY_LIMIT_MIB = 512
CROWD_LIMIT_S = 3.0
PEER_ENV = {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A merge to measure, and what is asked of it."""

    each: tuple[dict[str, Any], ...]  # parameters of every fine-tune that takes part
    parameters: dict[str, Any] = field(default_factory=dict)
    base: bool = True
    times_limit: float | None = None  # at most so many times the copy limit
    times_faster: float | None = None  # at least so many times faster than mergekit
    beyond: float | None = None  # the largest share of results that may differ; None: compared statistically
    peer_reps: int = 3

    def inputs(self, models: Sequence[Path]) -> list[Path]:
        """The folders it reads, of a base and its fine-tunes."""
        return [*models[: int(self.base)], *models[1 : 1 + len(self.each)]]


WEIGHTS = (1.0, 0.7, 0.5)
TIES = tuple({"weight": weight, "density": 0.2} for weight in WEIGHTS)
DARE = tuple({"weight": weight, "density": 0.5} for weight in WEIGHTS)
CRUMBS = tuple({"weight": weight, "density": 0.2, "gamma": 0.01} for weight in WEIGHTS)
NONE: tuple[dict[str, Any], ...] = ({}, {}, {})
PLAIN = tuple({"weight": weight} for weight in WEIGHTS)

METHODS = {
    "linear": Method(each=PLAIN, base=False, times_limit=1.5, beyond=1e-4),
    "slerp": Method(each=({},), parameters={"t": 0.4}, times_limit=2.0, beyond=1e-4),
    "task_arithmetic": Method(each=PLAIN, times_limit=1.5, beyond=1e-4),
    # About 1 % of the magnitudes equal a threshold, where mergekit keeps arbitrary ones.
    "ties": Method(each=TIES, times_limit=5.0, times_faster=20.0, beyond=2e-2, peer_reps=1),
    "dare_ties": Method(each=DARE, times_faster=10.0, peer_reps=1),
    "dare_linear": Method(each=DARE, times_faster=10.0, peer_reps=1),
    "breadcrumbs": Method(each=CRUMBS, times_limit=5.0, times_faster=20.0, beyond=2e-2, peer_reps=1),
    "della": Method(each=DARE, times_limit=5.0, times_faster=20.0, peer_reps=1),
    "sce": Method(
        each=NONE,
        parameters={"select_topk": 0.2},
        times_limit=5.0,
        times_faster=20.0,
        beyond=2e-2,
        peer_reps=1,
    ),
    "model_stock": Method(each=NONE, times_limit=2.0, beyond=1e-4),
    "nuslerp": Method(each=PLAIN[:2], times_limit=2.0, beyond=1e-4),
    "multislerp": Method(each=PLAIN, times_limit=2.0, beyond=1e-4),
    "karcher": Method(each=NONE, base=False, times_limit=2.0, beyond=1e-4),
    "nearswap": Method(each=({},), parameters={"t": 1e-3}, times_limit=1.5, beyond=1e-4),
    "ram": Method(each=NONE, times_limit=1.5, beyond=1e-4),
    "ramplus_tl": Method(each=NONE, times_limit=2.0, beyond=1e-4),
    "arcee_fusion": Method(each=({},), times_limit=5.0, beyond=5e-2),
}


def main() -> int:
    args = arguments()
    packages = ["--package", "polmrs-cli", "--bin", "polmrs", "--example", "copy_limit"]
    stream = ["--package", "polmrs-merge", "--example", "stream"]
    for chosen in (packages, stream):
        subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", *chosen], cwd=ROOT, check=True)
    OUT.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], bool]] = {name: partial(speed, name, args) for name in METHODS}
    parts |= {"memory": partial(memory, args.out), "bounded": partial(bounded, args.out)}
    parts |= {
        name: partial(timed, args.reps, args.out) for name, timed in (("safety", safety), ("crowd", crowd))
    }
    parts |= {"start": partial(start, args.out)}
    names = [args.only] if args.only else list(parts)
    kept = [parts[name]() for name in names]
    shutil.rmtree(OUT)
    return 0 if all(kept) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of polmrs merge.")
    parser.add_argument(
        "--only",
        choices=[*METHODS, "memory", "bounded", "safety", "crowd", "start"],
        help="one part [default: all]",
    )
    parser.add_argument("--no-peers", action="store_true", help="leave mergekit out")
    parser.add_argument("--reps", type=int, default=5, help="runs of ours and of the copy limit [default: 5]")
    parser.add_argument("--peer-reps", type=int, help="runs of mergekit [default: 3, of the slow methods 1]")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    args = parser.parse_args()
    if not args.no_peers and not (PEER / "mergekit-yaml").exists():
        parser.error(f"{PEER.parent} is not there: make peers NAME=mergekit, or --no-peers")
    return args


def speed(name: str, args: argparse.Namespace) -> bool:
    """One method on the 506M checkpoint: ours, the copy limit, mergekit, and whether results agree."""
    method = METHODS[name]
    models = LLAMA.models()
    inputs = method.inputs(models)
    files = [folder / "model.safetensors" for folder in inputs]
    config, ours, theirs = OUT / f"{name}.yml", OUT / "ours", OUT / "theirs"
    config.write_text(yaml(name, models))
    merge: Command = [POLMRS, "merge", config, ours, "--threads", str(THREADS), "--quiet"]
    limit: Command = [COPY_LIMIT, OUT / "copy", str(THREADS), *files]

    warm(files)
    runs: list[Run] = []
    limits: list[Run] = []
    for _ in range(args.reps):  # in turn, so that both see the same machine
        settle()
        limits.append(measured(limit))
        settle()
        runs.append(measured(merge))
    our, floor = Run.median(runs), Run.median(limits)
    kept = show(name, "limit", our, floor, our.wall / floor.wall, most=method.times_limit)
    size = f"506M x {len(inputs)}"
    line = Measurement(name=f"merge.{name}", size=size, median=our.wall, unit="s", cpu=our.cpu)
    against(args.out, line, "copy_limit", None, floor, our.wall / floor.wall)
    if args.no_peers:
        return kept

    peer: Command = [PEER / "mergekit-yaml", config, theirs, "--quiet", "--random-seed", "1"]
    warm(files)
    peers: list[Run] = []
    for _ in range(args.peer_reps or method.peer_reps):
        shutil.rmtree(theirs, ignore_errors=True)
        os.sync()
        peers.append(measured(peer, env=PEER_ENV, sample_s=0.1))
    their, idle = Run.median(peers), peer_start()
    bare = Run(wall=their.wall - idle.wall, cpu=their.cpu - idle.cpu)
    kept &= show(name, "mergekit", our, their, their.wall / our.wall, least=method.times_faster)
    kept &= show(name, "mergekit less its start-up", our, bare, bare.wall / our.wall)
    against(args.out, line, "mergekit", peer_version(), their, their.wall / our.wall)
    against(args.out, line, "mergekit less its start-up", peer_version(), bare, bare.wall / our.wall)
    print(f"{name}: mergekit's peak memory: {their.peak_mib:.0f} MiB of its own")
    if method.beyond is None:
        kept &= alike(name, read(models[0]), read(ours), read(theirs))
    else:
        kept &= equal(name, read(ours), read(theirs), method.beyond)
    settle()
    return kept


def yaml(name: str, models: Sequence[Path]) -> str:
    """A mergekit configuration, in the part of YAML that is JSON."""
    method, (base, *tunes) = METHODS[name], models
    document = {
        "merge_method": name,
        **({"base_model": str(base)} if method.base else {}),
        "models": [
            {"model": str(tune), **({"parameters": each} if each else {})}
            for tune, each in zip(tunes, method.each, strict=False)
        ],
        **({"parameters": method.parameters} if method.parameters else {}),
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    return json.dumps(document, indent=2)


def settle() -> None:
    """Remove what earlier runs wrote, but for configurations, and let the disk come to rest."""
    for path in OUT.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".yml":
            path.unlink()
    os.sync()


def against(out: Path, line: Measurement, peer: str, version: str | None, its: Run, ratio: float) -> None:
    fields = vars(line) | {
        "peer": peer,
        "peer_version": version,
        "peer_median": its.wall,
        "peer_cpu": its.cpu,
        "ratio": ratio,
    }
    record(out, Measurement(**fields))


def show(
    name: str,
    peer: str,
    our: Run,
    its: Run,
    ratio: float,
    *,
    most: float | None = None,
    least: float | None = None,
) -> bool:
    """Print one comparison, and say whether it is what was asked."""
    kept = (most is None or ratio <= most) and (least is None or ratio >= least)
    asked = f", asked: <= {most}" if most else f", asked: >= {least}" if least else ""
    print(
        f"{name}: polmrs {our.wall:.2f} s (cpu {our.cpu:.2f}), {peer} {its.wall:.2f} s (cpu {its.cpu:.2f}), "
        f"{ratio:.2f}x{asked}{'' if kept else '  MISSED'}"
    )
    return kept


@cache
def peer_start() -> Run:
    """What mergekit takes to do nothing: importing torch and transformers."""
    return Run.median([measured([PEER / "mergekit-yaml", "--help"], env=PEER_ENV) for _ in range(3)])


@cache
def peer_version() -> str:
    code = "import importlib.metadata as m; print(m.version('mergekit'))"
    return measured([PEER / "python", "-c", code]).stdout.strip()


def memory(out: Path) -> bool:
    """The peak memory of merges on three shapes of checkpoint."""
    kept = True
    for checkpoint in (LLAMA, LARGE, MANY):
        models = checkpoint.models()
        for name in ("linear", "slerp", "ties"):
            config = OUT / "memory.yml"
            config.write_text(yaml(name, models))
            settle()
            command: Command = [POLMRS, "merge", config, OUT / "ours", "--threads", str(THREADS), "--quiet"]
            run = measured(command, sample_s=SAMPLE_S)
            within = 0 < run.peak_mib <= MEMORY_LIMIT_MIB  # 0: it was never seen
            kept &= within
            size = size_of(checkpoint, len(METHODS[name].inputs(models)))
            print(
                f"memory of {name} on {size}: {run.peak_mib:.0f} MiB, asked: <= {MEMORY_LIMIT_MIB}"
                f"{'' if within else '  MISSED'} ({run.wall:.1f} s)"
            )
            record(
                out,
                Measurement(
                    name=f"merge.memory.{name}", size=size, median=run.peak_mib, unit="MiB", cpu=run.cpu
                ),
            )
    settle()
    return kept


def bounded(out: Path) -> bool:
    """The peak memory of merges of models of 7 billion parameters, by element, by row and by histogram, into nothing."""
    kept = True
    base, *tunes = map(str, holes("holes-7b", 3))
    for name, each in {"linear": {}, "ties": {"density": 0.2}, "della": {"density": 0.5}}.items():
        rows = [{"model": tune, "parameters": {"weight": 0.5, **each}} for tune in tunes]
        config = OUT / "bounded.yml"
        with_base = {} if name == "linear" else {"base_model": base}
        config.write_text(json.dumps({"merge_method": name, **with_base, "models": rows}))
        run = measured([STREAM, config, str(THREADS)], sample_s=SAMPLE_S)
        within = 0 < run.peak_mib <= MEMORY_LIMIT_MIB
        kept &= within
        size = f"7B of zeros x {len(rows) + bool(with_base)}"
        print(
            f"memory of {name} on {size}: {run.peak_mib:.0f} MiB, asked: <= {MEMORY_LIMIT_MIB}"
            f"{'' if within else '  MISSED'} ({run.wall:.1f} s)"
        )
        record(
            out,
            Measurement(
                name=f"merge.bounded.{name}", size=size, median=run.peak_mib, unit="MiB", cpu=run.cpu
            ),
        )
    settle()
    return kept


def safety(reps: int, out: Path) -> bool:
    """What it costs to be able to go on, to read the result back, and to report, beside a run that never syncs."""
    models = LLAMA.models()
    config = OUT / "linear.yml"
    config.write_text(yaml("linear", models))
    merge: Command = [POLMRS, "merge", config, OUT / "ours", "--threads", str(THREADS), "--quiet"]
    never: Command = [*merge, "--sync-every", "1TB"]
    ways: dict[str, Command] = {
        "never": never,
        "journal": merge,
        "verify": [*never, "--verify"],
        "report": [*never, "--report"],
    }
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    warm([folder / "model.safetensors" for folder in models[1:]])
    for _ in range(reps):
        for way, command in ways.items():
            settle()
            runs[way].append(measured(command))
    plain = Run.median(runs.pop("never"))
    for way, its in runs.items():
        run = Run.median(its)
        ratio = run.wall / plain.wall
        print(
            f"linear with {way}: {run.wall:.2f} s, {ratio:.2f} times a run that never syncs ({plain.wall:.2f} s)"
        )
        size = f"506M x {len(models) - 1}"
        line = Measurement(name=f"merge.safety.{way}", size=size, median=run.wall, unit="s", cpu=run.cpu)
        against(out, line, "never syncs", None, plain, ratio)
    settle()
    return True


def crowd(reps: int, out: Path) -> bool:
    """Merges of very many small tensors."""
    models = CROWD.models()
    kept = True
    for name in ("linear", "ties"):
        config = OUT / f"{name}.yml"
        config.write_text(yaml(name, models))
        warm([folder / "model.safetensors" for folder in models])
        runs: list[Run] = []
        for _ in range(reps):
            settle()
            runs.append(
                measured([POLMRS, "merge", config, OUT / "ours", "--threads", str(THREADS), "--quiet"])
            )
        run = Run.median(runs)
        within = run.wall <= CROWD_LIMIT_S
        kept &= within
        size = size_of(CROWD, len(METHODS[name].inputs(models)))
        print(
            f"{name} of {size}: {run.wall:.2f} s, asked: <= {CROWD_LIMIT_S:.0f}{'' if within else '  MISSED'}"
        )
        record(
            out, Measurement(name=f"merge.crowd.{name}", size=size, median=run.wall, unit="s", cpu=run.cpu)
        )
    settle()
    return kept


def size_of(checkpoint: Checkpoint, inputs: int) -> str:
    tensors = len(checkpoint.shapes)
    return f"{checkpoint.elements / 1e6:.0f}M in {tensors} tensor{'s' if tensors > 1 else ''} x {inputs}"


def start(out: Path) -> bool:
    """How long the program takes to start, and to plan."""
    config = OUT / "ties.yml"
    config.write_text(yaml("ties", LLAMA.models()))
    timed: list[tuple[str, str, Command, float]] = [
        ("start", "--version", [POLMRS, "--version"], 20.0),
        ("plan", "506M x 4", [POLMRS, "plan", config], 100.0),
    ]
    kept = True
    for name, size, command, most in timed:
        run = Run.median([measured(command) for _ in range(21)])
        within = run.wall * 1e3 <= most
        kept &= within
        print(f"{name}: {run.wall * 1e3:.1f} ms, asked: <= {most:.0f}{'' if within else '  MISSED'}")
        record(out, Measurement(name=f"cli.{name}", size=size, median=run.wall * 1e3, unit="ms", cpu=run.cpu))
    return kept


if __name__ == "__main__":
    sys.exit(main())
