"""Near-duplicates and contamination against sets and windows of plain Python."""

import re

import numpy as np
import pytest
from data.made import documents
from hypothesis import given
from hypothesis import strategies as st
from polmrs import data
from polmrs.errors import ArrayError, UsageError


def grams(text, n, unit="word"):
    words = re.findall(r"[^\W_]+" if unit == "word" else r"[^\W_]", text.lower())
    n = min(n, len(words))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} if words else set()


def alike(sets, threshold):
    """Every pair at or above the threshold, with its Jaccard index."""
    found = []
    for a, one in enumerate(sets):
        for b in range(a + 1, len(sets)):
            if one and sets[b]:
                jaccard = len(one & sets[b]) / len(one | sets[b])
                if jaccard >= threshold:
                    found.append(([a, b], jaccard))
    return found


def joined(n, pairs):
    first = list(range(n))
    for _ in range(n):  # until nothing changes
        for a, b in pairs:
            first[a] = first[b] = min(first[a], first[b])
    return first


TEXTS = st.lists(st.text("ab cD", max_size=30), max_size=14)


@given(TEXTS, st.floats(0.05, 1.0), st.integers(1, 4), st.sampled_from(["word", "char"]))
def test_the_exact_search_is_that_of_plain_sets(texts, threshold, n, unit):
    expected = alike([grams(text, n, unit) for text in texts], threshold)
    pairs, jaccard = data.near_pairs(texts, threshold=threshold, n=n, unit=unit, method="exact")
    assert pairs.tolist() == [pair for pair, _ in expected]
    assert jaccard.tolist() == [score for _, score in expected]
    found = data.near_duplicates(texts, threshold=threshold, n=n, unit=unit, method="exact")
    assert found.first.tolist() == joined(len(texts), pairs.tolist())
    assert found.wordless == sum(not grams(text, n, unit) for text in texts)
    assert sorted([*found.kept, *found.dropped]) == list(range(len(texts)))
    assert found.clusters == len(set(found.first[found.dropped].tolist()))


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_minhash_finds_as_many_pairs_as_it_promises_and_no_other(threshold):
    texts = documents(1500)
    exact, scores = data.near_pairs(texts, threshold=threshold, method="exact")
    found, theirs = data.near_pairs(texts, threshold=threshold, recall=0.9)
    every = dict(zip(map(tuple, exact.tolist()), scores, strict=True))
    assert len(every) > 60
    assert all(every[tuple(pair)] == score for pair, score in zip(found.tolist(), theirs, strict=True))
    assert (
        len(found) / len(exact) >= 0.9
    )  # the promise is for pairs at the threshold, others are found more often


def test_clusters_of_minhash_keep_the_first_and_agree_with_the_exact_ones():
    texts = documents(1000, seed=1)
    exact = data.near_duplicates(texts, threshold=0.7, method="exact")
    found = data.near_duplicates(texts, threshold=0.7, recall=0.999)
    assert found.first.tolist() == exact.first.tolist()
    assert found.jaccard.tolist() == exact.jaccard.tolist()
    assert 0 < len(found.dropped) < len(texts)
    assert (found.first <= np.arange(len(texts))).all()


def test_token_rows_are_documents_too():
    rows = [[1, 2, 3, 4, 5], [9], [1, 2, 3, 4, 5], [], [1, 2, 3, 4, 5, 6]]
    found = data.near_duplicates(data.TokenStore.of(rows), threshold=0.7)
    assert found.first.tolist() == [0, 1, 0, 3, 0]
    assert found.wordless == 1


def test_settings_that_make_no_sense_are_named():
    with pytest.raises(UsageError, match="functions: 100 is not a multiple of 16"):
        data.near_duplicates(["a", "b"], functions=100)
    with pytest.raises(UsageError, match=r"functions: 16 do not find pairs at 0\.1"):
        data.near_duplicates(["a", "b"], threshold=0.1, functions=16)
    with pytest.raises(UsageError, match="n: 0 is not 1 or more"):
        data.near_duplicates(["a", "b"], n=0)
    with pytest.raises(UsageError, match=r"threshold: NaN is not in \(0, 1\]"):
        data.near_duplicates(["a", "b"], threshold=float("nan"))
    with pytest.raises(ArrayError, match=r"documents\[0\]: expected a string, got bytes"):
        data.near_duplicates([b"a"])
    with pytest.raises(ValueError, match="method: 'lsh' is not one of"):
        data.near_duplicates(["a"], method="lsh")


def windows(words, n):
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=15), max_size=5),
    st.lists(st.lists(st.sampled_from("abcd"), max_size=8), max_size=4),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_contamination_is_that_of_plain_windows(train, tests, n, least):
    least = min(least, n)
    found = data.contamination([" ".join(t) for t in train], [" - ".join(t) for t in tests], n=n, least=least)
    expected = {
        (i, j)
        for i, document in enumerate(train)
        for j, item in enumerate(tests)
        if len(item) >= least and windows(document, min(n, len(item))) & windows(item, min(n, len(item)))
    }
    assert {(match.train, match.test) for match in found.matches} == expected
    assert found.skipped == [j for j, item in enumerate(tests) if len(item) < least]
    for match in found.matches:
        here = train[match.train][match.train_word : match.train_word + match.words]
        there = tests[match.test][match.test_word : match.test_word + match.words]
        assert here == there
        assert len(here) == match.words >= min(n, len(tests[match.test]))
    assert found.train == sorted({i for i, _ in expected})
    assert found.tests == sorted({j for _, j in expected})


def test_a_match_is_found_in_the_text():
    question = (
        "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
    )
    text = f"Homework: {question.upper()} How many?"
    found = data.contamination([text, "nothing here"], [question])
    (match,) = found.matches
    spans = data.word_spans(text)[match.train_word : match.train_word + match.words]
    assert text[spans[0][0] : spans[-1][1]] == question.upper().rstrip(".")
    assert match.words == 20
    assert data.word_spans("ça 1") == [(0, 2), (3, 4)]


def test_what_stands_in_many_documents_is_no_evidence():
    train = [f"as an ai language model i cannot do that number {i}" for i in range(12)] + [
        "the answer is forty two of course"
    ]
    tests = ["as an ai language model i cannot", "the answer is forty two of course"]
    strict = data.contamination(train, tests, n=5, least=5)
    assert len(strict.train) == 13
    loose = data.contamination(train, tests, n=5, least=5, common=10)
    assert loose.train == [12]
    assert loose.passed_over == 3
    with pytest.raises(UsageError, match="n, least: 5 and 6"):
        data.contamination([], [], n=5, least=6)
