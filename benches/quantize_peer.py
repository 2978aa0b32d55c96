"""Times a peer on a checkpoint: `.peers/NAME/bin/python benches/quantize_peer.py NAME MODEL OUT SCHEME THREADS`.

NAME is `llmcompressor` (`model_free_ptq`) or `auto-round` (what its command `auto-round-rtn` runs: it loads no model either).
Prints `{"seconds", "cpu", "mb", "version"}` of the call. auto-round works in a process of its own, whose time (the import of torch,
again) counts and whose memory does not.
"""

import json
import multiprocessing
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path


def main(name: str, model: str, out: str, scheme: str, threads: str) -> None:
    import torch

    torch.set_num_threads(int(threads))
    call = {"llmcompressor": llmcompressor, "auto-round": auto_round}[name](model, out, scheme, int(threads))
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    call()
    for child in multiprocessing.active_children():
        child.join()  # its time counts once somebody has waited for it
    took = {"seconds": time.perf_counter() - wall, "cpu": sum(os.times()[:4]) - cpu}
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    print(json.dumps({**took, "mb": peak * 1.024 / 1000, "version": version(name)}))


def llmcompressor(model: str, out: str, scheme: str, threads: int):
    from llmcompressor import model_free_ptq

    return lambda: model_free_ptq(
        model_stub=model, save_directory=out, scheme=scheme, ignore=["lm_head", "re:.*embed_tokens"],
        max_workers=threads, device="cpu",
    )  # fmt: skip


def auto_round(model: str, out: str, scheme: str, threads: int):
    from auto_round import AutoRound

    # The settings of the command, but for torch.compile: it takes a minute of processor time, in processes that nobody waits for.
    rtn = {
        "iters": 0,
        "disable_opt_rtn": True,
        "nsamples": 1,
        "model_free": True,
        "enable_torch_compile": False,
    }
    return lambda: AutoRound(model, scheme=scheme, device_map="cpu", **rtn).quantize_and_save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
