"""LOMO is SGD and AdaLomo its paper's formula, with one gradient in memory at a time."""

import pytest
import torch
from models.made import examples, policy
from polmrs.data.epochs import Epochs
from polmrs.errors import NonFiniteError, UsageError
from polmrs.finetune import SFT
from polmrs.train import Group, Optim, fit
from polmrs.train.fused import AdaLomo

DATA = examples(6)


def trained(optim, one=None, **more):
    one = one or policy(attention_dropout=0.2)
    given = {"steps": 4, "lr": 0.05, "schedule": "linear"} | more
    run = fit(one, Epochs(DATA, batch=3), SFT(), optim=optim, **given)
    return {name: p.detach().clone() for name, p in one.named_parameters()}, run


@pytest.mark.method("sft.lomo")
@pytest.mark.parametrize("clip", [None, 0.5])
def test_lomo_is_sgd_bit_for_bit_and_with_clipping_to_rounding(clip):
    (ours, run), (theirs, reference) = (trained(name, clip=clip) for name in ("lomo", "sgd"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0 if clip is None else 1e-12, atol=0)
    for key in ("loss", "grad_norm", "lr"):
        seen, expected = ([row[key] for row in r.rows] for r in (run, reference))
        assert seen == pytest.approx(expected, rel=1e-12)
    assert max(row["grad_norm"] for row in run.rows) > 0.5


@pytest.mark.method("sft.lomo")
def test_no_two_gradients_are_there_at_once():
    for optim, most in (("lomo", 1), ("sgd", len(list(policy().parameters())))):
        one, seen = policy(), []
        for p in one.parameters():
            p.register_post_accumulate_grad_hook(
                lambda _, one=one, seen=seen: seen.append(sum(q.grad is not None for q in one.parameters()))
            )
        trained(optim, one)
        assert max(seen) == most
        assert all(p.grad is None for p in one.parameters()) == (optim == "lomo")


def test_adalomo_is_its_formula():
    random = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, generator=random, dtype=torch.float64)
    weight, row, column = torch.nn.Parameter(start.clone()), torch.zeros(3), torch.zeros(4)
    row, column, theta = row.double(), column.double(), start.clone()
    AdaLomo([weight], lr=0.1)
    for t in range(1, 5):
        grad = torch.randn(3, 4, generator=random, dtype=torch.float64)
        (weight * grad).sum().backward()
        beta = 1 - t**-0.8
        row = beta * row + (1 - beta) * (grad**2 + 1e-30).mean(1)
        column = beta * column + (1 - beta) * (grad**2 + 1e-30).mean(0)
        u = grad / (row[:, None] * column[None, :] / row.mean()).sqrt()
        u = u / max(1.0, float(u.square().mean().sqrt()))
        theta = theta - 0.1 * max(1e-3, float(theta.square().mean().sqrt())) * u
        torch.testing.assert_close(weight.detach(), theta, rtol=1e-12, atol=1e-14)


def test_adalomo_is_adafactor_within_its_first_steps():
    # torch's rate is at most 1 / sqrt(t), which 0.05 is below
    (ours, _), (theirs, _) = (trained(name, clip=None) for name in ("adalomo", "adafactor"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-9)


def test_adalomo_resumes_to_the_same_bits(tmp_path):
    whole, _ = trained("adalomo", to=tmp_path / "whole")
    first, again = policy(attention_dropout=0.2), policy(attention_dropout=0.2)

    def stop(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained("adalomo", first, to=tmp_path / "parts", save_every=2, listeners=[stop])
    rest, _ = trained("adalomo", again, to=tmp_path / "parts", save_every=2, resume=True)
    assert all(torch.equal(rest[name], value) for name, value in whole.items())


def test_afterwards_backward_passes_leave_gradients_again():
    one = policy()
    trained("lomo", one, lr=0.0)
    before = {name: p.detach().clone() for name, p in one.named_parameters()}
    one.logps(DATA[0]).sum().backward()
    assert all(p.grad is not None and torch.equal(p, before[name]) for name, p in one.named_parameters())


def test_a_group_goes_up_and_another_stays():
    one = policy()
    before = {name: p.detach().clone() for name, p in one.named_parameters()}
    groups = (Group(pattern=".*norm.*", freeze=True), Group(pattern=".*", maximize=True))
    after, run = trained(Optim(name="lomo", groups=groups), one, steps=6, schedule="constant")
    assert run.rows[-1]["loss"] > run.rows[0]["loss"]
    assert all(torch.equal(after[name], value) == ("norm" in name) for name, value in before.items())


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_loss_that_is_not_finite_moves_nothing(tmp_path, clip):
    one = policy()
    one._proved.add("head")
    with torch.no_grad():
        one.model.get_input_embeddings().weight[int(DATA[0].ids[0])] = float("nan")
    before = {name: p.detach().clone() for name, p in one.named_parameters()}
    with pytest.raises(NonFiniteError, match="step 1"):
        fit(one, [[DATA[0]]], SFT(), steps=1, lr=0.1, optim="lomo", clip=clip, to=tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in one.named_parameters() if "embed" not in name)


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_accumulation_is_refused(name):
    with pytest.raises(UsageError, match=f"{name} .* cannot accumulate gradients over 3 micro-batches"):
        trained(name, micro=1)
    with pytest.raises(UsageError, match="scale of fp16"):
        trained(name, policy(dtype=torch.float32), precision="fp16")
