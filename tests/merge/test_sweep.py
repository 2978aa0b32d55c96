"""A sweep: every combination of values merged and scored, the best kept, nothing scored twice."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polmrs.merge as pm
import pytest
import torch
from merge.made import fine_tunes, folder, same_bits, weights
from polmrs.errors import ConfigError, OutputExistsError, UsageError

CONFIG = """merge_method: {method}
base_model: base
models:
  - model: a
    parameters: {{weight: 0.5, density: 0.9}}
  - model: b
    parameters:
      weight: [0.2, 0.8]
      density: [{{filter: w, value: 0.7}}, {{value: 0.1}}]
parameters: {{density: 0.4, lambda: 1.5, normalize: false}}
"""

# Scores by the distance from the model `target`, after writing down who was scored.
SCORER = """
import json, os, sys
from pathlib import Path
from safetensors.numpy import load_file
model = Path(sys.argv[1])
with open("log", "a") as log:
    print(model.name, file=log)
copies = [str(path.parent) for path in Path("out.partial").rglob("model.safetensors")]
with open("copies", "a") as log:
    print(len(copies), file=log)
if os.environ.get("FAIL_AT") == model.name:
    print("out of memory on device 0", file=sys.stderr)
    sys.exit(7)
ours, target = (load_file(path / "model.safetensors")["w"].astype("float64") for path in (model, Path("target")))
print("scoring", model)
print(((ours - target) ** 2).mean())
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Models ``base``, ``a``, ``b`` and ``target``, a configuration and a scorer, in the working folder."""
    monkeypatch.chdir(tmp_path)
    base, tunes = fine_tunes("continuous", 3000, 3)
    for name, tensor in zip(["base", "a", "b", "target"], [base, *tunes], strict=True):
        folder(Path(name), {"w": tensor, "v": tensor[:7].clone()})
    Path("c.yml").write_text(CONFIG.format(method="ties"))
    Path("score.py").write_text(SCORER)
    return tmp_path


COMMAND = f"'{sys.executable}' score.py {{out}}"


def by_hand(over):
    """The merge of the configuration with parameters for everything."""
    models = {name: weights(name) for name in ("a", "b")}
    return pm.merge(models, base=weights("base"), method=pm.TIES(lambda_=1.5, normalize=False, **over))


def distance(tensors):
    return (tensors["w"].double() - weights("target")["w"].double()).square().mean().item()


def test_the_grid_is_scored_and_the_best_is_kept(home, polmrs):
    grid = ["--sweep", "density=0.2,1", "--sweep", "weight=0.5,1.0,2"]
    ran = polmrs("merge", "c.yml", "out", *grid, "--score", COMMAND, "--minimize", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    values = [(density, weight) for density in (0.2, 1) for weight in (0.5, 1.0, 2)]
    expected = [by_hand({"density": density, "weight": weight}) for density, weight in values]
    assert [tuple(row["parameters"].values()) for row in report["candidates"]] == values
    scores = [row["score"] for row in report["candidates"]]
    assert scores == pytest.approx([distance(tensors) for tensors in expected], rel=1e-12)
    best = min(range(6), key=scores.__getitem__)
    assert report["best"]["candidate"] == best
    for name, tensor in weights("out").items():
        assert same_bits(tensor, expected[best][name])
    assert json.loads(Path("out/polmrs_sweep.json").read_text())["candidates"] == report["candidates"]
    assert "density" in Path("out/mergekit_config.yml").read_text()
    assert {path.name for path in Path("out").iterdir()} == {
        *("model.safetensors", "config.json", "README.md", "mergekit_config.yml", "polmrs_sweep.json")
    }
    assert not Path("out.partial").exists()
    assert max(map(int, Path("copies").read_text().split())) == 2  # the best and the one being scored
    lines = [line for line in ran.stderr.splitlines() if " of 6: density=" in line]
    assert len(lines) == 6
    assert lines[0].endswith("(the best so far)")


def test_the_table_goes_to_stdout_and_marks_the_best(home, polmrs):
    ran = polmrs("merge", "c.yml", "out", "--sweep", "density=0.2,1", "--score", COMMAND, "--maximize", "-q")
    head, *rows, last = ran.stdout.splitlines()
    assert head.split() == ["density", "score"]
    assert sum(row.endswith("best") for row in rows) == 1
    assert len(rows) == 2
    assert last == "out: the best of 2"
    assert ran.stderr == ""


def test_an_override_beats_whatever_the_configuration_says(home):
    found = pm.sweep("c.yml", over={"density": [0.3], "weight": [2.0]}, score=lambda _: 0.0, to="out")
    assert found.best == found.candidates[0]
    for name, tensor in by_hand({"density": 0.3, "weight": 2.0}).items():
        assert same_bits(weights("out")[name], tensor)


def test_an_override_at_a_place_is_for_that_place(home):
    pm.sweep(
        ["a", "b"],
        base="base",
        method=pm.TIES(density=0.5, weight=1.0),
        over={"models[1].weight": [3.0], "density": [0.25]},
        score=lambda _: 0.0,
        to="out",
    )
    expected = pm.merge(
        {"a": weights("a"), "b": weights("b")},
        base=weights("base"),
        method=pm.TIES(density=0.25, weight=[1.0, 3.0]),
    )
    assert same_bits(weights("out")["w"], expected["w"])


def test_a_gradient_is_a_value_too(home):
    models = {f"{name}2": folder(Path(f"{name}2"), layers(seed)) for seed, name in enumerate("xyz")}
    score = {0.0: 3.0, 1.0: 5.0}
    found = pm.sweep(
        ["x2", "y2"],
        base="z2",
        method=pm.TaskArithmetic(weight=0.5),
        over={"weight": [[0.0, 1.0], [1.0, 0.0]]},
        score=lambda path: score[float((weights(path)[FIRST] - weights("z2")[FIRST]).abs().sum() > 0)],
        to="out",
    )
    assert len(models) == 3
    assert found.best.parameters == {"weight": [1.0, 0.0]}
    assert [candidate.score for candidate in found.candidates] == [3.0, 5.0]


FIRST = "model.layers.0.mlp.weight"


def layers(seed):
    generator = torch.Generator().manual_seed(seed)
    return {f"model.layers.{at}.mlp.weight": torch.randn(4, 5, generator=generator) for at in range(2)}


def test_of_equal_scores_the_first_wins(home):
    found = pm.sweep("c.yml", over={"density": [0.9, 0.2, 0.5]}, score=lambda _: 1.0, to="out")
    assert found.best.parameters == {"density": 0.9}


def test_a_score_command_that_fails_says_why_and_resume_does_not_score_again(home, polmrs, monkeypatch):
    command = ["merge", "c.yml", "out", "--sweep", "density=0.1,0.4,0.8", "--score", COMMAND, "--minimize"]
    monkeypatch.setenv("FAIL_AT", "1")
    failed = polmrs(*command)
    assert failed.returncode == 2
    assert "polmrs: density=0.4: score: " in failed.stderr
    assert "failed (exit status: 7); it said:\n  | out of memory on device 0\n" in failed.stderr
    assert "--resume goes on with it" in failed.stderr
    assert Path("log").read_text().split() == ["0", "1"]
    monkeypatch.delenv("FAIL_AT")

    changed = polmrs(*command[:4], "density=0.1,0.5,0.8", *command[5:], "--resume")
    assert "differs in candidates[1].density: was 0.4, is 0.5" in changed.stderr
    done = polmrs(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert Path("log").read_text().split() == ["0", "1", "1", "2"]
    shutil.move("out", "resumed")
    assert polmrs(*command).returncode == 0
    assert same_bits(weights("out")["w"], weights("resumed")["w"])
    assert Path("out/polmrs_sweep.json").read_bytes() == Path("resumed/polmrs_sweep.json").read_bytes()


def test_ctrl_c_ends_the_scorer_and_resume_goes_on(home, polmrs):
    Path("slow.py").write_text(
        "import os, sys, time\nname = os.path.basename(sys.argv[1])\n"
        "open(f'seen{name}', 'w').write(str(os.getpid()))\ntime.sleep(60 * (name == '1' and not os.path.exists('go')))\n"
        "print(float(name))\n"
    )
    command = ["merge", "c.yml", "out", "--sweep", "density=0.1,0.4,0.8", "--maximize", "-q", "--resume"]
    command += ["--score", f"'{sys.executable}' slow.py {{out}}"]
    polmrs_command = [Path(sys.executable).with_name("polmrs"), *command]
    run = subprocess.Popen(polmrs_command, stderr=subprocess.PIPE, text=True)
    while not (Path("seen1").exists() and Path("seen1").read_text()):
        time.sleep(0.02)
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    _, complaint = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "interrupted" in complaint or "resume" in complaint
    assert not Path(f"/proc/{Path('seen1').read_text()}").exists()
    Path("seen0").unlink()
    Path("go").touch()
    assert polmrs(*command).returncode == 0
    assert not Path("seen0").exists()  # its score was kept
    assert json.loads(Path("out/polmrs_sweep.json").read_text())["best"]["parameters"] == {"density": 0.8}


def test_an_exception_of_the_score_is_raised_as_it_is(home):
    def score(path):
        raise ZeroDivisionError("no data")

    with pytest.raises(ZeroDivisionError, match="no data") as raised:
        pm.sweep("c.yml", over={"density": [0.1]}, score=score, to="out")
    assert raised.value.__notes__ == ["in the score of density=0.1"]
    assert not Path("out.partial").exists()
    with pytest.raises(UsageError, match=r"density=0\.1: score: NaN is not a finite number"):
        pm.sweep("c.yml", over={"density": [0.1]}, score=lambda _: float("nan"), to="out")


@pytest.mark.parametrize(
    ("over", "error", "message"),
    [
        (
            {"densitty": [0.1]},
            UsageError,
            "ties has no parameter 'densitty'; did you mean 'density'.; it has",
        ),
        ({"int8_mask": [True]}, UsageError, "ties has no parameter 'int8_mask'"),
        ({"density": []}, UsageError, "at least one value"),
        ({"density": [0.1, 0.1]}, UsageError, "0.1 is there twice"),
        ({"density": [0.1, "much"]}, ConfigError, "density=much: .*'much' is not a number"),
        ({"models[2].weight": [1.0]}, UsageError, r"there is no models\[2\] in the configuration"),
        ({"models[0].lambda": [1.0]}, ConfigError, "for all models at once"),
        ({"density": range(101), "weight": range(100)}, UsageError, "more than 10000 candidates"),
    ],
)
def test_slips_are_found_before_any_work(home, over, error, message):
    calls = []
    with pytest.raises(error, match=message):
        pm.sweep("c.yml", over=over, score=calls.append, to="out")
    assert calls == []
    assert not Path("out.partial").exists()


def test_a_value_out_of_range_is_found_before_any_work(home):
    Path("c.yml").write_text("merge_method: sce\nbase_model: base\nmodels: [{model: a}, {model: b}]\n")
    with pytest.raises(ConfigError, match=r"select_topk=1.5: .*1.5 is not in \[0, 1\]"):
        pm.sweep("c.yml", over={"select_topk": [0.5, 1.5]}, score=lambda _: 0.0, to="out")
    assert not Path("out.partial").exists()


def test_the_command_line_is_refused_where_it_is_not_whole(home, polmrs):
    for words, message in [
        (["--sweep", "density=0.1"], "--score"),
        (["--sweep", "density=0.1", "--score", "eval {out}"], "say --maximize or --minimize"),
        (["--sweep", "density", "--score", "eval {out}", "--maximize"], "NAME=VALUE,VALUE"),
        (["--sweep", "density=0.1", "--score", "eval", "--maximize"], "write {out} where its folder goes"),
        (["--score", "eval {out}", "--maximize"], "is for --sweep"),
    ]:
        ran = polmrs("merge", "c.yml", "out", *words)
        assert ran.returncode == 2, ran.stderr
        assert message in ran.stderr


DOCUMENTS = "name: half\nmerge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n---\n"


@pytest.fixture
def documents(home):
    """The same sweep on what an earlier document has made; its result stands for the model ``a``."""
    Path("c.yml").write_text(DOCUMENTS + CONFIG.format(method="ties").replace("model: a", "model: half"))
    return ["merge", "c.yml", "out", "--sweep", "density=0.1,0.4,0.8", "--score", COMMAND, "--minimize"]


def test_in_a_file_of_several_documents_the_result_s_parameters_are_swept(documents, polmrs):
    ran = polmrs(*documents, "--json")
    assert ran.returncode == 0, ran.stderr
    assert not list(Path().glob("out.*"))
    best = json.loads(ran.stdout)["best"]["parameters"]["density"]
    half = pm.merge({name: weights(name) for name in ("a", "b")}, method=pm.Linear(weight=1.0))
    by_hand = pm.merge(
        {"half": half, "b": weights("b")},
        base=weights("base"),
        method=pm.TIES(density=best, weight=[0.5, 0.2], lambda_=1.5, normalize=False),
    )
    for name, tensor in weights("out").items():
        assert same_bits(tensor, by_hand[name])


def test_a_run_that_goes_on_finds_what_came_before(documents, polmrs, monkeypatch):
    """Merged again it would have another time, and the scores would be refused as those of other inputs."""
    monkeypatch.setenv("FAIL_AT", "1")
    assert polmrs(*documents).returncode == 2
    monkeypatch.delenv("FAIL_AT")
    done = polmrs(*documents, "--resume")
    assert done.returncode == 0, done.stderr
    assert Path("log").read_text().split() == ["0", "1", "1", "2"]
    shutil.move("out", "resumed")
    assert polmrs(*documents).returncode == 0
    assert same_bits(weights("out")["w"], weights("resumed")["w"])


def test_a_score_that_fails_at_once_leaves_nothing(documents, polmrs, monkeypatch):
    monkeypatch.setenv("FAIL_AT", "0")
    assert polmrs(*documents).returncode == 2
    assert not list(Path().glob("out*"))


def test_an_output_that_exists_is_replaced_only_if_asked(home):
    folder(Path("out"), {"w": torch.zeros(3)})
    over = {"density": [0.1]}
    with pytest.raises(OutputExistsError):
        pm.sweep("c.yml", over=over, score=lambda _: 0.0, to="out")
    pm.sweep("c.yml", over=over, score=lambda _: 0.0, to="out", overwrite=True)
    assert "v" in weights("out")
