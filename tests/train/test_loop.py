"""The loop: it learns, it resumes to the same bits after kill -9, it stops and says why."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polmrs as pm
import pytest
import torch
from models.made import examples, model, policy
from polmrs.data.epochs import Epochs
from polmrs.data.ragged import Batch
from polmrs.engine import Engine
from polmrs.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteError,
    OutputExistsError,
    StorageError,
    UsageError,
)
from polmrs.finetune import SFT
from polmrs.models import Policy, load
from polmrs.train import Evaluation, Group, Optim, Schedule, checkpoint, fit
from train.interrupted import Cut

DATA = examples(12)


def weights(one):
    return {name: p.detach().clone() for name, p in one.named_parameters()}


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


def settings(folder=None, **more):
    """A run with everything that has a state: dropout, AdamW, a schedule, an average, evaluation."""
    return {
        "steps": 6,
        "lr": 1e-2,
        "schedule": Schedule(shape="cosine", warmup=2),
        "average": 0.9,
        "micro": 2,
        "evaluation": Evaluation(examples=DATA[:4], every=2, patience=9),
        "to": folder,
        **more,
    }


def droppy():
    return policy(attention_dropout=0.2)


def test_twenty_steps_learn_a_batch_by_heart():
    one = policy(dtype=torch.float32)
    run = pm.fit(one, Epochs(DATA[:2], batch=2), SFT(), steps=60, lr=1e-2)
    assert run.rows[-1]["loss"] < 0.2 < 2 < run.rows[0]["loss"]


def test_training_in_two_parts_is_training_in_one(tmp_path):
    whole, parts = droppy(), droppy()
    one = fit(whole, Epochs(DATA, batch=5), SFT(noise=5.0), **settings())
    first = settings(tmp_path / "run", save_every=3)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, Cut(Epochs(DATA, batch=5), 4), SFT(noise=5.0), **first)
    rest = fit(droppy_again := droppy(), Epochs(DATA, batch=5), SFT(noise=5.0), resume=True, **first)
    assert same(droppy_again, whole)
    assert all(torch.equal(rest.average[name], value) for name, value in one.average.items())
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in rest.rows]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in one.rows]
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").open()] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert same(load(tmp_path / "run" / "model", dtype=torch.float64), whole)


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from train.test_loop import *
fit(droppy(), Epochs(DATA, batch=5), SFT(), resume=True, listeners=[lambda row: row["step"] == 5 and time.sleep(600)],
    **settings(sys.argv[1], save_every=2, steps=8))
"""


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path / "run", Path(__file__).parent.parent])
    metrics = tmp_path / "run" / "metrics.jsonl"
    while (
        not metrics.exists() or len(metrics.read_text().splitlines()) < 5
    ):  # the last checkpoint is of step 4
        assert child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    whole, resumed = droppy(), droppy()
    fit(whole, Epochs(DATA, batch=5), SFT(), **settings(steps=8))
    run = fit(
        resumed,
        Epochs(DATA, batch=5),
        SFT(),
        resume=True,
        **settings(tmp_path / "run", save_every=2, steps=8),
    )
    assert same(resumed, whole)
    assert [row["step"] for row in run.rows] == list(range(1, 9))


def test_what_is_not_trained_is_neither_moved_nor_saved(tmp_path):
    one, before = policy(), policy()
    groups = (Group(pattern=r".*embed.*", freeze=True), Group(pattern=r".*norm.*", lr=0.0))
    fit(one, Epochs(DATA, batch=4), SFT(), steps=2, lr=0.1, optim=Optim(groups=groups), to=tmp_path / "run")
    for name, value in weights(one).items():
        assert torch.equal(value, before.get_parameter(name)) == ("norm" in name or "embed" in name), name
    from safetensors import safe_open

    (last,) = (tmp_path / "run" / "checkpoints").glob("*/state.safetensors")
    with safe_open(last, framework="pt") as file:
        assert not [name for name in file.keys() if "embed" in name]  # noqa: SIM118


def test_a_group_that_maximizes_goes_up():
    one = policy()
    run = fit(
        one,
        [DATA[:4]] * 6,
        SFT(),
        steps=6,
        lr=0.05,
        optim=Optim(name="sgd", groups=(Group(pattern=".*", maximize=True),)),
    )
    assert run.rows[-1]["loss"] > run.rows[0]["loss"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_an_update_in_one_pass_is_torchs(name, dtype):
    found = []
    for options in ({}, {"foreach": False}):
        one = policy(dtype=dtype)
        optim = Optim(name=name, options=options, groups=(Group(pattern=".*norm.*", maximize=True),))
        assert optim.build(one, 0.1).defaults["fused"] is (not options or None)
        fit(one, [DATA[:4]] * 4, SFT(), steps=4, lr=1e-2, optim=optim)
        found.append(weights(one))
    close = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    for name, p in found[0].items():
        torch.testing.assert_close(p, found[1][name], rtol=close, atol=close)


@pytest.mark.method("sft.activation-checkpointing")
def test_activation_checkpointing_holds_less_and_changes_nothing():
    from torch.autograd.graph import saved_tensors_hooks

    held = {}
    for recompute in (False, True):
        one, sizes = policy(), []
        with saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            fit(one, [DATA], SFT(), steps=1, lr=0.1, optim="sgd", activation_checkpointing=recompute)
        held[recompute] = (sum(sizes), weights(one))
        assert not one.model.is_activation_checkpointing
    assert held[True][0] < held[False][0] / 2
    assert all(torch.equal(held[True][1][name], held[False][1][name]) for name in held[True][1])


@pytest.mark.method("sft.mixed-precision")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_master_weights_and_learns_alike(precision):
    one, full = policy(dtype=torch.float32), policy(dtype=torch.float32)
    run = fit(one, [DATA] * 8, SFT(), steps=8, lr=3e-3, precision=precision)
    reference = fit(full, [DATA] * 8, SFT(), steps=8, lr=3e-3)
    assert {p.dtype for p in one.parameters()} == {torch.float32}
    ours, theirs = ([row["loss"] for row in r.rows] for r in (run, reference))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)


