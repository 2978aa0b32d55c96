"""One optimizer step: weights of the whole step, a forward and backward pass a micro-batch, clipping, the update."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save_file
from torch import nn

from polmrs.data.ragged import Batch
from polmrs.engine import TINY, Engine, blocks, release
from polmrs.errors import NonFiniteError, UsageError
from polmrs.models import Policy
from polmrs.train import checkpoint, fused
from polmrs.train.evaluation import Stopper
from polmrs.train.fused import Fused
from polmrs.train.objective import Objective, divisors_of, loss_of, prepared, split
from polmrs.train.record import Row
from polmrs.train.schedules import Schedule

Tensor = torch.Tensor
Precision: TypeAlias = Literal["bf16", "fp16"]


class Stepper:
    """The parts that a step needs, and what changes with it."""

    clip: float | None
    micro: int | None
    micro_tokens: int | None
    folder: Path | None
    measured: float
    """The norm before clipping, where a pass of its own found it."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        state: nn.Module | None,
        modules: nn.ModuleDict,
        engine: Engine,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        steps: int,
        precision: Precision | None,
    ) -> None:
        self.policy, self.objective, self.state, self.engine = policy, objective, state, engine
        self.schedule, self.steps, self.tokens = schedule, steps, 0
        self.training = checkpoint.Training(modules=modules, optimizer=optimizer)
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}[precision]
        self.scaler = torch.amp.GradScaler(engine.device.type, enabled=precision == "fp16")
        self.large = sum(p.numel() for p in policy.parameters()) >= TINY
        # The gradients of a block come to lie between what it freed; so memory is given back after each block, not only after all.
        crowded = blocks(policy) if self.large and engine.device.type == "cpu" else []
        firsts: list[Any] = [next((p for p in b.parameters() if p.requires_grad), None) for b in crowded]
        last = [p for p in firsts if p is not None]  # of a block's gradients, that of its first weight
        self.hooks = [p.register_post_accumulate_grad_hook(lambda _: self._release()) for p in last]

    def step(self, done: int, examples: Sequence[Batch]) -> Row:
        """One optimizer step; the row says what it saw."""
        begun = time.perf_counter()
        engine, optimizer = self.engine, self.training.optimizer
        shares = split(
            examples, rank=engine.rank, world=engine.world, micro=self.micro, micro_tokens=self.micro_tokens
        )
        micros = [(batch.to(engine.device), counts) for batch, counts in shares]
        divisors = divisors_of(self.objective, micros, engine)
        shared = prepared(self.objective, self.policy, micros, engine)
        factor = self.schedule.factor(done, steps=self.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.zero_grad(set_to_none=True)
        self._release()
        if isinstance(optimizer, Fused):
            self._before_updates(optimizer, done, micros, shared, divisors)
        sums = dict.fromkeys(divisors, 0.0)
        loss = 0.0
        for batch, counts in micros:
            with self._autocast():
                terms = self.objective(self.policy, batch, shared, self.state)
            part = loss_of(self.objective, terms, divisors) * float(counts)
            if isinstance(optimizer, Fused) and not bool(torch.isfinite(part)):
                self._fail(done, "loss", float(part.detach()), batch)
            self._release()
            torch.autograd.backward(self.scaler.scale(part))
            if counts:
                loss += float(part.detach())
                sums = {name: sums[name] + float(terms[name].detach()) for name in sums}
            if not math.isfinite(loss):
                self._fail(done, "loss", loss, batch)
        loss, *summed = engine.sum([loss, *(sums[name] for name in sorted(sums))])
        engine.collect(self.training.modules.parameters())
        self._release()
        self.scaler.unscale_(optimizer)
        norm = self._clipped()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            self._fail(done, "gradient norm", norm, Batch.cat(list(examples)))
        self.scaler.step(optimizer)
        self.scaler.update()
        for one in self.training.following.values():
            one.after(done + 1)
        after = getattr(self.objective, "after_step", None)
        if after is not None:
            after(self.policy, self.state, done + 1)
        tokens = sum(len(example.ids) for example in examples)
        self.tokens += tokens
        row: Row = {"step": done + 1, "loss": loss, "grad_norm": norm, "lr": optimizer.param_groups[0]["lr"]}
        row |= {"tokens": tokens, "seconds": time.perf_counter() - begun}
        means = {
            name: total / divisors[name]
            for name, total in zip(sorted(sums), summed, strict=True)
            if divisors[name]
        }
        return row | means if len(means) > 1 else row

    def _release(self) -> None:
        if self.large:
            release(self.engine.device)

    def close(self) -> None:
        """Leaves the parameters without hooks."""
        for hook in self.hooks:
            hook.remove()
        if isinstance(self.training.optimizer, Fused):
            self.training.optimizer.close()

    def _before_updates(
        self,
        optimizer: Fused,
        done: int,
        micros: Sequence[tuple[Batch, bool]],
        shared: Any,
        divisors: Mapping[str, float],
    ) -> None:
        """For an optimizer that updates in the backward pass: the norm first, by a pass of its own, if it is clipped."""
        fused.check(optimizer, micros=len(micros), world=self.engine.world, scaled=self.scaler.is_enabled())
        optimizer.begin()
        if self.clip is None:
            return
        (batch, _), device = micros[0], self.engine.device
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), optimizer.measuring():
            with self._autocast():
                terms = self.objective(self.policy, batch, shared, self.state)
            torch.autograd.backward(loss_of(self.objective, terms, divisors))
        self.measured = optimizer.norm
        if not math.isfinite(self.measured):
            self._fail(done, "gradient norm", self.measured, batch)
        optimizer.begin(min(1.0, self.clip / (self.measured + 1e-6)))

    def _clipped(self) -> float:
        if isinstance(self.training.optimizer, Fused):
            return self.training.optimizer.norm if self.clip is None else self.measured
        gradients = [p.grad for p in self.training.modules.parameters() if p.grad is not None]
        norm = self.engine.norm(gradients)
        if self.clip is not None and norm + 1e-6 > self.clip:
            for grad in gradients:
                grad.mul_(self.clip / (norm + 1e-6))
        return norm

    def _autocast(self) -> Any:
        return nullcontext() if self.dtype is None else torch.autocast(self.engine.device.type, self.dtype)

    def _fail(self, done: int, what: str, value: float, batch: Batch) -> None:
        """Saves the weights from before the step and the batch, then stops. Only one rank may know of it, so nothing is
        gathered from others: shards are saved by the last checkpoint alone.
        """
        moved = isinstance(self.training.optimizer, Fused) and self.clip is None and what == "gradient norm"
        names = ", ".join(name for name in batch.names if name) or "without names"
        saved = ""
        if self.folder is not None:
            path = self.folder / f"failed_step_{done + 1}_rank_{self.engine.rank}.safetensors"
            tensors = {"ids": batch.ids, "cu_seqlens": batch.cu_seqlens, "weights": batch.weights}
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
            saved = f"; the batch is in {path}"
            if self.engine.world == 1:
                kept: dict[str, Any] = {"data": None, "tokens": self.tokens, "scaler": {}, "stopper": {}}
                self.training.optimizer.zero_grad(set_to_none=True)
                at = checkpoint.save(self.folder / "failed", done, self.training, kept, self.engine, 1)
                saved += f", the weights {'after' if moved else 'before'} the step in {at}"
        raise NonFiniteError(f"step {done + 1}: the {what} is {value}; examples: {names}{saved}")

    def kept(self, stopper: Stopper, batches: Any) -> dict[str, Any]:
        """What a checkpoint holds beside tensors."""
        position = getattr(batches, "state_dict", None)
        return {
            "data": None if position is None else position(),
            "tokens": self.tokens,
            "scaler": self.scaler.state_dict(),
            "stopper": stopper.state_dict(),
        }

    def restore(self, kept: Mapping[str, Any], stopper: Stopper, batches: Any) -> None:
        """Puts it back; data without a position is gone through from its beginning."""
        self.tokens = kept["tokens"]
        stopper.load_state_dict(kept["stopper"])
        if kept["scaler"]:
            self.scaler.load_state_dict(dict(kept["scaler"]))
        if kept["data"] is None:
            raise UsageError("resume: the batches had no state_dict, so their position is not known")
        batches.load_state_dict(kept["data"])
