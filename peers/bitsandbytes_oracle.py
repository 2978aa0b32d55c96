"""What bitsandbytes makes of weights: `.peers/bitsandbytes/bin/python peers/bitsandbytes_oracle.py IN.npz OUT.npz`.

IN holds float32 weights; OUT holds, under the same name and a slash, `packed`, `absmax` and `back` of NF4 in blocks of 64. After
`fp4/` and `fp4 nested/` it holds a file's tensors of FP4 in blocks of 64, and `back`.
"""

import sys

import bitsandbytes.functional as bnb
import numpy as np
import torch


def main(source: str, target: str) -> None:
    """Answers every weight of one file in another."""
    out = {}
    for name, weight in np.load(source).items():
        packed, state = bnb.quantize_4bit(torch.from_numpy(weight), blocksize=64, quant_type="nf4")
        back = bnb.dequantize_4bit(packed, state)
        answer = {"packed": packed.flatten(), "absmax": state.absmax, "back": back}
        out |= {f"{name}/{part}": tensor.numpy() for part, tensor in answer.items()}
        for case in ("fp4", "fp4 nested"):
            settings = {"quant_type": "fp4", "compress_statistics": case != "fp4"}
            packed, state = bnb.quantize_4bit(torch.from_numpy(weight), blocksize=64, **settings)
            answer = {f"weight.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
            answer |= {"weight": packed, "back": bnb.dequantize_4bit(packed, state)}
            out |= {f"{name}/{case}/{part}": tensor.numpy() for part, tensor in answer.items()}
    np.savez(target, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
