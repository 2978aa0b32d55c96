"""What a merge that was cut short leaves, and that going on from there gives the bits of a run that was not."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polmrs.merge as pm
import pytest
import torch
from merge.made import folder, same_bits, weights
from polmrs.errors import NotFoundError, OutputExistsError, UsageError

POLMRS = Path(sys.executable).with_name("polmrs")
KILLS = int(os.environ.get("POLMRS_KILLS", "20"))
OPTIONS = ("--shard-size", "6MB", "--sync-every", "1MB")
JOURNAL = Path("out.partial/.polmrs.journal")


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(300, 700), (513, 400), (64,), (1,), (0,), (700, 300)] * 5
    return {
        f"model.layers.{at}.weight": torch.randn(shape, generator=generator)
        for at, shape in enumerate(shapes)
    } | {"model.position_ids": torch.arange(5)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three models of 12 MB."""
    home = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(["base", "math", "code"]):
        folder(home / name, tensors(seed))
    return home


@pytest.fixture
def home(models, tmp_path, monkeypatch):
    """Those models and a configuration, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "math", "code"):
        shutil.copytree(models / name, name, copy_function=shutil.copy2)
    write_config()
    return tmp_path


def write_config(method="dare_ties", density=0.5, extra=""):
    rows = "".join(
        f"  - model: {model}\n    parameters: {{weight: 0.5, density: {density}}}\n"
        for model in ("math", "code")
    )
    Path("c.yml").write_text(f"merge_method: {method}\nbase_model: base\nmodels:\n{rows}{extra}")


def contents(path):
    """Every file below a folder, byte for byte."""
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


def command(*options, out="out"):
    return [POLMRS, "merge", "c.yml", out, *OPTIONS, "--quiet", *options]


def start(*options):
    return subprocess.Popen(command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def journal():
    """The journal's text, if there is one."""
    try:
        return JOURNAL.read_text()
    except FileNotFoundError:
        return ""


def killed(*options, until=lambda: "done" in journal(), by=signal.SIGKILL):
    """Stops a merge once something is in its journal; gives its exit code. A run that was faster is tried again."""
    for _ in range(20):
        process = start("--threads", "1", *options)
        while process.poll() is None:
            if until():
                process.send_signal(by)
                break
        code = process.wait()
        if not Path("out").exists():
            return code
        shutil.rmtree("out")
    raise AssertionError("every run was faster than its end")


