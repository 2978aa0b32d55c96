"""Times steps of supervised fine-tuning: `python benches/train_step.py CONTESTANT MODEL ROWS LENGTH STEPS THREADS`.

CONTESTANT is `polmrs`, `plain` (a loop over a transformers model with its own loss, whose logits are whole) or `trl` (SFTTrainer;
run it with the peer's Python). All train the same rows in the same order with torch's AdamW in float32, activation
checkpointing and clipping at 1. Prints `{"seconds", "cpu", "peak", "runtime", "loss", "version"}`: the median of all steps but the
first, in MB the largest resident memory and that of the imports alone, and the loss of the first step.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median

LR, CLIP = 1e-5, 1.0
Lap = Callable[[], None]


def rows(vocabulary: int, n: int, length: int) -> list[list[int]]:
    """Token ids, the same for every contestant."""
    import torch

    random = torch.Generator().manual_seed(0)
    return torch.randint(3, vocabulary, (n, length), generator=random).tolist()


def polmrs(model: str, data: list[list[int]], batch: int, lap: Lap) -> list[float]:
    import polmrs as pm
    from polmrs.data.epochs import Epochs
    from polmrs.data.ragged import Batch

    examples = [Batch.of([row]) for row in data]
    run = pm.fit(
        pm.load(model),
        Epochs(examples, batch=batch, shuffle=False),
        pm.finetune.SFT(),
        steps=len(data) // batch,
        lr=LR,
        clip=CLIP,
        listeners=[lambda _: lap()],
    )
    return [row["loss"] for row in run.rows]


def plain(model: str, data: list[list[int]], batch: int, lap: Lap) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    made.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(made.parameters(), lr=LR, weight_decay=0.0)
    losses = []
    for at in range(0, len(data), batch):
        ids = torch.tensor(data[at : at + batch])
        loss = made(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        del loss
        lap()
    return losses


def trl(model: str, data: list[list[int]], batch: int, lap: Lap) -> list[float]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Laps(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            lap()

    config = SFTConfig(
        output_dir=f"{model}/trl",
        max_steps=len(data) // batch,
        learning_rate=LR,
        per_device_train_batch_size=batch,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        max_grad_norm=CLIP,
        max_length=None,
        bf16=False,
        gradient_checkpointing=True,
        use_cpu=True,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        train_sampling_strategy="sequential",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list([{"input_ids": row} for row in data]),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Laps()],
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "grad_norm" in row]


def imports(contestant: str) -> None:
    """What a contestant has in memory before it does anything."""
    import torch  # noqa: F401
    from transformers import LlamaForCausalLM  # noqa: F401

    if contestant == "polmrs":
        from polmrs.train import fit  # noqa: F401
    if contestant == "trl":
        from trl import SFTTrainer  # noqa: F401


def status(key: str) -> float:
    """A line of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1.024 / 1000


def main(contestant: str, model: str, batch: str, length: str, steps: str, threads: str) -> None:
    imports(contestant)
    import torch

    torch.set_num_threads(int(threads))
    vocabulary = json.loads(Path(model, "config.json").read_text())["vocab_size"]
    data = rows(vocabulary, int(batch) * int(steps), int(length))
    runtime, laps = status("VmRSS:"), []
    losses = {"polmrs": polmrs, "plain": plain, "trl": trl}[contestant](
        model, data, int(batch), lambda: laps.append((time.perf_counter(), time.process_time()))
    )
    wall, cpu = (median(b[i] - a[i] for a, b in pairwise(laps)) if laps[1:] else 0.0 for i in (0, 1))
    told = {"seconds": wall, "cpu": cpu, "peak": status("VmHWM:"), "runtime": runtime, "loss": losses[0]}
    print(json.dumps(told | {"version": version("trl" if contestant == "trl" else "transformers")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
