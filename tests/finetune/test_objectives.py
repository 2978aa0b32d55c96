"""Fine-tuning objectives are their formulas: written out here on the model's own logits."""

import pytest
import torch
from models.made import examples, model, policy
from polmrs.data.ragged import Batch
from polmrs.errors import ArrayError, ConfigError
from polmrs.finetune import SFT, Classification, Continual, Replayed
from polmrs.models import Policy
from polmrs.train import fit
from transformers import AutoModelForSequenceClassification

DATA = examples()
BATCH = Batch.cat(DATA)


def loss_of(objective, one, data, **more):
    """The loss that a step reports, before the step."""
    return fit(one, [data], objective, steps=1, lr=0.0, micro=3, **more).rows[0]


def log_softmax(one, example):
    return one.model(input_ids=example.ids[None]).logits[0].log_softmax(-1)


@pytest.mark.method("sft.full")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sft_is_the_weighted_mean_of_cross_entropy_over_the_step(smoothing):
    one, weighted = policy(), []
    for i, example in enumerate(DATA):
        weighted.append(
            Batch.of([example.ids], [example.weights * (1 + i % 3)])
        )  # messages that count more than others
    total = weight = 0.0
    for example in weighted:
        logp = log_softmax(one, example)
        for t in range(1, len(example.ids)):
            target = (1 - smoothing) * logp[t - 1, example.ids[t]] + smoothing * logp[t - 1].mean()
            total -= float(example.weights[t] * target.detach())
            weight += float(example.weights[t])
    assert loss_of(SFT(label_smoothing=smoothing), one, weighted)["loss"] == pytest.approx(
        total / weight, rel=1e-12
    )


def test_sft_is_the_loss_of_transformers_on_completions():
    one = policy()
    rows = BATCH.padded()
    labels = torch.full_like(rows.ids, -100)
    labels.view(-1)[rows.place] = torch.where(BATCH.weights != 0, BATCH.ids, -100)
    theirs = one.model(input_ids=rows.ids, attention_mask=rows.attention.long(), labels=labels).loss
    assert loss_of(SFT(), one, DATA)["loss"] == pytest.approx(theirs.item(), rel=1e-6)  # theirs is float32


def test_neftune_noise_moves_the_loss_a_little_and_another_draw_moves_it_elsewhere():
    plain, first, second = (
        loss_of(SFT(noise=n), policy(), DATA, seed=s)["loss"] for n, s in ((0, 0), (5, 0), (5, 1))
    )
    assert len({plain, first, second}) == 3
    assert first == pytest.approx(plain, rel=0.1)


def test_neftune_noise_has_the_size_of_the_paper():
    one, seen = policy().train(), []
    one.body.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    long = Batch.of([[5] * 60])
    with one.embedding_noise(5.0):
        one._proved.add("head")
        one.hidden(long)
    noise = seen[-1][0] - one.plain.get_input_embeddings()(long.ids)
    noise = noise.detach()
    bound = 5 / (60 * noise.shape[-1]) ** 0.5
    assert noise.abs().max() <= bound
    assert noise.std() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.method("sft.classify")
def test_classification_is_eq_11():
    one = Policy(model(auto=AutoModelForSequenceClassification, num_labels=3))
    data = [Batch.of([e.ids], per_sequence={"class": [i % 3]}) for i, e in enumerate(DATA)]
    soft = [Batch.of([e.ids], per_sequence={"class": [[0.5, 0.2, 0.3]]}) for e in DATA]
    logp = torch.cat([one.model(input_ids=e.ids[None]).logits.log_softmax(-1) for e in data])
    row = loss_of(Classification(), one, data)
    wanted = torch.arange(len(data)) % 3
    assert row["loss"] == pytest.approx(float(-logp[range(8), wanted].mean()), rel=1e-12)
    assert row["accuracy"] == pytest.approx(float((logp.argmax(-1) == wanted).double().mean()))
    share = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    expected = float(-(logp * share).sum(-1).mean())
    assert loss_of(Classification(), one, soft)["loss"] == pytest.approx(expected, rel=1e-7)


