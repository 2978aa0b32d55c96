"""`polmrs train`: four verbs on made data, a dry run that loads nothing, wrong keys that name the nearest."""

import json
import re
import sys
from types import ModuleType, SimpleNamespace

import polmrs as pm
import pytest
import torch
from models.made import model
from polmrs import cli, config
from polmrs.errors import ConfigError, NotFoundError, OutputExistsError, UsageError
from polmrs.models import Policy, Scores, load
from polmrs.train import Optim, fit
from polmrs.train.command import run
from polmrs.train.estimate import estimate
from polmrs.train.recipe import OBJECTIVES, recipe, recipe_schema
from train.recipes import ROWS, words


@pytest.mark.parametrize("verb", ROWS)
def test_every_verb_trains_and_what_it_saves_loads(home, verb, tmp_path):
    more = ["--set", "epochs=6", "--set", "held_out={share: 0.3, every: 5}", "--set", "schedule=cosine"]
    said = run(words(home, verb, tmp_path / "run", *more))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert "12 steps" in said
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["lr"] < rows[0]["lr"] == 1e-2
    assert [row["step"] for row in rows if "eval_loss" in row] == [5, 10, 12]
    assert (tmp_path / "run" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    kind = config.load(tmp_path / "run" / "run.yml")[0]
    assert kind["objective"]["name"] == next(iter(OBJECTIVES[verb]))
    heads = {"classify": Scores(outputs=3), "reward": Scores(), "prm": pm.models.StepScores()}
    saved = load(tmp_path / "run" / "model", head=heads.get(verb))
    if verb == "classify":
        assert saved.config.id2label == {0: "maybe", 1: "no", 2: "yes"}


def test_a_run_from_its_own_resolved_file_is_the_same_run(home, tmp_path):
    more = ["--set", "steps=3", "--set", "objective.label_smoothing=0.1", "--set", "optim={name: sgd}"]
    run(words(home, "sft", tmp_path / "one", *more))
    resolved = tmp_path / "one" / "run.yml"
    run(["sft", "--config", str(resolved), "--set", f"to={tmp_path / 'two'}"])
    one, two = (load(tmp_path / name / "model") for name in ("one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    again = config.load(tmp_path / "two" / "run.yml")[0]
    assert again == config.load(resolved)[0] | {"to": str(tmp_path / "two")}
    with pytest.raises(OutputExistsError, match="holds a run"):
        run(words(home, "sft", tmp_path / "one", *more))


def test_a_command_is_the_call_of_fit_that_it_stands_for(home, tmp_path):
    run(words(home, "sft", tmp_path / "run", "--set", "steps=4", "--set", "seed=7", "--set", "micro=2"))
    policy = load(home / "base")
    batches = pm.data.epochs.Epochs(pm.data.read(home / "sft.jsonl").examples(policy), batch=4, seed=7)
    by_hand = fit(policy, batches, pm.finetune.SFT(), steps=4, lr=1e-2, micro=2, seed=7)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["loss"] for row in rows] == [row["loss"] for row in by_hand.rows]


@pytest.mark.parametrize("verb", ROWS)
def test_a_dry_run_shows_a_batch_the_steps_the_tokens_and_the_memory(home, verb, tmp_path):
    said = run(words(home, verb, tmp_path / "run", "--set", "epochs=2", "--dry-run"))
    assert not (tmp_path / "run").exists()
    data = pm.data.read(home / f"{verb}.jsonl")
    tokens = data.examples(load(home / "base")).tokens
    assert f"6 steps of 4 examples, {2 * tokens} tokens in all" in said
    assert "9 examples to train on, 0 held out" in said
    assert "9 records" in said
    assert re.search(r"position +0 +1 +2", said)
    assert "about" in said.splitlines()[-1]


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "lomo"])
def test_the_estimate_of_what_stays_is_exact_and_that_of_activations_is_near(name):
    from torch.autograd.graph import saved_tensors_hooks

    one = Policy(model(dtype=torch.float32, hidden_size=64, intermediate_size=128, num_hidden_layers=4))
    batch, sizes = pm.data.ragged.Batch.of([[5] * 60]), []
    found = estimate(one.model, Optim(name=name), tokens=60, checkpointing=False)
    with saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
        one.logps(batch)
    held = sum(p.nbytes for p in one.parameters())
    assert (found.weights, found.gradients) == (held, 0 if name == "lomo" else held)
    seen = sum(sizes) - held  # saved for the backward pass, less the weights among it
    assert found.activations / 3 < seen < found.activations * 3
    if name == "adamw":
        assert found.optimizer == 2 * held
    assert found.total == sum(vars(found).values())


