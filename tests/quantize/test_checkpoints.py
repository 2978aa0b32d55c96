"""``polmrs quantize``: a folder holds what ``to_format`` makes of each weight, and an error leaves nothing behind."""

import json
import subprocess
import sys

import numpy as np
import polmrs
import polmrs.quantize as pq
import pytest
import torch
from quantize.made import CONFIG, LINEAR, OTHER, files, folder, read, weights

CASES = {
    "w4a16": (pq.W4A16(group=64), pq.Integer(bits=4, group=64), "compressed-tensors"),
    "w4a16 asym": (
        pq.W4A16(group=32, asym=True),
        pq.Integer(bits=4, group=32, span="affine"),
        "compressed-tensors",
    ),
    "w3a16": (pq.W3A16(group=64), pq.Integer(bits=3, group=64), "compressed-tensors"),
    "w2a16 asym": (
        pq.W2A16(group=64, asym=True),
        pq.Integer(bits=2, group=64, span="affine"),
        "compressed-tensors",
    ),
    "w8a16": (pq.W8A16(), pq.Integer(bits=8, group="row"), "compressed-tensors"),
    "w8a8": (pq.W8A8(), pq.Integer(bits=8, group="row"), "compressed-tensors"),
    "fp8": (pq.W8A8FP8(), pq.FP8(), "compressed-tensors"),
    "mxfp4": (pq.MXFP4A16(), pq.MXFP4(), "compressed-tensors"),
    "gptq": (pq.W4A16(group=64), pq.Integer(bits=4, group=64), "gptq"),
    "gptq_v2": (pq.W3A16(group=64, asym=True), pq.Integer(bits=3, group=64, span="affine"), "gptq_v2"),
    "awq": (pq.W4A16(group=64, asym=True), pq.Integer(bits=4, group=64, span="affine"), "awq"),
    "nf4": (pq.NF4A16(), pq.NF4(), "bnb"),
    "nf4 double": (pq.NF4A16(double=True), pq.NF4(nested=True), "bnb"),
    "llm-int8": (pq.W8A8LLMInt8(), pq.LLMInt8(), "bnb"),
}


def expected(codec, format, activations=False):
    """What a folder of ``weights()`` must hold."""
    made = {}
    for name, weight in weights().items():
        module = name.removesuffix(".weight")
        if module not in LINEAR:
            made[name] = weight
            continue
        tensors = pq.to_format(weight, codec, format=format, activations=activations)
        made |= {f"{module}.{suffix}": tensor for suffix, tensor in tensors.items()}
    return made


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert torch.equal(a[name].reshape(-1).view(torch.uint8), b[name].reshape(-1).view(torch.uint8)), name


@pytest.mark.method("quant.absmax")
@pytest.mark.parametrize("case", CASES)
def test_a_folder_holds_what_the_format_makes_of_each_weight(case, tmp_path):
    scheme, codec, format = CASES[case]
    folder(tmp_path / "model")
    done = pq.quantize(tmp_path / "model", scheme=scheme, format=format, to=tmp_path / "out", verify=True)
    tensors, config = read(tmp_path / "out")
    same(tensors, expected(codec, format, activations=case in ("w8a8", "fp8")))
    assert done["quantized"] == len(LINEAR)
    assert done["verified"]
    assert config["quantization_config"]["quant_method"] == {"gptq_v2": "gptq", "bnb": "bitsandbytes"}.get(
        format, format
    )
    assert config["dtype"] == "bfloat16"
    assert "_name_or_path" not in config
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert "/somewhere" not in (tmp_path / "out" / "README.md").read_text()


