"""Input gigabytes a second of the quantization codecs on one thread, beside their peers on the same weight.

    python benches/quant.py [--only NAME] [--no-peers] [--reps N] [--out FILE]

NAME is `int4`, `nf4`, `hqq`, `fp8`, `mxfp4`, `nvfp4`, `gptq` or `awq`. The weight is 4096 x 4096 normal float32. A figure is the input's
bytes over the median CPU seconds of the process; a decoder counts the bytes of its float32 output. Encoders make new arrays.
Decoders are measured twice, with new memory and with memory that is used again (`out=`), in turns with what bounds them: filling new
memory with a number (the system clears it first, in pages of 2 MB where numpy may ask for them), filling old memory, and a copy.
A peer runs in a process of its own (`quant_peer.py`), right after ours, on the same file; its codes are compared.

| row | peer |
|---|---|
| int4, groups of 128, packed | compressed-tensors: scales, codes, packing |
| nf4, blocks of 64, packed | bitsandbytes: `quantize_4bit` |
| hqq, 4 bits, groups of 64 | hqq: `Quantizer.quantize` |
| gptq, awq: int4, groups of 128, as files of the format | - |
"""

import os

os.environ["POLMRS_NUM_THREADS"] = "1"  # before the first call

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from polmrs import quantize
from record import HISTORY, Measurement, record
from turns import in_turns

ROOT = Path(__file__).resolve().parents[1]
CODECS = {
    "int4": quantize.Integer(bits=4, group=128),
    "nf4": quantize.NF4(),
    "hqq": quantize.HQQ(bits=4, group=64),
    "fp8": quantize.FP8(),
    "mxfp4": quantize.MXFP4(),
    "nvfp4": quantize.NVFP4(),
    "gptq": quantize.Integer(bits=4, group=128),
    "awq": quantize.Integer(bits=4, group=128, span="affine"),
}
# Codecs that go on to a file's tensors, and back from them.
FORMATS: dict[str, quantize.Format] = {"gptq": "gptq", "awq": "awq"}
PEERS = {"int4": "compressed-tensors", "nf4": "bitsandbytes", "hqq": "hqq"}
# Gigabytes a second of encoding, how many times the peer, and gigabytes a second of decoding into memory that is used again.
ASKED = {"int4": 3.0, "nf4": 1.0, "gptq": 3.0}
ASKED_OF_HQQ = 50
ASKED_BACK = 5.0


def work(name: str, weight: np.ndarray) -> tuple[dict[str, Callable[[], object]], Any]:
    """What is timed of a codec, and what it makes of the weight."""
    codec, out = CODECS[name], np.empty_like(weight)
    if format := FORMATS.get(name):
        made = quantize.to_format(weight, codec, format=format)
        return {
            "encode": lambda: quantize.to_format(weight, codec, format=format),
            "new": lambda: quantize.from_format(made, format=format),
            "again": lambda: quantize.from_format(made, format=format, out=out),
        }, made
    encoded = quantize.encode(weight, codec)
    return {
        "encode": lambda: quantize.encode(weight, codec),
        "new": lambda: quantize.decode(encoded),
        "again": lambda: quantize.decode(encoded, out=out),
    }, encoded


def bounds(weight: np.ndarray) -> dict[str, Callable[[], object]]:
    """What no decoder can beat: writing its output, to new memory and to old; and a copy."""
    old = np.empty_like(weight)
    return {
        "fill new": lambda: np.empty_like(weight).fill(1),
        "fill again": lambda: old.fill(1),
        "copy again": lambda: np.copyto(old, weight),
    }


def peer(name: str, weight: Path, reps: int) -> tuple[dict, np.ndarray | None]:
    """What a peer took, and its packed codes."""
    python = ROOT / ".peers" / PEERS[name] / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} is missing: make peers NAME={PEERS[name]}")
    codes = weight.with_suffix(".codes.npy")
    codes.unlink(missing_ok=True)
    script = Path(__file__).with_name("quant_peer.py")
    answer = subprocess.run(
        [python, script, name, weight, str(reps), codes], check=True, capture_output=True, text=True
    )
    return json.loads(answer.stdout.splitlines()[-1]), np.load(codes) if codes.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the quantization codecs.")
    parser.add_argument("--only", choices=CODECS, help="one codec")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--reps", type=int, default=15, help="runs of each measurement")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    args = parser.parse_args()
    weight = np.random.default_rng(0).standard_normal((4096, 4096)).astype(np.float32)
    missed = []
    print(f"load average {os.getloadavg()[0]:.1f}; gigabytes a second\n")
    print(
        "| codec | encode | decode, new memory | fill new | decode, again | fill again | copy again | peer | ours / theirs |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in CODECS:
            if args.only not in (None, name):
                continue
            contestants, encoded = work(name, weight)
            figures = in_turns({**contestants, **bounds(weight)}, args.reps, time.process_time)
            rates = {what: weight.nbytes / 1e6 / figure.cpu for what, figure in figures.items()}
            rate, back, took = rates["encode"], rates["again"], figures["encode"].cpu / 1e3
            ratio, theirs, version = None, None, None
            if name in PEERS and not args.no_peers:
                file = Path(folder) / f"{name}.npy"
                np.save(file, weight)
                answer, codes = peer(name, file, 1 if name == "hqq" else max(3, args.reps // 5))
                theirs, version = answer["seconds"], answer["version"]
                ratio = theirs / took
                if codes is not None and not np.array_equal(codes, encoded.packed):
                    missed.append(f"{name}: the codes are not the peer's")
            shown = "-" if theirs is None else f"{weight.nbytes / 1e9 / theirs:.3f}"
            times = "-" if ratio is None else f"{ratio:.1f}"
            ours = " | ".join(
                f"{rates[what]:.2f}"
                for what in ("encode", "new", "fill new", "again", "fill again", "copy again")
            )
            print(f"| {name} | {ours} | {shown} | {times} |", flush=True)
            if rate < ASKED.get(name, 0):
                missed.append(f"{name}: {rate:.2f} GB/s is less than {ASKED[name]}")
            if name == "hqq" and ratio is not None and ratio < ASKED_OF_HQQ:
                missed.append(f"hqq: {ratio:.0f} times the peer is less than {ASKED_OF_HQQ}")
            if back < ASKED_BACK:
                missed.append(f"{name}: decoding {back:.2f} GB/s into old memory is less than {ASKED_BACK}")
            size = f"{'x'.join(map(str, weight.shape))}, f32, 1 thread"
            encoding = Measurement(
                name=f"quant.{name}",
                size=size,
                median=1e3 * took,
                unit="ms CPU",
                cpu=took,
                peer=PEERS.get(name) if theirs else None,
                peer_version=version,
                peer_median=1e3 * theirs if theirs else None,
                peer_cpu=theirs,
                ratio=ratio,
            )
            decoding, filling = figures["again"].cpu, figures["fill again"].cpu
            record(args.out, encoding)
            record(
                args.out,
                Measurement(
                    name=f"quant.{name}.decode",
                    size=size,
                    median=decoding,
                    unit="ms CPU",
                    cpu=decoding / 1e3,
                    peer="fill the same memory",
                    peer_median=filling,
                    peer_cpu=filling / 1e3,
                    ratio=decoding / filling,
                ),
            )
    for miss in missed:
        print(miss, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