def test_an_encoder_classifies_as_its_model_does_and_learns():
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    torch.manual_seed(0)
    one = Policy(BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=2, **shape))).eval()
    data = [Batch.of([e.ids], per_sequence={"class": [int(e.ids[0] > 25)]}) for e in examples(32)]
    for e in data[:3]:
        torch.testing.assert_close(one.scores(e), one.model(input_ids=e.ids[None]).logits)
    run = fit(one, [data] * 30, Classification(), steps=30, lr=3e-3)
    assert run.rows[-1]["accuracy"] > 0.95


def test_a_class_beyond_the_head_is_refused():
    one = Policy(model(auto=AutoModelForSequenceClassification, num_labels=3))
    with pytest.raises(ArrayError, match="not all from 0 to 2"):
        loss_of(Classification(), one, [Batch.of([[3, 4]], per_sequence={"class": [3]})])
    with pytest.raises(ArrayError, match=r'lacks per_sequence\["class"\]'):
        loss_of(Classification(), one, DATA)


@pytest.mark.method("sft.continual")
def test_continual_training_learns_a_domain_and_replay_keeps_what_was_known():
    random = torch.Generator().manual_seed(0)

    def text(successor, n):
        """Sequences in which each token mostly has one successor."""
        found = []
        for _ in range(n):
            ids = [int(torch.randint(3, 50, (), generator=random))]
            for _ in range(11):
                ids.append(3 + (ids[-1] * successor + 1) % 47)
            found.append(Batch.of([ids]))
        return found

    general, domain = text(5, 200), text(7, 200)
    base = policy(dtype=torch.float32)
    fit(base, [general[i : i + 20] for i in range(0, 200, 20)] * 6, SFT(), steps=60, lr=1e-2)

    def losses(share):
        one = policy(dtype=torch.float32)
        one.load_state_dict(base.state_dict())
        stream = Replayed(domain[20:], general[20:], share=share, batch=20)
        fit(one, stream, Continual(), steps=40, lr=1e-2, schedule="cosine")
        return [loss_of(SFT(), one, held)["loss"] for held in (domain[:20], general[:20])]

    little, much = losses(0.001), losses(0.25)
    before = [loss_of(SFT(), base, held)["loss"] for held in (domain[:20], general[:20])]
    assert little[0] < before[0] / 2
    assert much[0] < before[0] / 2
    assert much[1] < little[1] / 2
    assert before[1] < little[1]


def test_the_two_parts_of_continual_training_are_measured_apart():
    marked = [Batch.of([e.ids], per_sequence={"replay": [i % 2]}) for i, e in enumerate(DATA)]
    one = policy()
    row = loss_of(Continual(), one, marked)
    assert row["domain"] == pytest.approx(loss_of(SFT(), one, marked[::2])["loss"], rel=1e-12)
    assert row["replay"] == pytest.approx(loss_of(SFT(), one, marked[1::2])["loss"], rel=1e-12)
    assert row["loss"] == pytest.approx(row["nll"], rel=1e-12)


def test_a_replayed_stream_holds_its_share_and_resumes():
    stream, other = (Replayed(DATA, DATA, share=0.1, batch=5) for _ in range(2))
    marks = [int(e.per_sequence["replay"]) for _ in range(20) for e in next(stream)]
    assert sum(marks) == 10
    other.load_state_dict(stream.state_dict())
    for one, same in zip(next(stream), next(other), strict=True):
        assert torch.equal(one.ids, same.ids)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SFT(label_smoothing=1.0), "label_smoothing: 1.0"),
        (lambda: SFT(noise=-1.0), "noise: -1.0"),
        (lambda: Classification(label_smoothing=-0.1), "label_smoothing: -0.1"),
        (lambda: Replayed(DATA, DATA, share=0.0, batch=2), "share: 0.0"),
        (lambda: loss_of(Continual(), policy(), DATA), "draw batches from Replayed"),
    ],
)
def test_parameters_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
