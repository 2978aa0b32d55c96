"""``polmrs check``: what a loader would trip over is named, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import polmrs.quantize as pq
import pytest
import torch
from quantize.made import folder
from quantize.test_checkpoints import CASES
from quantize.test_source import damage

POLMRS = Path(sys.executable).with_name("polmrs")


def check(path):
    """The exit code, and what was found; in Python it is the same."""
    run = subprocess.run([POLMRS, "check", path, "--json"], capture_output=True, text=True)
    found = json.loads(run.stdout)
    assert pq.check(path) == found
    return run.returncode, [(row["place"], row["what"]) for row in found["findings"]]


def settings(path, change):
    """Changes the quantization_config of a folder."""
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


@pytest.fixture
def made(tmp_path):
    """Makes a quantized folder of a scheme and a format."""

    def make(scheme, format):
        folder(tmp_path / "model")
        pq.quantize(tmp_path / "model", scheme=scheme, format=format, to=tmp_path / "made")
        return tmp_path / "made"

    return make


@pytest.mark.parametrize("case", CASES)
def test_what_polmrs_writes_has_nothing_to_trip_over(case, made):
    scheme, _, format = CASES[case]
    assert check(made(scheme, format)) == (0, [])


def test_a_model_that_is_not_quantized_is_called_so(tmp_path):
    run = subprocess.run([POLMRS, "check", folder(tmp_path / "model")], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"{tmp_path / 'model'}: not quantized\n")


GROUPS = pq.W4A16(group=64)
UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "place", "what"),
    [
        (lambda c: c.pop("quantization_config"), "config.json", "without a quantization_config a loader takes the model for a dense one"),
        (lambda c: c["quantization_config"].update(quant_method="quark"), "config.json", "'quark' is not read"),
        (lambda c: c["quantization_config"].pop("group_size"), "config.json", "group_size: not there, and gptq_v2 loaders need it"),
        (lambda c: c["quantization_config"].update(bits=8), UP, "codes of 4 bits, where quantization_config.bits is 8"),
        (lambda c: c["quantization_config"].update(group_size=32), UP, "groups of 64, where quantization_config.group_size is 32"),
        (lambda c: c["quantization_config"].update(quant_method="bitsandbytes"), "config.json", "exactly one of load_in_4bit and load_in_8bit"),
    ],
)  # fmt: skip
def test_a_config_that_misleads_is_found(change, place, what, made):
    path = made(GROUPS, "gptq_v2")
    settings(path, change)
    code, found = check(path)
    assert code == 3
    assert any(where == place and what in text for where, text in found), found


def test_every_module_that_is_not_whole_is_found(made):
    path = made(GROUPS, "gptq_v2")
    damage(path, "qzeros", lambda tensors, name: tensors.pop(name))
    damage(
        path,
        "scales",
        lambda tensors, name: tensors.update({name.replace("up", "gate"): torch.ones(3, 5).half()}),
    )
    code, found = check(path)
    assert code == 3
    assert [place for place, _ in found] == [UP.replace("up", "gate"), UP]


def test_zero_points_of_version_1_that_carry_are_counted(made):
    path = made(pq.W4A16(group=64, asym=True), "gptq_v2")
    settings(path, lambda c: c["quantization_config"].update(checkpoint_format="gptq"))
    assert check(path) == (0, [])
    damage(path, "qzeros", lambda tensors, name: tensors[name][0, :2].fill_(-1))  # sixteen codes of 15
    assert check(path)[0] == 3
    assert check(path)[1] == [(UP, check(path)[1][0][1])]
    assert check(path)[1][0][1].startswith("qzeros: 16 zero points of 0 are stored as the top code")


def test_three_bits_in_the_padded_packing_are_named(made):
    path = made(pq.W3A16(group=64), "compressed-tensors")
    damage(
        path,
        "weight_packed",
        lambda tensors, name: tensors.update({name: torch.zeros(320, -(-192 // 10), dtype=torch.int32)}),
    )
    assert "padded packing" in dict(check(path)[1])[UP]