def timed(*options):
    """The seconds of a run that nobody stops."""
    began = time.monotonic()
    subprocess.run(command(*options, "--overwrite", out="timed"), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def resumes(expected, *options):
    """Goes on, and gives how many tensors were taken over."""
    done = subprocess.run(
        command("--resume", "--json", *options), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert contents("out") == expected
    assert not list(Path.cwd().glob("*.partial*"))
    return json.loads(done.stdout)["resumed_tensors"]


def test_a_run_killed_at_any_moment_is_resumed_to_the_same_bits(home):
    pm.merge("c.yml", to="whole", shard_size=6_000_000, sync_every=1_000_000, report=True)
    expected = contents("whole")
    takes = max(timed("--report") for _ in range(3))
    moments, taken, finished = random.Random(7), [], 0
    for _ in range(KILLS):
        process = start("--report")
        time.sleep(moments.uniform(0, takes))
        process.kill()
        process.wait()
        if Path("out").exists():  # it was faster
            finished += 1
            subprocess.run(command("--resume", "--report"), capture_output=True, check=False)
            assert contents("out") == expected
        else:
            taken.append(resumes(expected, "--report"))
        shutil.rmtree("out")
    assert any(taken), taken
    print(f"{KILLS} kills within {takes:.2f} s: {finished} had finished; tensors taken over: {sorted(taken)}")


def test_what_was_done_is_not_done_again(home):
    pm.merge("c.yml", to="whole", shard_size=6_000_000)
    assert killed() == -signal.SIGKILL
    journal = JOURNAL.read_text().splitlines()
    noted = {done["tensor"] for line in journal[1:] for done in json.loads(line[65:])["done"]}
    assert noted
    assert resumes(contents("whole")) == len(noted)


@pytest.mark.parametrize("cut", [1, 40, 10**9])
def test_a_journal_whose_tail_is_lost_resumes_from_what_is_left(home, cut):
    pm.merge("c.yml", to="whole", shard_size=6_000_000)
    killed(until=lambda: journal().count("\n") >= 3)
    text = JOURNAL.read_bytes()
    JOURNAL.write_bytes(text[: max(0, len(text) - cut)])
    left = JOURNAL.read_bytes().count(b"\n")
    taken = resumes(contents("whole"))
    assert (taken > 0) == (left > 1)


def test_a_whole_model_reduction_is_made_again(home):
    write_config(method="metagpt")
    Path("c.yml").write_text(re.sub(r"    parameters: .*\n", "", Path("c.yml").read_text()))
    pm.merge("c.yml", to="whole", shard_size=6_000_000)
    assert killed() == -signal.SIGKILL
    assert resumes(contents("whole")) > 0


def test_after_ctrl_c_what_was_synced_is_not_lost(home):
    pm.merge("c.yml", to="whole", shard_size=6_000_000)
    assert killed(by=signal.SIGINT) == 130
    assert resumes(contents("whole")) > 0


def test_without_resume_the_next_run_starts_over(home):
    killed()
    report = pm.merge("c.yml", to="out", shard_size=6_000_000)
    assert report["resumed_tensors"] == 0
    assert not Path("out.partial").exists()


def test_resume_with_nothing_to_go_on_from_is_a_plain_run(home):
    report = pm.merge("c.yml", to="out", resume=True)
    assert report["resumed_tensors"] == 0
    with pytest.raises(OutputExistsError, match="out: exists"):
        pm.merge("c.yml", to="out", resume=True)


def touch(path):
    os.utime(path, ns=(1, 1))


def more_density():
    write_config(density=0.25)


MODIFIED = r"inputs\.math\.files\.model\.safetensors\.modified: was \"\d+\", is \"1\""


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"seed": 1}, "seed: was 0, is 1"),
        (None, {"shard_size": 7_000_000}, "shard_size: was 6000000, is 7000000"),
        (more_density, {}, r"config\.models\[0\]\.parameters\.density: was 0\.5, is 0\.25"),
        (lambda: write_config(method="ties"), {}, 'config.merge_method: was "dare_ties", is "ties"'),
        (lambda: touch(Path("math/model.safetensors")), {}, MODIFIED),
        (lambda: folder(Path("base"), tensors(9)), {}, r"inputs\.base\.files\.model\.safetensors\.modified"),
    ],
)
def test_what_changed_is_named_and_what_was_done_is_kept(home, change, options, message):
    pm.merge("c.yml", to="whole", shard_size=6_000_000)
    killed()
    before = Path("c.yml").read_text(), Path("math/model.safetensors").stat().st_mtime_ns
    if change:
        change()
    arguments = {"shard_size": 6_000_000} | options
    with pytest.raises(OutputExistsError, match=f"(?s){message}.*without --resume it is replaced"):
        pm.merge("c.yml", to="out", resume=True, **arguments)
    Path("c.yml").write_text(before[0])
    os.utime("math/model.safetensors", ns=(before[1], before[1]))
    if "base" not in message:
        assert resumes(contents("whole")) > 0


