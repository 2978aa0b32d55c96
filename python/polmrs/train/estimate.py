r"""What memory a run will need, from shapes alone: nothing is loaded.

With P weights of which T are trained, b bytes each, N tokens in the largest micro-batch (padding included), L blocks, width D and
MLP width F: weights Pb, gradients Tb, the optimizer's state as many copies of T as it keeps for one small tensor; kept
activations L N D b and those of one block, about N (12 D + 4 F) b, or of all blocks without checkpointing; logits, a chunk
of ``CHUNK_ELEMENTS`` at most, three times. Attention's own workspace, the runtime and what an allocator wastes come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polmrs.models.projection import CHUNK_ELEMENTS
from polmrs.train.fused import Fused
from polmrs.train.optimizers import NAMES, Optim


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes, by what they are for.

    >>> print(Memory(weights=4, gradients=4, optimizer=8, activations=2_000_000, logits=0))
    2.0 MB: weights 0.0, gradients 0.0, optimizer 0.0, activations 2.0, logits 0.0
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def __str__(self) -> str:
        """In MB of a million bytes."""
        parts = ", ".join(f"{name} {value / 1e6:.1f}" for name, value in vars(self).items())
        return f"{self.total / 1e6:.1f} MB: {parts}"


def estimate(
    model: nn.Module, optim: Optim, *, tokens: int, checkpointing: bool = True, half: bool = False
) -> Memory:
    """The memory of a step.

    Args:
        model: Of transformers; on the meta device it takes none itself.
        optim: What trains it.
        tokens: Of the largest micro-batch, padding included.
        checkpointing: Whether blocks compute their activations again.
        half: Whether activations are in half precision.
    """
    of: Any = model
    text = of.config.get_text_config() if hasattr(of.config, "get_text_config") else of.config
    weights = list(model.parameters())
    held = sum(p.numel() * p.element_size() for p in weights)
    trained = sum(p.numel() * p.element_size() for p in weights if p.requires_grad)
    width = 2 if half else weights[0].element_size()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    block = tokens * (12 * hidden + 4 * inner) * width
    kept = layers * tokens * hidden * width + block if checkpointing else layers * block
    head = of.get_output_embeddings()
    wide = 0 if head is None else min(tokens * text.vocab_size, CHUNK_ELEMENTS) * 3 * max(4, width)
    return Memory(
        weights=held,
        gradients=0 if issubclass(NAMES[optim.name], Fused) else trained,
        optimizer=round(trained * copies(optim)),
        activations=kept,
        logits=wide,
    )


def copies(optim: Optim) -> float:
    """How many times a tensor's size its optimizer keeps, as seen on one small tensor.

    >>> copies(Optim(name="adamw")), copies(Optim(name="sgd"))
    (2.0, 0.0)
    """
    probe = nn.Linear(64, 64, bias=False)
    made = Optim(name=optim.name, options=optim.options).build(probe, 1e-3)
    probe.weight.grad = torch.ones_like(probe.weight)
    made.step()
    kept = [
        v for state in made.state.values() for v in state.values() if isinstance(v, torch.Tensor) and v.ndim
    ]
    return sum(v.numel() * v.element_size() for v in kept) / (
        probe.weight.numel() * probe.weight.element_size()
    )
