"""Screening: the formulas of its scores, what is kept, and that the rest is accounted for."""

import itertools
import math

import numpy as np
import pytest
import torch
from data.tokenizers import tokenizer
from hypothesis import given
from hypothesis import strategies as st
from models.made import policy as made_policy
from polmrs.data import read
from polmrs.data.ragged import Batch
from polmrs.data.records import PromptCompletion
from polmrs.data.screening import (
    diverse,
    few_shot_scores,
    fit_rule,
    hold_out,
    ifd,
    indicators,
    k_center,
    mods,
    mtld,
    neighbour_distance,
    question,
    response,
    screen,
)
from polmrs.data.sequence import encode
from polmrs.errors import ArrayError, ConfigError, UsageError
from polmrs.finetune import SFT
from polmrs.train import fit

TOKENS = tokenizer()
POINTS = st.lists(st.tuples(*[st.integers(-20, 20)] * 2), min_size=2, max_size=8)


def dataset(n=6):
    return read([{"prompt": f"question {i}", "completion": f"answer {i} " * (i + 1)} for i in range(n)])


def places(found):
    return [int(record.origin.split()[1]) - 1 for record in found]


@pytest.fixture(scope="module")
def policy():
    made = made_policy(vocab_size=300, max_position_embeddings=256)
    made.tokenizer = TOKENS
    return made


@pytest.mark.method("data.ifd")
@given(st.lists(st.floats(0, 2), min_size=1, max_size=9), st.floats(0, 2))
def test_a_record_stays_if_its_score_reaches_tau(scores, tau):
    data = dataset(len(scores))
    expected = [i for i, score in enumerate(scores) if score >= tau]
    if not expected:
        with pytest.raises(ConfigError, match="no record is left"):
            screen(data, scores, at_least=tau)
        return
    kept = screen(data, scores, at_least=tau)
    assert places(kept) == expected
    assert len(kept.account.left_out) == len(scores) - len(expected)


def test_the_highest_of_those_within_bounds_stay_in_their_order():
    scores = [0.5, 1.5, 0.9, 0.9, math.nan, 0.1]
    kept = screen(dataset(), scores, name="ifd", at_most=1, top=0.5)
    assert places(kept) == [2, 3]
    assert [fault.reason for fault in kept.account.left_out] == [
        "ifd 0.5, not among the highest 2",
        "ifd 1.5, above 1",
        "ifd is not a number",
        "ifd 0.1, not among the highest 2",
    ]
    assert places(screen(dataset(), scores, top=1)) == [1]
    for top in (0, 1.5, -1):
        with pytest.raises(UsageError, match="top"):
            screen(dataset(), scores, top=top)
    with pytest.raises(ArrayError, match="there are 6 records"):
        screen(dataset(), [1.0])


@pytest.mark.method("data.ifd")
def test_ifd_is_the_ratio_of_the_answers_log_probabilities_with_and_without_the_question(policy):
    data = dataset(5)
    found = ifd(data, policy, micro=2)
    for record, ratio in zip(data, found, strict=True):
        answer = TOKENS(record.completion + "<|eos|>", add_special_tokens=False).input_ids
        sums = []
        for before in (TOKENS(record.prompt).input_ids, [TOKENS.bos_token_id]):
            ids = torch.tensor([[*before, *answer]])
            with torch.no_grad():
                logp = policy.model(ids).logits.log_softmax(-1)[0]
            sums.append(sum(float(logp[len(before) + t - 1, token]) for t, token in enumerate(answer)))
        assert ratio == pytest.approx(sums[0] / sums[1], rel=1e-9)


@pytest.mark.method("data.ifd")
def test_an_instruction_that_helps_has_a_low_ifd():
    made = made_policy(vocab_size=300, max_position_embeddings=64, dtype=torch.float32)
    made.tokenizer = TOKENS
    rows = [{"prompt": f"say {c}: ", "completion": c * 6} for c in "abcdefgh"]
    data = read(rows)
    before = ifd(data, made)
    alone = [encode("", row["completion"], TOKENS) for row in rows]
    texts = [Batch.of([[TOKENS.bos_token_id, *one.ids]], [[0, 1, *one.weights[1:]]]) for one in alone]
    step = [*data.examples(made), *texts]
    fit(made, iter([step] * 25), SFT(), steps=25, lr=1e-2)
    after = ifd(data, made)
    assert (after < 0.95).all()
    assert after.mean() < before.mean()


