"""TRL 1.16's SFTTrainer and RewardTrainer beside `fit`: the same data in the same order, every step's loss and gradient norm.

Where TRL normalises otherwise: its RewardTrainer takes the mean over pairs of each micro-batch, then over micro-batches; with
full micro-batches, as here, that is our mean over the pairs of the step. Its SFTTrainer divides by the tokens of the step, as
we do.
"""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from models.made import examples, model
from polmrs import align, finetune
from polmrs.data.ragged import Batch
from polmrs.models import Scores, Tokens, load
from polmrs.train import fit
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

ORACLE = Path(__file__).parents[2] / "peers" / "trl_train_oracle.py"
STEPS, MICRO, ACCUMULATE, LR = 20, 4, 2, 1e-3
ROWS = STEPS * MICRO * ACCUMULATE


def save(folder, auto, **more):
    model(dtype=torch.float32, auto=auto, **more).save_pretrained(folder)
    words = {f"w{i}": i for i in range(3, 50)} | {"<pad>": 0, "<bos>": 1, "<eos>": 2}
    tokens = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w3")))
    tokens.add_special_tokens({"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"})
    tokens.save_pretrained(folder)


def theirs(python, folder, trainer, rows):
    task = {
        "trainer": trainer,
        "rows": rows,
        "steps": STEPS,
        "lr": LR,
        "micro": MICRO,
        "accumulate": ACCUMULATE,
    }
    (folder / "task.json").write_text(json.dumps(task))
    done = subprocess.run([python, ORACLE, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text())


def compare(folder, head, objective, data, found):
    size = MICRO * ACCUMULATE
    batches = [data[i : i + size] for i in range(0, ROWS, size)]
    run = fit(load(folder / "model", head=head), batches, objective, steps=STEPS, lr=LR, micro=MICRO)
    assert len(found["loss"]) == STEPS
    assert [row["loss"] for row in run.rows] == pytest.approx(found["loss"], rel=1e-4)
    assert [row["grad_norm"] for row in run.rows] == pytest.approx(found["grad_norm"], rel=1e-4)


@pytest.mark.peer("trl-1.16")
@pytest.mark.method("sft.full")
def test_twenty_steps_of_sft_are_those_of_trl(peer, tmp_path):
    save(tmp_path / "model", AutoModelForCausalLM)
    data = examples(ROWS)
    rows = [{"input_ids": e.ids.tolist(), "completion_mask": e.weights.int().tolist()} for e in data]
    found = theirs(peer("trl-1.16"), tmp_path, "sft", rows)
    compare(tmp_path, Tokens(), finetune.SFT(), data, found)


@pytest.mark.peer("trl-1.16")
@pytest.mark.method("rl.reward-model")
def test_twenty_steps_of_a_reward_model_are_those_of_trl(peer, tmp_path):
    save(tmp_path / "model", AutoModelForSequenceClassification, num_labels=1)
    made = [torch.split(e.ids, e.lengths.tolist()) for e in examples(ROWS, sequences=2)]
    margins = [i % 5 / 8 for i in range(ROWS)]
    rows = [
        {"chosen_ids": a.tolist(), "rejected_ids": b.tolist(), "margin": m}
        for (a, b), m in zip(made, margins, strict=True)
    ]
    found = theirs(peer("trl-1.16"), tmp_path, "reward", rows)
    data = [Batch.of(pair, per_example={"margin": m}) for pair, m in zip(made, margins, strict=True)]
    compare(tmp_path, Scores(), align.BradleyTerry(centering=0.1), data, found)
