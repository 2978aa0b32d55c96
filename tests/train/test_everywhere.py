"""The same numbers everywhere: any micro-batches, packed, any padding, two ranks with DDP, two with FSDP2."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from polmrs.data.epochs import Epochs
from polmrs.models import Padded
from polmrs.train import fit
from safetensors.torch import load_file
from train.everywhere import CASES, LAYOUTS, beside, data_of, policy_of, recorded, trained
from train.interrupted import Cut

SCRIPT = Path(__file__).with_name("everywhere.py")


@functools.cache
def reference(name, dtype=torch.float64):
    return trained(name, dtype=dtype)


def compare(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        off = (found[key].double() - value.double()).norm() / value.double().norm().clamp_min(1e-300)
        assert off <= tolerance, f"{key}: {off:.1e}"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_does_not_depend_on_how_it_is_cut(name, layout):
    compare(trained(name, **LAYOUTS[layout]), reference(name), 1e-12)


def run_of(name, *, stop=None, door=None, **settings):
    """Every weight after a few steps of AdamW, of the policy, the objective and the reference."""
    case = CASES[name]
    policy = policy_of(case, door=door)
    given, scored = beside(case, policy)
    stream = scored(Epochs(data_of(case, 12), batch=4))
    stream = stream if stop is None else Cut(stream, stop)
    made = fit(policy, stream, case.objective, lr=1e-2, **given, **settings)
    followed = [one.policy for one in given.values()]
    return [p for part in (policy, made.state, *followed) if part is not None for p in part.parameters()]


@pytest.mark.parametrize("name", CASES)
def test_what_stands_in_padding_changes_no_bit(name):
    one, other = (run_of(name, door=Padded(pad_id=pad), steps=1) for pad in (0, 49))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_breaks_off_resumes_to_the_same_bits(name, tmp_path):
    settings = {"steps": 3, "to": tmp_path, "save_every": 1}
    with pytest.raises(KeyboardInterrupt):
        run_of(name, stop=2, **settings)
    resumed, whole = run_of(name, resume=True, **settings), run_of(name, steps=3)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.parametrize("name", ["sft smoothed", "bradley-terry", "process reward"])
def test_nor_in_single_precision(name):
    compare(trained(name, dtype=torch.float32, micro=1), reference(name, torch.float32), 1e-5)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, out],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(errors)
    return out


def test_fsdp2_holds_shards(two_ranks):
    shards = json.loads((two_ranks / "shards.json").read_text())
    assert shards["fsdp2"]
    assert all(0 < local < whole for local, whole in shards["fsdp2"].values())
    assert all(local == -1 for local, _ in shards["ddp"].values())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_make_the_step_of_one(two_ranks, kind, name):
    compare(load_file(two_ranks / f"{kind} {name}.safetensors"), reference(name), 1e-12)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_write_down_what_one_does(two_ranks, kind, tmp_path):
    recorded(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.safetensors"))
    assert [str(file.parent) for file in files] == ["average", "checkpoints/00000003", "model"]
    for file in files:
        ours, theirs = (load_file(home / file) for home in (two_ranks / kind, tmp_path))
        kept = {name for name in theirs if not name.startswith("random/")}
        compare({n: ours[n] for n in kept}, {n: theirs[n] for n in kept}, 1e-12)
