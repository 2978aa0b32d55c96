"""Reward models are their formulas, pair by pair and step by step in plain Python."""

import itertools
import math

import pytest
import torch
from models.made import examples, model
from polmrs import align
from polmrs.data.ragged import Batch
from polmrs.errors import ArrayError, ConfigError
from polmrs.models import Policy
from polmrs.train import fit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)


def reward_model(outputs=1):
    return Policy(model(auto=AutoModelForSequenceClassification, num_labels=outputs))


def one_step(objective, policy, data):
    return fit(policy, [data], objective, steps=1, lr=0.0, micro=3)


def rewards(policy, example):
    """Of each sequence of an example, run alone up to its last token that counts."""
    found, ends = [], example.cu_seqlens.tolist()
    for start, stop in itertools.pairwise(ends):
        found.append(float(policy.model(input_ids=example.ids[None, start:stop]).logits))
    return found


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.method("rl.reward-model")
@pytest.mark.method("feedback.comparisons")
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("centering", [0.0, 0.2])
def test_bradley_terry_is_the_mean_over_examples_of_the_mean_over_pairs(k, centering):
    policy = reward_model()
    margins = [0.1 * i for i in range(8)]
    data = [
        Batch.of(torch.split(e.ids, e.lengths.tolist()), per_example={"margin": m})
        for e, m in zip(examples(sequences=k), margins, strict=True)
    ]
    total = right = 0.0
    for example, m in zip(data, margins, strict=True):
        r = rewards(policy, example)
        ordered = list(itertools.combinations(r, 2))
        for better, worse in ordered:
            total -= math.log(sigmoid(better - worse - m)) / len(ordered) / 8
            total += centering * (better + worse) ** 2 / len(ordered) / 8
            right += (better > worse) / len(ordered) / 8
    row = one_step(align.BradleyTerry(centering=centering), policy, data).rows[0]
    assert row["loss"] == pytest.approx(total, rel=1e-6)  # margins are float32
    assert row["accuracy"] == pytest.approx(right, rel=1e-12)


def test_soft_preferences_are_the_cross_entropy_with_them():
    policy = reward_model()
    data = [
        Batch.of(
            torch.split(e.ids, e.lengths.tolist()),
            per_example={"preference": torch.tensor(p, dtype=torch.float64)},
        )
        for e, p in zip(examples(sequences=2), [0.0, 0.3, 0.5, 1.0] * 2, strict=True)
    ]
    total = 0.0
    for example, p in zip(data, [0.0, 0.3, 0.5, 1.0] * 2, strict=True):
        a, b = rewards(policy, example)
        total -= (p * math.log(sigmoid(a - b)) + (1 - p) * math.log(sigmoid(b - a))) / 8
    assert one_step(align.BradleyTerry(), policy, data).rows[0]["loss"] == pytest.approx(total, rel=1e-12)


@pytest.mark.method("feedback.comparisons")
def test_plackett_luce_is_the_probability_of_the_order():
    policy, data, total = reward_model(), examples(sequences=4), 0.0
    for example in data:
        r = rewards(policy, example)
        for i in range(4):
            total -= (r[i] - math.log(sum(math.exp(x) for x in r[i:]))) / len(data)
    assert one_step(align.PlackettLuce(), policy, data).rows[0]["loss"] == pytest.approx(total, rel=1e-12)


def test_probabilities_of_all_orders_sum_to_one():
    r = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    orders = itertools.permutations(range(4))
    assert sum(math.exp(-align.plackett_luce(r[list(order)])) for order in orders) == pytest.approx(
        1, rel=1e-12
    )


def test_of_two_answers_plackett_luce_is_bradley_terry():
    policy, data = reward_model(), examples(sequences=2)
    ours, theirs = (
        one_step(objective, policy, data) for objective in (align.PlackettLuce(), align.BradleyTerry())
    )
    assert ours.rows[0]["loss"] == pytest.approx(theirs.rows[0]["loss"], rel=1e-12)


