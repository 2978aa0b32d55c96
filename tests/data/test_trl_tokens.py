"""Tokens and masks beside those of TRL 1.16's SFTTrainer: plain text and messages, completions and whole conversations.

One difference: TRL's mask has the first token of a text too, which nothing predicts; here its weight is 0.
"""

import json
import os
import subprocess
from pathlib import Path

import polmrs
import pytest
import torch
from data.tokenizers import CHATML, MARKED, tokenizer
from models.made import model
from polmrs.data import read

ORACLE = Path(__file__).parents[2] / "peers" / "trl_tokens_oracle.py"
WORDS = ["one", "zwei drei", "四 五", " six\n", "<b>7</b>"]


def turn(role, text):
    return {"role": role, "content": text}


PLAIN = [{"prompt": f"{a}: ", "completion": f"{b}{a}"} for a in WORDS for b in WORDS]
SETS = {
    "text": [{"text": f"{word} and more"} for word in WORDS],
    "plain": PLAIN,
    "messages": [
        {"prompt": [turn("user", row["prompt"])], "completion": [turn("assistant", row["completion"])]}
        for row in PLAIN
    ],
    "conversations": [
        {
            "messages": [
                turn("system", "be"),
                *(turn(r, f"{w}{r}") for _ in range(2) for r in ("user", "assistant")),
            ]
        }
        for w in WORDS
    ],
}


@pytest.mark.peer("trl-1.16")
@pytest.mark.parametrize(
    ("template", "adds_bos"), [(CHATML, True), (MARKED, False)], ids=["prefix", "marked"]
)
def test_tokens_and_masks_are_those_of_trl(tmp_path, peer, template, adds_bos):
    tokens = tokenizer(template, adds_bos=adds_bos)
    model(dtype=torch.float32, vocab_size=300).save_pretrained(tmp_path / "model")
    tokens.save_pretrained(tmp_path / "model")
    sets = {name: rows for name, rows in SETS.items() if name != "conversations" or template == MARKED}
    task = {"sft": sets, "assistant_only": ["conversations"]}
    (tmp_path / "task.json").write_text(json.dumps(task))
    command = [peer("trl-1.16"), ORACLE, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "out.json").read_text())
    assert set(theirs) == set(sets)
    for name, rows in sets.items():
        ours = read(rows).examples(tokens)
        for i, (batch, row) in enumerate(zip(ours, theirs[name], strict=True)):
            assert batch.ids.tolist() == row["ids"], (name, i)
            assert (batch.weights != 0).tolist() == [False, *row["mask"][1:]], (name, i)


READ = """
import datasets, json, sys
from polmrs.data import read
found = read(datasets.Dataset.from_list(json.loads(sys.argv[1])))
print(json.dumps([len(found), found.account.formats[0], found[0].completion[0].text, found[1].origin]))
"""


@pytest.mark.peer("trl-1.16")
def test_a_data_set_of_datasets_is_read_as_its_rows(peer):
    rows = [{"instruction": word, "input": None, "output": "a", "tags": [word]} for word in WORDS]
    command = [peer("trl-1.16"), "-c", READ, json.dumps(rows)]
    environment = os.environ | {"PYTHONPATH": str(Path(polmrs.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [5, "rows: alpaca: instruction, output", "a", "rows:row 2"]
