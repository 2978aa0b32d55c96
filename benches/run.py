"""Run the benchmarks, add what they measure to `benches/history.jsonl`, and print it as a table.

    python benches/run.py [--only merge[.PART]] [--no-peers] [--reps N] [--out FILE]
    python benches/run.py --build

`--only` names a benchmark, and a part of it after a dot (`merge.ties`). `--build` times a clean build and weighs the
wheel instead. Options not given are left to each benchmark. Exits with 1 if a benchmark missed what is asked of it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from build import record_build
from record import HISTORY, table

HERE = Path(__file__).resolve().parent
BENCHMARKS = ["merge", "rl", "batch", "quant", "quantize", "search", "train"]


def main() -> int:
    args = arguments()
    args.out.touch()
    before = args.out.stat().st_size
    if args.build:
        record_build(args.out)
        failed = []
    else:
        failed = [
            name
            for name in BENCHMARKS
            if (not args.only or args.only.split(".")[0] == name) and not run(name, args)
        ]
    with args.out.open() as file:
        file.seek(before)
        lines = [json.loads(line) for line in file]
    print(f"\n{table(lines)}\n\nadded to {args.out}")
    for name in failed:
        print(f"benches/{name}.py missed what is asked of it, or failed", file=sys.stderr)
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument(
        "--only", help=f"one benchmark ({', '.join(BENCHMARKS)}), or a part of one: merge.ties"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--reps", type=int, help="runs of each measurement")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    parser.add_argument("--build", action="store_true", help="time a clean build and weigh the wheel instead")
    args = parser.parse_args()
    if args.only and args.only.split(".")[0] not in BENCHMARKS:
        parser.error(f"--only {args.only}: not one of {', '.join(BENCHMARKS)}")
    args.out = args.out.absolute()
    return args


def run(name: str, args: argparse.Namespace) -> bool:
    """Run one benchmark in a process of its own, so that nothing it leaves behind slows the next."""
    part = (args.only or "").partition(".")[2]
    command = [sys.executable, "-u", str(HERE / f"{name}.py"), "--out", str(args.out)]
    command += ["--only", part] if part else []
    command += ["--no-peers"] if args.no_peers else []
    command += ["--reps", str(args.reps)] if args.reps else []
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
