"""Files of several documents: the same bits as the merges one by one, and nothing half-written in between."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from merge.made import folder, same_bits, weights
from polmrs.errors import ConfigError, NonFiniteError, OutputExistsError, UsageError
from polmrs.merge import merge, plan

FIRST = """
name: first
merge_method: task_arithmetic
base_model: base
models: [{model: math, parameters: {weight: 0.3}}, {model: code, parameters: {weight: 0.6}}]
out_dtype: bfloat16
"""
SECOND = """
name: second
merge_method: slerp
base_model: first
models: [{model: code}]
parameters: {t: [0.2, 0.7]}
dtype: float32
"""
LAST = """
merge_method: ties
base_model: base
models: [{model: second, parameters: {weight: 1, density: 0.5}}, {model: first, parameters: {weight: 0.3, density: 0.9}}]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["base", "math", "code"]):
        generator = torch.Generator().manual_seed(seed)
        names = [
            "model.embed_tokens.weight",
            *(f"model.layers.{at}.mlp.up.weight" for at in range(4)),
            "lm_head.weight",
        ]
        tensors = {tensor: torch.randn((24, 16), generator=generator) for tensor in names}
        folder(tmp_path / name, tensors, config={"num_hidden_layers": 4}, tokenizer__json=f'"{name}"')
    return tmp_path


def write(*documents, to="c.yml"):
    Path(to).write_text("\n---\n".join(documents))
    return to


def one_by_one(*documents):
    """The same merges, each into a folder of its own."""
    for document, name in zip(documents, ["first", "second", "last"], strict=True):
        merge(write(document, to="one.yml"), to=name)
    return weights("last")


def same(a, b):
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_documents_give_the_bits_of_the_merges_one_by_one(home, order):
    documents = [FIRST, SECOND, LAST]
    merge(write(*(documents[at] for at in order)), to="out")
    assert sorted(path.name for path in home.iterdir()) == ["base", "c.yml", "code", "math", "out"]
    expected = one_by_one(*documents)
    assert weights("first")["lm_head.weight"].dtype == torch.bfloat16
    assert same(weights("out"), expected)


def test_if_all_have_names_the_last_is_the_result(home):
    merge(write(FIRST, SECOND), to="out")
    merge(write(FIRST, to="one.yml"), to="first")
    merge(write(SECOND, to="one.yml"), to="second")
    assert same(weights("out"), weights("second"))
    assert Path("out/tokenizer.json").read_text() == '"base"'


def test_the_plan_says_what_is_written_in_between(home, polmrs):
    planned = plan(write(FIRST, SECOND, LAST))
    assert [(one["name"], one["method"]) for one in planned["documents"]] == [
        ("first", "task_arithmetic"),
        ("second", "slerp"),
    ]
    assert planned["spilled_bytes"] == sum(one["disk_bytes"] for one in planned["documents"])
    assert planned["disk_bytes"] == planned["spilled_bytes"] + sum(
        f["bytes"] for f in planned["output"]["files"]
    )
    assert planned["notes"] == [
        f"2 of 3 results are intermediate: {planned['spilled_bytes']} bytes in OUT.parts, removed at the end"
    ]
    report = merge("c.yml", to="out")
    for key in ("documents", "spilled_bytes", "disk_bytes", "notes", "output"):
        assert report[key] == planned[key]
    assert "first       second  slerp" in polmrs("plan", "c.yml").stdout


def test_the_configuration_in_the_folder_makes_the_same_folder_again(home):
    merge(write(FIRST, SECOND, LAST), to="out")
    merge("out/mergekit_config.yml", to="again")
    assert same(weights("out"), weights("again"))
    assert Path("out/mergekit_config.yml").read_text() == Path("again/mergekit_config.yml").read_text()
    assert Path("out/mergekit_config.yml").read_text().count("merge_method") == 3