def test_a_shard_that_went_missing_is_named(home):
    killed()
    shard = next(Path("out.partial").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(NotFoundError, match=shard.name):
        pm.merge("c.yml", to="out", shard_size=6_000_000, resume=True)


def test_a_run_that_asks_for_digests_does_not_take_over_tensors_without(home):
    pm.merge("c.yml", to="whole", shard_size=6_000_000, verify=True)
    killed()
    assert resumes(contents("whole"), "--verify") == 0
    shutil.rmtree("out")
    killed("--verify")
    assert resumes(contents("whole"), "--verify") > 0


def test_a_disk_that_is_full_loses_nothing_that_was_whole(home, tmpfs):
    pm.merge("c.yml", to="whole", shard_size=6_000_000)
    expected = contents("whole")
    disk = tmpfs(home / "disk", "size=9m")
    full = subprocess.run(
        command("--threads", "1", out="disk/out"), capture_output=True, text=True, check=False
    )
    assert full.returncode == 4, full.stderr
    assert "No space left on device (os error 28); free some space" in full.stderr
    assert "--resume goes on with it" in full.stderr
    subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
    more = subprocess.run(
        command("--resume", "--json", out="disk/out"), capture_output=True, text=True, check=True
    )
    assert json.loads(more.stdout)["resumed_tensors"] > 0
    assert contents("disk/out") == expected


def test_of_twenty_runs_into_one_folder_one_wins_and_the_others_say_why(home):
    killed()  # they meet on what a killed run left
    with ThreadPoolExecutor(20) as pool:
        runs = list(
            pool.map(
                lambda _: subprocess.run(command(), capture_output=True, text=True, check=False), range(20)
            )
        )
    losers = [run for run in runs if run.returncode]
    assert len(losers) == 19, [run.stderr for run in losers]
    assert {run.returncode for run in losers} == {3}
    assert all(
        re.fullmatch(r"polmrs: .*(another run is writing it|--overwrite replaces it)\n", run.stderr)
        for run in losers
    ), {run.stderr for run in losers}
    pm.merge("c.yml", to="whole", shard_size=6_000_000)
    assert contents("out") == contents("whole")
    assert {path.name for path in home.iterdir()} == {"base", "math", "code", "c.yml", "out", "whole"}


# Reading back


def test_verify_reads_back_what_was_written_and_notes_standard_digests(home, polmrs):
    result = polmrs("merge", "c.yml", "out", "--verify", "--shard-size", "6MB")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith(", verified\n")
    report = json.loads(Path("out/polmrs_report.json").read_text())
    assert report["schema"] == "polmrs.report/1"
    found = weights("out")
    assert {row["name"] for row in report["tensors"]} == found.keys()
    assert all(len(bytes.fromhex(row["blake3"])) == 32 for row in report["tensors"])
    again = pm.merge("c.yml", to="again", verify=True, threads=1)
    assert again["verified"]
    assert (
        json.loads(Path("again/polmrs_report.json").read_text()) == report
    )  # whatever the shards and threads


# Memory


def test_max_memory_bounds_the_plan_and_not_the_bits(home):
    free = pm.plan("c.yml", threads=2)
    assert free["workspace"]["bytes"] <= free["peak_memory_bytes"]
    need = free["workspace"]["bytes"]
    pm.merge("c.yml", to="free")
    for limit in (need, 2 * need, 64 << 20):
        assert pm.plan("c.yml", threads=2, max_memory=limit)["peak_memory_bytes"] <= limit
        pm.merge("c.yml", to="bounded", max_memory=limit, threads=2, overwrite=True)
        assert contents("bounded") == contents("free")
    tensor = free["workspace"]["tensor"]
    message = f"max-memory: {need - 1} bytes do not hold the workspace of '{tensor}', which needs {need}"
    with pytest.raises(UsageError, match=message):
        pm.merge("c.yml", to="refused", max_memory=need - 1)
    assert not list(home.glob("refused*"))


# The report


def by_hand(name, base, models, out):
    """Two lines of numpy a figure."""
    r, x = base[name].double().numpy(), out[name].double().numpy()
    up = np.any([m[name].numpy() > base[name].numpy() for m in models], axis=0)
    down = np.any([m[name].numpy() < base[name].numpy() for m in models], axis=0)
    return {
        "delta_norm": np.linalg.norm(x - r),
        "relative": np.linalg.norm(x - r) / np.linalg.norm(r),
        "cosine": float((x * r).sum() / np.linalg.norm(x) / np.linalg.norm(r)),
        "sign_conflict": (up & down).mean(),
        "kept": (x != r).mean(),
        "nonfinite": 0,
    }


@pytest.mark.parametrize("out_dtype", ["float32", "bfloat16"])
def test_the_report_is_that_of_numpy_and_does_not_depend_on_threads(home, out_dtype):
    write_config(method="ties", extra=f"out_dtype: {out_dtype}\n")
    pm.merge("c.yml", to="out", report=True, threads=1)
    pm.merge("c.yml", to="again", report=True, threads=3)
    report = json.loads(Path("out/polmrs_report.json").read_text())
    assert report == json.loads(Path("again/polmrs_report.json").read_text())
    assert (report["method"], report["reference"]) == ("ties", "base")
    base, out, models = weights("base"), weights("out"), [weights("math"), weights("code")]
    copied = {"model.position_ids"} | {name for name, tensor in base.items() if tensor.numel() == 0}
    assert {row["name"] for row in report["tensors"] if row["copied"]} == copied
    for row in report["tensors"]:
        if row["name"] not in copied:
            expected = by_hand(row["name"], base, models, out)
            assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6)
            assert 0 < row["sign_conflict"] < 1 or base[row["name"]].numel() == 1


