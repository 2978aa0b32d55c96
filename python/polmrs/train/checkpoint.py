"""Checkpoints of training: safetensors and JSON, whole or not there, from which a run goes on bit for bit.

``FOLDER/checkpoints/STEP/`` holds ``state.safetensors`` (trainable weights and buffers, the optimizer's state, the random state
of every rank's CPU and GPU, averaged weights and those of a moving reference) and ``state.json`` (step, position in the data,
scalars). Weights that are not trained are not written. Names are those of the modules, tensors are whole, so a run may resume on
another number of ranks; the random states then begin anew.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from polmrs.engine import Engine, put, whole
from polmrs.errors import CheckpointError, StorageError
from polmrs.train.following import Following

Tensor = torch.Tensor
SCHEMA = "polmrs.train.state/1"


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that a step changes."""

    modules: nn.ModuleDict
    """The policy and the objective's own weights."""
    optimizer: torch.optim.Optimizer
    following: dict[str, Following] = field(default_factory=dict)
    """``average`` and ``reference``, if asked for."""

    @property
    def average(self) -> dict[str, Tensor]:
        """Averaged weights by name."""
        return self.following["average"].tensors if "average" in self.following else {}


def save(
    folder: Path, step: int, training: Training, extra: Mapping[str, Any], engine: Engine, keep: int
) -> Path:
    """Writes a checkpoint; every rank calls it, rank 0 writes. Of older ones, all but the last ``keep - 1`` go.

    Raises:
        StorageError: It cannot be written; older checkpoints are as they were.
    """
    tensors, scalars = _taken(training)
    tensors |= _random_states(engine)
    out = folder / "checkpoints" / f"{step:08d}"
    if engine.rank == 0:
        state = {"schema": SCHEMA, "step": step, "world": engine.world, "optimizer": scalars, **extra}
        state["python_random"] = _plain(random.getstate())
        partial = out.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            save_file(tensors, partial / "state.safetensors")
            (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
            shutil.rmtree(out, ignore_errors=True)
            partial.rename(out)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            number = getattr(error, "errno", None)
            message = f"{out}: cannot write the checkpoint: {error}; older ones are whole"
            raise StorageError(*([number, message] if number else [message])) from error
        for old in found(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    engine.barrier()
    return out


def found(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in (folder / "checkpoints").glob("*") if path.name.isdigit())


def load(path: Path, training: Training, engine: Engine) -> dict[str, Any]:
    """Puts a checkpoint back and gives what ``state.json`` says.

    Raises:
        CheckpointError: It is not of this model and optimizer, or damaged.
    """
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        with safe_open(path / "state.safetensors", framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint: {error}") from error
    if state.get("schema") != SCHEMA:
        raise CheckpointError(f"{path}: schema {state.get('schema')!r}, not {SCHEMA!r}")
    _put_weights(path, training, tensors)
    _put_optimizer(training, tensors, state["optimizer"])
    _put_following(path, training, tensors)
    if state["world"] == engine.world:
        torch.set_rng_state(tensors[f"random/{engine.rank}"])
        if engine.device.type == "cuda" and (gpu := tensors.get(f"random_gpu/{engine.rank}")) is not None:
            torch.cuda.set_rng_state(gpu, engine.device)
    kind, words, gauss = state["python_random"]
    random.setstate((kind, tuple(words), gauss))
    return state


def _named(training: Training) -> dict[str, Tensor]:
    # The state dict first: it puts shards back in their places, which an evaluation leaves gathered.
    persistent = training.modules.state_dict(keep_vars=True)
    kept: dict[str, Tensor] = {n: p for n, p in training.modules.named_parameters() if p.requires_grad}
    return kept | {n: b for n, b in training.modules.named_buffers() if n in persistent}


def _taken(training: Training) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    tensors = {f"weights/{name}": whole(t).contiguous() for name, t in _named(training).items()}
    scalars: dict[str, dict[str, Any]] = {}
    for name, p in training.modules.named_parameters():
        for key, value in training.optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{key}"] = whole(value).contiguous()
            else:
                scalars.setdefault(name, {})[key] = value
    for kind, one in training.following.items():
        tensors |= {f"{kind}/{name}": whole(value).contiguous() for name, value in one.tensors.items()}
    return tensors, scalars


def _put_weights(path: Path, training: Training, tensors: dict[str, Tensor]) -> None:
    named = _named(training)
    theirs = {name.removeprefix("weights/") for name in tensors if name.startswith("weights/")}
    if theirs != set(named):
        odd = sorted(theirs ^ set(named))
        raise CheckpointError(
            f"{path}: of another model or other trainable weights: {odd[0]} (and {len(odd) - 1} more)"
        )
    with torch.no_grad():
        for name, into in named.items():
            into.copy_(put(into, tensors[f"weights/{name}"]))


def _put_following(path: Path, training: Training, tensors: dict[str, Tensor]) -> None:
    for kind, one in training.following.items():
        for name, into in one.tensors.items():
            if f"{kind}/{name}" not in tensors:
                raise CheckpointError(f"{path}: has no {kind} of {name}; the run that is resumed kept none")
            with torch.no_grad():
                into.copy_(put(into, tensors[f"{kind}/{name}"]))


def _put_optimizer(
    training: Training, tensors: dict[str, Tensor], scalars: dict[str, dict[str, Any]]
) -> None:
    parameters = dict(training.modules.named_parameters())
    state = training.optimizer.state
    for name, values in scalars.items():
        state[parameters[name]].update(values)
    for full, value in tensors.items():
        if not full.startswith("optimizer/"):
            continue
        # Not a map of the file, whose place on the disk would stay taken after its deletion.
        value = value.clone()
        name, _, key = full.removeprefix("optimizer/").rpartition("/")
        like = parameters[name]
        state[like][key] = put(like, value) if value.shape == like.shape else value.to(_home(like, value))


def _home(like: Tensor, value: Tensor) -> torch.device:
    """Step counters stay on the CPU, as torch keeps them; other states go where the weights are."""
    return torch.device("cpu") if value.ndim == 0 else like.device


def _random_states(engine: Engine) -> dict[str, Tensor]:
    """``random/RANK`` of every CPU, ``random_gpu/RANK`` of every GPU."""
    mine = {"random": torch.get_rng_state()}
    if engine.device.type == "cuda":
        mine["random_gpu"] = torch.cuda.get_rng_state(engine.device)
    found: dict[str, Tensor] = {}
    for kind, state in mine.items():
        every = [state]
        if engine.world > 1:
            every = [torch.empty_like(state, device=engine.device) for _ in range(engine.world)]
            dist.all_gather(every, state.to(engine.device))
        found |= {f"{kind}/{rank}": one.cpu() for rank, one in enumerate(every)}
    return found


def _plain(state: tuple[Any, ...]) -> list[Any]:
    kind, words, gauss = state
    return [kind, list(words), gauss]
