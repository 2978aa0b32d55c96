"""The grid that the packaged model lies on, and the way off it.

Its linear layers were stored as Q4_1: in every 32 weights of a row, a code of 4 bits times a step, plus the least of them, which
need not be a code times the step. Weights that lie on a grid are coded on the same grid without loss, so that grid says
nothing about a codec; no file of polmrs has it (a zero point there is a whole code), and here it is a control.

Off the grid leads dither: uniform noise, as wide as a step and independent of the weights, after which where a weight lies
between two codes is as random as in a model that was never quantized.
"""

from typing import Any

BLOCK, TOP = 32, 15


def linear(name: str) -> bool:
    """Whether a tensor is the weight of a linear layer, by its name."""
    return name.endswith("_proj.weight")


def rounded(weight: Any) -> Any:
    """[out, in] the nearest on the grid of each block's own range."""
    blocks, low, step = _blocks(weight)
    return (low + ((blocks - low) / step).round() * step).flatten(-2)


def dithered(weight: Any, generator: Any) -> Any:
    """[out, in] with noise as wide as each block's step."""
    import torch

    blocks, _, step = _blocks(weight)
    return (blocks + (torch.rand(blocks.shape, generator=generator) - 0.5) * step).flatten(-2)


def _blocks(weight: Any) -> tuple[Any, Any, Any]:
    """The blocks, and of each the least weight and the step."""
    blocks = weight.unflatten(-1, (-1, BLOCK))
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    return blocks, low, ((high - low) / TOP).clamp_min(1e-30)
