"""What TRL 1.16's SFTTrainer makes of rows: `.peers/trl-1.16/bin/python peers/trl_tokens_oracle.py FOLDER`.

Reads the model and tokenizer in FOLDER/model and FOLDER/task.json: `sft`, lists of rows by name, each a data set of its own, and
`assistant_only`, the names of those whose loss is on assistant turns. Writes FOLDER/out.json: for each name, `input_ids` and the
mask of learned tokens of each row.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Prepares every data set and writes the tokens."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    task = json.loads((folder / "task.json").read_text())
    found = {}
    for name, rows in task["sft"].items():
        config = SFTConfig(
            output_dir=str(folder / "trl"),
            max_length=None,
            assistant_only_loss=name in task["assistant_only"],
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        trainer = SFTTrainer(
            model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
        lengths = batch["attention_mask"].sum(1).tolist()
        found[name] = [
            {"ids": ids[:n], "mask": [label != -100 for label in labels[:n]]}
            for ids, labels, n in zip(
                batch["input_ids"].tolist(), batch["labels"].tolist(), lengths, strict=True
            )
        ]
    (folder / "out.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