def test_fp16_skips_a_step_that_overflows_and_halves_its_scale():
    one = policy(dtype=torch.float32)
    with torch.no_grad():
        one.head.weight *= 3e4
    before = weights(one)
    run = fit(one, [DATA], SFT(), steps=1, lr=1.0, precision="fp16", clip=None)
    assert not torch.isfinite(torch.tensor(run.rows[0]["grad_norm"]))
    assert all(torch.equal(value, before[name]) for name, value in weights(one).items())


def test_a_nan_stops_saves_and_names_the_batch(tmp_path):
    one = policy()
    bad = Batch.of([[7, 8, 9]], name="data.jsonl:12")
    fit(one, [DATA[:2]], SFT(), steps=1, lr=0.0, to=tmp_path / "fine")
    with torch.no_grad():
        one.model.get_input_embeddings().weight[8] = float("nan")
    clean = [Batch.of([[3, 4, 5]])]
    with pytest.raises(
        NonFiniteError, match=r"step 2: the loss is nan; examples: data.jsonl:12; the batch is in"
    ):
        fit(one, [clean, [bad]], SFT(), steps=2, lr=1e-3, micro=1, to=tmp_path / "run")
    assert (tmp_path / "run" / "failed_step_2_rank_0.safetensors").exists()
    assert (tmp_path / "run" / "failed" / "checkpoints" / "00000001" / "state.safetensors").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_training_stops_when_evaluation_gets_no_better():
    one = policy(dtype=torch.float32)
    check = Evaluation(examples=DATA[6:], every=1, patience=2)
    run = fit(one, Epochs(DATA[:3], batch=3), SFT(), steps=200, lr=0.05, evaluation=check)
    seen = [row["eval_loss"] for row in run.rows]
    assert run.stopped == "early"
    assert min(seen) == seen[-3]


def test_an_objective_prepares_on_the_whole_step_and_hears_of_its_end():
    heard = []

    class Centred(SFT):
        """Divides by what all micro-batches of the step have."""

        def prepare(self, policy, batches, total):
            assert not torch.is_grad_enabled()
            return total([sum(float(batch.weights.sum()) for batch in batches)])[0]

        def __call__(self, policy, batch, shared, state):
            heard.append(shared)
            return super().__call__(policy, batch, shared, state)

        def after_step(self, policy, state, step):
            heard.append(f"after {step}")

    fit(policy(), [DATA[:4]] * 2, Centred(), steps=2, lr=0.1, micro=2)
    whole = float(Batch.cat(DATA[:4]).weights.sum())
    assert heard == [whole, whole, "after 1", whole, whole, "after 2"]


def test_training_ends_with_the_data():
    run = fit(policy(), Epochs(DATA, batch=5, epochs=2), SFT(), steps=100, lr=0.0)
    assert (run.stopped, run.steps) == ("data", 6)


def test_weights_that_are_nan_from_the_start_are_told_by_the_loss():
    one = policy()
    with torch.no_grad():
        one.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="step 1: the loss is nan"):
        fit(one, [DATA[:2]], SFT(), steps=1, lr=1e-3)


@pytest.mark.parametrize(("batches", "message"), [([], "there is none"), ([[]], "step 1 has no examples")])
def test_batches_without_examples_are_refused_and_the_folder_stays_free(batches, message, tmp_path):
    for _ in range(2):
        with pytest.raises(UsageError, match=message):
            fit(policy(), batches, SFT(), steps=1, lr=0.1, to=tmp_path)


def test_a_disk_that_is_full_is_named_and_the_older_checkpoint_resumes(tmp_path, tmpfs):
    disk = tmpfs(tmp_path / "disk", "size=400k")
    run = {"to": disk / "run", "save_every": 1, "keep": 9, "steps": 6, "lr": 1e-2}
    with pytest.raises(StorageError, match=r"cannot write the checkpoint.*older ones are whole"):
        fit(droppy(), Epochs(DATA, batch=5), SFT(), **run)
    kept = checkpoint.found(disk / "run")
    assert kept
    assert not list(disk.rglob("*.partial"))
    shutil.rmtree(kept[0])  # room for one more
    resumed, whole = droppy(), droppy()
    made = fit(resumed, Epochs(DATA, batch=5), SFT(), resume=True, **(run | {"keep": 1}))
    fit(whole, Epochs(DATA, batch=5), SFT(), steps=6, lr=1e-2)
    assert made.steps == 6
    assert same(resumed, whole)