@pytest.mark.method("data.rouge-l")
def test_records_too_like_an_earlier_one_go_and_it_is_named():
    texts = ["Write a poem about cats", "Add two numbers", "Write a poem about dogs", "Sing a song"]
    data = read([{"prompt": text, "completion": "a"} for text in texts])
    kept = diverse(data)
    assert places(kept) == [0, 1, 3]
    assert kept.account.left_out == (("rows:row 3", "ROUGE-L 0.8 with rows:row 1"),)
    assert places(diverse(data, pool=["sing a song!"])) == [0, 1]


@given(POINTS, st.data())
def test_k_centers_reach_every_point_within_twice_the_least_radius(points, data):
    at = np.array(points, float)
    k = data.draw(st.integers(1, len(points)))
    found = k_center(at, k, first=data.draw(st.integers(0, len(points) - 1)))
    far = np.linalg.norm(at[:, None] - at[None], axis=2)

    def radius(centres):
        return far[:, list(centres)].min(1).max()

    assert len(set(found.tolist())) == k
    assert radius(found) <= 2 * min(radius(c) for c in itertools.combinations(range(len(at)), k)) + 1e-12
    for place in range(1, k):  # each is the furthest from those before it
        nearest = far[:, found[:place]].min(1)
        assert nearest[found[place]] == nearest.max()


@given(POINTS, st.data())
def test_the_distance_of_a_neighbour_is_the_sorted_one(points, data):
    at = np.array(points, float)
    i = data.draw(st.integers(1, len(points) - 1))
    far = np.linalg.norm(at[:, None] - at[None], axis=2)
    expected = [np.sort(np.delete(row, n))[i - 1] for n, row in enumerate(far)]
    assert neighbour_distance(at, i).tolist() == pytest.approx(expected, abs=1e-9)


# lexicalrichness 0.5.1: LexicalRichness(text, preprocessor=None, tokenizer=str.split).mtld()
MTLD = {
    "the cat saw the dog and the dog saw the cat": 8.40566037735849,
    "to be or not to be that is the question whether tis nobler in the mind to suffer the slings and arrows of "
    "outrageous fortune or to take arms against a sea of troubles and by opposing end them to die to sleep no "
    "more": 39.48366477272727,
    "a a a a b b c a a d": 2.5,
    "every word here differs": 4.0,
}


@pytest.mark.method("data.instruction-mining")
@pytest.mark.parametrize("text", MTLD)
def test_mtld_is_that_of_lexicalrichness(text):
    assert mtld(text) == pytest.approx(MTLD[text], rel=1e-12)
    assert mtld(" ".join(text.split()[::-1])) == pytest.approx(MTLD[text], rel=1e-12)
    assert mtld(text.upper() + "!") == mtld(text)


def test_a_text_without_words_has_no_diversity():
    assert mtld("... !") == 0
    with pytest.raises(UsageError, match="threshold: 1"):
        mtld("a", threshold=1)


@pytest.mark.method("data.mods")
def test_mods_keeps_good_pairs_then_far_ones_then_those_that_the_tuned_model_fails():
    rewards = [2.0, -1.0, 1.0, 0.0, 3.0, 1.0]
    places_in_space = {
        "question 0": 0.0,
        "question 2": 1.0,
        "question 3": 9.0,
        "question 4": 10.0,
        "question 5": 2.0,
    }
    data, tuned = dataset(), []

    def reward(pairs):
        table = {"well": 1.0, "badly": -2.0}
        return [
            table[pair.completion] if pair.completion in table else rewards[int(pair.prompt.split()[1])]
            for pair in pairs
        ]

    def tune(seeds):
        tuned.append(places(seeds))
        return lambda pairs: [
            "badly" if question(pair) in ("question 3", "question 5") else "well" for pair in pairs
        ]

    made = mods(
        data,
        reward=reward,
        embed=lambda texts: [[places_in_space[text]] for text in texts],
        tune=tune,
        k=2,
    )
    assert places(made.good) == [0, 2, 3, 4, 5]
    assert tuned == [[0, 4]]
    assert places(made.needed) == [3, 5]
    assert places(made.selected) == [0, 3, 4, 5]
    assert [fault.reason for fault in made.selected.account.left_out] == [
        "reward -1, below 0",
        "answered with reward 1",
    ]


