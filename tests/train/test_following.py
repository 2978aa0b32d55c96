"""Weights that follow: the formula of TR-DPO and of the moving average, who sees it, and what resumes."""

import copy

import pytest
import torch
from models.made import examples, model, policy
from polmrs.data.epochs import Epochs
from polmrs.data.scored import Scored
from polmrs.errors import CheckpointError, ConfigError, UsageError
from polmrs.finetune import SFT
from polmrs.models import Frozen, Policy, Tokens, load
from polmrs.train import Reference, fit
from polmrs.train.adapter import LoRA
from train.interrupted import Cut

DATA = examples(8)


def weights(one):
    return {name: p.detach().clone() for name, p in one.named_parameters()}


def fitted(one, steps=6, **settings):
    """The weights after every step, the first ones before it."""
    seen = [weights(one)]
    run = fit(
        one,
        Epochs(DATA, batch=4),
        SFT(),
        steps=steps,
        lr=0.05,
        listeners=[lambda _: seen.append(weights(one))],
        **settings,
    )
    return seen, run


@pytest.mark.parametrize(("alpha", "every"), [(0.6, 1), (0.6, 2), (1.0, 3)])
def test_every_n_steps_the_reference_goes_alpha_of_the_way_to_the_policy(alpha, every):
    one = policy()
    reference = Reference(policy=one.frozen(), alpha=alpha, every=every)
    seen, _ = fitted(one, reference=reference)
    expected = seen[0]
    for step in range(every, 7, every):
        expected = {name: (1 - alpha) * p + alpha * seen[step][name] for name, p in expected.items()}
    for name, p in weights(reference.policy).items():
        torch.testing.assert_close(p, expected[name], rtol=1e-12, atol=1e-15)


def test_a_hard_update_copies_bits_and_between_updates_nothing_moves():
    one = policy()
    reference = Reference.hard(one.frozen(), every=4)
    seen, _ = fitted(one, reference=reference)
    assert all(torch.equal(p, seen[4][name]) for name, p in weights(reference.policy).items())
    assert not all(torch.equal(p, seen[6][name]) for name, p in weights(reference.policy).items())


def test_a_reference_that_is_the_moving_average_has_the_bits_of_the_average():
    one = policy()
    reference = Reference.ema(one.frozen(), decay=0.9)
    seen, run = fitted(one, reference=reference, average=0.9)
    for name, p in weights(reference.policy).items():
        assert torch.equal(p, run.average[f"policy.{name}"])
        expected = seen[0][name]
        for later in seen[1:]:
            expected = 0.9 * expected + (1 - 0.9) * later[name]
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-15)


def test_who_asks_the_reference_hears_that_it_has_moved():
    one = policy()
    reference = Reference.hard(one.frozen(), every=2)
    stream = Scored(Epochs(DATA[:4], batch=4, shuffle=False), reference.policy)
    off = []

    class Watching(SFT):
        def __call__(self, policy, batch, shared, state):
            off.append((policy.logps(batch) - batch.per_token["reference"]).abs().max().item())
            return super().__call__(policy, batch, shared, state)

    fit(one, stream, Watching(), steps=5, lr=0.05, reference=reference)
    assert [round(value, 6) > 0 for value in off] == [False, True, False, True, False]


def test_a_reference_resumes_to_the_same_bits_and_its_lack_is_named(tmp_path):
    def run(folder=None, stop=None, **settings):
        one = policy()
        reference = Reference(policy=one.frozen(), every=3)
        stream = Epochs(DATA, batch=4) if stop is None else Cut(Epochs(DATA, batch=4), stop)
        fit(one, stream, SFT(), steps=7, lr=0.05, reference=reference, to=folder, **settings)
        return reference.policy

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", 5, save_every=2)
    whole, resumed = run(), run(tmp_path / "run", save_every=2, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    fit(policy(), Epochs(DATA, batch=4), SFT(), steps=1, lr=0.05, to=tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"has no reference of model.model.embed_tokens"):
        run(tmp_path / "other", resume=True)


def test_an_adapter_has_a_reference_of_its_own():
    one = Policy(LoRA(r=2).on(model(), Tokens(), seed=0))
    with pytest.raises(UsageError, match=r"adapters off .* Frozen\(copy.deepcopy\(policy.model\)\)"):
        fitted(one, reference=Reference(policy=one.frozen()))
    reference = Reference.hard(Frozen(copy.deepcopy(one.model)), every=1)
    fitted(one, reference=reference)
    assert all(torch.equal(p, weights(one)[name]) for name, p in weights(reference.policy).items())


@pytest.mark.parametrize("tied", [False, True])
def test_the_average_is_saved_as_a_model_of_its_own(tied, tmp_path):
    one = policy(tie_word_embeddings=tied)
    _, run = fitted(one, average=0.5, to=tmp_path)
    saved = load(tmp_path / "average", dtype=torch.float64)
    assert {f"policy.{name}" for name in weights(saved)} == set(run.average)
    assert all(torch.equal(p, run.average[f"policy.{name}"]) for name, p in weights(saved).items())
    assert all(
        torch.equal(p, weights(one)[n])
        for n, p in weights(load(tmp_path / "model", dtype=torch.float64)).items()
    )


def test_a_reference_that_cannot_follow_is_refused():
    with pytest.raises(ConfigError, match=r"reference.alpha: 0 is not in \(0, 1\]"):
        Reference(policy=policy().frozen(), alpha=0)
    with pytest.raises(ConfigError, match=r"reference.every: 0 is not 1 or more"):
        Reference(policy=policy().frozen(), every=0)
    other = policy(intermediate_size=8).frozen()
    with pytest.raises(UsageError, match=r"reference: .* is trained, and the reference has none such"):
        fitted(policy(), reference=Reference(policy=other))
