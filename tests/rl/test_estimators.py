"""pass@k and maj@k against every subset."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import polmrs.rl as rl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.errors import ArrayError, UsageError


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=8), st.integers(1, 60)
)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(counts, k):
    n = [max(n, k) for n, _ in counts]
    c = [min(right, most) for (_, right), most in zip(counts, n, strict=True)]
    exact = [1 - Fraction(comb(a - b, k), comb(a, k)) for a, b in zip(n, c, strict=True)]
    assert np.allclose(rl.pass_at_k(n, c, k), [float(x) for x in exact], rtol=0, atol=1e-13)


def vote(answers, correct, subset, ties):
    given = [answers[i] for i in subset if answers[i] >= 0]
    if not given:
        return Fraction(0)
    most = max(given.count(a) for a in given)
    leaders = [a for a in dict.fromkeys(given) if given.count(a) == most]
    right = sum(correct[answers.index(a)] for a in leaders)
    if ties == "lost" and len(leaders) > 1:
        return Fraction(0)
    return Fraction(right, len(leaders))


@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=9),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.integers(1, 9),
    st.sampled_from(["shared", "lost"]),
)
def test_maj_at_k_is_the_vote_over_all_subsets(answers, right, k, ties):
    k = min(k, len(answers))
    correct = [a >= 0 and right[a] for a in answers]
    subsets = list(combinations(range(len(answers)), k))
    exact = sum(vote(answers, correct, subset, ties) for subset in subsets) / len(subsets)
    ours = rl.maj_at_k(answers, np.array(correct, bool), [0] * len(answers), k, ties=ties)
    assert np.allclose(ours, [float(exact)], rtol=0, atol=1e-12)


def test_groups_keep_their_order():
    answers, groups = [1, 2, 1, 2], ["b", "a", "b", "a"]
    assert rl.maj_at_k(answers, np.array([1, 0, 1, 0], bool), groups, 2).tolist() == [1.0, 0.0]


def test_many_samples_do_not_overflow():
    n = 3000
    answers = [0] * (n // 2 + 1) + [1] * (n // 2 - 1)
    correct = np.array([a == 0 for a in answers])
    (near_half,) = rl.maj_at_k(answers, correct, [0] * n, 5)
    assert 0.5 < near_half < 0.51
    assert rl.maj_at_k(answers, correct, [0] * n, n) == pytest.approx([1.0], abs=1e-9)


def test_what_has_no_estimate_without_bias_is_refused():
    with pytest.raises(
        ArrayError, match=r"samples\[1\]: 3 is less than k = 4; no estimate without bias exists"
    ):
        rl.pass_at_k([4, 3], [0, 0], 4)
    with pytest.raises(ArrayError, match=r"correct\[0\]: 5 is more than samples\[0\] = 4"):
        rl.pass_at_k([4], [5], 2)
    with pytest.raises(ArrayError, match="counts are not negative"):
        rl.pass_at_k([4], [-1], 2)
    with pytest.raises(UsageError, match="k: 0 is not 1 or more"):
        rl.pass_at_k([4], [1], 0)
    with pytest.raises(ArrayError, match="the group of sample 1 has 1 samples, fewer than k = 2"):
        rl.maj_at_k([0, 0, 0], np.ones(3, bool), [0, 1, 0], 2)
    with pytest.raises(
        ArrayError, match=r"answers\[1\]: answer 7 is right for one sample of its group and wrong"
    ):
        rl.maj_at_k([7, 7], np.array([True, False]), [0, 0], 1)