def test_q_k_and_v_share_the_scale_of_nvfp4_and_so_do_gate_and_up(tmp_path):
    folder(tmp_path / "model")
    pq.quantize(tmp_path / "model", scheme=pq.NVFP4A16(), to=tmp_path / "out")
    tensors, _ = read(tmp_path / "out")
    for names in [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("o_proj",), ("down_proj",)]:
        modules = [module for module in LINEAR if module.endswith(names)]
        largest = max(weights()[f"{module}.weight"].abs().max().item() for module in modules)
        shared = np.float32(1) / np.float32(largest) * np.float32(448 * 6)
        for module in modules:
            assert tensors[f"{module}.weight_global_scale"].item() == shared
            codec = pq.NVFP4(global_scale=float(shared))
            made = pq.to_format(weights()[f"{module}.weight"], codec)
            same({name: tensors[f"{module}.{name}"] for name in made}, made)


@pytest.mark.method("quant.mse-clip")
def test_mse_tries_narrower_ranges(tmp_path):
    folder(tmp_path / "model")
    method = pq.MSE(steps=30, shrink=0.5)
    pq.quantize(tmp_path / "model", scheme=pq.W3A16(group=64), method=method, to=tmp_path / "out")
    codec = pq.Integer(bits=3, group=64, clip=pq.Clip(steps=30, shrink=0.5))
    same(read(tmp_path / "out")[0], expected(codec, "compressed-tensors"))


@pytest.mark.method("quant.hqq")
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_hqq_s_zero_points_are_rounded_to_codes_and_weights_coded_on_that_grid(bits, tmp_path):
    scheme = {2: pq.W2A16, 3: pq.W3A16, 4: pq.W4A16}[bits](group=64, asym=True)
    tensors = {name: weight.float() for name, weight in weights().items()}
    folder(tmp_path / "model", tensors)
    pq.quantize(tmp_path / "model", scheme=scheme, method=pq.HalfQuadratic(), to=tmp_path / "out")
    made, _ = read(tmp_path / "out")
    for module in LINEAR:
        weight = tensors[f"{module}.weight"].numpy()
        found = pq.encode(weight, pq.HQQ(bits=bits, group=64))
        plain = pq.encode(weight, pq.Integer(bits=bits, group=64, span="affine"))
        zeros, inside = np.round(found.zeros), (found.zeros > -0.5) & (found.zeros < 2**bits - 0.5)
        zeros = np.where(inside, zeros, plain.zeros).astype(np.float32)
        scales = np.where(inside, found.scales, plain.scales)
        groups = weight.reshape(len(weight), -1, 64)
        middle = np.float32(2 ** (bits - 1))
        steps = groups / scales[..., None] + (zeros - middle)[..., None]
        codes = (np.round(np.clip(steps, -middle, middle - 1)) + middle).astype(np.uint8)
        packed = pq.pack(codes.reshape(weight.shape), bits)
        assert np.array_equal(made[f"{module}.weight_packed"].numpy(), packed), module
        assert np.array_equal(made[f"{module}.weight_scale"].numpy(), scales), module


def torch_codes(weight, bits, group, asym):
    """compressed-tensors' rule in torch, each step in the weight's own type; unsigned codes."""
    groups = weight.unflatten(-1, (-1, group))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = (high - low) / (2**bits - 1) if asym else torch.maximum(-low, high) / ((2**bits - 1) / 2)
    scale = torch.where(scale == 0, torch.finfo(weight.dtype).eps, scale)
    zero = torch.clamp(least - low / scale, least, most).round() if asym else torch.zeros_like(scale)
    zero = torch.where(low < high, zero, 0)
    codes = torch.clamp(groups / scale[..., None] + zero[..., None], least, most).round()
    return (codes.flatten(-2) - least).to(torch.uint8), scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("asym", [False, True])
def test_compat_has_the_codes_of_arithmetic_in_the_weights_own_type(dtype, asym, tmp_path):
    folder(tmp_path / "model", weights(dtype))
    scheme = pq.W4A16(group=64, asym=asym)
    differ = 0
    for compat in (True, False):
        to = tmp_path / f"out {compat}"
        pq.quantize(tmp_path / "model", scheme=scheme, compat=compat, to=to)
        tensors, _ = read(to)
        for module in LINEAR:
            codes, scale = torch_codes(weights(dtype)[f"{module}.weight"], 4, 64, asym)
            packed = tensors[f"{module}.weight_packed"].numpy()
            found = pq.unpack(packed, 4, codes.shape[1])
            if compat:
                assert np.array_equal(found, codes.numpy())
                assert torch.equal(tensors[f"{module}.weight_scale"], scale)
            else:
                differ += int((found != codes.numpy()).sum())
    assert differ > 0, "the default rounds once"