def test_what_the_policy_is_given_is_the_reward_less_its_distance():
    batch = Batch.of([[1, 2, 3], [1, 2]])
    new, old = torch.tensor([0.0, -1, -2, 0, -3]), torch.tensor([0.0, -2, -2, 0, -1])
    assert align.shaped(torch.tensor([1.0, 2.0]), new, old, batch, beta=0.1).tolist() == pytest.approx(
        [0.9, 2.2]
    )


@pytest.mark.method("feedback.likert")
def test_regression_is_the_mean_squared_error():
    policy = reward_model()
    data = [Batch.of([e.ids], per_sequence={"score": [i / 8]}) for i, e in enumerate(examples())]
    expected = sum((rewards(policy, e)[0] - i / 8) ** 2 for i, e in enumerate(data)) / 8
    assert one_step(align.Regression(), policy, data).rows[0]["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.method("feedback.likert")
@pytest.mark.parametrize("levels", [2, 3, 5])
def test_likert_is_the_probability_between_two_thresholds(levels):
    policy = reward_model()
    data = [Batch.of([e.ids], per_sequence={"score": [i % levels]}) for i, e in enumerate(examples())]
    cuts = [-math.inf, *(j - (levels - 2) / 2 for j in range(levels - 1)), math.inf]
    total = 0.0
    for i, example in enumerate(data):
        r = rewards(policy, example)[0]
        above, below = cuts[i % levels], cuts[i % levels + 1]
        p = (1.0 if above == -math.inf else sigmoid(r - above)) - (
            0.0 if below == math.inf else sigmoid(r - below)
        )
        total -= math.log(p) / 8
    assert one_step(align.Likert(levels=levels), policy, data).rows[0]["loss"] == pytest.approx(
        total, rel=1e-12
    )


def test_ordinal_probabilities_sum_to_one_and_their_slope_is_checked():
    cuts = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    r = torch.tensor([-40.0, 0.2, 50.0], dtype=torch.float64, requires_grad=True)

    def logp(r, cuts, level):
        return align.ordinal_logp(r, cuts, torch.full((len(r),), level))

    sums = sum(logp(r, cuts, level).exp() for level in range(4))
    torch.testing.assert_close(sums, torch.ones(3, dtype=torch.float64))
    for level in range(4):
        assert torch.isfinite(logp(r, cuts, level)).all()
        torch.autograd.gradcheck(lambda r, c, level=level: logp(r[1:2], c, level), (r, cuts))


def test_a_rater_who_is_kinder_gets_an_offset():
    policy = reward_model()
    data = [Batch.of([[5, 6, 7]], per_sequence={"score": [2 * (i % 2)], "rater": [i % 2]}) for i in range(8)]
    run = fit(policy, [data] * 60, align.Likert(levels=3, raters=2), steps=60, lr=0.1)
    kinder, stricter = run.state.offsets[1], run.state.offsets[0]
    assert kinder > stricter + 2
    assert run.rows[-1]["accuracy"] == 1


@pytest.mark.method("rl.prm")
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_process_reward_is_cross_entropy_at_the_ends_of_steps(outputs):
    policy = Policy(model(auto=AutoModelForTokenClassification, num_labels=outputs, classifier_dropout=0.0))
    data, total, steps = [], 0.0, 0
    for i, e in enumerate(examples()):
        labels = torch.full((len(e.ids),), -1.0, dtype=torch.float64)
        labels[2::3] = (i % 3) / 2  # wrong, soft, right
        data.append(Batch.of([e.ids], per_token={"step": [labels]}))
        logits = policy.model(input_ids=e.ids[None]).logits[0]
        for t in (labels >= 0).nonzero()[:, 0].tolist():
            p = sigmoid(float(logits[t, 0] if outputs == 1 else logits[t, 1] - logits[t, 0]))
            total -= float(labels[t]) * math.log(p) + (1 - float(labels[t])) * math.log(1 - p)
            steps += 1
    assert one_step(align.ProcessReward(), policy, data).rows[0]["loss"] == pytest.approx(
        total / steps, rel=1e-12
    )


@pytest.mark.method("rl.prm")
def test_the_score_of_a_solution_is_that_of_its_steps():
    p, of = torch.tensor([0.9, 0.5, 0.8, 0.4], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    found = {by: align.solution_scores(p, of, by=by).tolist() for by in ("min", "product", "last", "mean")}
    assert found["min"] == [0.5, 0.4]
    assert found["product"] == pytest.approx([0.45, 0.32])
    assert found["last"] == [0.5, 0.4]
    assert found["mean"] == pytest.approx([0.7, 0.6])
    with pytest.raises(ArrayError, match="each has a step"):
        align.solution_scores(p, torch.tensor([0, 0, 2, 2]))


@pytest.mark.parametrize("clip", [None, 0.2])
def test_a_value_head_learns_returns(clip):
    policy = Policy(model(auto=AutoModelForCausalLM))
    extras = {"return": lambda n: torch.arange(n) / 4, "value": torch.ones}
    data = [Batch.of([e.ids], per_token={k: [f(len(e.ids))] for k, f in extras.items()}) for e in examples()]
    first = one_step(align.Value(clip=clip), policy, data).rows[0]["loss"]
    total = weight = 0.0
    for e in data:
        for t in range(1, len(e.ids)):
            target = t / 4  # values are 0 to begin with, and were 1 before
            near = 0.0 if clip is None else min(max(0.0, 1 - clip), 1 + clip)
            total += max(target**2, (near - target) ** 2 if clip else 0.0) / 2
            weight += 1
    assert first == pytest.approx(total / weight, rel=1e-6)
    if clip is None:
        run = fit(policy, [data] * 40, align.Value(), steps=40, lr=1e-2)
        assert run.rows[-1]["loss"] < first / 10


@pytest.mark.method("rl.reward-model")
def test_a_reward_model_learns_who_is_preferred():
    random = torch.Generator().manual_seed(0)

    def pair():
        good, bad = torch.randint(3, 50, (2, 6), generator=random)
        good[3] = 4  # what makes an answer good
        return Batch.of([good, torch.where(bad == 4, 5, bad)])

    policy = Policy(model(auto=AutoModelForSequenceClassification, num_labels=1, dtype=torch.float32))
    held_out = [pair() for _ in range(100)]
    fit(policy, [[pair() for _ in range(16)] for _ in range(40)], align.BradleyTerry(), steps=40, lr=5e-3)
    assert one_step(align.BradleyTerry(), policy, held_out).rows[0]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("objective", "data", "error", "message"),
    [
        (
            align.BradleyTerry(),
            [Batch.of([[3, 4]], name="p.jsonl:1")],
            ArrayError,
            r"example 0 \(p.jsonl:1\): 1 seq",
        ),
        (align.Regression(), [Batch.of([[3, 4]])], ArrayError, r'per_sequence\["score"\]'),
        (align.Likert(), [Batch.of([[3, 4]], per_sequence={"score": [5]})], ArrayError, "from 0 to 4"),
        (align.Likert(), [Batch.of([[3, 4]], per_sequence={"score": [1.5]})], ArrayError, "whole numbers"),
        (align.Value(), [Batch.of([[3, 4]])], ArrayError, r'per_token\["return"\]'),
        (align.ProcessReward(), [Batch.of([[3, 4]])], ArrayError, r'per_token\["step"\]'),
        (
            align.ProcessReward(),
            [Batch.of([[3, 4]], per_token={"step": [[-1.0, 2.0]]})],
            ArrayError,
            "from 0 to 1, or -1",
        ),
        (
            align.BradleyTerry(),
            [Batch.of([[3, 4], [5, 6]], per_example={"preference": 1.5})],
            ArrayError,
            r"probabilities in \[0, 1\]",
        ),
    ],
)
def test_batches_that_do_not_fit_are_named(objective, data, error, message):
    with pytest.raises(error, match=message):
        one_step(objective, reward_model(), data)


def test_parameters_out_of_range_are_named():
    with pytest.raises(ConfigError, match="centering: -1"):
        align.BradleyTerry(centering=-1)
    with pytest.raises(ConfigError, match="levels: 1"):
        align.Likert(levels=1)
    with pytest.raises(ConfigError, match="clip: 0"):
        align.Value(clip=0)
    with pytest.raises(ArrayError, match="2 outputs; a reward is one"):
        one_step(align.BradleyTerry(), reward_model(2), examples(sequences=2))