def test_rankings_train_a_reward_model_by_their_pairs_and_ties_give_none(home, tmp_path):
    rows = [{"prompt": f"{i}", "answers": ["a", "b", "c"], "scores": [2, 1, i % 2]} for i in range(6)]
    file = tmp_path / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tied = run(words(home, "reward", tmp_path / "x", "--set", f"data={file}", "--dry-run"))
    assert "15 examples" in tied  # 3 rows of three pairs, 3 of two
    scored = ["--set", "objective={name: likert, levels: 3}", "--set", f"data={file}", "--set", "steps=2"]
    assert "2 steps" in run(words(home, "reward", tmp_path / "run", *scored))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["step=3"], ConfigError, "step: no such key; the nearest is 'steps'"),
        (["held_out.evry=3"], ConfigError, "held_out.evry: no such key; the nearest is 'every'"),
        (["objective.noize=3"], ConfigError, "objective.noize: no such key; the nearest is 'noise'"),
        (["optim.nme=sgd"], ConfigError, "optim.nme: no such key; the nearest is 'name'"),
        (["optim=adamm"], ConfigError, "the nearest is 'adam'"),
        (["objective.name=dpo"], ConfigError, "objective.name: 'dpo' is none of sft's"),
        (["lr=fast"], ConfigError, 'lr: expected number, got "fast"'),
        (["batch=2.5"], ConfigError, "batch: expected integer, got 2.5"),
        (["door=open"], ConfigError, "door: 'open' is none of padded, packed"),
        (["method=reward"], ConfigError, "the file says 'reward', the command 'sft'"),
        (["steps=1", "epochs=1"], ConfigError, "one or the other"),
        (["held_out.every=3"], ConfigError, "data or share, one of them"),
        (["held_out.share=0.01"], ConfigError, "leaves one side empty"),
        (["model=/nowhere"], NotFoundError, "/nowhere is no folder"),
        (["data=/nowhere.jsonl"], NotFoundError, "nowhere.jsonl"),
        (["max_length=3"], UsageError, r"sft.jsonl:1: .* tokens, but max_length is 3"),
        (["track=[trackio]"], UsageError, "track: trackio is not installed"),
        (["lora.target=[q_proj]"], ConfigError, "lora.target: no such key; the nearest is 'targets'"),
        (
            ["lora.targets=[q_prj]"],
            ConfigError,
            "'q_prj' is no linear layer of Llama.*; the nearest is 'q_proj'",
        ),
        (["lora.targets=nothing"], ConfigError, "lora.targets: nothing: .*not found"),
        (["lora.r=0"], ConfigError, "lora.r: 0 is not 1 or more"),
        (["replay.share=0.1"], ConfigError, "replay.data: is missing"),
        (["replay={data: x, share: 1}"], ConfigError, r"replay.share: 1.0 is not in \(0, 1\)"),
        (["objective.name=continual"], ConfigError, "continual, and no other, goes with replay"),
        (["lr"], ConfigError, "expected key=value"),
    ],
)
def test_what_is_wrong_is_named(home, tmp_path, more, error, message):
    with pytest.raises(error, match=message):
        run(words(home, "sft", tmp_path / "run", *(w for one in more for w in ("--set", one))))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_metrics_go_to_the_tracker_that_is_asked_for(name, home, tmp_path, monkeypatch):
    began, logged = [], []
    service = ModuleType(name)
    service.init = lambda **given: (
        began.append(given) or SimpleNamespace(log=lambda row, step: logged.append((step, row)))
    )
    monkeypatch.setitem(sys.modules, name, service)
    run(words(home, "sft", tmp_path / "run", steps=3, track=f"[{name}]"))
    (given,) = began
    assert (given["name"], given["config"]["lr"]) == ("run", 1e-2)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert logged == [(row["step"], {k: v for k, v in row.items() if k != "step"}) for row in rows]


