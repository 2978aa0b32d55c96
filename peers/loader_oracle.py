"""The logits of checkpoints as their own runtimes load them: `.peers/NAME/bin/python peers/loader_oracle.py IN.json
OUT.npz`.

IN is `{"ids": [[int]], "models": [{"name", "folder", "dtype", "dequantize", "train", "own"}]}`; OUT holds float32 logits under
each name. `dequantize` asks compressed-tensors to do it on loading, `train` computes as in training, `own` loads with
gptqmodel itself instead of transformers. Everything runs on the CPU.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def load(model: dict) -> torch.nn.Module:
    """As a user would."""
    settings = {"dtype": getattr(torch, model["dtype"])}
    if model.get("own"):
        from gptqmodel import GPTQModel

        return GPTQModel.load(model["folder"], device="cpu", **settings).model
    if model.get("dequantize"):
        from transformers import CompressedTensorsConfig

        settings["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(model["folder"], **settings).train(model.get("train", False))


def main(source: str, target: str) -> None:
    """Answers every model of one file in another."""
    given = json.loads(Path(source).read_text())
    ids, out = torch.tensor(given["ids"]), {}
    for model in given["models"]:
        with torch.set_grad_enabled(model.get("train", False)):
            out[model["name"]] = load(model)(ids).logits.detach().float().numpy()
    np.savez(target, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
