"""`lora` of a recipe: what is trained, saved and estimated, and that merging takes it."""

import json
import re

import polmrs as pm
import polmrs.quantize as pq
import pytest
import torch
from models.made import examples, model
from peft import PeftModel
from polmrs.data.ragged import Batch
from polmrs.models import Policy, Scores, StepScores, Tokens, load
from polmrs.train import Optim
from polmrs.train.adapter import LoRA
from polmrs.train.command import run
from polmrs.train.estimate import estimate
from train.recipes import metrics, words
from transformers import GPT2Config, GPT2LMHeadModel

BATCH = Batch.cat(examples(4, vocabulary=40))
HEADS = {"sft": Tokens(), "classify": Scores(outputs=3), "reward": Scores(), "prm": StepScores()}


def adapted(home, folder, head):
    """A base with what a run saved, as peft loads it."""
    return Policy(PeftModel.from_pretrained(load(home / "base", head=head).model, folder / "model")).eval()


def test_a_trained_adapter_is_w_plus_alpha_over_r_times_b_a(home, tmp_path):
    said = {"steps": 8, "lora": "{r: 4, alpha: 6, targets: [q_proj, down_proj]}"}
    run(words(home, "sft", tmp_path / "run", **said))
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    base, tuned = load(home / "base").eval(), adapted(home, tmp_path / "run", Tokens())
    by_hand = base.model.state_dict()
    moved = 0
    for name, layer in tuned.model.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            assert name.endswith(("q_proj", "down_proj"))
            by_hand[f"{name}.weight"] += 6 / 4 * b.detach() @ a.detach()
            moved += int(b.count_nonzero() > 0)
    assert moved == 4
    base.model.load_state_dict(by_hand)
    torch.testing.assert_close(base.logps(BATCH), tuned.logps(BATCH), rtol=1e-5, atol=1e-6)


def test_what_is_saved_is_an_adapter_that_merging_takes(home, tmp_path):
    run(words(home, "sft", tmp_path / "run", steps=4, lora="{r: 2}"))
    saved = tmp_path / "run" / "model"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in saved.iterdir()}
    assert not list(saved.glob("model*.safetensors"))
    assert json.loads((saved / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    pm.merge.merge([f"{home / 'base'}+{saved}"], method=pm.merge.Passthrough(), to=tmp_path / "merged")
    ours, theirs = load(tmp_path / "merged"), adapted(home, tmp_path / "run", Tokens())
    torch.testing.assert_close(ours.logps(BATCH), theirs.logps(BATCH), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours.logps(BATCH), load(home / "base").logps(BATCH), rtol=1e-3)


def test_an_adapter_of_a_quantized_base_names_that_base(home, tmp_path):
    base = tmp_path / "int4"
    pq.quantize(home / "base", scheme=pq.W4A16(group=8), to=base)
    run(words(home, "sft", tmp_path / "run", model=base, steps=1, lora="{r: 2}"))
    said = json.loads((tmp_path / "run" / "model" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(base)


def test_targets_name_the_linear_layers_of_gpt2_too():
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    made = LoRA(r=2, targets=["c_attn"]).on(GPT2LMHeadModel(config), Tokens(), 0)
    assert {
        name.rpartition(".lora_")[0].rpartition(".")[2]
        for name, p in made.named_parameters()
        if p.requires_grad
    } == {"c_attn"}


@pytest.mark.parametrize("verb", ["classify", "reward", "prm"])
def test_a_new_head_is_trained_and_saved_beside_the_adapter(verb, home, tmp_path):
    run(words(home, verb, tmp_path / "run", steps=6, lora="{r: 2, dora: true}"))
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    drawn = load(home / "base", head=HEADS[verb])
    tuned = adapted(home, tmp_path / "run", HEADS[verb])
    trained = dict(tuned.model.base_model.model.named_parameters())
    assert not torch.equal(trained["score.modules_to_save.default.weight"], drawn.model.score.weight)
    assert tuned.scores(BATCH).shape == (4, HEADS[verb].outputs)


@pytest.mark.parametrize(("head", "lora"), [(Tokens(), LoRA(r=3)), (Scores(), LoRA(targets="all-linear"))])
def test_the_estimate_of_an_adapter_is_exact_in_what_stays(head, lora):
    from polmrs.models.loading import auto_class

    kind, more = auto_class(head)
    made = lora.on(model(dtype=torch.float32, auto=kind, **more), head, seed=0)
    found = estimate(made, Optim(), tokens=40)
    trained = sum(p.nbytes for p in made.parameters() if p.requires_grad)
    assert found.weights == sum(p.nbytes for p in made.parameters())
    assert (found.gradients, found.optimizer) == (trained, 2 * trained)


def test_a_dry_run_estimates_the_adapter(home, tmp_path):
    made = LoRA(r=4, targets="all-linear").on(load(home / "base").model, Tokens(), seed=0)
    trained = sum(p.nbytes for p in made.parameters() if p.requires_grad)
    given = {"lora": "{r: 4, targets: all-linear}", "steps": 2}
    said = run(words(home, "sft", tmp_path / "run", "--dry-run", **given)).splitlines()[-1]
    weights, gradients = (float(re.search(rf"{what} ([\d.]+)", said)[1]) for what in ("weights", "gradients"))
    assert weights == round(sum(p.nbytes for p in made.parameters()) / 1e6, 1)
    assert gradients == round(trained / 1e6, 1)