def test_tensorboard_gets_every_number_in_the_folder_of_the_run(home, tmp_path, monkeypatch):
    made, logged = [], []
    writer = SimpleNamespace(add_scalar=lambda *row: logged.append(row), flush=lambda: None)
    board = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = lambda folder: made.append(folder) or writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    run(words(home, "sft", tmp_path / "run", steps=2, track="[tensorboard]"))
    assert made == [tmp_path / "run" / "tensorboard"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert logged == [(k, v, row["step"]) for row in rows for k, v in row.items() if k != "step"]


def test_a_text_longer_than_the_models_context_is_named(home, tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b" * 70}) + "\n")
    said = words(home, "sft", tmp_path / "run", "--set", f"data={tmp_path / 'long.jsonl'}")
    with pytest.raises(UsageError, match=r"long.jsonl:1: 72 tokens, but max_length is 64"):
        run(said)
    with pytest.raises(ConfigError, match="no example is left"):
        run([*said, "--set", "too_long=drop"])


def test_data_without_examples_is_refused(home, tmp_path):
    for name, text, message in (
        ("empty", "", "no record is left"),
        ("rejected", '{"prompt": "a", "completion": ""}\n' * 2, "2 rejected"),
    ):
        (tmp_path / f"{name}.jsonl").write_text(text)
        with pytest.raises(ConfigError, match=message):
            run(words(home, "sft", tmp_path / "run", "--set", f"data={tmp_path / name}.jsonl"))
    with pytest.raises(ConfigError, match="no column 'kind'"):
        run(words(home, "classify", tmp_path / "run", "--set", "label=kind"))
    with pytest.raises(ConfigError, match="label 'maybe' is none of no, yes"):
        run(words(home, "classify", tmp_path / "run", "--set", "classes=['no', 'yes']"))


def test_a_loss_that_is_nan_ends_the_run_and_names_its_lines(home, tmp_path, monkeypatch, capsys):
    arguments = words(home, "sft", tmp_path / "run", steps=9, lr="1e30", clip="null", optim="sgd", batch=2)
    monkeypatch.setattr(sys, "argv", ["polmrs", "train", *arguments])
    assert cli.main() == 5
    said = capsys.readouterr().err
    assert re.search(
        r"step \d: the (loss|gradient norm) is (nan|inf); examples: .*sft.jsonl:\d, .*sft.jsonl:\d; the batch is in",
        said,
    )
    assert list((tmp_path / "run" / "failed" / "checkpoints").iterdir())


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="lr: is missing"):
        recipe("sft", {"model": "m", "data": "d", "to": "o"})


def test_the_schema_lists_every_key_with_its_default():
    found = recipe_schema("reward")
    assert found["required"] == ["model", "data", "to", "lr"]
    assert found["properties"]["clip"] == {"anyOf": [{"type": "number"}, {"type": "null"}], "default": 1.0}
    assert found["properties"]["method"] == {"const": "reward"}
    names = [one["properties"]["name"]["const"] for one in found["properties"]["objective"]["anyOf"]]
    assert names == list(OBJECTIVES["reward"])
    assert set(recipe_schema()["properties"]) == set(found["properties"])


def test_the_command_line_has_the_exit_codes_of_the_native_verbs(home, tmp_path, monkeypatch, capsys):
    def code(*arguments):
        monkeypatch.setattr(sys, "argv", ["polmrs", *map(str, arguments)])
        return cli.main(), *capsys.readouterr()

    assert json.loads(code("schema", "train", "sft")[1])["title"] == "polmrs train"
    wrong = code("train", *words(home, "sft", tmp_path / "run", "--set", "step=1"))
    assert wrong == (3, "", "polmrs: step: no such key; the nearest is 'steps'\n")
    with pytest.raises(SystemExit) as ended:
        code("train", "sfd")
    assert ended.value.code == 2
