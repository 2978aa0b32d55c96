"""TRL 1.16's SFTTrainer or RewardTrainer on tokens that a test made: `.peers/trl-1.16/bin/python peers/trl_train_oracle.py FOLDER`.

Reads the model and tokenizer in FOLDER/model and FOLDER/task.json: `trainer` (`sft` or `reward`), `rows` in the order to train in
(`input_ids` and `completion_mask`, or `chosen_ids`, `rejected_ids` and `margin`), `steps`, `lr`, `micro` rows a micro-batch and
`accumulate` of them. float32, AdamW without decay, constant rate, clipped at 1. Writes FOLDER/out.json: `loss` and `grad_norm` of
every step.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer


def main() -> None:
    """Trains and writes what every step reported."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    task = json.loads((folder / "task.json").read_text())
    settings = {
        "output_dir": str(folder / "trl"),
        "max_steps": task["steps"],
        "learning_rate": task["lr"],
        "per_device_train_batch_size": task["micro"],
        "gradient_accumulation_steps": task["accumulate"],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
        "disable_tqdm": True,
    }
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = Dataset.from_list(task["rows"])
    if task["trainer"] == "sft":
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        config = SFTConfig(completion_only_loss=True, max_length=None, **settings)
        trainer = SFTTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", dtype=torch.float32)
        config = RewardConfig(center_rewards_coefficient=0.1, max_length=None, **settings)
        trainer = RewardTrainer(model, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "grad_norm" in row]
    found = {key: [row[key] for row in logged] for key in ("loss", "grad_norm")}
    (folder / "out.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
