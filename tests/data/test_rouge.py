"""ROUGE-L, the stemmer and the pool filter: against rouge-score itself, and against comparing with all."""

import itertools
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from data.made import instructions, vocabulary
from hypothesis import given
from hypothesis import strategies as st
from polmrs import data
from polmrs.errors import ArrayError, UsageError

ORACLE = Path(__file__).parents[2] / "peers/rouge_oracle.py"


def twin(prediction, reference):
    """ROUGE-L by the table, in the order of operations of rouge-score."""
    a, b = (re.findall("[a-z0-9]+", text.lower()) for text in (prediction, reference))
    if not a or not b:
        return (0.0, 0.0, 0.0)
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    precision, recall = table[-1, -1] / len(a), table[-1, -1] / len(b)
    fmeasure = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return (precision, recall, fmeasure)


def columns(found):
    return list(zip(found.precision.tolist(), found.recall.tolist(), found.fmeasure.tolist(), strict=True))


TEXTS = st.lists(st.tuples(st.text("abcA 1.-é", max_size=90), st.text("abcA 1.-é", max_size=90)), max_size=6)


@pytest.mark.method("data.rouge-l")
@given(TEXTS)
def test_rouge_l_is_that_of_the_table(pairs):
    found = data.rouge_l([a for a, _ in pairs], [b for _, b in pairs])
    assert columns(found) == [twin(a, b) for a, b in pairs]
    for a, _ in pairs:
        pool = [b for _, b in pairs]
        assert columns(data.rouge_l_pool(a, pool)) == [twin(a, b) for b in pool]


def ask(peer, folder, pairs, words):
    (folder / "cases.json").write_text(json.dumps({"pairs": pairs, "words": words}))
    subprocess.run([peer("rouge-score"), ORACLE, folder], check=True)
    return json.loads((folder / "out.json").read_text())


@pytest.mark.peer("rouge-score")
@pytest.mark.method("data.rouge-l")
def test_rouge_l_and_stems_are_those_of_rouge_score_to_the_last_digit(peer, tmp_path):
    words = vocabulary()
    made = instructions(300)
    odd = [
        "",
        "...",
        "İstanbul's K2 ÉCOLE",
        "a" * 300,
        "x_y",
        "日本 nihon",
        "The RUNNER'S runs",
        "\u212aelvin \u017f",
    ]
    texts = made + odd + [" ".join(words[i : i + 150]) for i in range(0, 3000, 150)]
    pairs = [[a, texts[(7 * i + 3) % len(texts)]] for i, a in enumerate(texts)]
    pairs += [[a, b] for a in odd for b in odd] + [[a, b] for a, b in itertools.pairwise(made)]
    answers = ask(peer, tmp_path, pairs, words)
    assert len(words) > 7000
    assert [data.porter_stem(word) for word in words] == answers["stems"]
    for at, stemmer in enumerate((False, True)):
        ours = data.rouge_l([a for a, _ in pairs], [b for _, b in pairs], stemmer=stemmer)
        assert columns(ours) == [tuple(scores[at]) for scores in answers["scores"]]
        assert 0 < ours.fmeasure.mean() < 1


@pytest.mark.data
@pytest.mark.peer("rouge-score")
def test_real_instructions_score_as_rouge_score_scores_them(peer, tmp_path, data):
    seeds = real(data)[:400]
    pairs = [[a, b] for a, b in itertools.pairwise(seeds)]
    words = sorted({word for text in real(data) for word in re.findall("[a-z0-9]+", text.lower())})
    answers = ask(peer, tmp_path, pairs, words)
    from polmrs.data import porter_stem, rouge_l

    assert len(words) > 2000
    assert [porter_stem(word) for word in words] == answers["stems"]
    ours = rouge_l([a for a, _ in pairs], [b for _, b in pairs], stemmer=True)
    assert columns(ours) == [tuple(scores[1]) for scores in answers["scores"]]


def real(folder):
    seeds = [json.loads(line) for line in (folder / "self_instruct_seeds/seed_tasks.jsonl").open()]
    alpaca = json.loads((folder / "llamafactory_demo/alpaca_en_demo.json").read_text())
    return [row["instruction"] for row in seeds] + [row["instruction"] for row in alpaca]


@pytest.mark.data
def test_pruning_changes_nothing_on_real_instructions(data):
    from polmrs.data import novel

    texts = real(data)
    pruned, every = novel(texts), novel(texts, prune=False)
    assert pruned.partner.tolist() == every.partner.tolist()
    assert pruned.score.tolist() == every.score.tolist()
    assert len(pruned.kept) < len(texts)
    assert pruned.compared < every.compared / 10


@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
def test_pruning_changes_nothing_on_made_instructions(threshold):
    texts = instructions(800)
    pool, candidates = texts[:50], texts[50:]
    pruned = data.novel(candidates, pool, threshold=threshold)
    every = data.novel(candidates, pool, threshold=threshold, prune=False)
    assert pruned.partner.tolist() == every.partner.tolist()
    assert pruned.score.tolist() == every.score.tolist()
    assert pruned.compared < every.compared
    assert 0 < len(pruned.kept) < len(candidates)


def test_the_pool_filter_is_the_loop_of_the_paper():
    texts = instructions(120, seed=3)
    pool, kept = list(texts[:5]), []
    for number, text in enumerate(texts[5:]):
        if all(twin(text, other)[2] < 0.7 for other in pool):
            pool.append(text)
            kept.append(number)
    found = data.novel(texts[5:], texts[:5])
    assert found.kept.tolist() == kept
    for number in np.flatnonzero(found.partner >= 0):
        partner = texts[found.partner[number]]
        assert found.score[number] == twin(texts[5 + number], partner)[2] >= 0.7


def test_what_cannot_be_scored_is_named():
    with pytest.raises(ArrayError, match="references: 1 elements, but predictions has 2"):
        data.rouge_l(["a", "b"], ["a"])
    with pytest.raises(ArrayError, match=r"predictions\[1\]: expected a string, got int"):
        data.rouge_l(["a", 3], ["a", "b"])
    with pytest.raises(UsageError, match="candidates: one string; pass a list"):
        data.novel("abc")
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match=r"threshold: .* is not in \(0, 1\]"):
            data.novel(["a"], threshold=threshold)
    with pytest.raises(UsageError, match="word: 'naïve' has more than ASCII"):
        data.porter_stem("naïve")