def test_a_name_comes_before_a_folder_of_that_name(home):
    folder(home / "first", {"other": torch.zeros(1)})
    merge(write(FIRST, SECOND), to="out")
    assert "other" not in weights("out")


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([FIRST, FIRST], r"c.yml:\d+:1: 'first' is there twice"),
        ([LAST, LAST], "a document without a name is there twice"),
        ([FIRST, SECOND.replace("base_model: first", "base_model: base")], "c.yml:2:1: the result does not use this document"),
        ([FIRST.replace("base_model: base", "base_model: second"), SECOND], "uses its own result, directly or through"),
        ([FIRST.replace("name: first", "name: ../first"), SECOND], "name: '../first' is not the name of a folder"),
        ([FIRST, SECOND.replace("parameters", "paramters")], "paramters: unknown key"),
        ([FIRST, SECOND.replace("[0.2, 0.7]", "x")], "'x' is not a number"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_anything_is_written(home, documents, message):
    with pytest.raises(ConfigError, match=message):
        merge(write(*documents), to="out")
    assert not list(home.glob("out*"))


def test_an_input_is_not_written_over(home):
    write(FIRST, SECOND)
    with pytest.raises(OutputExistsError):
        merge("c.yml", to="math")
    with pytest.raises(UsageError, match="math: is also the input 'math'"):
        merge("c.yml", to="math", overwrite=True)
    assert not list(home.glob("*.parts"))


def test_an_error_leaves_nothing(home):
    tensors = weights("code")
    tensors["lm_head.weight"][3, 4] = float("nan")
    folder(home / "bad", tensors, config={})
    with pytest.raises(NonFiniteError):
        merge(write(FIRST, SECOND.replace("code", "bad")), to="out")
    assert not list(home.glob("out*"))


def test_a_folder_of_parts_that_is_not_ours_stays(home):
    (home / "out.parts").mkdir()
    (home / "out.parts" / "mine").touch()
    with pytest.raises(OutputExistsError, match="was not made by polmrs"):
        merge(write(FIRST, SECOND), to="out")
    assert (home / "out.parts" / "mine").exists()


def killed_between_results():
    """A run that was killed after the first result was whole; gives the folder of that result."""
    slow = "import polmrs.merge as pm, time; pm.merge('c.yml', to='out', shard_size=10**9, progress=lambda *_: time.sleep(0.2))"
    for _ in range(20):
        run = subprocess.Popen([sys.executable, "-c", slow])
        whole = None
        while run.poll() is None and whole is None:
            whole = next(Path().glob("out.parts/*/first/config.json"), None)
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.wait()
        if whole and not Path("out").exists():
            return whole.parent
        shutil.rmtree("out", ignore_errors=True)
    pytest.fail("no run was killed in time")


@pytest.mark.parametrize("change", [None, "configuration", "seed", "input", "shards", "tokenizer"])
def test_what_a_killed_run_has_left_is_used_if_nothing_changed(home, change):
    write(FIRST, SECOND)
    part = killed_between_results()
    (part / "tokenizer.json").write_text('"of the killed run"')
    if change == "configuration":
        write(FIRST.replace("0.3", "0.4"), SECOND)
    if change == "input":  # behind what a fingerprint reads, at another time
        os.utime("math/model.safetensors")
    if change == "tokenizer":
        os.utime("base/tokenizer.json")
    merge("c.yml", to="out", seed=int(change == "seed"), shard_size=10_000 if change == "shards" else 10**9)
    assert Path("out/tokenizer.json").read_text() == ('"base"' if change else '"of the killed run"')
    assert not list(home.glob("out.*"))
    if change is None:
        merge(write(FIRST, to="one.yml"), to="first")
        merge(write(SECOND, to="one.yml"), to="second")
        assert same(weights("out"), weights("second"))


def test_an_empty_folder_of_a_killed_run_is_taken_over(home):
    (home / "out.parts").mkdir()
    merge(write(FIRST, SECOND), to="out")
    assert not (home / "out.parts").exists()


def test_a_stale_result_is_not_used(home):
    write(FIRST, SECOND)
    stale = home / "out.parts" / ("0" * 64) / "first"
    folder(stale, {"stale": torch.zeros(1)})
    (home / "out.parts" / ".polmrs.lock").touch()
    merge("c.yml", to="out")
    assert "stale" not in weights("out")
    assert not (home / "out.parts").exists()
