r"""Log-probabilities of tokens from hidden states, a chunk of tokens at a time, so that tokens x vocabulary is never held.

With logits $$z_t = W h_t + b$$ (scaled, and softly capped where the model does so),

$$\log p_t = z_{t,y_t} - \log \sum_v e^{z_{t,v}}, \qquad \partial \log p_t / \partial z_{t,v} = [v = y_t] - p_{t,v}.$$

The forward pass keeps the logsumexp of every token; the backward pass computes the logits of each chunk again. Logits are
float32, or float64 if the weights are; both products run in the dtype of the hidden states.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from polmrs.errors import ArrayError

Tensor = torch.Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once: 64 MiB of float32."""


class TokenStats(NamedTuple):
    """What a distribution says of its token; each [N], float32 or float64."""

    logp: Tensor
    """$$\\log p_y$$"""
    mean_logp: Tensor
    """$$\\frac{1}{V} \\sum_v \\log p_v$$, for label smoothing"""
    entropy: Tensor
    """$$-\\sum_v p_v \\log p_v$$ in nats"""


def token_stats(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    with_mean: bool = False,
    with_entropy: bool = False,
    chunk: int | None = None,
) -> TokenStats:
    r"""The log-probability of each target; the other two on demand, zeros otherwise.

    Args:
        hidden: [N, D]
        weight: [V, D]
        targets: [N] int64, below V.
        bias: [V]
        scale: Factor of the logits: what the model multiplies with, or one over a temperature.
        softcap: c, for models whose logits are $$c \tanh(z / c)$$.
        with_mean: Whether to compute ``mean_logp``.
        with_entropy: Whether to compute ``entropy``.
        chunk: Tokens at once; by default as many as ``CHUNK_ELEMENTS`` logits allow.

    Raises:
        ArrayError: Shapes do not fit.

    >>> h, w = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    >>> token_stats(h, w, torch.tensor([0])).logp
    tensor([-0.3133])
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ArrayError(f"hidden: {list(hidden.shape)} times a weight of {list(weight.shape)}")
    if targets.shape != hidden.shape[:1]:
        raise ArrayError(f"targets: {list(targets.shape)}, but hidden has {len(hidden)} rows")
    form = _Form(scale, softcap, with_mean, with_entropy, chunk or max(1, CHUNK_ELEMENTS // len(weight)))
    return TokenStats(*_TokenStats.apply(hidden, weight, bias, targets, form))


class _Form(NamedTuple):
    scale: float
    softcap: float | None
    with_mean: bool
    with_entropy: bool
    chunk: int


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, form: _Form) -> Tensor:
    """[n, V], float32 or wider, in memory of its own."""
    z = torch.mm(hidden, weight.t())
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    if bias is not None:
        z += bias
    if form.scale != 1.0:
        z *= form.scale
    if form.softcap is not None:
        z.div_(form.softcap).tanh_().mul_(form.softcap)
    return z


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, form: _Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        cast = weight.to(hidden.dtype)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logp, mean, entropy, lse = hidden.new_zeros(4, len(hidden), dtype=wide).unbind()
        with torch.autocast(hidden.device.type, enabled=False):
            for at in range(0, len(hidden), form.chunk):
                part = slice(at, at + form.chunk)
                z = _logits(hidden[part], cast, bias, form)
                top = z.amax(1, keepdim=True)
                z -= top
                picked = z.gather(1, targets[part, None])[:, 0]
                average = z.mean(1) if form.with_mean else None
                weighted = (z.exp() * z).sum(1) if form.with_entropy else None
                total = z.exp_().sum(1)
                log_total = total.log()
                logp[part] = picked - log_total
                lse[part] = log_total + top[:, 0]
                if average is not None:
                    mean[part] = average - log_total
                if weighted is not None:
                    entropy[part] = log_total - weighted / total
        ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy)
        ctx.form = form
        return logp, mean, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logp: Tensor, of_mean: Tensor, of_entropy: Tensor) -> tuple[Any, ...]:
        hidden, weight, bias, targets, lse, entropy = ctx.saved_tensors
        form: _Form = ctx.form
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        cast = weight.to(hidden.dtype)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        for_hidden = torch.empty_like(hidden) if wants_hidden else None
        for_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        for_bias = torch.zeros_like(bias, dtype=wide) if wants_bias else None
        for at in range(0, len(hidden), form.chunk):
            part = slice(at, at + form.chunk)
            z = _logits(hidden[part], cast, bias, form)
            flat = None if form.softcap is None else 1 - (z / form.softcap).square()
            z -= lse[part, None]
            pull = of_logp[part] + of_mean[part]
            if form.with_entropy:
                rise = -of_entropy[part, None] * (z + entropy[part, None])
                p = z.exp_()
                d = p * (rise - pull[:, None])
            else:
                d = z.exp_().mul_(-pull[:, None])
            if form.with_mean:
                d += of_mean[part, None] / len(weight)
            d.scatter_add_(1, targets[part, None], of_logp[part, None])
            if flat is not None:
                d *= flat
            if form.scale != 1.0:
                d *= form.scale
            if for_bias is not None:
                for_bias += d.sum(0)
            d = d.to(hidden.dtype)
            if for_hidden is not None:
                torch.mm(d, cast, out=for_hidden[part])
            if for_weight is not None and for_weight.dtype == d.dtype:
                for_weight.addmm_(d.t(), hidden[part])
            elif for_weight is not None:
                for_weight += d.t() @ hidden[part]
        return (
            for_hidden,
            None if for_weight is None else for_weight.to(weight.dtype),
            None if for_bias is None else for_bias.to(bias.dtype),
            None,
            None,
        )
