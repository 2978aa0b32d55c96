"""Time and memory of a step of supervised fine-tuning beside TRL's SFTTrainer and a plain loop over transformers.

    python benches/train.py [--only SIZE] [--no-peers] [--reps N] [--out FILE]

SIZE is `4x512`, `4x2048` or `1x8192`: rows x tokens of a step. The model has SmolLM2-135M's shape and random weights; float32,
AdamW, activation checkpointing and 2 threads for everybody, in processes of their own (`train_step.py`), one after the other.
The plain loop holds all logits. Asked of `4x512` and `4x2048`: at most TRL's time and 1.05 times the plain loop's; at most
0.70 of TRL's peak of resident memory, and 0.4 of its peak above the static floor: weights, gradients and Adam's two moments,
4 bytes each, and what the imports take. Asked of `1x8192`: a peak below 6 GB. The first losses are asked to agree to 1e-4.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from checkpoints import HOME
from record import HISTORY, ROOT, Measurement, record
from turns import is_built

PEER = "trl-1.16"
THREADS = 2
SIZES = {"4x512": (4, 512), "4x2048": (4, 2048), "1x8192": (1, 8192)}
ASKED_PLAIN, ASKED_PEAK, ASKED_ABOVE, ASKED_MB, ASKED_LOSS = 1.05, 0.70, 0.4, 6000.0, 1e-4
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PARAMETERS = 134_515_008


def model() -> Path:
    """The folder of the model, made once, with a tokenizer for TRL."""
    out = HOME / "smollm2-shape"
    if (out / "tokenizer.json").exists():
        return out
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    shutil.rmtree(out, ignore_errors=True)
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(**SHAPE))
    assert sum(p.numel() for p in made.parameters()) == PARAMETERS
    made.save_pretrained(out)
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "?": 3}
    tokens = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="?")))
    tokens.add_special_tokens({"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"})
    tokens.save_pretrained(out)
    return out


def step(contestant: str, size: str, steps: int) -> dict[str, Any]:
    """What `train_step.py` tells of a contestant."""
    python = ROOT / ".peers" / PEER / "bin/python" if contestant == "trl" else Path(sys.executable)
    script = Path(__file__).with_name("train_step.py")
    words = [python, script, contestant, model(), *SIZES[size], steps, THREADS]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(THREADS),
    }
    done = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{contestant} {size}: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told | {"floor": told["runtime"] + 16 * PARAMETERS / 1e6}


def missed(size: str, ours: dict[str, Any], others: dict[str, dict[str, Any]]) -> list[str]:
    """What of the above does not hold."""
    found = []

    def ask(what: str, value: float, most: float) -> None:
        if value > most:
            found.append(f"{size}: {what} {value:.3g}, at most {most:.3g} is asked")

    if size == "1x8192":
        ask("peak in MB", ours["peak"], ASKED_MB)
    for name, other in others.items():
        ask(f"loss beside {name}'s, difference", abs(ours["loss"] / other["loss"] - 1), ASKED_LOSS)
        ask(f"time / {name}'s", ours["seconds"] / other["seconds"], ASKED_PLAIN if name == "plain" else 1.0)
    if trl := others.get("trl"):
        ask("peak / TRL's", ours["peak"] / trl["peak"], ASKED_PEAK)
        above = (ours["peak"] - ours["floor"]) / (trl["peak"] - trl["floor"])
        ask("peak above the floor / TRL's", above, ASKED_ABOVE)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Time steps of fine-tuning.")
    parser.add_argument("--only", choices=SIZES, help="one size")
    parser.add_argument("--no-peers", action="store_true", help="leave TRL out")
    parser.add_argument("--reps", type=int, default=3, help="timed steps of each")
    parser.add_argument("--out", type=Path, default=HISTORY, help="the file of JSON lines to add to")
    args = parser.parse_args()
    if with_trl := not args.no_peers:
        with_trl = is_built(PEER)
    misses = []
    print(f"load average {os.getloadavg()[0]:.1f}\n\n| size | | s | CPU s | peak MB | floor MB | loss |")
    print("|---|---|---|---|---|---|---|")
    for size, (rows, length) in SIZES.items():
        if args.only not in (None, size):
            continue
        rivals = [] if size == "1x8192" else ["plain", *(["trl"] if with_trl else [])]
        told = {name: step(name, size, args.reps + 1) for name in ["polmrs", *rivals]}
        for name, one in told.items():
            cells = f"{one['seconds']:.2f} | {one['cpu']:.2f} | {one['peak']:.0f} | {one['floor']:.0f}"
            print(f"| {size} | {name} | {cells} | {one['loss']:.5f} |", flush=True)
        ours = told.pop("polmrs")
        misses += missed(size, ours, told)
        for name, other in told.items() or [(None, None)]:
            for figure, unit in (("seconds", "s"), ("peak", "MB")):
                record(
                    args.out,
                    Measurement(
                        name=f"train.{'sft' if figure == 'seconds' else 'sft_peak'}",
                        size=f"SmolLM2's shape, {rows} x {length} tokens, f32, {THREADS} threads",
                        median=ours[figure],
                        unit=unit,
                        cpu=ours["cpu"] if figure == "seconds" else None,
                        peer={"plain": "transformers", "trl": "trl", None: None}[name],
                        peer_version=other["version"] if other else None,
                        peer_median=other[figure] if other else None,
                        peer_cpu=other["cpu"] if other and figure == "seconds" else None,
                        ratio=other[figure] / ours[figure] if other else None,
                    ),
                )
    for miss in misses:
        print(miss, file=sys.stderr)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
