"""Time and memory of `polmrs quantize` on a whole checkpoint, beside llm-compressor and auto-round on the same files.

    python benches/quantize.py [--only NAME] [--no-peers] [--reps N] [--out FILE]

NAME is `w4a16`, `fp8`, `nvfp4` or `hqq`. The checkpoint is a Llama of 266 M parameters in bf16 whose layers are as long
as those of a model of a billion, in groups of 128 for `w4a16`. llm-compressor writes compressed-tensors as we do; ours runs a second
time with `--compat`, and the tensors of the two are compared bit for bit. auto-round (`w4a16`) writes its own format, which is that of
GPTQ. `hqq` has no peer that writes files. A peer's seconds are those of its call, without the import of torch. Asked of `w4a16`:
at most 1 CPU second, and 300 MB.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from checkpoints import HOME, Checkpoint, llama
from measure import SAMPLE_S, Run, measured, warm
from record import HISTORY, ROOT, Measurement, record

POLMRS = ROOT / "target" / "release" / "polmrs"
THREADS = 2
SCHEMES = {
    "w4a16": (["w4a16"], {"llmcompressor": "W4A16", "auto-round": "W4A16"}),
    "fp8": (["fp8"], {"llmcompressor": "FP8_DYNAMIC"}),
    "nvfp4": (["nvfp4"], {"llmcompressor": "NVFP4A16"}),
    "hqq": (["w4a16", "--group", "64", "--asym", "--method", "hqq"], {}),
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


def theirs(peer: str, model: Path, out: Path, scheme: str) -> dict[str, float | str]:
    """What one call of a peer took."""
    python = ROOT / ".peers" / peer / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} is missing: make peers NAME={peer}")
    shutil.rmtree(out, ignore_errors=True)
    script = Path(__file__).with_name("quantize_peer.py")
    command = [python, script, peer, model, out, scheme, str(THREADS)]
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
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
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
        f"load average {os.getloadavg()[0]:.1f}\n\n| scheme | by | wall s | CPU s | MB |\n|---|---|---|---|---|"
    )
    for name, (said, peers) in SCHEMES.items():
        if args.only not in (None, name):
            continue
        run = ours(model, out, said, args.reps)
        peak = ours(model, out, said, 1, sample_s=SAMPLE_S).peak_mib * 1.048576
        print(f"| {name} | polmrs | {run.wall:.2f} | {run.cpu:.2f} | {peak:.0f} |", flush=True)
        if name == "w4a16":
            missed += [f"w4a16: {run.cpu:.2f} CPU s"] * (run.cpu > ASKED_CPU_S)
            missed += [f"w4a16: {peak:.0f} MB"] * (peak > ASKED_MB)
        line = Measurement(
            name=f"quantize.{name}",
            size=f"{MODEL.elements / 1e6:.0f} M parameters, bf16, {THREADS} threads",
            median=run.wall,
            unit="s",
            cpu=run.cpu,
        )
        told = {} if args.no_peers else peers
        for peer, scheme in told.items():
            took = theirs(peer, model, peer_out, scheme)
            print(f"| | {peer} | {took['seconds']:.1f} | {took['cpu']:.1f} | {took['mb']:.0f} |", flush=True)
            if peer == "llmcompressor" and name in ("w4a16", "fp8"):
                ours(model, out, [*said, "--compat"], 1)
                missed += [f"{name}: {tensor} is not the peer's" for tensor in different(out, peer_out)[:3]]
            record(
                args.out,
                replace(
                    line,
                    peer=peer,
                    peer_version=str(took["version"]),
                    peer_median=float(took["seconds"]),
                    peer_cpu=float(took["cpu"]),
                    ratio=float(took["seconds"]) / run.wall,
                ),
            )
        if not told:
            record(args.out, line)
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(peer_out, ignore_errors=True)
    for miss in missed:
        print(miss, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
