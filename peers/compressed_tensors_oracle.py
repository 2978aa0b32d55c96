"""What compressed-tensors makes of weights: `.peers/compressed-tensors/bin/python peers/compressed_tensors_oracle.py
IN.npz OUT.npz`.

IN holds float32 weights named `kind/...`; OUT holds, under the same name and a slash, `packed`, `scale` and `back`. Kinds:
`int4 int3 int2 int8` symmetric and `int4a` with a zero point, in groups of 64; `nvfp4`; `mxfp4`. `fp4/x` are rounded to E2M1.
"""

import sys

import numpy as np
import torch
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

INT = {"type": "int", "strategy": "group", "group_size": 64}
ARGS = {
    **{f"int{bits}": QuantizationArgs(num_bits=bits, symmetric=True, **INT) for bits in (2, 3, 4, 8)},
    "int4a": QuantizationArgs(num_bits=4, symmetric=False, **INT),
    "nvfp4": QuantizationArgs(
        num_bits=4, type="float", strategy="tensor_group", group_size=16, scale_dtype=torch.float8_e4m3fn
    ),
    "mxfp4": QuantizationArgs(
        num_bits=4, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8
    ),
}


def made(kind: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The packed codes, the scales, and the weight that they stand for."""
    args = ARGS[kind]
    groups = weight.unflatten(-1, (-1, args.group_size))
    low, high = groups.amin(-1), groups.amax(-1)
    whole = generate_gparam(weight.min(), weight.max()) if kind == "nvfp4" else None
    scale, zero = calculate_qparams(low, high, args, global_scale=whole)
    settings = {
        "scale": scale,
        "zero_point": None if args.symmetric else zero,
        "args": args,
        "global_scale": whole,
    }
    codes = quantize(weight, **settings)
    floats = args.type == "float"
    packed = pack_fp4_to_uint8(codes) if floats else pack_to_int32(codes.to(torch.int8), args.num_bits)
    back = dequantize(
        codes, scale, None if args.symmetric else zero, args=args, global_scale=whole, dtype=torch.float32
    )
    return {"packed": packed, "scale": scale.float(), "back": back.float()}


def main(source: str, target: str) -> None:
    """Answers every weight of one file in another."""
    out = {}
    for name, weight in np.load(source).items():
        answer = made(name.partition("/")[0], torch.from_numpy(weight))
        out |= {f"{name}/{part}": tensor.numpy() for part, tensor in answer.items()}
    np.savez(target, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
