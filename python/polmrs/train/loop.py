"""``fit``: the one training loop. It knows no method; an objective says what is learned, an engine where.

A step: take the examples of all ranks; cut this rank's share into micro-batches; sum the weights of every term over all of
them; one forward and backward pass a micro-batch, each divided by those sums; clip; step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from polmrs.data.ragged import Batch
from polmrs.engine import Engine, threads, whole
from polmrs.engine import engine as this_engine
from polmrs.errors import OutputExistsError, UsageError
from polmrs.models import Policy
from polmrs.models import save as save_model
from polmrs.train import checkpoint
from polmrs.train.evaluation import Evaluation, Stopper, measure
from polmrs.train.following import Reference, average_of, averaged, reference_of
from polmrs.train.objective import Objective
from polmrs.train.optimizers import Optim
from polmrs.train.record import Listener, Record, Row, holds_run
from polmrs.train.schedules import Schedule, Shape
from polmrs.train.step import Precision, Stepper

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of a run."""

    steps: int
    """Optimizer steps made, over all resumptions."""
    stopped: Literal["steps", "data", "early"]
    """Why it ended: all steps made, no more batches, or no better evaluation."""
    rows: list[Row] = field(repr=False)
    """What ``metrics.jsonl`` has: step, loss, grad_norm, lr, tokens, seconds, the terms, and evaluations."""
    state: nn.Module | None = field(repr=False)
    """The objective's own weights."""
    average: dict[str, Tensor] = field(repr=False)
    """Averaged weights by name, if asked for."""


