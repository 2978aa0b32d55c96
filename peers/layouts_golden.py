"""What tests compare with where no peer is: `.peers/compressed-tensors/bin/python peers/layouts_golden.py
tests/quantize/layouts.json`.

The tensors that compressed-tensors makes of one made weight: type, shape and SHA-256 of each.
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

INT = {"type": "int", "strategy": "group", "group_size": 32}
CASES = {
    **{f"int{b}": ("pack-quantized", QuantizationArgs(num_bits=b, symmetric=True, **INT)) for b in (2, 3, 4, 8)},
    **{f"int{b}a": ("pack-quantized", QuantizationArgs(num_bits=b, symmetric=False, **INT)) for b in (2, 3, 4, 8)},
    "nvfp4": (
        "nvfp4-pack-quantized",
        QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16, scale_dtype=torch.float8_e4m3fn),
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        QuantizationArgs(num_bits=4, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8),
    ),
}  # fmt: skip


def weight() -> torch.Tensor:
    """40 rows of 64: `((37 i + 101 j) mod 257 - 127.5) / 64`."""
    row, column = torch.meshgrid(torch.arange(40), torch.arange(64), indexing="ij")
    return ((37 * row + 101 * column) % 257 - 127.5) / 64


def made(format: str, args: QuantizationArgs) -> dict[str, list]:
    """Facts of each tensor."""
    groups = weight().unflatten(-1, (-1, args.group_size))
    whole = generate_gparam(weight().min(), weight().max()) if args.strategy == "tensor_group" else None
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args, global_scale=whole)
    state = {"weight": weight(), "weight_scale": scale, "weight_zero_point": zero}
    if whole is not None:
        state["weight_global_scale"] = whole
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    tensors = BaseCompressor.get_value_from_registry(format).compress(state, scheme)
    return {name: fact(tensor) for name, tensor in tensors.items()}


def fact(tensor: torch.Tensor) -> list:
    """Type, shape and SHA-256 of a tensor."""
    bytes = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return [str(tensor.dtype)[6:], list(tensor.shape), hashlib.sha256(bytes).hexdigest()]


def main(target: str) -> None:
    """Writes all cases."""
    cases = {name: made(*case) for name, case in CASES.items()}
    facts = {"compressed-tensors": version("compressed-tensors"), "cases": cases}
    Path(target).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
