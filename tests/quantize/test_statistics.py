"""``quantize.collect``: sums over a model's inputs, whole after an interruption, readable by whatever reads statistics."""

import json

import numpy as np
import polmrs
import polmrs.quantize as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

TEXTS = [[1, 5, 2, 9], [3], [4, 4, 7, 0, 2, 6], [], [8, 1]]


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(10, 6), torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 10)
    )


def inputs(network):
    """What each linear layer reads of all texts, in float64, by the definition."""
    first = [network[0](torch.tensor(ids)) for ids in TEXTS if ids]
    second = [network[2](network[1](x)) for x in first]
    return {"1": torch.cat(first).double(), "3": torch.cat(second).double()}


def test_statistics_are_what_their_names_say(tmp_path):
    network = model()
    done = pq.collect(network, TEXTS, to=tmp_path / "s.safetensors", fisher=True)
    found = load_file(tmp_path / "s.safetensors")
    assert (done["texts"], done["tokens"], done["layers"]) == (5, 13, 2)
    assert done["bytes"] == sum(value.numel() * value.element_size() for value in found.values())
    for name, x in inputs(network).items():
        wanted = {"gram": x.T @ x, "sumsq": x.square().sum(0), "mean": x.mean(0), "absmax": x.abs().amax(0)}
        for kind, value in wanted.items():
            made = found[f"{name}.weight::{kind}"]
            assert made.dtype == torch.float32
            torch.testing.assert_close(made.double(), value, rtol=1e-5, atol=1e-6)
        assert found[f"{name}.weight::count"].item() == len(x)
    fisher = torch.zeros_like(network[3].weight)
    for ids in TEXTS:
        if len(ids) > 1:
            loss = torch.nn.functional.cross_entropy(network(torch.tensor(ids))[:-1], torch.tensor(ids[1:]))
            (gradient,) = torch.autograd.grad(loss, [network[3].weight])
            fisher += gradient.square() / len(TEXTS)
    torch.testing.assert_close(found["3.weight::fisher"], fisher, rtol=1e-5, atol=1e-9)
    assert network.training, "the model is as it was"


def test_an_interrupted_run_goes_on_to_the_same_file(tmp_path):
    def until(stop):
        for at, ids in enumerate(TEXTS):
            if at == stop:
                raise KeyboardInterrupt
            yield ids

    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    pq.collect(model(), TEXTS, to=whole, fisher=True)
    for stop in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            pq.collect(model(), until(stop), to=parts, fisher=True, save_every=1)
    assert not parts.exists()
    with pytest.raises(polmrs.errors.OutputExistsError, match="of another call"):
        pq.collect(model(), TEXTS, to=parts)
    pq.collect(model(), until(None), to=parts, fisher=True, save_every=1)
    wanted, found = load_file(whole), load_file(parts)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.safetensors", "whole.safetensors"]


def test_regmean_reads_what_was_collected(tmp_path):
    network = torch.nn.Sequential(torch.nn.Embedding(10, 6), torch.nn.Linear(6, 8))
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        folder = tmp_path / f"m{seed}"
        folder.mkdir()
        torch.nn.init.normal_(network[1].weight)
        save_file({"1.weight": network[1].weight.detach().clone()}, folder / "model.safetensors")
        pq.collect(network, TEXTS, to=folder / "stats.safetensors")
        folders.append(folder)
    config = {
        "merge_method": "regmean",
        "models": [
            {
                "model": str(folder / "model.safetensors"),
                "parameters": {"statistics": str(folder / "stats.safetensors")},
            }
            for folder in folders
        ],
    }
    (tmp_path / "merge.yml").write_text(json.dumps(config))
    polmrs.merge.merge(tmp_path / "merge.yml", to=tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")["1.weight"]
    assert torch.isfinite(merged).all()


@pytest.mark.parametrize(
    ("texts", "rule", "kind"),
    [
        ([], "none has a token", polmrs.errors.ConfigError),
        ([[]], "none has a token", polmrs.errors.ConfigError),
        (["words"], "brings no tokenizer", polmrs.errors.UsageError),
    ],
)
def test_texts_that_cannot_be_read_are_named(texts, rule, kind, tmp_path):
    with pytest.raises(kind, match=rule):
        pq.collect(model(), texts, to=tmp_path / "s.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_is_not_finite_is_named(tmp_path):
    network = model()
    with torch.no_grad():
        network[0].weight[5] = np.nan
    with pytest.raises(polmrs.errors.NonFiniteError, match="1: an input of text 1 is not finite"):
        pq.collect(network, [[1], [2, 5]], to=tmp_path / "s.safetensors")


def test_a_file_that_is_there_stays(tmp_path):
    to = tmp_path / "s.safetensors"
    pq.collect(model(), TEXTS, to=to)
    with pytest.raises(polmrs.errors.OutputExistsError):
        pq.collect(model(), TEXTS, to=to)
    pq.collect(model(), TEXTS[:1], to=to, overwrite=True)
    assert load_file(to)["1.weight::count"].item() == len(TEXTS[0])