def test_mods_of_a_model_that_answers_all_well_is_its_seeds():
    made = mods(
        dataset(),
        reward=lambda pairs: [1.0] * len(pairs),
        embed=lambda texts: [[float(i)] for i in range(len(texts))],
        tune=lambda seeds: lambda pairs: ["a"] * len(pairs),
        k=3,
    )
    assert made.needed is None
    assert made.selected.records == made.seeds.records
    with pytest.raises(ArrayError, match="tune: 1 answers to 6 questions"):
        mods(
            dataset(),
            reward=lambda pairs: [1.0] * len(pairs),
            embed=lambda texts: [[0.0]] * len(texts),
            tune=lambda seeds: lambda pairs: ["a"],
            k=1,
        )


@pytest.mark.method("data.instruction-mining")
@given(st.integers(0, 50), st.floats(-3, 3), st.lists(st.floats(-2, 2), min_size=1, max_size=3))
def test_a_rule_is_found_again_from_losses_that_follow_it(seed, intercept, slopes):
    random = np.random.default_rng(seed)
    units = [1.0, 1e4, 1e-3][: len(slopes)]
    table = {f"i{n}": random.normal(size=9) * unit for n, unit in enumerate(units)}
    slopes = [slope / unit for slope, unit in zip(slopes, units, strict=True)]
    logs = intercept + sum(slope * column for slope, column in zip(slopes, table.values(), strict=True))
    rule = fit_rule(table, np.exp(logs))
    assert rule.intercept == pytest.approx(intercept, abs=1e-7)
    for slope, unit, found in zip(slopes, units, rule.coefficients.values(), strict=True):
        assert found * unit == pytest.approx(slope * unit, abs=1e-7)
    assert rule.predict(table) == pytest.approx(logs, abs=1e-7)


@pytest.mark.method("data.instruction-mining")
def test_noisy_losses_give_the_least_squares():
    random = np.random.default_rng(0)
    table = {"a": random.normal(size=30), "b": random.normal(size=30)}
    logs = 0.5 * table["a"] - table["b"] + random.normal(size=30)
    rule = fit_rule(table, np.exp(logs))
    design = np.column_stack([np.ones(30), table["a"], table["b"]])
    normal = np.linalg.solve(design.T @ design, design.T @ logs)
    assert [rule.intercept, *rule.coefficients.values()] == pytest.approx(normal, rel=1e-9)
    assert rule.r2 == pytest.approx(np.corrcoef(rule.predict(table), logs)[0, 1] ** 2, rel=1e-9)


@pytest.mark.parametrize(
    ("columns", "losses", "error", "message"),
    [
        ({"a": [1.0, 2.0]}, [1.0, 0.0], ArrayError, "losses: each is above 0"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, [1.0, 2.0], UsageError, "2 indicators need 3 data sets, not 2"),
        ({"a": [1.0, 2.0, 3.0, 4.0], "b": [2.0, 4.0, 6.0, 8.0]}, [1.0] * 4, UsageError, "not independent"),
        ({"a": [1.0, 2.0], "b": [1.0]}, [1.0, 2.0], ArrayError, "lengths"),
        ({"a": [1.0, math.nan, 2.0]}, [1.0] * 3, ArrayError, "not finite"),
        ({}, [1.0], ArrayError, "missing"),
    ],
)
def test_what_determines_no_rule_is_refused(columns, losses, error, message):
    with pytest.raises(error, match=message):
        fit_rule(columns, losses)


