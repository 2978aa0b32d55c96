"""``compat`` writes the tensors of llm-compressor, bit for bit."""

import json
import os
import subprocess
from pathlib import Path

import polmrs.quantize as pq
import pytest
import torch
from quantize.made import folder, read

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    "int4": (pq.W4A16(group=64), {"num_bits": 4, "strategy": "group", "group_size": 64}),
    "int4 asym": (
        pq.W4A16(group=64, asym=True),
        {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False},
    ),
    "int3": (pq.W3A16(group=32), {"num_bits": 3, "strategy": "group", "group_size": 32}),
    "int8": (pq.W8A16(), {"num_bits": 8, "strategy": "channel"}),
}


@pytest.mark.peer("llmcompressor")
@pytest.mark.parametrize("case", CASES)
def test_compat_is_what_llm_compressor_writes(case, peer, tmp_path):
    scheme, args = CASES[case]
    folder(tmp_path / "model")
    pq.quantize(tmp_path / "model", scheme=scheme, compat=True, to=tmp_path / "ours")
    oracle = [
        peer("llmcompressor"),
        ROOT / "peers/llmcompressor_oracle.py",
        tmp_path / "model",
        tmp_path / "theirs",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*oracle, json.dumps({"type": "int", **args})], check=True, capture_output=True, env=environment
    )
    (ours, config), (theirs, stated) = read(tmp_path / "ours"), read(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert torch.equal(
            tensor.reshape(-1).view(torch.uint8), theirs[name].reshape(-1).view(torch.uint8)
        ), name
    kept = ("num_bits", "type", "symmetric", "strategy", "group_size", "dynamic")
    (made,), (wanted,) = (
        [
            {key: group["weights"][key] for key in kept}
            for group in each["quantization_config"]["config_groups"].values()
        ]
        for each in (config, stated)
    )
    assert made == wanted
