"""numpy arrays and torch tensors across the boundary: as unsigned integers of their width, never copied."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

from polmrs.errors import ArrayError

if TYPE_CHECKING:
    import torch

    Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
else:
    Array: TypeAlias = Any

Bits: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def is_torch(x: object) -> TypeGuard[torch.Tensor]:
    """Whether ``x`` is a torch tensor; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def to_bits(name: str, x: Array) -> tuple[str, Bits]:
    """The element type's torch name, and the elements as unsigned integers that share ``x``'s memory.

    Raises ``ArrayError`` if ``x`` is no array, is not contiguous, or does not lie in CPU memory.
    """
    if is_torch(x):
        return _torch_bits(name, x)
    if not isinstance(x, np.ndarray):
        raise ArrayError(f"{name}: expected a numpy array or a torch tensor, got {type(x).__name__}")
    if not x.flags.c_contiguous:
        raise ArrayError(f"{name}: the array is not C-contiguous; pass np.ascontiguousarray of it")
    if not x.flags.aligned:
        raise ArrayError(f"{name}: the array is not aligned to its element size; pass a copy")
    if x.dtype.byteorder == ">":
        raise ArrayError(f"{name}: dtype {x.dtype} is big-endian; pass a little-endian copy")
    # 0-d arrays cannot change their item type in place, so the view is made of a 1-d one.
    unsigned = _UNSIGNED.get(x.dtype.itemsize)
    if unsigned is None or x.dtype.hasobject:
        raise ArrayError(f"{name}: dtype {x.dtype} is not a number of 1, 2, 4 or 8 bytes")
    return x.dtype.name, x.reshape(-1).view(unsigned).reshape(x.shape)


def _torch_bits(name: str, x: torch.Tensor) -> tuple[str, Bits]:
    import torch

    if x.device.type != "cpu":
        raise ArrayError(f"{name}: the tensor is on {x.device}; pass x.cpu()")
    if x.layout != torch.strided:
        raise ArrayError(f"{name}: the tensor is {x.layout}; pass x.to_dense()")
    if not x.is_contiguous():
        raise ArrayError(f"{name}: the tensor is not contiguous; pass x.contiguous()")
    unsigned = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}.get(x.element_size())
    if unsigned is None or x.is_complex():
        raise ArrayError(f"{name}: dtype {x.dtype} is not a real number of 1, 2, 4 or 8 bytes")
    bits: Bits = x.detach().view(unsigned).numpy()
    return str(x.dtype).removeprefix("torch."), bits


def from_bits(dtype: str, bits: Bits, *, torch_wanted: bool) -> Array:
    """The array or tensor of the type that ``dtype`` names, sharing the memory of ``bits``."""
    if torch_wanted:
        import torch

        tensor: torch.Tensor = torch.from_numpy(bits).view(getattr(torch, dtype))
        return tensor
    if dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        try:
            import ml_dtypes
        except ImportError:
            raise ArrayError(
                f"dtype: numpy has no {dtype}; pass torch tensors, another out_dtype, or install ml_dtypes"
            ) from None
        narrow: Array = bits.view(getattr(ml_dtypes, dtype))
        return narrow
    return bits.reshape(-1).view(dtype).reshape(bits.shape)
