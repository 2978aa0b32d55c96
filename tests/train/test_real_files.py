"""`polmrs train` on data sets as they are published, with a tiny model: what a dry run counts, a few steps learn."""

import gzip
import itertools
import re

import pytest
import torch
from data.tokenizers import tokenizer
from models.made import model
from polmrs.models import Policy, Scores, StepScores, load, save
from polmrs.train.command import run
from train.recipes import metrics, words


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model that reads bytes."""
    folder = tmp_path_factory.mktemp("real")
    made = model(dtype=torch.float32, vocab_size=300, max_position_embeddings=2048)
    save(Policy(made, tokenizer()), folder / "base")
    return folder


@pytest.fixture
def preferences(data, tmp_path):
    """The first 24 pairs of a file of 2,312."""
    with gzip.open(data / "hh_rlhf" / "harmless-base_test.jsonl.gz") as whole:
        head = b"".join(itertools.islice(whole, 24))
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(head))
    return path


def trained(home, verb, file, tmp_path, **more):
    """The rows of six steps, and what a dry run said before them."""
    given = {"data": file, "steps": 6, "too_long": "drop", "max_length": 800, **more}
    said = run(words(home, verb, tmp_path / "run", "--dry-run", **given))
    run(words(home, verb, tmp_path / "run", **given))
    return metrics(tmp_path / "run"), said


def test_instructions_of_llama_factory(home, data, tmp_path):
    rows, said = trained(home, "sft", data / "llamafactory_demo" / "identity.json", tmp_path)
    assert "alpaca: instruction, output" in said
    assert rows[-1]["loss"] < 0.95 * rows[0]["loss"]
    assert sum(row["tokens"] for row in rows) == int(said.split(" tokens in all")[0].rpartition(" ")[2])


def test_preferences_of_anthropic(home, preferences, tmp_path):
    rows, said = trained(home, "reward", preferences, tmp_path, held_out="{share: 0.2, every: 3}")
    assert "24 rows" in said
    counts = re.search(r"(\d+) examples to train on, (\d+) held out", said)
    assert sum(map(int, counts.groups())) == 24 - said.count("tokens, but max_length is 800") > 12
    assert [row["step"] for row in rows if "eval_accuracy" in row] == [3, 6]
    scored = load(tmp_path / "run" / "model", head=Scores())
    before = load(home / "base", head=Scores())
    assert not torch.equal(scored.model.score.weight, before.model.score.weight)


def test_steps_of_proofs(home, data, tmp_path):
    rows, said = trained(home, "prm", data / "prontoqa" / "1hop_0shot_random.json", tmp_path)
    assert "prontoqa" in said
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] == 1  # every step of these proofs is right
    assert load(tmp_path / "run" / "model", head=StepScores()).config.num_labels == 2
