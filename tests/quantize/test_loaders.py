"""Folders that ``quantize`` writes, in the runtimes that they are for: the logits of what they stand for, on the CPU."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import polmrs.quantize as pq
import pytest
import torch
from polmrs import merge
from quantize.tiny_llama import SHAPE, weights, write

PEERS = Path(__file__).resolve().parents[2] / "peers"
DOWN = "down_proj"
# It asks for more workers than a machine of two cores gives it. At first use it compiles for minutes: kernels for bfloat16,
# which no test here runs and which it does without if no compiler works; and its layers, through torch.compile.
GPTQMODEL = {"GPTQMODEL_CPU_WORKERS": "2", "CXX": "false", "TORCHDYNAMO_DISABLE": "1"}


@pytest.fixture
def logits(peer, tmp_path):
    """``logits(peer, {name: (settings of quantize, dtype, options)})``: by name, those of the quantized and the dense."""

    def answer(name, cases):
        models = []
        for case, (settings, dtype, options) in cases.items():
            source = tmp_path / str(dtype)
            if not source.exists():
                write(source, weights(dtype), dtype)
            stored, dense = tmp_path / case, tmp_path / f"{case} dense"
            pq.quantize(source, to=stored, **settings)
            merge.merge([stored], method=merge.Passthrough(), to=dense)
            asked = {"dtype": str(dtype).removeprefix("torch."), "train": options.get("train", False)}
            models.append({"name": f"{case}/quantized", "folder": str(stored), **asked, **options})
            models.append({"name": f"{case}/dense", "folder": str(dense), **asked})
        ids = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (2, 24)).tolist()
        (tmp_path / "in.json").write_text(json.dumps({"ids": ids, "models": models}))
        command = [peer(name), PEERS / "loader_oracle.py", tmp_path / "in.json", tmp_path / "out.npz"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **GPTQMODEL}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-4000:]
        out = np.load(tmp_path / "out.npz")
        return {case: (out[f"{case}/quantized"], out[f"{case}/dense"]) for case in cases}

    return answer


@pytest.mark.peer("compressed-tensors")
def test_compressed_tensors_folders_load_as_what_they_stand_for(logits):
    full, half = torch.float32, torch.bfloat16
    asked, int4 = {"dequantize": True}, {"scheme": pq.W4A16(group=64)}
    affine = pq.W4A16(group=64, asym=True)
    cases = {
        "int2": ({"scheme": pq.W2A16(group=64)}, full, {}),
        "int3": ({"scheme": pq.W3A16(group=64)}, full, {}),
        "int4": (int4, full, {}),
        "int8": ({"scheme": pq.W8A16(group=64)}, full, {}),
        "channel": ({"scheme": pq.W4A16(group="row")}, full, {}),
        "mse": ({**int4, "method": pq.MSE()}, full, {}),
        "rules": ({**int4, "rules": {DOWN: pq.W8A16(group=32), "q_proj": None}}, full, {}),
        "zeros": ({"scheme": affine}, full, asked),
        "zeros3": ({"scheme": pq.W3A16(group=64, asym=True)}, full, asked),
        "hqq": ({"scheme": affine, "method": pq.HalfQuadratic()}, full, asked),
        "half": (int4, half, asked),
        "compat": ({**int4, "compat": True}, half, asked),
        "fp8": ({"scheme": pq.W8A8FP8()}, full, asked),
        "w8a8": ({"scheme": pq.W8A8()}, full, asked),
        "nvfp4": ({"scheme": pq.NVFP4A16()}, half, asked),
        "mxfp4": ({"scheme": pq.MXFP4A16()}, half, asked),
    }
    for case, (ours, dense) in logits("compressed-tensors", cases).items():
        assert np.abs(dense).max() > 1, case
        np.testing.assert_array_equal(ours, dense, err_msg=case)


@pytest.mark.peer("bitsandbytes")
def test_bitsandbytes_folders_load_as_what_they_stand_for(logits):
    # In evaluation on a processor with AVX512-BF16 it rounds weights and activations to bfloat16; in training it does not.
    train, full = {"train": True}, torch.float32
    cases = {
        "nf4": ({"scheme": pq.NF4A16()}, full, train),
        "kept": ({"scheme": pq.NF4A16(), "exclude": [DOWN]}, full, train),
        "nested": ({"scheme": pq.NF4A16(double=True)}, full, train),
        "int8": ({"scheme": pq.W8A8LLMInt8()}, full, {}),
    }
    answers = logits("bitsandbytes", cases)
    np.testing.assert_array_equal(*answers["nf4"])
    np.testing.assert_array_equal(*answers["kept"])
    # The mean of the scales is added in another order.
    np.testing.assert_allclose(*answers["nested"], atol=2e-5)
    # LLM.int8() rounds activations too.
    np.testing.assert_allclose(*answers["int8"], atol=0.4)


@pytest.mark.peer("gptqmodel")
def test_gptq_and_awq_folders_load_as_what_they_stand_for(logits):
    affine = pq.W4A16(group=64, asym=True)
    symmetric = [(2, pq.W2A16), (3, pq.W3A16), (4, pq.W4A16), (8, pq.W8A16)]
    rules = {"rules": {DOWN: pq.W8A16(group=32), "q_proj": None}}
    half, v2 = torch.float16, {"scheme": affine, "format": "gptq_v2"}
    cases = {
        **{
            f"gptq{bits}": ({"scheme": scheme(group=64), "format": "gptq"}, half, {})
            for bits, scheme in symmetric
        },
        "gptq_v2": (v2, half, {}),
        "rules": ({**v2, **rules}, half, {"own": True}),  # transformers reads no rules
        "awq": ({"scheme": affine, "format": "awq"}, half, {}),
        "kept": ({"scheme": affine, "format": "awq", "exclude": [DOWN]}, half, {}),
    }
    for case, (ours, dense) in logits("gptqmodel", cases).items():
        # Sums in float16, in another order; logits reach 4.
        np.testing.assert_allclose(ours, dense, atol=0.01, err_msg=case)
