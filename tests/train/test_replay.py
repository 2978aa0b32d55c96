"""`replay` of a recipe: continual pre-training from the command line."""

import polmrs as pm
import pytest
from polmrs.config import load as read_yaml
from polmrs.errors import ConfigError
from polmrs.finetune import Continual, Replayed
from polmrs.models import load
from polmrs.train import fit
from polmrs.train.command import run
from polmrs.train.recipe import recipe
from train.recipes import metrics, words, write


@pytest.fixture
def files(tmp_path):
    domain = [{"text": f"case {i} of {i + 1}"} for i in range(12)]
    general = [{"text": "the weather is fine " + "so " * (i % 3)} for i in range(8)]
    return write(tmp_path / "domain.jsonl", domain), write(tmp_path / "general.jsonl", general)


def said(home, files, to, *more, **settings):
    domain, general = files
    replay = f"{{data: {general}, share: 0.25}}"
    return words(home, "sft", to, *more, **({"data": domain, "replay": replay} | settings))


@pytest.mark.method("sft.continual")
def test_a_command_is_the_call_of_fit_that_it_stands_for(home, files, tmp_path):
    run(said(home, files, tmp_path / "run", epochs=2))
    one = load(home / "base")
    domain, general = (pm.data.read(file).examples(one) for file in files)
    stream = Replayed(domain, general, share=0.25, batch=4)
    by_hand = fit(one, stream, Continual(), steps=8, lr=1e-2)  # 12 examples twice, 3 of 4 a step
    rows = metrics(tmp_path / "run")
    assert [row["loss"] for row in rows] == [row["loss"] for row in by_hand.rows]
    assert rows[-1]["domain"] < rows[0]["domain"]
    assert all("replay" in row for row in rows)
    resolved = read_yaml(tmp_path / "run" / "run.yml")[0]
    assert resolved["objective"] == {"name": "continual"}
    assert resolved["replay"]["share"] == 0.25


def test_what_is_held_out_measures_the_gain_and_the_forgetting(home, files, tmp_path):
    run(said(home, files, tmp_path / "run", steps=4, held_out="{share: 0.25, every: 2}"))
    rows = [row for row in metrics(tmp_path / "run") if "eval_loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert all(row["eval_domain"] != row["eval_replay"] for row in rows)
    apart = {"steps": 2, "held_out": f"{{data: {files[0]}, every: 2}}"}
    run(said(home, files, tmp_path / "apart", **apart))
    (row,) = [row for row in metrics(tmp_path / "apart") if "eval_loss" in row]
    assert row["eval_domain"] == row["eval_loss"]
    assert "eval_replay" not in row


def test_a_dry_run_counts_both(home, files, tmp_path):
    text = run(said(home, files, tmp_path / "run", "--dry-run"))
    assert "12 examples to train on, 0 held out, 8 to replay" in text
    assert "4 steps of 4 examples" in text


def test_replay_is_for_language_models_alone():
    values = {"model": "m", "data": "d", "to": "o", "lr": 1, "replay": {"data": "x"}}
    with pytest.raises(ConfigError, match="replay: for sft, not for reward"):
        recipe("reward", values)
    with pytest.raises(ConfigError, match=r"objective.name: 'sft'; continual, and no other"):
        recipe("sft", values | {"objective": {"name": "sft"}})
