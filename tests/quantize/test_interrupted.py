"""A quantization that is killed goes on to the bits of one that was not, and one that is stopped says how to go on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from quantize.made import files, folder

POLMRS = Path(sys.executable).with_name("polmrs")
SAID = [
    "--scheme",
    "nvfp4",
    "--rule",
    "up_proj=w3a16 group=64 asym",
    "--method",
    "rtn",
    "--shard-size",
    "400kB",
]
JOURNAL = ".polmrs.journal"


@pytest.fixture
def model(tmp_path):
    random = torch.Generator().manual_seed(0)
    names = [
        f"model.layers.{layer}.mlp.{part}"
        for layer in range(24)
        for part in ("up_proj", "gate_proj", "down_proj")
    ]
    return folder(
        tmp_path / "model", {f"{name}.weight": torch.randn(256, 512, generator=random) for name in names}
    )


def start(model, out, *more):
    words = [POLMRS, "quantize", model, out, *SAID, "--sync-every", "20kB", "--threads", "1", *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stopped(model, out, by):
    """Stops runs by a signal once something is whole, until one is stopped before its end; its stderr."""
    journal = out.with_name(f"{out.name}.partial") / JOURNAL
    for _ in range(20):
        process = start(model, out, "--overwrite")
        while process.poll() is None:
            if journal.exists() and "done" in journal.read_text():
                process.send_signal(by)
                break
            time.sleep(0.0005)
        _, said = process.communicate()
        if process.returncode:
            return process.returncode, said
    raise AssertionError("every run was faster than its end")


@pytest.mark.parametrize(("by", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_what_was_stopped_goes_on_to_the_same_bits(by, code, model, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "out"
    assert start(model, whole).wait() == 0
    returned, said = stopped(model, parts, by)
    assert returned == code
    if by == signal.SIGINT:
        assert "--resume goes on with it" in said
    resumed = start(model, parts, "--resume", "--overwrite")
    told, _ = resumed.communicate()
    assert resumed.returncode == 0
    assert "tensors from an earlier run" in told
    assert files(parts) == files(whole)


def test_a_run_of_another_scheme_does_not_go_on(model, tmp_path):
    stopped(model, tmp_path / "out", signal.SIGKILL)
    words = [POLMRS, "quantize", model, tmp_path / "out", "--scheme", "w8a16", "--resume", "--overwrite"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "holds unfinished work that differs in" in done.stderr
