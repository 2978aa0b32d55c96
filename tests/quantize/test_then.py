"""``polmrs merge --then 'quantize ..'`` is the two commands, bit for bit."""

import json
import subprocess
import sys

import pytest
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
