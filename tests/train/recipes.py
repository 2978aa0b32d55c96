"""Words of ``polmrs train`` for a tiny model and rows of every kind."""

import json

import torch
from models.made import model, tokenizer
from polmrs.models import Policy, save

ROWS = {
    "sft": [{"prompt": f"{i} + 1 = ", "completion": str(i + 1)} for i in range(9)],
    "classify": [{"text": f"say {w}", "label": w} for w in ("yes", "no", "maybe") * 3],
    "reward": [{"prompt": f"{i}?", "chosen": " good", "rejected": " bad"} for i in range(9)],
    "prm": [
        {"prompt": f"{i}?", "completions": ["a one", "a two"], "labels": [True, i > 4]} for i in range(9)
    ],
}


def furnish(folder, **shape):
    """A model with its tokenizer in ``base``, and a file of rows for every verb."""
    save(Policy(model(dtype=torch.float32, **shape), tokenizer()), folder / "base")
    for verb, rows in ROWS.items():
        write(folder / f"{verb}.jsonl", rows)
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(home, verb, to, *more, **settings):
    """``more`` are words, ``settings`` keys of the recipe."""
    said = {"model": home / "base", "data": home / f"{verb}.jsonl", "to": to, "lr": "1e-2", "batch": 4}
    return [
        verb,
        *(w for key, value in (said | settings).items() for w in ("--set", f"{key}={value}")),
        *more,
    ]


def metrics(folder):
    """The rows of a run, without what the clock says."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
