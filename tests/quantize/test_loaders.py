"""Quantized checkpoints in the runtimes that they are for: the logits of our own dequantized model, on the CPU."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from polmrs import quantize
from quantize.tiny_llama import SHAPE, quantized

PEERS = Path(__file__).resolve().parents[2] / "peers"


@pytest.fixture
def logits(peer, tmp_path):
    """``logits(peer, {name: (codec, format, dtype, options)})``: by name, of the quantized and of the dense model."""

    def answer(name, cases):
        models = []
        for case, (codec, format, dtype, options) in cases.items():
            folder = tmp_path / case
            folder.mkdir()
            activations = options.get("activations", False)
            stored, dense = quantized(folder, codec, dtype, format=format, activations=activations)
            asked = {"dtype": str(dtype).removeprefix("torch."), "train": options.get("train", False)}
            dequantize = options.get("dequantize", False)
            models.append(
                {"name": f"{case}/quantized", "folder": str(stored), "dequantize": dequantize, **asked}
            )
            models.append({"name": f"{case}/dense", "folder": str(dense), **asked})
        ids = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (2, 24)).tolist()
        (tmp_path / "in.json").write_text(json.dumps({"ids": ids, "models": models}))
        command = [peer(name), PEERS / "loader_oracle.py", tmp_path / "in.json", tmp_path / "out.npz"]
        # gptqmodel asks for more workers than a machine of two cores gives it.
        environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-4000:]
        out = np.load(tmp_path / "out.npz")
        return {case: (out[f"{case}/quantized"], out[f"{case}/dense"]) for case in cases}

    return answer


@pytest.mark.peer("compressed-tensors")
def test_compressed_tensors_files_load_as_what_they_stand_for(logits):
    full, half = torch.float32, torch.bfloat16
    ct, asked = "compressed-tensors", {"dequantize": True}
    cases = {
        **{f"int{bits}": (quantize.Integer(bits=bits, group=64), ct, full, {}) for bits in (2, 3, 4, 8)},
        "channel": (quantize.Integer(bits=4, group="row"), ct, full, {}),
        "zeros": (quantize.Integer(bits=4, group=64, span="affine"), ct, full, asked),
        "zeros3": (quantize.Integer(bits=3, group=64, span="affine"), ct, full, asked),
        "half": (quantize.Integer(bits=4, group=64), ct, half, asked),
        "fp8": (quantize.FP8(), ct, full, {"activations": True, **asked}),
        "w8a8": (quantize.Integer(bits=8, group="row"), ct, full, {"activations": True, **asked}),
        "nvfp4": (quantize.NVFP4(), ct, half, asked),
        "mxfp4": (quantize.MXFP4(), ct, half, asked),
    }
    for case, (ours, dense) in logits("compressed-tensors", cases).items():
        assert np.abs(dense).max() > 1, case
        np.testing.assert_array_equal(ours, dense, err_msg=case)


@pytest.mark.peer("bitsandbytes")
def test_bitsandbytes_files_load_as_what_they_stand_for(logits):
    # In evaluation on a processor with AVX512-BF16 it rounds weights and activations to bfloat16; in training it does not.
    train = {"train": True}
    cases = {
        "nf4": (quantize.NF4(), "bnb", torch.float32, train),
        "nested": (quantize.NF4(nested=True), "bnb", torch.float32, train),
        "int8": (quantize.LLMInt8(), "bnb", torch.float32, {}),
    }
    answers = logits("bitsandbytes", cases)
    np.testing.assert_array_equal(*answers["nf4"])
    np.testing.assert_allclose(
        *answers["nested"], atol=2e-5
    )  # the mean of the scales is added in another order
    # LLM.int8() rounds activations too.
    np.testing.assert_allclose(*answers["int8"], atol=0.4)


@pytest.mark.peer("gptqmodel")
def test_gptq_and_awq_files_load_as_what_they_stand_for(logits):
    half, affine = torch.float16, quantize.Integer(bits=4, group=64, span="affine")
    cases = {
        **{f"gptq{bits}": (quantize.Integer(bits=bits, group=64), "gptq", half, {}) for bits in (2, 3, 4, 8)},
        "gptq_v2": (affine, "gptq_v2", half, {}),
        "awq": (affine, "awq", half, {}),
    }
    for case, (ours, dense) in logits("gptqmodel", cases).items():
        # Sums in float16, in another order; logits reach 4.
        np.testing.assert_allclose(ours, dense, atol=0.01, err_msg=case)
