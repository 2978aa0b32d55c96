"""Measures are their formulas on the model's own logits; quantized checkpoints are measured too."""

import math

import polmrs.quantize as pq
import pytest
import torch
from models.made import examples, model, policy, tokenizer
from polmrs import evaluate
from polmrs.errors import UsageError
from polmrs.evaluate.choice import pair_of
from polmrs.finetune import SFT
from polmrs.generate import Sampling
from polmrs.models import Policy, load, save
from polmrs.train import fit

DATA = examples()


def talker():
    return Policy(model(), tokenizer())


def logp(one, context, continuation):
    ids = [*context, *continuation]
    z = one.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1).detach()
    return sum(float(z[t - 1, ids[t]]) for t in range(len(context), len(ids)))


def test_perplexity_is_e_to_the_mean_loss_for_any_cut():
    one = policy()
    found = evaluate.perplexity(one, DATA)
    assert found.loss == pytest.approx(fit(one, [DATA], SFT(), steps=1, lr=0.0).rows[0]["loss"], rel=1e-12)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    small = evaluate.perplexity(one, DATA, micro_tokens=1)
    assert (small.loss, small.stderr) == pytest.approx((found.loss, found.stderr), rel=1e-12)
    weights = [float(e.weights.sum()) for e in DATA]
    losses = [evaluate.perplexity(one, [e]).loss * w for e, w in zip(DATA, weights, strict=True)]
    spread = sum((x - found.loss * w) ** 2 for x, w in zip(losses, weights, strict=True))
    assert found.stderr == pytest.approx(math.sqrt(spread * 8 / 7) / sum(weights), rel=1e-12)


def test_two_policies_are_compared_in_pairs_of_examples():
    before, after = (evaluate.perplexity(one, DATA) for one in (policy(), policy(seed=1)))
    change = after.minus(before)
    assert change.value == pytest.approx(after.loss - before.loss, rel=1e-12)
    weights = [float(e.weights.sum()) for e in DATA]
    pairs = zip(after.losses, before.losses, weights, strict=True)
    spread = sum((a - b - change.value * w) ** 2 for a, b, w in pairs)
    assert change.stderr == pytest.approx(math.sqrt(spread * 8 / 7) / sum(weights), rel=1e-12)
    with pytest.raises(UsageError, match="not of the same examples"):
        after.minus(evaluate.perplexity(policy(), DATA[1:]))


def test_measuring_leaves_the_policy_as_it_was():
    one = policy(attention_dropout=0.5).train()
    assert evaluate.perplexity(one, DATA) == evaluate.perplexity(one, DATA)
    assert all(module.training for module in one.modules())


@pytest.mark.parametrize("by", ["sum", "byte", "character", "token"])
def test_the_choice_is_the_most_likely_option(by):
    one = talker()
    questions = [
        evaluate.Question(prompt="what is 2 + 2? ", options=("4", "five", " six"), answer=i) for i in range(3)
    ]
    found = evaluate.multiple_choice(one, questions, by=by)
    scores = []
    for option, seen in zip(questions[0].options, found.logps[0], strict=True):
        context, continuation = pair_of(one.tokenizer, questions[0].prompt, option)
        expected = logp(one, context, continuation)
        assert seen == pytest.approx(expected, rel=1e-9)
        scores.append(expected / {"sum": 1, "token": len(continuation)}.get(by, len(option)))
    assert found.picked == (scores.index(max(scores)),) * 3
    assert found.accuracy.value == pytest.approx(1 / 3)
    assert found.accuracy.stderr == pytest.approx(math.sqrt((1 / 3) * (2 / 3) / 2))


def test_blanks_at_the_end_of_a_context_go_to_the_continuation():
    tokens = tokenizer()
    context, continuation = pair_of(tokens, "a b ", "c")
    assert tokens.decode(context) == "a b"
    assert tokens.decode(continuation) == " c"
    assert pair_of(tokens, "", "c") == ([1], tokens("c")["input_ids"])


