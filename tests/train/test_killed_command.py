"""`polmrs train` killed in the middle: `--resume` ends with the bits of a run that was left alone."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from polmrs.train.command import run
from safetensors.torch import load_file
from train.recipes import furnish, metrics, words

STEPS = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """As the others', with dropout, so that random states matter."""
    return furnish(tmp_path_factory.mktemp("killed"), attention_dropout=0.2)


def said(home, to, *more):
    everything = {
        "steps": STEPS,
        "save_every": 2,
        "average": 0.9,
        "schedule": "cosine",
        "lora": "{r: 2, dropout: 0.1}",
    }
    return list(map(str, words(home, "sft", to, *more, held_out="{share: 0.3, every: 3}", **everything)))


def test_a_killed_command_resumes_to_the_same_bits(home, tmp_path):
    command = [sys.executable, "-m", "polmrs", "train", *said(home, tmp_path / "killed")]
    with (tmp_path / "said.txt").open("w") as told:
        child = subprocess.Popen(command, stdout=told, stderr=told)
    until = time.monotonic() + 120
    seen = tmp_path / "killed" / "metrics.jsonl"
    while not seen.exists() or seen.read_text().count("\n") < 5:
        alive = child.poll() is None and time.monotonic() < until
        assert alive, (tmp_path / "said.txt").read_text()
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    run(said(home, tmp_path / "killed", "--resume"))
    run(said(home, tmp_path / "whole"))
    assert len(metrics(tmp_path / "whole")) == STEPS
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for name in ("model", "average"):
        one, other = (
            load_file(tmp_path / run / name / "adapter_model.safetensors") for run in ("killed", "whole")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
