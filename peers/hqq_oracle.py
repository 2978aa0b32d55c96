"""What hqq makes of weights: `.peers/hqq/bin/python peers/hqq_oracle.py IN.npz OUT.npz`.

IN holds float32 weights named `bits/...`; OUT holds, under the same name, what hqq's codes in groups of 64 stand for.
"""

import sys

import numpy as np
import torch
from hqq.core.quantize import Quantizer


def main(source: str, target: str) -> None:
    """Answers every weight of one file in another."""
    out = {}
    for name, weight in np.load(source).items():
        bits = int(name.partition("/")[0])
        codes, meta = Quantizer.quantize(
            torch.from_numpy(weight),
            nbits=bits,
            group_size=64,
            axis=1,
            optimize=True,
            round_zero=bits == 4,
            device="cpu",
            compute_dtype=torch.float32,
        )
        out[name] = Quantizer.dequantize(codes, meta).float().numpy()
    np.savez(target, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
