"""FP8 in blocks, as DeepSeek-V3 and Qwen3 are released: read as what codes and scales stand for, and written."""

import json

import numpy as np
import polmrs
import polmrs.quantize as pq
import pytest
import torch
from polmrs import merge
from quantize import tiny_llama
from quantize.made import CONFIG, LINEAR, folder, read, weights
from quantize.test_check import check
from quantize.test_checkpoints import same
from quantize.test_source import compared, damage
from transformers import AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize


def coded(weight, block):
    """E4M3 codes, and the scale of each block: its largest magnitude becomes 448."""
    high, wide = block
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-weight.shape[0] // high), -(-weight.shape[1] // wide))
    for row, column in np.ndindex(*scales.shape):
        part = np.s_[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
        scales[row, column] = weight[part].float().abs().max().clamp(min=1e-4) / 448
        codes[part] = (weight[part].float() / scales[row, column]).to(codes.dtype)
    return codes, scales


def released(tensors, modules, block, dtype=torch.float32):
    """Tensors in place of the weights of these modules, and a ``quantization_config``."""
    made = dict(tensors)
    for module in modules:
        made[f"{module}.weight"], scales = coded(tensors[f"{module}.weight"], block)
        made[f"{module}.weight_scale_inv"] = scales.to(dtype)
    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    return made, config | {"weight_block_size": list(block), "modules_to_not_convert": ["lm_head"]}


def dense(tensors, block):
    """What they stand for: every code times the scale of its block, in float32, then the model's bfloat16."""
    made = {name: tensor for name, tensor in tensors.items() if not name.endswith("_scale_inv")}
    for module in LINEAR:
        codes, scales = tensors[f"{module}.weight"], tensors[f"{module}.weight_scale_inv"].float()
        rows, columns = (torch.arange(size) // side for size, side in zip(codes.shape, block, strict=True))
        made[f"{module}.weight"] = (codes.float() * scales[rows][:, columns]).bfloat16()
    return made


@pytest.fixture
def release(tmp_path):
    """Makes a folder of a released model, and one of what it stands for."""

    def make(block, dtype=torch.float32):
        tensors, config = released(weights(), LINEAR, block, dtype)
        folder(tmp_path / "dense", dense(tensors, block))
        return folder(tmp_path / "fp8", tensors, CONFIG | {"quantization_config": config})

    return make


# No side of a layer here is a multiple of 128: blocks at the edges are smaller.
@pytest.mark.parametrize(
    ("block", "dtype"), [((128, 128), torch.float32), ((128, 128), torch.bfloat16), ((48, 80), torch.float32)]
)
def test_a_code_is_multiplied_with_the_scale_of_its_block_also_at_ragged_edges(
    block, dtype, release, tmp_path
):
    merge.merge([release(block, dtype)], method=merge.Passthrough(), to=tmp_path / "merged")
    tensors, config = read(tmp_path / "merged")
    same(tensors, read(tmp_path / "dense")[0])
    assert "quantization_config" not in config


def test_diff_check_and_quantize_see_what_codes_stand_for(release, tmp_path):
    path = release((128, 128))
    assert set(compared(tmp_path / "dense", path).values()) == {0}
    assert check(path) == (0, [])
    for source in ("fp8", "dense"):
        pq.quantize(tmp_path / source, scheme=pq.W4A16(group=64), to=tmp_path / f"again {source}")
    same(read(tmp_path / "again fp8")[0], read(tmp_path / "again dense")[0])


def test_transformers_dequantizes_blocks_to_the_same_numbers():
    codes, scales = coded(torch.randn(192, 320, generator=torch.Generator().manual_seed(0)), (64, 80))
    theirs = Fp8Dequantize(None).convert({"weight": [codes], "weight_scale_inv": [scales]})["weight"]
    ours = pq.from_format({"weight": codes, "weight_scale_inv": scales}, format="fp8", block=(64, 80))
    assert torch.equal(ours, theirs)


def test_a_weight_under_one_scale_is_multiplied_with_it():
    codes, scales = coded(torch.randn(24, 40, generator=torch.Generator().manual_seed(0)), (24, 40))
    scale = scales[0, 0].bfloat16()
    ours = pq.from_format({"weight": codes, "weight_scale_inv": scale}, format="fp8")
    assert torch.equal(ours, codes.float() * scale.float())


@pytest.mark.parametrize("shape", [(), (24, 1)])
def test_a_scale_of_the_older_name_is_of_the_tensor_or_of_its_channels(shape):
    codes, _ = coded(torch.randn(24, 40, generator=torch.Generator().manual_seed(0)), (24, 40))
    scales = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    ours = pq.from_format({"weight": codes, "weight_scale": scales}, format="fp8")
    assert torch.equal(ours, codes.float() * scales)


def test_transformers_loads_blocks_as_the_model_that_merge_reads(tmp_path):
    made = tiny_llama.weights(torch.bfloat16)
    path = tiny_llama.write(tmp_path / "model", made, torch.bfloat16)
    pq.quantize(path, scheme=pq.W8A8FP8Block(), to=tmp_path / "fp8")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "fp8", dtype=torch.bfloat16).state_dict()
    merge.merge([tmp_path / "fp8"], method=merge.Passthrough(), to=tmp_path / "merged")
    same(read(tmp_path / "merged")[0], {name: loaded[name] for name in made})
    assert any(not torch.equal(loaded[name], made[name]) for name in made)


UP = "model.layers.0.mlp.up_proj"
STACKED = "model.layers.0.mlp.experts.gate_up_proj_scale_inv"


def renamed(tensors, name):
    tensors[name.removesuffix("_inv")] = tensors.pop(name)


def renamed_otherwise(tensors, name):
    tensors[name.replace("weight_scale_inv", "qscale_weight")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("size", "change", "place", "what"),
    [
        ([128], None, "config.json", r"weight_block_size: \[128\] is not a number of rows and one of columns"),
        ([128, 0], None, "config.json", "weight_block_size: "),
        ([64, 64], None, UP, r"weight_scale_inv: F32 of \[2, 3\], where F32 of \[3, 5\] is expected"),
        ([128, 128], renamed, UP, r"weight_scale: F32 of \[3, 2\], where F32 of \[320, 2\] is expected"),
        ([128, 128], renamed_otherwise, f"{UP}.weight", "FP8 codes without a weight_scale_inv or weight_scale beside them"),
        ([128, 128], lambda tensors, name: tensors.pop(name.removesuffix("_scale_inv")), UP, "weight: not there"),
        ([128, 128], lambda tensors, name: tensors.update({STACKED: torch.ones(2, 3, 2)}), STACKED, "stacked in one tensor are not read"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named_by_check_and_refused_by_merge(
    size, change, place, what, release, tmp_path
):
    path = release((128, 128))
    settings = json.loads((path / "config.json").read_text())
    settings["quantization_config"]["weight_block_size"] = size
    (path / "config.json").write_text(json.dumps(settings))
    if change is not None:
        damage(path, "weight_scale_inv", change)
    code, found = check(path)
    assert code == 3
    assert place in dict(found)
    with pytest.raises(polmrs.errors.CheckpointError, match=what):
        merge.merge([path], method=merge.Passthrough(), to=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.method("quant.absmax")
def test_a_model_in_blocks_has_the_codes_and_scales_of_the_formula(tmp_path):
    pq.quantize(folder(tmp_path / "model"), scheme=pq.W8A8FP8Block(), to=tmp_path / "out", verify=True)
    tensors, config = read(tmp_path / "out")
    made, settings = released(weights(), LINEAR, (128, 128))
    same(tensors, made)
    written = config["quantization_config"]
    assert set(written.pop("modules_to_not_convert")) == {"lm_head", "model.layers.0.mlp.gate"}
    assert written == {name: settings[name] for name in written}
    assert check(tmp_path / "out") == (0, [])


def test_stacked_experts_that_stay_are_named_and_sides_that_blocks_do_not_divide_are_counted(tmp_path):
    experts = {
        f"model.layers.0.mlp.experts.{name}": torch.zeros(2, 128, 128)
        for name in ("gate_up_proj", "down_proj")
    }
    path = folder(tmp_path / "model", weights() | {name: x.bfloat16() for name, x in experts.items()})
    first, second = pq.plan(path, scheme=pq.W8A8FP8Block())["notes"]
    assert "2 tensors stack experts" in first
    assert second.startswith(f"fp8: {len(LINEAR)} layers have a side that is no multiple of 128: ")
    pq.quantize(path, scheme=pq.W8A8FP8Block(), to=tmp_path / "out")
    kept = read(tmp_path / "out")[1]["quantization_config"]["modules_to_not_convert"]
    assert sorted(kept) == ["lm_head", "model.layers.0.mlp.experts", "model.layers.0.mlp.gate"]


def test_one_scale_of_a_tensor_is_written_as_transformers_declares_it():
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    scale = pq.to_format(weight, pq.FP8(group="tensor"), format="fp8")["weight_scale_inv"]
    assert (scale.shape, scale.dtype) == ((), torch.float32)


def test_no_other_scheme_goes_to_blocks(tmp_path):
    folder(tmp_path / "model")
    with pytest.raises(
        polmrs.errors.ConfigError, match="fp8 does not hold int8 symmetric, one scale for a channel"
    ):
        pq.quantize(tmp_path / "model", scheme=pq.W8A16(), format="fp8", to=tmp_path / "out")
