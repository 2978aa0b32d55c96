"""The folder of a merged adapter: its types, card and report, memory, interruptions, the command line, what is refused."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polmrs.merge as pm
import pytest
import torch
from merge.lora import changes, factors, loaded, made, pair, train
from merge.made import same_bits
from polmrs.errors import CheckpointError, ConfigError, UsageError
from safetensors.torch import save_file

pytestmark = pytest.mark.filterwarnings("ignore")
LINEAR = ["q_proj", "v_proj", "down_proj"]


def test_half_precision_adapters_stay_so_and_the_folder_says_what_was_done(bases, tmp_path):
    adapters = pair(bases / "llama", tmp_path, target_modules=["q_proj"])
    for adapter in adapters:
        state = {name: value.bfloat16() for name, value in factors(adapter).items()}
        save_file(state, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    pm.merge(adapters, method=pm.TIES(), to=tmp_path / "out", report=True, verify=True)
    assert {value.dtype for value in factors(tmp_path / "out").values()} == {torch.bfloat16}
    pm.merge(adapters, method=pm.TIES(), to=tmp_path / "wide", dtype="float32")
    assert {value.dtype for value in factors(tmp_path / "wide").values()} == {torch.float32}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "# Merged adapter" in card
    assert str(tmp_path) not in card
    rows = json.loads((tmp_path / "out" / "polmrs_report.json").read_text())["tensors"]
    assert len(rows) == 6
    assert sum(row["copied"] for row in rows) == 3  # a row per module, under lora_A
    assert all(row["delta_norm"] > 0 and 0 < row["sign_conflict"] < 1 for row in rows if not row["copied"])


def test_a_report_sees_linear_merges_as_it_sees_others(bases, tmp_path):
    """The changes are never made for the result, but the report is on them."""
    base = bases / "llama"
    adapters = pair(base, tmp_path, target_modules=["down_proj"])
    pm.merge(adapters, method=pm.TaskArithmetic(weight=0.5), to=tmp_path / "out", report=True)
    rows = json.loads((tmp_path / "out" / "polmrs_report.json").read_text())["tensors"]
    a, b = (changes(loaded(base, adapter)) for adapter in adapters)
    for row in rows[::2]:
        name = row["name"].removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        assert row["delta_norm"] == pytest.approx((0.5 * (a[name] + b[name])).norm().item(), rel=1e-5)
        assert row["sign_conflict"] == pytest.approx((a[name] * b[name] < 0).float().mean().item(), abs=1e-3)


def test_memory_is_planned_and_bounded(bases, tmp_path):
    adapters = pair(bases / "llama", tmp_path, target_modules=LINEAR)
    planned = pm.plan(adapters, method=pm.TIES(), threads=4)
    need = planned["workspace"]["bytes"]
    assert planned["peak_memory_bytes"] >= 4 * need > 4 * 32 * 80 * 4
    narrow = pm.plan(adapters, method=pm.TIES(), threads=4, max_memory=2 * need)
    assert narrow["peak_memory_bytes"] <= 2 * need
    pm.merge(adapters, method=pm.TIES(), threads=4, max_memory=need, to=tmp_path / "narrow")
    pm.merge(adapters, method=pm.TIES(), threads=4, to=tmp_path / "wide")
    narrow, wide = factors(tmp_path / "narrow"), factors(tmp_path / "wide")
    assert all(same_bits(narrow[name], wide[name]) for name in wide)
    with pytest.raises(UsageError, match=r"do not hold the workspace of 'model\.layers"):
        pm.merge(adapters, method=pm.TIES(), max_memory=need - 1, to=tmp_path / "never")


def test_the_command_line_plans_merges_and_resumes(bases, tmp_path, polmrs):
    adapters = pair(bases / "llama", tmp_path, target_modules=LINEAR)
    models = [{"model": str(adapter)} for adapter in adapters]
    text = {
        "merge_method": "ties",
        "models": models,
        "parameters": {"weight": 1, "density": 0.4},
        "svd_rank": 3,
    }
    (tmp_path / "c.yml").write_text(json.dumps(text))
    planned = polmrs("plan", tmp_path / "c.yml")
    assert "rank 3 by svd, 9 modules" in planned.stdout
    assert "adapter_model.safetensors" in planned.stdout
    ran = polmrs("merge", tmp_path / "c.yml", tmp_path / "out", "--verify", "--resume")
    assert ran.returncode == 0, ran.stderr
    assert "rank 3: " in ran.stdout
    again = polmrs("merge", tmp_path / "c.yml", tmp_path / "out")
    assert again.returncode == 3
    then = polmrs("merge", tmp_path / "c.yml", tmp_path / "q", "--then", "quantize --scheme w8a16")
    assert "the result is an adapter" in then.stderr


def test_a_killed_merge_goes_on_to_the_same_bits(tmp_path):
    modules = {f"model.layers.{at}.up": (400, 300) for at in range(12)}
    for at, name in enumerate("ab"):
        made(tmp_path / name, modules, rank=8, seed=at)
    models = [{"model": str(tmp_path / name)} for name in "ab"]
    text = {"merge_method": "ties", "models": models, "parameters": {"weight": 1, "density": 0.4}}
    (tmp_path / "c.yml").write_text(json.dumps(text))
    pm.merge(tmp_path / "c.yml", to=tmp_path / "whole")
    command = [Path(sys.executable).with_name("polmrs"), "merge", tmp_path / "c.yml", tmp_path / "out"]
    options = ["--threads", "1", "--sync-every", "1", "--json", "--resume"]
    journal = tmp_path / "out.partial" / ".polmrs.journal"
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and "done" in journal.read_text()):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = json.loads(subprocess.run([*command, *options], capture_output=True, check=True).stdout)
    assert 0 < done["resumed_tensors"] < 24
    ours, whole = factors(tmp_path / "out"), factors(tmp_path / "whole")
    assert all(same_bits(ours[name], whole[name]) for name in whole)


def test_what_needs_a_model_is_refused(bases, tmp_path):
    base = bases / "llama"
    adapters = pair(base, tmp_path, target_modules=["q_proj"])
    dora = train(base, tmp_path / "dora", target_modules=["q_proj"], use_dora=True)
    saved = train(base, tmp_path / "saved", target_modules=["q_proj"], modules_to_save=["norm"])
    linear, ties = pm.Linear(), pm.TIES()

    def refused(match, models, error=ConfigError, *, method=linear, **options):
        with pytest.raises(error, match=match):
            pm.merge(models, method=method, to=tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    refused("'.*b' is an adapter, and '.*llama' .models.0.. a model; write 'MODEL", [base, adapters[1]])
    refused("base_model.* a model", adapters, method=ties, base=base)
    refused("use_dora: its magnitudes", [adapters[0], dora], CheckpointError)
    refused("does not have '.*norm.weight'", [adapters[0], saved], CheckpointError)
    refused("was trained whole", [saved], method=ties)
    refused("ties has no factors to put side by side", adapters, method=ties, combination_type="cat")
    refused("is for 'combination_type: svd'", adapters, combination_type="cat", svd_rank=3)
    for method in (linear, ties):
        refused("0 is not a rank", adapters, method=method, svd_rank=0)
        refused("'cta' is not one of svd, cat", adapters, method=method, combination_type="cta")
    refused("svd_rank: 33 is more than 32", adapters, svd_rank=33)
    refused("'base_model' is missing; slerp needs it", adapters[:1], method=pm.SLERP(t=0.5))
    refused("reads statistics", adapters, method=pm.Fisher(statistics=["s", "s"]))
    refused("are for a merge of adapters", [base], svd_rank=3)
    with pytest.raises(UsageError, match="are for adapters"):
        pm.merge({"a": {}}, method=linear, svd_rank=2)