def test_any_number_of_threads_and_shards_gives_the_same_bits(tmp_path):
    folder(tmp_path / "model")
    for scheme, format in [
        (pq.W3A16(group=64, asym=True), "gptq_v2"),
        (pq.NVFP4A16(), None),
        (pq.NF4A16(double=True), None),
    ]:
        outs = []
        for at, options in enumerate([{"threads": 1}, {"threads": 5}, {"threads": 2, "shard_size": 60_000}]):
            out = tmp_path / f"{scheme.name} {at}"
            pq.quantize(tmp_path / "model", scheme=scheme, format=format, to=out, **options)
            outs.append(read(out)[0])
        same(outs[0], outs[1])
        same(outs[0], outs[2])


def test_rules_choose_by_name_and_the_config_says_so(tmp_path):
    folder(tmp_path / "model")
    rules = {"mlp.down_proj": pq.W8A16(group=32), r"\.k_proj$": None, "mlp.gate$": pq.W4A16(group=64)}
    done = pq.quantize(
        tmp_path / "model", scheme=pq.W4A16(group=64), rules=rules, exclude=["up_proj"], to=tmp_path / "out"
    )
    tensors, config = read(tmp_path / "out")
    assert done["quantized"] == 6
    assert tensors["model.layers.0.mlp.down_proj.weight_packed"].shape == (192, 80)
    assert "model.layers.0.self_attn.k_proj.weight" in tensors
    assert "model.layers.0.mlp.up_proj.weight" in tensors
    stated = config["quantization_config"]
    groups = {group["weights"]["num_bits"]: group["targets"] for group in stated["config_groups"].values()}
    assert groups == {4: ["Linear"], 8: ["model.layers.0.mlp.down_proj"]}
    assert sorted(stated["ignore"]) == [
        "lm_head",
        "model.layers.0.mlp.up_proj",
        "model.layers.0.self_attn.k_proj",
    ]


@pytest.mark.parametrize("format", ["gptq_v2", "awq"])
def test_a_limit_of_memory_makes_stripes_narrower_and_changes_no_bit(format, tmp_path):
    weight = torch.randn(2048, 1024, generator=torch.Generator().manual_seed(0)).bfloat16()
    folder(tmp_path / "model", {"mlp.up_proj.weight": weight})
    settings = {"scheme": pq.W4A16(asym=True), "format": format, "threads": 2}
    free = pq.plan(tmp_path / "model", **settings)["peak_memory_bytes"]
    limit = 3 << 20
    assert pq.plan(tmp_path / "model", max_memory=limit, **settings)["peak_memory_bytes"] <= limit < free
    pq.quantize(tmp_path / "model", to=tmp_path / "free", **settings)
    pq.quantize(tmp_path / "model", to=tmp_path / "within", max_memory=limit, **settings)
    same(read(tmp_path / "within")[0], read(tmp_path / "free")[0])


def test_the_report_says_how_far_each_weight_is_from_its_codes(tmp_path):
    folder(tmp_path / "model")
    pq.quantize(tmp_path / "model", scheme=pq.W4A16(group=64), to=tmp_path / "out", report=True)
    report = json.loads((tmp_path / "out" / "polmrs_report.json").read_text())
    rows = {row["name"]: row for row in report["tensors"]}
    for module in LINEAR:
        weight = weights()[f"{module}.weight"].double()
        back = pq.decode(pq.encode(weights()[f"{module}.weight"], pq.Integer(bits=4, group=64)))
        wanted = ((back - weight).norm() / weight.norm()).item()
        assert rows[f"{module}.weight_packed"]["relative"] == pytest.approx(wanted, rel=1e-5)
    assert rows["model.norm.weight"]["copied"]


