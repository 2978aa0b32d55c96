"""The policy: log-probabilities are the model's, whatever the door, the padding and the wrapper."""

import itertools

import polmrs as pm
import pytest
import torch
from models.made import examples, model, policy
from polmrs.data.ragged import Batch
from polmrs.errors import CheckpointError, NotFoundError, OutputExistsError, UsageError
from polmrs.models import Frozen, Packed, Padded, Policy, Scores, StepScores, load, save
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

KINDS = ["llama", "qwen2", "qwen3", "gemma2", "granite", "cohere", "phi3", "mistral"]
BATCH = Batch.cat(examples())


def alone(of, batch):
    """Log-probabilities of each sequence run by itself, by the model's own logits."""
    found = []
    ends = batch.cu_seqlens.tolist()
    for start, stop in itertools.pairwise(ends):
        ids = batch.ids[None, start:stop]
        logp = of.model(input_ids=ids).logits[0].log_softmax(-1)
        picked = logp[:-1].gather(1, ids[0, 1:, None])[:, 0]
        found.append(torch.cat([logp.new_zeros(1), picked]))
    return torch.cat(found) * (batch.weights != 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", [Padded(), Packed()], ids=["padded", "packed"])
def test_log_probabilities_are_those_of_each_sequence_alone(kind, door):
    more = {"final_logit_softcapping": 5.0} if kind == "gemma2" else {}
    close = 1e-5 if kind == "gemma2" else 1e-9  # it has eager attention only, whose softmax is float32
    more |= {"logits_scaling": 4.0} if kind == "granite" else {}
    one = policy(kind, door=door, **more).eval()
    with torch.no_grad():
        torch.testing.assert_close(one.logps(BATCH), alone(one, BATCH), rtol=close, atol=close)


def test_what_stands_in_padding_changes_no_bit():
    one = policy()
    first = one.logps(BATCH)
    one.door = Padded(pad_id=49)
    assert torch.equal(one.logps(BATCH), first)
    one.door = Padded(pad_id=2, multiple_of=32)
    torch.testing.assert_close(one.logps(BATCH), first, rtol=1e-12, atol=0)


def test_temperature_divides_logits_and_where_chooses_tokens():
    one = policy()
    where = torch.zeros(len(BATCH.ids), dtype=torch.bool)
    where[1] = True
    found = one.logps(BATCH, where, temperature=2.0)
    logits = one.model(input_ids=BATCH.ids[None, :1]).logits[0, 0] / 2
    torch.testing.assert_close(found[1], logits.log_softmax(-1)[BATCH.ids[1]])
    assert found.count_nonzero() == 1
    with pytest.raises(UsageError, match="first token of a sequence"):
        one.logps(BATCH, torch.ones_like(where))


def test_a_head_with_an_adapter_is_projected_too():
    import peft

    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    one = Policy(peft.get_peft_model(model(), lora)).eval()
    torch.testing.assert_close(one.logps(BATCH), alone(one, BATCH), rtol=1e-9, atol=1e-10)
    reference = one.frozen()
    torch.testing.assert_close(reference.logps(BATCH), policy().logps(BATCH), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(reference.logps(BATCH), one.logps(BATCH))


def test_a_frozen_policy_stays_as_it_is():
    one = policy(attention_dropout=0.5).train()
    reference = one.frozen()
    before = reference.logps(BATCH)
    assert not before.requires_grad
    assert isinstance(reference.frozen(), Frozen)
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(1.0)
    assert torch.equal(reference.logps(BATCH), before)


def test_the_packed_door_is_refused_for_a_model_that_lets_sequences_see_each_other():
    one = policy("gpt2", n_layer=1, n_head=2, n_embd=16, door=Packed())
    body = one.body
    forward = body.forward
    body.forward = lambda *a, **k: forward(
        *a, **(k | {"position_ids": torch.arange(k["input_ids"].shape[1])[None]})
    )
    with pytest.raises(CheckpointError, match=r"use door=Padded\(\)"):
        one.logps(BATCH)


def test_a_model_that_does_more_than_its_head_is_refused():
    one = policy("cohere")
    one.config.logit_scale = 3.0
    one.model.logit_scale = 1.0
    with pytest.raises(CheckpointError, match="not those of its head"):
        one.logps(BATCH)


def test_a_sequence_beyond_the_context_is_named():
    long = Batch.cat([BATCH, Batch.of([list(range(40)) * 2], name="a.jsonl:7")])
    with pytest.raises(UsageError, match=r"sequence 8 \(a.jsonl:7\): 80 tokens, .* is 64"):
        policy().logps(long)


def test_embedding_noise_is_bounded_by_the_paper_and_only_while_training():
    one = policy()
    plain = one.hidden(BATCH)
    with one.embedding_noise(5.0):
        assert torch.equal(one.eval().hidden(BATCH), plain)
        assert not torch.allclose(one.train().hidden(BATCH), plain)
    assert torch.equal(one.hidden(BATCH), plain)


@pytest.mark.parametrize("head", [Scores(), Scores(outputs=3), StepScores()], ids=str)
def test_a_new_head_is_drawn_from_the_seed_and_survives_the_disk(tmp_path, head):
    model().save_pretrained(tmp_path / "base")
    one, same = (load(tmp_path / "base", head=head, dtype=torch.float64, seed=3) for _ in range(2))
    assert torch.equal(one.scores(BATCH), same.scores(BATCH))
    assert one.scores(BATCH).shape == (8, head.outputs)
    save(one, tmp_path / "out")
    assert torch.equal(
        load(tmp_path / "out", head=head, dtype=torch.float64).scores(BATCH), one.scores(BATCH)
    )


def test_scores_are_those_of_transformers_own_class(tmp_path):
    model().save_pretrained(tmp_path / "base")
    one = load(tmp_path / "base", head=Scores(), dtype=torch.float64)
    save(one, tmp_path / "out")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float64)
    batch = Batch.cat([Batch.of([one.ids]) for one in examples()])
    rows = batch.padded()
    scored = theirs(input_ids=rows.ids, attention_mask=rows.attention.long()).logits
    torch.testing.assert_close(one.scores(batch), scored, rtol=1e-9, atol=1e-12)


def test_what_is_saved_is_what_transformers_loads(tmp_path):
    one = policy(tie_word_embeddings=True)
    save(one, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    assert torch.equal(Policy(theirs).logps(BATCH), one.logps(BATCH))
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(OutputExistsError, match="is there already"):
        save(one, tmp_path / "out")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match=r"no folder with a config.json"):
        pm.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json"):
        pm.load(tmp_path)


def test_a_language_model_without_its_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, model.norm.weight"):
        pm.load(tmp_path)