def test_without_a_base_the_first_model_is_the_reference(home):
    pm.merge(["math", "code"], method=pm.Linear(), to="out", report=True)
    report = json.loads(Path("out/polmrs_report.json").read_text())
    assert report["reference"] == "math"
    name = "model.layers.0.weight"
    expected = by_hand(name, weights("math"), [weights("code")], weights("out"))
    row = next(row for row in report["tensors"] if row["name"] == name)
    assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6)


def test_the_report_counts_what_is_not_finite(home):
    broken = tensors(2)
    broken["model.layers.0.weight"][5, :3] = torch.nan
    folder(Path("code"), broken)
    write_config(method="task_arithmetic")
    pm.merge("c.yml", to="out", report=True, allow_nonfinite=True)
    rows = {row["name"]: row for row in json.loads(Path("out/polmrs_report.json").read_text())["tensors"]}
    assert rows["model.layers.0.weight"]["delta_norm"] is None
    found = weights("out")["model.layers.0.weight"]
    assert rows["model.layers.0.weight"]["nonfinite"] == int((~found.isfinite()).sum()) == 3


def test_report_lists_the_worst_first(home, polmrs):
    pm.merge("c.yml", to="out", report=True)
    table = polmrs("report", "out", "--by", "kept", "--top", "3").stdout.splitlines()
    assert table[0].split()[:2] == ["tensor", "|x-r|"]
    assert len(table) == 6
    rows = json.loads(polmrs("report", "out", "--json").stdout)["tensors"]
    largest = max((row for row in rows if not row["copied"]), key=lambda row: row["kept"])
    assert table[1].split()[0] == largest["name"]
    smallest = min((row for row in rows if not row["copied"]), key=lambda row: row["cosine"])
    assert polmrs("report", "out", "--by", "cosine").stdout.splitlines()[1].split()[0] == smallest["name"]
    assert "possible values: delta_norm" in polmrs("report", "out", "--by", "size").stderr


def test_report_says_how_to_have_one(home, polmrs):
    pm.merge("c.yml", to="plain")
    result = polmrs("report", "plain")
    assert (result.returncode, result.stdout) == (3, "")
    assert "plain/polmrs_report.json: not there; run with --report to have it" in result.stderr
    pm.merge("c.yml", to="verified", verify=True)
    assert "holds digests only" in polmrs("report", "verified").stderr


def test_a_report_changes_no_weight(home):
    pm.merge("c.yml", to="plain")
    pm.merge("c.yml", to="reported", report=True, verify=True)
    plain, reported = weights("plain"), weights("reported")
    assert all(same_bits(plain[name], reported[name]) for name in plain)


def test_a_disk_that_fails_before_anything_is_whole_leaves_nothing(home):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    failed = subprocess.run(command(), capture_output=True, text=True, preexec_fn=limit, check=False)
    assert (failed.returncode, "File too large (os error 27)" in failed.stderr) == (4, True)
    assert not Path("out.partial").exists()  # nothing was whole


def test_fail_on_nonfinite_is_the_default_and_may_be_said(home, polmrs):
    assert polmrs("merge", "c.yml", "out", "--fail-on-nonfinite").returncode == 0
    assert polmrs("merge", "c.yml", "o", "--fail-on-nonfinite", "--allow-nonfinite").returncode == 2


def test_the_picture_has_a_row_a_layer_and_a_column_a_kind(home):
    from polmrs.merge.picture import cells

    pm.merge("c.yml", to="out", report=True)
    report = json.loads(Path("out/polmrs_report.json").read_text())
    rows, kinds, values = cells(report, "kept")
    found = {row["name"]: row["kept"] for row in report["tensors"] if not row["copied"]}
    assert rows == [f"model.layers.{at}" for at in range(30) if f"model.layers.{at}.weight" in found]
    assert kinds == ["weight"]
    assert values == [[found[f"{row}.weight"]] for row in rows]


def test_png_draws_or_says_what_is_missing(home, polmrs):
    pm.merge("c.yml", to="out", report=True)
    Path("empty").mkdir()
    hidden = Path("empty/matplotlib.py")
    hidden.write_text("raise ModuleNotFoundError('hidden', name='matplotlib')\n")
    without = polmrs("report", "out", "--png", "a.png", env=os.environ | {"PYTHONPATH": "empty"})
    assert (without.returncode, "pip install 'polmrs[plots]'" in without.stderr) == (1, True)
    assert polmrs("report", "nowhere", "--png=a.png").returncode == 3
    assert not Path("a.png").exists()
    drawn = polmrs("report", "out", "--by", "cosine", "--png", "a.png")
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