@pytest.mark.method("data.instruction-mining")
def test_indicators_are_what_they_say(policy):
    data = dataset(4)
    found = indicators(
        data,
        policy=policy,
        reward=lambda pairs: [len(pair.completion) for pair in pairs],
        embed=lambda texts: [[float(i * i)] for i in range(len(texts))],
        neighbour=1,
    )
    assert found["length"].tolist() == [2, 4, 6, 8]
    assert found["reward"].tolist() == [len(record.completion) for record in data]
    assert found["knn"].tolist() == [1, 1, 3, 5]
    assert found["mtld"].tolist() == [mtld(f"{question(one)}\n{response(one)}") for one in data]
    for record, perplexity in zip(data, found["perplexity"], strict=True):
        made = encode(record.prompt, record.completion, TOKENS)
        with torch.no_grad():
            logp = policy.model(torch.tensor([made.ids])).logits.log_softmax(-1)[0]
        losses = [-float(logp[t - 1, made.ids[t]]) for t in range(made.prompt, len(made.ids))]
        assert perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-9)
    rule = fit_rule({"length": [1.0, 5.0]}, [2.0, 1.0])
    assert places(screen(data, -rule.predict(found), top=1)) == [3]


def stories():
    same = "the quick brown fox jumps over the lazy dog and runs away into the dark forest"
    rows = [
        {"prompt": f"topic {i}", "completion": " ".join(f"w{i}x{j}" for j in range(20))} for i in range(8)
    ]
    return read(
        [*rows, {"prompt": "fox", "completion": same}, {"prompt": "fox", "completion": same + " again"}]
    )


@pytest.mark.method("data.eval-subset")
@given(st.integers(0, 20))
def test_what_is_held_out_has_no_near_duplicate_in_training_and_nothing_is_lost(seed):
    data = stories()
    made = hold_out(data, 4, seed=seed)
    assert sorted(places(made.train) + places(made.evaluation)) == list(range(10))
    assert len(made.evaluation) == 4
    assert not {8, 9} & set(places(made.evaluation))
    assert places(hold_out(data, 4, seed=seed).evaluation) == places(made.evaluation)


@pytest.mark.method("data.eval-subset")
def test_an_independent_set_loses_what_training_has():
    data = stories()
    made = hold_out(data[:7], independent=data[5:])
    assert len(made.train) == 7
    assert places(made.evaluation) == [7, 8, 9]
    assert made.evaluation.account.left_out == (
        ("rows:row 6", "like rows:row 6"),
        ("rows:row 7", "like rows:row 7"),
    )
    found = hold_out(data[8:9], independent=data[7:])
    assert [fault.reason for fault in found.evaluation.account.left_out] == ["like rows:row 9"] * 2
    assert places(found.evaluation) == [7]


def test_what_cannot_be_held_out_is_refused():
    data = stories()
    with pytest.raises(UsageError, match="n: 9 of 10 records, of which 8 have no near-duplicate"):
        hold_out(data, 9)
    for arguments in ({}, {"n": 1, "independent": data}):
        with pytest.raises(UsageError, match="one of the two"):
            hold_out(data, **arguments)


@pytest.mark.method("data.eval-subset")
def test_a_judge_sees_the_shots_and_says_a_score_or_none():
    seen = []

    def ask(text):
        seen.append(text)
        return [" 4", "Score: 2.5 of 5", "no idea", "9"][len(seen) - 1]

    scores = few_shot_scores(dataset(4), ask, shots=[("q", "bad", 1), ("q", "fine", 5)])
    assert scores[:2].tolist() == [4, 2.5]
    assert np.isnan(scores[2:]).all()
    assert "Answer: bad\nScore: 1\n\n" in seen[0]
    assert seen[0].endswith("Question: question 0\nAnswer: answer 0\nScore:")
    assert places(screen(dataset(4), scores, at_least=3)) == [0]
    with pytest.raises(UsageError, match="shots: score 7"):
        few_shot_scores(dataset(1), ask, shots=[("q", "a", 7)])


def test_the_words_of_a_question_and_an_answer_are_those_of_the_last_turns():
    turns = [("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    data = read([{"conversations": [{"from": who, "value": text} for who, text in turns]}])
    assert (question(data[0]), response(data[0])) == ("c", "d")
    with pytest.raises(UsageError, match="no question with an answer"):
        response(read([{"text": "plain"}])[0])
    assert isinstance(data.to(PromptCompletion)[0], PromptCompletion)