def test_written_answers_are_judged():
    one = talker()
    prompts = ["a", "b c", "d"]
    first = evaluate.generation_accuracy(one, prompts, [""] * 3, sampling=Sampling(temperature=0, most=5))
    again = evaluate.generation_accuracy(
        one, prompts, [*first.texts[:2], "no"], sampling=Sampling(temperature=0, most=5)
    )
    assert again.texts == first.texts
    assert again.accuracy.value == pytest.approx(2 / 3)
    longest = evaluate.generation_accuracy(
        one,
        prompts,
        ["x"] * 3,
        right=lambda found, _: len(found) >= 0,
        sampling=Sampling(temperature=0, most=1),
    )
    assert (longest.accuracy.value, longest.truncated) == (1.0, 3)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,234", "1234"), ("costs $3.50.", "3.5"), ("-7", "-7"), ("none", None), ("1.0", "1"), ("100", "100")
    ],
)  # fmt: skip
def test_the_last_number_of_a_text(text, number):
    assert evaluate.last_number(text) == number


@pytest.mark.parametrize(
    ("found", "wanted", "equal"),
    [
        (".5", "5", False),
        ("0.5", ".50", True),
        ("10-12", "12", True),
        ("is -12", "12", False),
        ("none", "none", False),
    ],
)
def test_numbers_are_compared_as_numbers(found, wanted, equal):
    assert evaluate.answers.same_number(found, wanted) == equal


def test_scores_have_the_standard_error_of_a_mean():
    items = [0.2, 0.5, 1.0, 0.9]
    score = evaluate.Score.of(items)
    assert score.stderr == pytest.approx(float(torch.tensor(items).std()) / 2, rel=1e-6)
    assert math.isnan(evaluate.Score.of([1.0]).stderr)
    assert evaluate.exact_match(["A b"], ["a b."]).value == 1
    assert evaluate.exact_match(["A b"], ["a b."], normalise=False).value == 0


@pytest.mark.parametrize("format", ["compressed-tensors", "gptq"])
def test_a_quantized_checkpoint_is_measured_as_the_weights_that_its_codes_stand_for(tmp_path, format):
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    save(Policy(model(dtype=torch.float32, **shape), tokenizer()), tmp_path / "full")
    pq.quantize(tmp_path / "full", scheme=pq.W4A16(group=32), format=format, to=tmp_path / "int4")
    full, coarse = (load(tmp_path / name) for name in ("full", "int4"))
    assert coarse.tokenizer.get_vocab() == full.tokenizer.get_vocab()
    ours, theirs = (evaluate.perplexity(one, DATA).loss for one in (full, coarse))
    assert ours != theirs
    assert theirs == pytest.approx(ours, rel=0.05)
    changed = {n for n, p in coarse.named_parameters() if not torch.equal(p, full.get_parameter(n))}
    assert changed == {n for n, _ in full.named_parameters() if "proj" in n}
    assert (
        len(
            {
                len(row.unique())
                for row in coarse.get_parameter("model.model.layers.0.mlp.up_proj.weight")[:, :32]
            }
        )
        <= 16
    )


def test_what_cannot_be_measured_is_named():
    with pytest.raises(UsageError, match="there are no examples"):
        evaluate.perplexity(policy(), [])
    with pytest.raises(UsageError, match="the policy has none"):
        evaluate.multiple_choice(policy(), [evaluate.Question(prompt="a", options=("b", "c"), answer=0)])
    with pytest.raises(UsageError, match="2 or more"):
        evaluate.Question(prompt="a", options=("b",), answer=0)
    with pytest.raises(UsageError, match="adds no token"):
        pair_of(tokenizer(), "a", "")
    with pytest.raises(UsageError, match="references: 1, but there are 2"):
        evaluate.generation_accuracy(talker(), ["a", "b"], ["c"])