def test_the_report_has_hqq_s_error_before_and_after_rounding(tmp_path):
    tensors = {name: weight.float() for name, weight in weights().items()}
    folder(tmp_path / "model", tensors)
    scheme, method = pq.W3A16(group=64, asym=True), pq.HalfQuadratic()
    pq.quantize(tmp_path / "model", scheme=scheme, method=method, to=tmp_path / "out", report=True)
    report = json.loads((tmp_path / "out" / "polmrs_report.json").read_text())
    rows = {row["name"]: row["relative"] for row in report["tensors"]}
    made, _ = read(tmp_path / "out")
    for module in LINEAR:
        weight = tensors[f"{module}.weight"].double()
        parts = {
            name.removeprefix(f"{module}."): made[name] for name in made if name.startswith(f"{module}.")
        }
        after = pq.from_format(parts, format="compressed-tensors")
        before = pq.decode(pq.encode(tensors[f"{module}.weight"], pq.HQQ(bits=3, group=64)))
        for part, back in [("weight_packed", after), ("weight_zero_point", before)]:
            wanted = ((back - weight).norm() / weight.norm()).item()
            assert rows[f"{module}.{part}"] == pytest.approx(wanted, rel=1e-5)


def test_the_command_line_writes_the_same_folder(tmp_path):
    folder(tmp_path / "model")
    scheme = pq.W4A16(group=64, asym=True)
    pq.quantize(tmp_path / "model", scheme=scheme, rules={"down": pq.W8A16()}, to=tmp_path / "python")
    said = [
        str(tmp_path / "model"),
        str(tmp_path / "command"),
        "--scheme",
        "w4a16",
        "--group",
        "64",
        "--asym",
    ]
    done = command(*said, "--rule", "down=w8a16", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "polmrs.quantize/1"
    assert files(tmp_path / "command") == files(tmp_path / "python")
    planned = command(str(tmp_path / "model"), "--scheme", "w4a16", "--group", "64", "--plan")
    assert planned.returncode == 0
    assert "disk" in planned.stdout
    described = pq.plan(tmp_path / "model", scheme=scheme, rules={"down": pq.W8A16()})
    assert described["disk_bytes"] == sum(
        file.stat().st_size for file in (tmp_path / "python").glob("*.safetensors")
    )


def command(*said):
    return subprocess.run(
        [sys.executable, "-m", "polmrs.cli", "quantize", *said], capture_output=True, text=True, check=False
    )


def unfinished(path):
    return sorted(entry.name for entry in path.iterdir() if entry.name.startswith("out"))


REFUSED = {
    "a group that does not divide": (
        {"scheme": pq.W4A16()},
        {},
        "rows of 320 elements; 64 does",
        polmrs.errors.ConfigError,
    ),
    "a format that does not hold it": (
        {"scheme": pq.W3A16(group=64), "format": "awq"},
        {},
        "awq holds",
        polmrs.errors.ConfigError,
    ),
    "zero points in gptq": (
        {"scheme": pq.W4A16(group=64, asym=True), "format": "gptq"},
        {},
        "gptq_v2",
        polmrs.errors.ConfigError,
    ),
    "activations in gptq": (
        {"scheme": pq.W8A8(), "format": "gptq"},
        {},
        "no 8-bit activations",
        polmrs.errors.ConfigError,
    ),
    "a rule that finds nothing": (
        {"scheme": pq.W8A16(), "exclude": ["dwn"]},
        {},
        "finds no linear layer",
        polmrs.errors.UsageError,
    ),
    "hqq without zero points": (
        {"scheme": pq.W8A16(), "method": pq.HalfQuadratic()},
        {},
        "hqq finds zero",
        polmrs.errors.UsageError,
    ),
    "a setting out of range": (
        {"scheme": pq.W8A16(), "method": pq.MSE(shrink=2)},
        {},
        "in \\(0, 1\\)",
        polmrs.errors.UsageError,
    ),
    "compat of mxfp4": (
        {"scheme": pq.MXFP4A16(), "compat": True},
        {},
        "compat: is for",
        polmrs.errors.UsageError,
    ),
    "compat in gptq": (
        {"scheme": pq.W4A16(group=64), "format": "gptq", "compat": True},
        {},
        "compat: llm-compressor writes compressed-tensors, not gptq",
        polmrs.errors.UsageError,
    ),
    "two codings in awq": (
        {"scheme": pq.W4A16(group=64), "format": "awq", "rules": {"down": pq.W4A16(group=32)}},
        {},
        "awq: one coding for all layers",
        polmrs.errors.ConfigError,
    ),
    "transposed layers": (
        {"scheme": pq.W8A16()},
        {"config": {"model_type": "gpt2"}},
        "\\[in, out\\]",
        polmrs.errors.CheckpointError,
    ),
    "integers": (
        {"scheme": pq.W8A16()},
        {"tensors": {"a.weight": torch.ones(4, 4, dtype=torch.int32)}},
        "no tensor is left",
        polmrs.errors.CheckpointError,
    ),
    "a NaN": (
        {"scheme": pq.W8A16()},
        {"tensors": {"a.weight": torch.full((4, 4), torch.nan)}},
        "a.weight': element 0 is NaN",
        polmrs.errors.NonFiniteError,
    ),
    "an infinity in bf16": (
        {"scheme": pq.NVFP4A16()},
        {"tensors": {"a.weight": torch.full((4, 16), torch.inf, dtype=torch.bfloat16)}},
        "a.weight': element 0 is inf",
        polmrs.errors.NonFiniteError,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_quantized_is_named_and_leaves_nothing(case, tmp_path):
    asked, made, rule, kind = REFUSED[case]
    folder(tmp_path / "model", **made)
    with pytest.raises(kind, match=rule):
        pq.quantize(tmp_path / "model", to=tmp_path / "out", **asked)
    assert unfinished(tmp_path) == []


@pytest.mark.parametrize("case", CASES)
def test_codes_without_a_config_that_names_them_are_not_quantized_again(case, tmp_path):
    scheme, _, format = CASES[case]
    folder(tmp_path / "model")
    pq.quantize(tmp_path / "model", scheme=scheme, format=format, to=tmp_path / "once")
    (tmp_path / "once" / "config.json").unlink()
    with pytest.raises(polmrs.errors.CheckpointError, match="quantized already"):
        pq.quantize(tmp_path / "once", scheme=pq.W8A16(), to=tmp_path / "out")
    assert unfinished(tmp_path) == []


def test_an_output_is_replaced_only_if_that_is_asked_for(tmp_path):
    folder(tmp_path / "model")
    for to, message in [("model", "is also the input"), (".", "holds the input")]:
        with pytest.raises(polmrs.errors.UsageError, match=message):
            pq.quantize(tmp_path / "model", scheme=pq.W8A16(), to=tmp_path / to, overwrite=True)
    pq.quantize(tmp_path / "model", scheme=pq.W8A16(), to=tmp_path / "out")
    with pytest.raises(polmrs.errors.OutputExistsError):
        pq.quantize(tmp_path / "model", scheme=pq.W8A8(), to=tmp_path / "out")
    pq.quantize(tmp_path / "model", scheme=pq.W8A8(), to=tmp_path / "out", overwrite=True)
    assert "model.layers.0.mlp.up_proj.weight" in read(tmp_path / "out")[0]


def test_what_stays_is_copied_bit_for_bit(tmp_path):
    folder(tmp_path / "model")
    pq.quantize(tmp_path / "model", scheme=pq.MXFP4A16(), to=tmp_path / "out")
    tensors, _ = read(tmp_path / "out")
    same(
        {name: tensors[name] for name in (f"{name}.weight" for name in OTHER)},
        {f"{name}.weight": weights()[f"{name}.weight"] for name in OTHER},
    )
    assert CONFIG["tie_word_embeddings"]
