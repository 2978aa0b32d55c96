"""``polmrs merge --then 'quantize ..'`` is the two commands, bit for bit."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from quantize.made import files, folder, weights

QUANTIZE = ["--scheme", "w4a16", "--group", "64", "--rule", "down_proj=w8a16 group=32"]
STEP = "quantize --scheme w4a16 --group 64 --rule 'down_proj=w8a16 group=32'"


def command(*said):
    words = [sys.executable, "-m", "polmrs.cli", *map(str, said)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture
def config(tmp_path):
    for name, factor in [("a", 1), ("b", 3)]:
        folder(tmp_path / name, {key: weight * factor for key, weight in weights().items()})
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in "ab"]
    path = tmp_path / "merge.yml"
    path.write_text(json.dumps({"merge_method": "linear", "models": models}))
    return path


def test_a_merge_and_then_a_quantization_are_the_two_commands(config, tmp_path):
    both = command("merge", config, tmp_path / "both", "--then", STEP, "--json")
    assert both.returncode == 0, both.stderr
    assert json.loads(both.stdout)["quantized"] == 7
    assert command("merge", config, tmp_path / "merged").returncode == 0
    assert command("quantize", tmp_path / "merged", tmp_path / "two", *QUANTIZE).returncode == 0
    assert files(tmp_path / "both") == files(tmp_path / "two")
    assert "mergekit_config.yml" in files(tmp_path / "both")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a",
        "b",
        "both",
        "merge.yml",
        "merged",
        "two",
    ]


@pytest.mark.parametrize(
    ("step", "code", "rule"),
    [
        ("quantize --scheme w4a16", 3, "does not divide rows of"),
        ("quantize --scheme w4", 2, "then: invalid value 'w4'"),
        ("prune", 2, "the step that may follow is quantize"),
        ("quantize 'a", 2, "is not closed"),
    ],
)
def test_a_step_that_cannot_follow_is_named_before_anything_is_merged(step, code, rule, config, tmp_path):
    done = command("merge", config, tmp_path / "out", "--then", step)
    assert (done.returncode, rule in done.stderr) == (code, True), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "merge.yml"]


def test_an_input_and_an_output_that_exists_are_not_written_over(config, tmp_path):
    for out, code, rule in [("a", 2, "is also the input"), ("b", 2, "is also the input")]:
        done = command("merge", config, tmp_path / out, "--overwrite", "--then", STEP)
        assert (done.returncode, rule in done.stderr) == (code, True), done.stderr
    folder(tmp_path / "there")
    before = files(tmp_path / "there")
    done = command("merge", config, tmp_path / "there", "--then", STEP)
    assert "--overwrite replaces it" in done.stderr
    assert files(tmp_path / "there") == before
    assert command("merge", config, tmp_path / "there", "--overwrite", "--then", STEP).returncode == 0
    assert files(tmp_path / "there") != before


def test_the_result_of_several_documents_is_quantized_too(config, tmp_path):
    last = json.loads(config.read_text()) | {"name": "mean"}
    models = [
        {"model": "mean", "parameters": {"weight": 0.3}},
        {"model": str(tmp_path / "a"), "parameters": {"weight": 0.7}},
    ]
    config.write_text(f"{json.dumps(last)}\n---\n{json.dumps({'merge_method': 'linear', 'models': models})}")
    assert command("merge", config, tmp_path / "both", "--then", STEP).returncode == 0
    assert command("merge", config, tmp_path / "merged").returncode == 0
    assert command("quantize", tmp_path / "merged", tmp_path / "two", *QUANTIZE).returncode == 0
    assert files(tmp_path / "both") == files(tmp_path / "two")
    assert not list(tmp_path.glob("*.parts"))


@pytest.fixture
def large(tmp_path):
    """Models of a size at which a run takes long enough to be killed, and what the two commands make of them."""
    names = [f"model.layers.{at}.mlp.down_proj.weight" for at in range(30)]
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        folder(tmp_path / name, {key: torch.randn((256, 1024), generator=generator) for key in names})
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 1, "density": 0.4}} for name in "ab"]
    base = str(folder(tmp_path / "base", {key: torch.zeros(256, 1024) for key in names}))
    text = {"merge_method": "ties", "base_model": base, "models": models}
    (tmp_path / "merge.yml").write_text(json.dumps(text))
    return tmp_path


def started(home, out, *options):
    words = [
        "merge",
        home / "merge.yml",
        home / out,
        "--then",
        "quantize --scheme w8a16",
        "--resume",
        *options,
    ]
    program = Path(sys.executable).with_name("polmrs")
    return subprocess.Popen(
        [program, *words, "--threads", "1", "--sync-every", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits(large):
    begun = time.monotonic()
    assert started(large, "whole").wait(timeout=60) == 0
    takes, chance, killed = time.monotonic() - begun, random.Random(3), 0
    while not (large / "out").exists():
        process = started(large, "out")
        try:
            assert process.wait(timeout=chance.uniform(0.1, 0.7) * takes if killed < 8 else 60) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed >= 2
    assert files(large / "out") == files(large / "whole")
    assert process.returncode != 0 or not list(large.glob("out.*"))


def test_a_merge_that_is_whole_is_not_made_again(large):
    process = started(large, "out")
    while process.poll() is None and not (large / "out.partial").exists():  # the second step has begun
        time.sleep(0.001)
    process.kill()
    process.wait()
    [merged] = large.glob("out.parts/*/merged")
    (merged / "tokenizer.json").write_text("of the killed run")
    assert started(large, "out").wait(timeout=60) == 0
    assert (large / "out" / "tokenizer.json").read_text() == "of the killed run"
    assert not list(large.glob("out.*"))


def test_what_a_changed_configuration_cannot_use_is_kept_until_a_run_replaces_it(large):
    process = started(large, "out")
    while process.poll() is None and not (large / "out.partial").exists():
        time.sleep(0.001)
    process.kill()
    process.wait()
    text = (large / "merge.yml").read_text()
    (large / "merge.yml").write_text(json.dumps(json.loads(text) | {"parameters": {"lambda": 0.5}}))
    refused = started(large, "out")
    _, said = refused.communicate(timeout=30)
    assert (refused.returncode, "differ from those of now" in said) == (3, True), said
    (large / "merge.yml").write_text(text)
    assert started(large, "out").wait(timeout=60) == 0
    assert not list(large.glob("out.*"))


def test_ctrl_c_says_what_is_left(large):
    process = started(large, "out")
    while process.poll() is None and not list(large.glob("out.parts/*/merged.partial")):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "out.parts holds intermediate results" in said
    assert (large / "out.parts").exists()
    other = json.loads((large / "merge.yml").read_text()) | {"parameters": {"lambda": 0.5}}
    (large / "merge.yml").write_text(json.dumps(other))
    assert started(large, "out").wait(timeout=60) == 0  # of another configuration: not used
    assert not list(large.glob("out.*"))