def test_a_checkpoint_keeps_the_random_state_of_a_gpu(tmp_path, monkeypatch):
    """With a generator of this test in place of the GPU's, which the machine need not have."""
    gpu, home = torch.Generator().manual_seed(5), Engine(device=torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: gpu.get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: gpu.set_state(state))
    modules = torch.nn.ModuleDict({"policy": torch.nn.Linear(2, 2)})
    training = checkpoint.Training(modules=modules, optimizer=torch.optim.SGD(modules.parameters()))
    path = checkpoint.save(tmp_path, 1, training, {}, home, 1)
    drawn = torch.rand(4, generator=gpu)
    checkpoint.load(path, training, home)
    assert torch.equal(torch.rand(4, generator=gpu), drawn)


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(row):
        if row["step"] == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(StorageError, match="older ones are whole"):
            fit(
                droppy(),
                Epochs(DATA, batch=5),
                SFT(),
                listeners=[limit],
                **settings(tmp_path / "run", save_every=2),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000002"]
    run = fit(droppy(), Epochs(DATA, batch=5), SFT(), resume=True, **settings(tmp_path / "run"))
    assert run.steps == 6


def test_threads_and_random_state_are_as_they_were():
    before, state = torch.get_num_threads(), torch.get_rng_state()
    seen = []

    def look(row):
        seen.append(torch.get_num_threads())

    torch.set_num_threads(3)
    try:
        fit(policy(), [DATA], SFT(), steps=1, lr=0.0, listeners=[look])
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_large_model_gives_memory_back_block_by_block_and_learns_the_same(monkeypatch):
    small, large = policy(), policy()
    fit(small, [DATA], SFT(), steps=1, lr=0.1)
    calls = []
    monkeypatch.setattr("polmrs.train.step.TINY", 0)
    monkeypatch.setattr("polmrs.train.step.release", calls.append)
    fit(large, [DATA], SFT(), steps=1, lr=0.1)
    assert len(calls) == 3 + len(
        large.model.model.layers
    )  # before a step, its backward pass, its blocks, its update
    assert not any(parameter._post_accumulate_grad_hooks for parameter in large.parameters())
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), large.parameters(), strict=True))


def test_a_folder_with_a_run_is_not_written_over(tmp_path):
    fit(policy(), [DATA], SFT(), steps=1, lr=0.0, to=tmp_path)
    with pytest.raises(OutputExistsError, match="resume=True"):
        fit(policy(), [DATA], SFT(), steps=1, lr=0.0, to=tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    fit(policy(), Epochs(DATA, batch=4), SFT(), steps=1, lr=0.0, to=tmp_path)
    other = Policy(model(num_hidden_layers=1))
    with pytest.raises(CheckpointError, match="of another model"):
        fit(other, Epochs(DATA, batch=4), SFT(), steps=2, lr=0.0, to=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"optim": "adamm"}, ConfigError, "the nearest is 'adam'"),
        ({"optim": Optim(groups=(Group(pattern="nothing"),))}, ConfigError, "matches no trainable"),
        ({"optim": Optim(groups=(Group(pattern=".*", freeze=True),))}, ConfigError, "nothing is left"),
        ({"schedule": "cosin"}, ConfigError, "schedule: 'cosin'"),
        ({"steps": 0}, UsageError, "steps: 0"),
        ({"micro": 0}, UsageError, "micro: 0"),
        ({"micro": 1, "micro_tokens": 1}, UsageError, "one or the other"),
        ({"resume": True}, UsageError, "they need a folder"),
        ({"average": 1.0}, UsageError, "average: 1.0"),
        ({"engine": "fsdp3"}, UsageError, "engine: 'fsdp3'"),
        ({"engine": "fsdp2"}, UsageError, "torchrun"),
        ({"engine": Engine(sharded=True), "precision": "fp16"}, UsageError, "fp16 .* not with fsdp2"),
    ],
)
def test_settings_that_make_no_sense_are_named(given, error, message):
    with pytest.raises(error, match=message):
        fit(policy(), [DATA], SFT(), **({"steps": 1, "lr": 0.1} | given))


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match="'beta' is none of adamw's; the nearest is 'betas'"):
        Optim(options={"beta": 0.9})


def test_a_term_cannot_have_the_name_of_a_metric():
    class Step(SFT):
        def weights(self, batch):
            return {"step": 1.0}

    with pytest.raises(UsageError, match=r"step.* cannot be names of terms"):
        fit(policy(), [DATA], Step(), steps=1, lr=0.1)


def test_a_step_in_which_nothing_counts_is_refused():
    with pytest.raises(UsageError, match="no token or sequence of the step counts"):
        fit(policy(), [[Batch.of([[1, 2]], [[0, 0]])]], SFT(), steps=1, lr=0.1)
