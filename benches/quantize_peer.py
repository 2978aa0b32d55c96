"""Times llm-compressor on a checkpoint: `.peers/llmcompressor/bin/python benches/quantize_peer.py MODEL OUT SCHEME THREADS`.

Prints `{"seconds", "cpu", "mb", "version"}` of `model_free_ptq`; the memory is that of the whole process.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path


def main(model: str, out: str, scheme: str, threads: str) -> None:
    import torch
    from llmcompressor import model_free_ptq

    torch.set_num_threads(int(threads))
    wall, cpu = time.perf_counter(), time.process_time()
    model_free_ptq(
        model_stub=model, save_directory=out, scheme=scheme, ignore=["lm_head", "re:.*embed_tokens"],
        max_workers=int(threads), device="cpu",
    )  # fmt: skip
    took = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    print(json.dumps({**took, "mb": peak * 1.024 / 1000, "version": version("llmcompressor")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
