"""``stats``: the report says what codes do to a layer's output on the inputs that were measured."""

import json
import subprocess
import sys
from pathlib import Path

import polmrs.quantize as pq
import pytest
import torch
from polmrs.errors import CheckpointError
from quantize.made import LINEAR, folder, read, weights
from quantize.tiny_llama import weights as llama
from quantize.tiny_llama import write
from safetensors.torch import save_file

POLMRS = Path(sys.executable).with_name("polmrs")
CASES = {
    "int4": ({"scheme": pq.W4A16(group=64)}, "weight_packed"),
    "zeros": ({"scheme": pq.W3A16(group=64, asym=True), "method": pq.HalfQuadratic()}, "weight_packed"),
    "columns": ({"scheme": pq.W4A16(group=64, asym=True), "format": "gptq_v2"}, "qweight"),
    "nf4": ({"scheme": pq.NF4A16()}, "weight"),
    "nvfp4": ({"scheme": pq.NVFP4A16()}, "weight_packed"),
}


def inputs(module):
    """What a layer reads: more tokens than inputs, some inputs larger than others, and all of them alike."""
    count = LINEAR[module][1]
    random = torch.Generator().manual_seed(count)
    x = torch.randn(2 * count, count, generator=random) + 0.5
    x[:, ::7] *= 5
    return x


def statistics(path, modules=LINEAR, kinds=("gram", "sumsq")):
    """A statistics file of those inputs."""
    made = {}
    for module in modules:
        x = inputs(module)
        all_kinds = {"gram": x.T @ x, "sumsq": x.square().sum(0)}
        made |= {f"{module}.weight::{kind}": all_kinds[kind] for kind in kinds}
        made[f"{module}.weight::count"] = torch.tensor(len(x))
    save_file(made, path, {"schema": "polmrs.stats/1", "model": "sha256:00", "source": "made"})
    return path


def reported(path, key="output"):
    """A figure of every row of a report that has it."""
    rows = json.loads((path / "polmrs_report.json").read_text())["tensors"]
    return {row["name"]: row[key] for row in rows if key in row}


