"""Quantized checkpoints as inputs: the weights that they stand for."""

import json
import subprocess
import sys
from pathlib import Path

import polmrs
import polmrs.quantize as pq
import pytest
import torch
from polmrs import merge
from quantize.made import LINEAR, folder, read, weights
from quantize.test_checkpoints import CASES, same
from safetensors.torch import load_file, save_file

POLMRS = Path(sys.executable).with_name("polmrs")


def dequantized(codec, format, activations=False):
    """What a quantized folder of ``weights()`` stands for, in the model's type."""
    made = weights()
    for module in LINEAR:
        tensors = pq.to_format(made[f"{module}.weight"], codec, format=format, activations=activations)
        made[f"{module}.weight"] = pq.from_format(tensors, format=format).bfloat16()
    return made


@pytest.mark.parametrize("case", CASES)
def test_merging_and_quantizing_again_see_the_weights_that_codes_stand_for(case, tmp_path):
    scheme, codec, format = CASES[case]
    folder(tmp_path / "model")
    pq.quantize(tmp_path / "model", scheme=scheme, format=format, to=tmp_path / "once")
    dense = dequantized(codec, format, activations=case in ("w8a8", "fp8"))
    folder(tmp_path / "dense", dense)

    merge.merge([tmp_path / "once"], method=merge.Passthrough(), to=tmp_path / "merged")
    tensors, config = read(tmp_path / "merged")
    same(tensors, dense)
    assert "quantization_config" not in config
    for source in ("once", "dense"):
        pq.quantize(tmp_path / source, scheme=pq.W8A16(group=64), to=tmp_path / f"again {source}")
    same(read(tmp_path / "again once")[0], read(tmp_path / "again dense")[0])


def compared(a, b):
    """What ``polmrs diff`` says of two folders: how many elements of each tensor differ."""
    run = subprocess.run([POLMRS, "diff", a, b, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    assert not report["mismatches"]
    return {row["name"]: row["changed"] for row in report["tensors"]}


@pytest.mark.parametrize("case", ["w4a16", "nf4"])
def test_diff_sees_the_weights_that_codes_stand_for(case, tmp_path):
    scheme, codec, format = CASES[case]
    folder(tmp_path / "model")
    folder(tmp_path / "dense", dequantized(codec, format))
    pq.quantize(tmp_path / "model", scheme=scheme, format=format, to=tmp_path / "once")
    assert set(compared(tmp_path / "dense", tmp_path / "once").values()) == {0}
    changed = compared(tmp_path / "model", tmp_path / "once")
    assert {name for name, count in changed.items() if count} == {f"{module}.weight" for module in LINEAR}


def test_diff_compares_adapters_by_themselves(tmp_path):
    for name, value in (("a", 0.0), ("b", 1.0)):
        (tmp_path / name).mkdir()
        save_file({"lora_A.weight": torch.full((2, 3), value)}, tmp_path / name / "adapter_model.safetensors")
    assert compared(tmp_path / "a", tmp_path / "b") == {"lora_A.weight": 6}


def damage(path, name, change):
    """Changes one tensor of a folder."""
    tensors = load_file(path / "model.safetensors")
    change(tensors, f"model.layers.0.mlp.up_proj.{name}")
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("qzeros", lambda tensors, name: tensors.pop(name), "qzeros: not there"),
        ("scales", lambda tensors, name: tensors.update({name: tensors[name][:, :5].clone()}), r"scales: F16 of \[3, 5\], where F16 of \[3, 320\] is expected"),
        ("g_idx", lambda tensors, name: tensors.update({name: tensors[name] * 0}), "g_idx: column 64 is of group 0, where 3 groups of 64 columns are expected"),
        ("perm", lambda tensors, name: tensors.update({name: torch.zeros(4)}), "perm: a tensor that gptq_v2 does not know"),
    ],
)  # fmt: skip
def test_a_corrupt_checkpoint_is_refused_by_its_module_and_tensor(name, change, rule, tmp_path):
    folder(tmp_path / "model")
    scheme = pq.W4A16(group=64, asym=True)
    pq.quantize(tmp_path / "model", scheme=scheme, format="gptq_v2", to=tmp_path / "once")
    damage(tmp_path / "once", name, change)
    with pytest.raises(polmrs.errors.CheckpointError, match=rule):
        merge.merge([tmp_path / "once"], method=merge.Passthrough(), to=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_quantization_that_nobody_here_reads_is_named(tmp_path):
    folder(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "quark"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        polmrs.errors.CheckpointError, match="'quark' is not read; compressed-tensors, gptq, awq"
    ):
        merge.merge([tmp_path / "model"], method=merge.Passthrough(), to=tmp_path / "merged")
