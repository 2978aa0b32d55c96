"""Time and memory of `polmrs quantize` on a whole checkpoint, beside llm-compressor on the same files.

    python benches/quantize.py [--only NAME] [--no-peers] [--reps N] [--out FILE]

NAME is `w4a16`, `fp8`, `nvfp4` or `hqq`. The checkpoint is a Llama of 266 M parameters in bf16 whose layers are as long
as those of a model of a billion. Both write compressed-tensors, groups of 128 for `w4a16`; ours runs a second time with
`--compat`, and the tensors of the two are compared bit for bit. `hqq` has no peer that writes files. The peer's seconds are
those of its call, without the import of torch. Asked of `w4a16`: at most 1 CPU second, and 300 MB.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from checkpoints import HOME, Checkpoint, llama
from measure import SAMPLE_S, Run, measured, warm
from record import HISTORY, ROOT, Measurement, record

POLMRS = ROOT / "target" / "release" / "polmrs"
PEER = ROOT / ".peers" / "llmcompressor" / "bin" / "python"
THREADS = 2
SCHEMES = {
    "w4a16": (["w4a16"], "W4A16"),
    "fp8": (["fp8"], "FP8_DYNAMIC"),
    "nvfp4": (["nvfp4"], "NVFP4A16"),
    "hqq": (["w4a16", "--group", "64", "--asym", "--method", "hqq"], None),
}
ASKED_CPU_S, ASKED_MB = 1.0, 300.0
MODEL = Checkpoint(
    folder="llama-266m",
    fine_tunes=0,
    shapes=llama(
        {
            "hidden_size": 2048,
            "intermediate_size": 5504,
            "num_hidden_layers": 6,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "vocab_size": 1000,
        }
    ),
)


def ours(model: Path, out: Path, said: list[str], reps: int, **options: float) -> Run:
    """The median of several runs."""
    runs = []
    for _ in range(reps):
        shutil.rmtree(out, ignore_errors=True)
        words = ["quantize", model, out, "--scheme", *said, "--threads", str(THREADS), "--quiet"]
        runs.append(measured([POLMRS, *words], **options))
    return Run.median(runs)


def theirs(model: Path, out: Path, scheme: str) -> dict[str, float | str]:
    """What one call of the peer took."""
    if not PEER.exists():
        sys.exit(f"{PEER} is missing: make peers NAME=llmcompressor")
    shutil.rmtree(out, ignore_errors=True)
    script = Path(__file__).with_name("quantize_peer.py")
    command = [PEER, script, model, out, scheme, str(THREADS)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(THREADS),
    }
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    told: dict[str, float | str] = json.loads(answer.stdout.splitlines()[-1])
    return told


def different(a: Path, b: Path) -> list[str]:
    """The names of tensors that two folders do not share bit for bit."""
    from safetensors.torch import load_file

    def tensors(folder: Path) -> dict[str, object]:
        return {
            name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()
        }

    mine, other = tensors(a), tensors(b)
    same = {name for name in mine.keys() & other.keys() if _bits(mine[name]) == _bits(other[name])}
    return sorted((mine.keys() | other.keys()) - same)


def _bits(tensor) -> bytes:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def main() -> int:
    parser = argparse.ArgumentParser(description="Time polmrs quantize.")
    parser.add_argument("--only", choices=SCHEMES, help="one scheme")
    parser.add_argument("--no-peers", action="store_true", help="leave the peer out")
    parser.add_argument("--reps", type=int, default=5, help="runs of each measurement")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    args = parser.parse_args()
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--quiet", "-p", "polmrs-cli"], cwd=ROOT, check=True
    )
    model, *_ = MODEL.models()
    warm(list(model.iterdir()))
    out, peer_out = HOME / "quantized", HOME / "quantized-peer"
    missed = []
    print(
        f"load average {os.getloadavg()[0]:.1f}\n\n| scheme | wall s | CPU s | MB | peer, wall s | peer, CPU s | peer, MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (said, scheme) in SCHEMES.items():
        if args.only not in (None, name):
            continue
        run = ours(model, out, said, args.reps)
        peak = ours(model, out, said, 1, sample_s=SAMPLE_S).peak_mib * 1.048576
        peer = theirs(model, peer_out, scheme) if scheme and not args.no_peers else None
        cells = [f"{peer[key]:.1f}" for key in ("seconds", "cpu", "mb")] if peer else ["-"] * 3
        print(f"| {name} | {run.wall:.2f} | {run.cpu:.2f} | {peak:.0f} | {' | '.join(cells)} |", flush=True)
        if name == "w4a16":
            missed += [f"w4a16: {run.cpu:.2f} CPU s"] * (run.cpu > ASKED_CPU_S)
            missed += [f"w4a16: {peak:.0f} MB"] * (peak > ASKED_MB)
        if peer and name in ("w4a16", "fp8"):
            ours(model, out, [*said, "--compat"], 1)
            missed += [f"{name}: {tensor} is not the peer's" for tensor in different(out, peer_out)[:3]]
        record(
            args.out,
            Measurement(
                name=f"quantize.{name}",
                size=f"{MODEL.elements / 1e6:.0f} M parameters, bf16, {THREADS} threads",
                median=run.wall,
                unit="s",
                cpu=run.cpu,
                peer="llmcompressor" if peer else None,
                peer_version=str(peer["version"]) if peer else None,
                peer_median=float(peer["seconds"]) if peer else None,
                peer_cpu=float(peer["cpu"]) if peer else None,
                ratio=float(peer["seconds"]) / run.wall if peer else None,
            ),
        )
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(peer_out, ignore_errors=True)
    for miss in missed:
        print(miss, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