@pytest.mark.parametrize("case", CASES)
def test_the_output_error_is_that_of_the_layer_on_the_inputs_themselves(case, tmp_path):
    settings, codes = CASES[case]
    folder(tmp_path / "model")
    pq.quantize(tmp_path / "model", stats=statistics(tmp_path / "s"), to=tmp_path / "out", **settings)
    found, tensors = reported(tmp_path / "out"), read(tmp_path / "out")[0]
    assert found.keys() == {f"{module}.{codes}" for module in LINEAR}
    plain = weights()
    for module in LINEAR:
        parts = {
            name.removeprefix(f"{module}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(module)
        }
        format = settings.get("format", "bnb" if case == "nf4" else "compressed-tensors")
        back = pq.from_format(parts, format=format).double()
        x, weight = inputs(module).double(), plain[f"{module}.weight"].double()
        wanted = (x @ (back - weight).T).norm() / (x @ weight.T).norm()
        assert 0.001 < wanted < 1
        assert found[f"{module}.{codes}"] == pytest.approx(wanted.item(), rel=1e-4)


def test_squares_of_inputs_stand_for_inputs_that_have_nothing_in_common(tmp_path):
    folder(tmp_path / "model")
    stats = statistics(tmp_path / "s", kinds=["sumsq"])
    pq.quantize(tmp_path / "model", scheme=pq.W8A8(), stats=stats, to=tmp_path / "out")
    found, (tensors, _), plain = reported(tmp_path / "out"), read(tmp_path / "out"), weights()
    for module in LINEAR:
        back = tensors[f"{module}.weight"].double() * tensors[f"{module}.weight_scale"].double()
        squares, weight = inputs(module).square().sum(0).double(), plain[f"{module}.weight"].double()
        wanted = (((back - weight).square() @ squares).sum() / (weight.square() @ squares).sum()).sqrt()
        assert found[f"{module}.weight"] == pytest.approx(wanted.item(), rel=1e-4)


def test_threads_change_nothing_and_neither_does_a_report_change_the_codes(tmp_path):
    folder(tmp_path / "model")
    stats = statistics(tmp_path / "s")
    for threads in (1, 3):
        to = tmp_path / f"out {threads}"
        pq.quantize(tmp_path / "model", scheme=pq.W4A16(group=64), stats=stats, threads=threads, to=to)
    assert reported(tmp_path / "out 1") == reported(tmp_path / "out 3")
    pq.quantize(tmp_path / "model", scheme=pq.W4A16(group=64), to=tmp_path / "plain")
    (told, _), (plain, _) = read(tmp_path / "out 1"), read(tmp_path / "plain")
    assert all(torch.equal(told[name], tensor) for name, tensor in plain.items())


def test_layers_that_were_not_measured_are_counted(tmp_path):
    folder(tmp_path / "model")
    some = list(LINEAR)[:2]
    settings = {"scheme": pq.W4A16(group=64), "stats": statistics(tmp_path / "s", some)}
    notes = pq.plan(tmp_path / "model", **settings)["notes"]
    assert notes == ["stats: of 7 layers, 5 are not in the file; the report lacks the error of their outputs"]
    pq.quantize(tmp_path / "model", to=tmp_path / "out", **settings)
    assert reported(tmp_path / "out").keys() == {f"{module}.weight_packed" for module in some}


@pytest.mark.parametrize(
    ("tensors", "rule"),
    [
        ({"other.weight::gram": torch.eye(192)}, "stats: of the 7 layers to quantize, the file has none"),
        ({"q": torch.eye(192)}, "'q': is not named <weight>::"),
        ({f"{next(iter(LINEAR))}.weight::gram": torch.eye(64)}, "are of 64 inputs, and the weight has 192"),
    ],
)
def test_statistics_of_another_model_are_refused(tensors, rule, tmp_path):
    folder(tmp_path / "model")
    counts = {name.replace("gram", "count"): torch.tensor(3) for name in tensors if "::" in name}
    about = {"schema": "polmrs.stats/1", "model": "sha256:00", "source": "made"}
    save_file({**tensors, **counts}, tmp_path / "s", about)
    with pytest.raises(CheckpointError, match=rule):
        pq.quantize(tmp_path / "model", scheme=pq.W8A8FP8(), stats=tmp_path / "s", to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_collected_from_a_model_is_what_its_report_takes(tmp_path):
    model = write(tmp_path / "model", llama(torch.float32), torch.float32)
    ids = torch.randint(0, 320, (4, 20), generator=torch.Generator().manual_seed(0)).tolist()
    pq.collect(model, ids, to=tmp_path / "s")
    command = [POLMRS, "quantize", model, tmp_path / "out", "--scheme", "w4a16", "--group", "64", "--stats"]
    subprocess.run([*command, tmp_path / "s"], check=True, capture_output=True)
    output, weight = reported(tmp_path / "out"), reported(tmp_path / "out", "relative")
    assert len(output) == 14
    assert all(0.5 * weight[name] < error < 2 * weight[name] for name, error in output.items())
    shown = subprocess.run(
        [POLMRS, "report", tmp_path / "out", "--by", "output", "--png", tmp_path / "p.png"],
        check=True,
        capture_output=True,
        text=True,
    )
    first = next(line for line in shown.stdout.splitlines() if "weight_packed" in line)
    assert first.startswith(max(output, key=output.get))
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_report_without_outputs_says_how_to_have_them(tmp_path):
    folder(tmp_path / "model")
    pq.quantize(tmp_path / "model", scheme=pq.W4A16(group=64), report=True, to=tmp_path / "out")
    run = subprocess.run(
        [POLMRS, "report", tmp_path / "out", "--by", "output"], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "quantize with --stats to have it" in run.stderr