def fit(
    policy: Policy,
    batches: Iterable[list[Batch]],
    objective: Objective,
    *,
    steps: int,
    lr: float,
    optim: Optim | str = "adamw",
    schedule: Schedule | Shape = "constant",
    clip: float | None = 1.0,
    micro: int | None = None,
    micro_tokens: int | None = None,
    precision: Precision | None = None,
    activation_checkpointing: bool = True,
    evaluation: Evaluation | None = None,
    average: float | None = None,
    reference: Reference | None = None,
    engine: Engine | str | None = None,
    num_threads: int | None = None,
    seed: int = 0,
    to: str | Path | None = None,
    save_every: int | None = None,
    keep: int = 2,
    resume: bool = False,
    listeners: Sequence[Listener] = (),
) -> Run:
    r"""Trains a policy, in place.

    Args:
        policy: What is trained: its parameters that require gradients.
        batches: The examples of one optimizer step at a time, of all ranks, such as ``Epochs``.
        objective: What is learned.
        steps: Optimizer steps; fewer if the batches end.
        lr: The peak learning rate.
        optim: An optimizer or its name.
        schedule: A schedule or its shape.
        clip: The largest gradient norm: $$g \leftarrow g \min(1, c / (|g| + 10^{-6}))$$; None for no clipping.
        micro: Examples of a forward pass; the whole share of a rank unless given. No result depends on it.
        micro_tokens: Tokens of a forward pass, instead.
        precision: Autocast to half precision; weights, gradients and optimizer stay as they are. ``fp16`` scales the loss.
        activation_checkpointing: Compute the activations of each block again in the backward pass (arXiv:1604.06174).
        evaluation: Held-out examples, and when to look at them.
        average: The decay of an exponential moving average of the weights, kept in CPU memory and saved in ``average`` at the end.
        reference: A reference policy that is to keep up with this one.
        engine: ``one``, ``ddp``, ``fsdp2``, or an engine; by default what the launcher set up.
        num_threads: Of torch on the CPU; by default one for a tiny model.
        seed: Of dropout and noise; each rank has its own.
        to: The folder of the run: metrics, checkpoints, and the model at the end, in ``model``.
        save_every: Steps between checkpoints.
        keep: How many checkpoints stay.
        resume: Go on from the last checkpoint in ``to``, if there is one; the same calls then give the same bits as a run
            that was never interrupted.
        listeners: Called with every row of metrics.

    Raises:
        NonFiniteError: Loss or gradient is NaN or infinite. The weights before that step are saved, and the batch.
        OutputExistsError: ``to`` holds a run, and ``resume`` is not set.
        UsageError: Settings do not fit each other, there is no batch, or a whole step has no token that counts.
        StorageError: A checkpoint cannot be written; older ones stay.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from polmrs.data.epochs import Epochs
    >>> from polmrs.finetune import SFT
    >>> shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    >>> policy = Policy(LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=1, **shape)))
    >>> examples = [Batch.of([[1, 2, 3, 4]]), Batch.of([[1, 2, 3]])]
    >>> run = fit(policy, Epochs(examples, batch=2), SFT(), steps=20, lr=0.05)
    >>> run.rows[-1]["loss"] < 0.5 * run.rows[0]["loss"]
    True
    """
    optim = Optim(name=optim) if isinstance(optim, str) else optim
    schedule = Schedule(shape=schedule) if isinstance(schedule, str) else schedule
    home = engine if isinstance(engine, Engine) else this_engine(engine)
    folder = None if to is None else Path(to)
    if steps < 1:
        raise UsageError(f"steps: {steps} is not 1 or more")
    if folder is None and (save_every or resume):
        raise UsageError("save_every, resume: they need a folder, to=...")
    if folder is not None:
        _open(folder, resume, home)
    if precision == "fp16" and home.sharded:
        raise UsageError("precision: fp16 scales the loss by what one rank sees, so not with fsdp2; use bf16")
    parameters = sum(p.numel() for p in policy.parameters())
    with (
        ExitStack() as ending,
        threads(num_threads, parameters, home.device),
        torch.random.fork_rng(devices=[home.device] if home.device.type == "cuda" else []),
        _training(policy, activation_checkpointing),
    ):
        torch.manual_seed(seed)
        init = getattr(objective, "init", None)
        state: nn.Module | None = None if init is None else init(policy)
        modules = nn.ModuleDict({"policy": policy} | ({} if state is None else {"state": state}))
        home.place(modules)
        torch.manual_seed(seed + home.rank)
        loop = Stepper(
            policy, objective, state, modules, home, optim.build(modules, lr), schedule, steps, precision
        )
        ending.callback(loop.close)
        loop.clip, loop.micro, loop.micro_tokens, loop.folder = clip, micro, micro_tokens, folder
        if average is not None:
            loop.training.following["average"] = average_of(modules, average)
        if reference is not None:
            loop.training.following["reference"] = reference_of(reference, policy, home)
        stopper = Stopper(evaluation)
        done = 0
        if folder is not None and resume and (last := checkpoint.found(folder)):
            kept = checkpoint.load(last[-1], loop.training, home)
            done = kept["step"]
            loop.restore(kept, stopper, batches)
        stream = iter(batches)
        record = Record(folder if home.rank == 0 else None, steps=steps, after=done, listeners=listeners)
        stopped: Literal["steps", "data", "early"] = "steps"
        try:
            while done < steps:
                examples = next(stream, None)
                if examples is None and not done:
                    raise UsageError("batches: there is none to train on")
                if examples is None:
                    stopped = "data"
                    break
                if not examples:
                    raise UsageError(f"batches: that of step {done + 1} has no examples")
                row = loop.step(done, examples)
                done += 1
                if evaluation is not None and (done % evaluation.every == 0 or done == steps):
                    row |= {
                        f"eval_{k}": v for k, v in measure(policy, objective, state, evaluation, home).items()
                    }
                record.add(row)
                if save_every and folder is not None and done % save_every == 0:
                    checkpoint.save(folder, done, loop.training, loop.kept(stopper, batches), home, keep)
                if evaluation is not None and stopper.ends(row):
                    stopped = "early"
                    break
        finally:
            record.close()
        if folder is not None:
            if not save_every or done % save_every:
                checkpoint.save(folder, done, loop.training, loop.kept(stopper, batches), home, keep)
            saved = {"model": model_weights(policy)}
            if average is not None:
                saved["average"] = averaged(policy, loop.training.average)
            if home.rank == 0:
                for name, weights in saved.items():
                    save_model(policy, folder / name, weights=weights, overwrite=True)
            home.barrier()
    return Run(steps=done, stopped=stopped, rows=record.rows, state=state, average=loop.training.average)


def model_weights(policy: Policy) -> dict[str, Tensor] | None:
    """The model's state dict gathered from shards; None where the model itself is whole. Every rank calls it."""
    if not isinstance(policy, FSDPModule):
        return None
    return {name: whole(tensor) for name, tensor in policy.model.state_dict().items()}


@contextmanager
def _training(policy: Policy, recompute: bool) -> Iterator[None]:
    """Training mode and activation checkpointing, both as they were afterwards."""
    model: Any = policy.plain
    training, recomputing = policy.training, model.is_activation_checkpointing
    policy.train()
    if recompute and not recomputing and model.supports_gradient_checkpointing:
        model.activation_checkpointing_enable()
    try:
        yield
    finally:
        policy.train(training)
        if recompute and not recomputing and model.supports_gradient_checkpointing:
            model.activation_checkpointing_disable()


def _open(folder: Path, resume: bool, engine: Engine) -> None:
    if not resume and holds_run(folder):
        raise OutputExistsError(
            f"to: {folder} holds a run; pass resume=True to go on with it, or another folder"
        )
    engine.barrier()
    folder.mkdir(parents=True, exist_ok=True)
    engine.barrier()
