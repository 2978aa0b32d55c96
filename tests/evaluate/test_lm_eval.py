"""lm-evaluation-harness itself asks a policy its three kinds of question, and reports what our own measures find."""

import copy
import json
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch
from models.made import model, tokenizer
from polmrs import evaluate
from polmrs.evaluate.choice import pair_of
from polmrs.generate import Sampling
from polmrs.models import Policy, load, save

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"q": f"{i} + 1 =", "options": [str(i + 1), "none of them", "a"], "gold": i % 3, "text": f"count to {i}"}
    for i in range(9)
]
SHARED = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
"""
TASKS = {
    "choice": """output_type: multiple_choice
doc_to_text: '{{q}}'
doc_to_choice: '{{options}}'
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "rolling": """output_type: loglikelihood_rolling
doc_to_text: ''
doc_to_target: '{{text}}'
metric_list: [{metric: word_perplexity}]
""",
    "writing": """output_type: generate_until
doc_to_text: '{{q}}'
doc_to_target: '{{options[0]}}'
generation_kwargs: {until: ["z"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
""",
}


@pytest.mark.peer("lm-eval")
def test_the_harness_finds_what_our_measures_find(peer, tmp_path):
    save(Policy(model(dtype=torch.float32), tokenizer()), tmp_path / "model")
    one, rows = load(tmp_path / "model"), copy.deepcopy(ROWS)
    sampling = Sampling(temperature=0.0, most=6, stop=("z",))
    written = evaluate.generation_accuracy(one, [row["q"] for row in rows], ["?"] * 9, sampling=sampling)
    for row, text in list(zip(rows, written.texts, strict=True))[:4]:
        row["options"][0] = text.partition("z")[0]  # four answers are right
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(SHARED.format(name=name, folder=tmp_path) + text)
    command = [peer("lm-eval"), ROOT / "peers" / "lm_eval_oracle.py", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python"), "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())

    questions = [
        evaluate.Question(prompt=r["q"], options=tuple(f" {o}" for o in r["options"]), answer=r["gold"])
        for r in rows
    ]
    choices = evaluate.multiple_choice(one, questions)
    assert found["choice"]["acc"] == pytest.approx(choices.accuracy.value)
    scored = [
        [p / len(o) for p, o in zip(ps, r["options"], strict=True)]
        for ps, r in zip(choices.logps, rows, strict=True)
    ]
    right = [scores.index(max(scores)) == row["gold"] for scores, row in zip(scored, rows, strict=True)]
    assert found["choice"]["acc_norm"] == pytest.approx(sum(right) / 9)
    logps = evaluate.likelihoods(one, [pair_of(one.tokenizer, "", row["text"]) for row in rows])
    words = sum(len(row["text"].split()) for row in rows)
    assert found["rolling"]["word_perplexity"] == pytest.approx(math.exp(-sum(logps) / words), rel=1e-4)
    assert found["writing"]["exact_match"] >= 4 / 9
