"""Times one peer on one weight: `.peers/NAME/bin/python benches/quant_peer.py CODEC WEIGHT.npy REPS CODES.npy`.

Prints `{"seconds": median CPU seconds of this process, "version": ...}`; writes the packed codes where they are to be
compared.
"""

import json
import sys
import time
from importlib.metadata import version
from statistics import median

import numpy as np
import torch


def int4(weight: torch.Tensor):
    """compressed-tensors: symmetric, groups of 128."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(num_bits=4, symmetric=True, type="int", strategy="group", group_size=128)
    groups = weight.unflatten(-1, (-1, 128))
    scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    codes = quantize(weight, scale=scale, zero_point=None, args=args, dtype=torch.int8)
    return pack_to_int32(codes, 4).numpy().view(np.uint8)


def nf4(weight: torch.Tensor):
    """bitsandbytes: NF4, blocks of 64."""
    import bitsandbytes.functional as bnb

    return bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")[0].flatten().numpy()


def hqq(weight: torch.Tensor):
    """hqq: its default search."""
    from hqq.core.quantize import Quantizer

    Quantizer.quantize(
        weight, nbits=4, group_size=64, axis=1, round_zero=True, device="cpu", compute_dtype=torch.float32
    )


PACKAGES = {"int4": "compressed-tensors", "nf4": "bitsandbytes", "hqq": "hqq"}


def main(codec: str, source: str, reps: str, target: str) -> None:
    """Times `reps` runs after one that does not count."""
    torch.set_num_threads(1)
    weight, work = torch.from_numpy(np.load(source)), {"int4": int4, "nf4": nf4, "hqq": hqq}[codec]
    codes, taken = work(weight), []
    for _ in range(int(reps)):
        start = time.process_time()
        work(weight)
        taken.append(time.process_time() - start)
    if codes is not None:
        np.save(target, codes)
    print(json.dumps({"seconds": median(taken), "version": version(PACKAGES[codec])}))


if __name__ == "__main__":
    main(*sys.argv[1:])
