"""Where training runs: one device, the same model on every rank (DDP), or a model in shards (FSDP2).

Ranks come from ``torchrun``; one device needs no launcher. Each rank sees the whole list of a step's examples and takes its
share, so the same list gives the same step on any number of ranks. Gradients are *sums* over ranks, because objectives
are divided by weights of the whole step before the first forward pass.

``ddp`` sums gradients once a step, in buckets, after the last micro-batch: nothing is sent during accumulation, a policy may
be called any number of times before a backward pass, and nothing overlaps with it. ``fsdp2`` is torch's ``fully_shard``.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from polmrs.errors import UsageError

Tensor = torch.Tensor

BUCKET_BYTES = 32 << 20
TINY = 5_000_000
"""Parameters below which a CPU model runs on one thread: two are slower, on a contended machine many times."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A device, and this process's place among those that train together.

    >>> Engine().sum([1.0, 2.0])
    [1.0, 2.0]
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1
    sharded: bool = False

    def place(self, module: nn.Module) -> None:
        """Moves a module to the device; ranks get rank 0's weights. With ``fsdp2``, cuts policies into shards."""
        module.to(self.device)
        if self.world > 1:
            for tensor in [*module.parameters(), *module.buffers()]:
                if not isinstance(tensor, DTensor):
                    dist.broadcast(tensor.detach(), 0)
        if self.sharded:
            from polmrs.models import Policy

            for policy in module.modules():
                if isinstance(policy, Policy) and not isinstance(policy, FSDPModule):
                    _shard(policy)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each number summed over ranks, in float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def collect(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sums the gradients of whole parameters over ranks; those of shards are summed in the backward pass."""
        if self.world == 1:
            return
        whole = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
        used = self.sum([float(p.grad is not None) for p in whole])
        mine = [p for p, ranks in zip(whole, used, strict=True) if ranks]
        for p in mine:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        for bucket in _buckets([p.grad for p in mine if p.grad is not None]):
            flat = torch.cat([grad.flatten() for grad in bucket])
            dist.all_reduce(flat)
            for grad, part in zip(bucket, torch.split(flat, [grad.numel() for grad in bucket]), strict=True):
                grad.copy_(part.view_as(grad))

    def norm(self, gradients: Iterable[Tensor]) -> float:
        """The Euclidean norm of all gradients together, shards of other ranks included."""
        square = [0.0, 0.0]
        for grad in gradients:
            local = grad.to_local() if isinstance(grad, DTensor) else grad
            square[isinstance(grad, DTensor)] += float(torch.linalg.vector_norm(local).double().square())
        whole, shards = square[0], self.sum(square[1:])[0] if self.sharded else 0.0
        return float((whole + shards) ** 0.5)

    def barrier(self) -> None:
        """Waits for the other ranks."""
        if self.world > 1:
            dist.barrier()


def engine(kind: str | None = None) -> Engine:
    """The engine of this process: ``one``, ``ddp`` or ``fsdp2``; by default ``ddp`` under ``torchrun``, else ``one``.

    A GPU is used where there is one.

    Raises:
        UsageError: The kind is none of these, or needs a launcher.

    >>> engine("ddp")
    Traceback (most recent call last):
    ...
    polmrs.errors.UsageError: engine: ddp needs ranks; start with torchrun --nproc-per-node N
    """
    launched = dist.is_initialized() or "WORLD_SIZE" in os.environ
    kind = kind or ("ddp" if launched else "one")
    if kind not in ("one", "ddp", "fsdp2"):
        raise UsageError(f"engine: {kind!r} is none of one, ddp, fsdp2")
    cuda = torch.cuda.is_available()
    local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if kind == "one":
        return Engine(device=local)
    if not launched:
        raise UsageError(f"engine: {kind} needs ranks; start with torchrun --nproc-per-node N")
    if not dist.is_initialized():
        if cuda:
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if cuda else "gloo")
    return Engine(device=local, rank=dist.get_rank(), world=dist.get_world_size(), sharded=kind == "fsdp2")


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards, in CPU memory; every rank must call it."""
    full: Tensor = tensor.detach()
    if isinstance(full, DTensor):
        full = full.full_tensor()
    return full.cpu()


def put(into: Tensor, value: Tensor) -> Tensor:
    """``value`` as ``into`` is: on its device, cut into its shards."""
    moved = value.to(into.device)
    if isinstance(into, DTensor) and value.ndim:
        return distribute_tensor(moved, into.device_mesh, into.placements)
    return moved


@contextmanager
def threads(n: int | None, parameters: int, device: torch.device) -> Iterator[None]:
    """Runs with ``n`` threads of torch, one for a tiny model on a CPU, and restores what was set."""
    before = torch.get_num_threads()
    chosen = n or (1 if device.type == "cpu" and parameters < TINY else before)
    torch.set_num_threads(chosen)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def release(device: torch.device) -> None:
    """Gives the memory of freed CPU tensors back to the system.

    glibc keeps it, and gradients that come between activations split it: a step would peak at nearly a gigabyte more for
    135 million parameters. Does nothing with another C library.
    """
    if device.type == "cpu" and _TRIM is not None:
        _TRIM(0)


def _trimmer() -> Any:
    """The ``malloc_trim`` of glibc, or None."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


_TRIM = _trimmer()


def blocks(policy: Any) -> list[nn.Module]:
    """The repeated blocks of a model, as transformers names them; none if it does not say."""
    kinds = set(getattr(policy.plain, "_no_split_modules", None) or ())
    return [module for module in policy.modules() if type(module).__name__ in kinds]


def _shard(policy: Any) -> None:
    for block in blocks(policy):
        fully_shard(block)
    fully_shard(policy)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for grad in gradients:
        if bucket and (
            grad.dtype != bucket[0].dtype or sum(g.nbytes for g in bucket) + grad.nbytes > BUCKET_BYTES
        ):
            yield bucket
            bucket = []
        bucket.append(grad)
    if bucket:
        yield bucket
