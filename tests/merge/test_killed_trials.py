"""Sweeps and soups that are killed at random moments: going on gives the table and the bits of a run that was not."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from merge.made import fine_tunes, folder

POLMRS = Path(sys.executable).with_name("polmrs")
KILLS = 8
# A score by the bytes alone: quick, and another one for other bytes. What is scored is written down at the end.
SCORE = 'sleep 0.02; sum=$(cksum < "$1/model.safetensors"); echo "$1" >> log; echo "${sum%% *}"\n'
SCORING = ["--score", "sh score.sh {out}", "--minimize", "--quiet"]
RUNS = {
    "sweep": (
        ["merge", "c.yml", "--sweep", "density=0.2,0.5,0.7,1", "--sweep", "weight=0.5,1,2"],
        ["{to}"],
        12,
    ),
    "soup": (["soup", "a", "b", "c", "d", "e"], ["--to", "{to}"], 9),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, tunes = fine_tunes("continuous", 200_000, 5)
    for name, tensor in zip(["base", *"abcde"], [base, *tunes], strict=True):
        folder(Path(name), {"w": tensor, "v": tensor[:7].clone()})
    models = "models: [{model: a}, {model: b}]\n"
    Path("c.yml").write_text(f"merge_method: ties\nbase_model: base\n{models}parameters: {{weight: 1}}\n")
    Path("score.sh").write_text(SCORE)
    return tmp_path


def start(run, to, *options):
    verb, place, _ = RUNS[run]
    place = [word.format(to=to) for word in place]
    first, *rest = verb
    words = [first, *rest, *place] if run == "soup" else [first, rest[0], *place, *rest[1:]]
    return subprocess.Popen([POLMRS, *words, *SCORING, *options], stdout=subprocess.DEVNULL)


def files(path):
    return {file.name: file.read_bytes() for file in Path(path).iterdir() if file.name != "README.md"}


@pytest.mark.parametrize("run", RUNS)
def test_a_killed_run_goes_on_to_the_same_result(home, run):
    begun = time.monotonic()
    assert start(run, "whole").wait(timeout=60) == 0
    takes = time.monotonic() - begun
    Path("log").unlink()
    chance = random.Random(run)
    killed = 0
    for _ in range(KILLS):
        process = start(run, "out", "--resume")
        try:
            process.wait(timeout=chance.uniform(0.1, 0.6) * takes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        if Path("out").exists():  # by a kill between the last rename and the end, too
            break
    if not Path("out").exists():
        assert start(run, "out", "--resume").wait(timeout=60) == 0
    assert killed >= 1
    assert files("out") == files("whole")
    assert not Path("out.partial").exists()
    trials = RUNS[run][2]
    assert (
        trials <= len(Path("log").read_text().splitlines()) <= trials + killed
    )  # one is lost by a kill, no more
