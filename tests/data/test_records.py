"""Messages, records, and the pairs that a ranking implies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.data.messages import Image, Message, Text, joined
from polmrs.data.ranking import pairs
from polmrs.data.records import PromptCompletion, Ranked, Stepwise
from polmrs.errors import UsageError

SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=6)


def ranked(scores):
    return Ranked(prompt="?", answers=tuple(map(str, range(len(scores)))), scores=tuple(scores))


def test_only_the_assistant_is_trained_on_unless_a_weight_says_otherwise():
    weights = [Message.of(role, "x").weight for role in ("system", "user", "assistant", "tool")]
    assert weights == [0, 0, 1, 0]
    assert Message.of("user", "x", weight=0.5).weight == 0.5


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_no_loss_can_count_is_refused(weight):
    with pytest.raises(UsageError, match=f"weight: {weight}"):
        Message.of("user", "x", weight=weight)


def test_a_message_without_a_role_is_refused():
    with pytest.raises(UsageError, match="role"):
        Message.of("", "x")


def test_the_text_of_a_message_is_that_of_its_text_parts():
    assert Message("user", (Text("a "), Image("cat.png"), Text("b")), 0.0).text == "a b"


def test_messages_join_messages_in_order_and_refuse_plain_text():
    question, answer = (Message.of("user", "?"),), (Message.of("assistant", "!"),)
    assert joined(question, answer) == (*question, *answer)
    with pytest.raises(UsageError, match="plain text"):
        joined(question, "!")


def test_where_a_record_comes_from_does_not_make_it_another():
    made = [PromptCompletion(prompt="?", completion="!", meta={"source": s}) for s in "ab"]
    assert made[0] == made[1]


def test_lists_that_do_not_match_are_refused_with_both_lengths():
    with pytest.raises(UsageError, match="scores: 1, but there are 2 answers"):
        Ranked(prompt="?", answers=("a", "b"), scores=(1.0,))
    with pytest.raises(UsageError, match="labels: 2, but there are 1 steps"):
        Stepwise(prompt="?", steps=("a",), labels=(1.0, 0.0))
    with pytest.raises(UsageError, match="answers: there is none"):
        Ranked(prompt="?", answers=(), scores=())


def test_scores_and_labels_out_of_range_are_refused_by_place():
    with pytest.raises(UsageError, match=r"scores\[1\]: nan"):
        ranked([0, float("nan")])
    with pytest.raises(UsageError, match=r"labels\[0\]: 1.5"):
        Stepwise(prompt="?", steps=("a",), labels=(1.5,))


@given(SCORES)
def test_all_pairs_are_those_of_different_scores_each_once(scores):
    expected = {(str(i), str(j), a - b) for i, a in enumerate(scores) for j, b in enumerate(scores) if a > b}
    made = [(pair.chosen, pair.rejected, pair.margin) for pair in pairs(ranked(scores))]
    assert set(made) == expected
    assert len(made) == len(expected)


@given(SCORES)
def test_margins_of_adjacent_pairs_add_up_to_that_of_best_and_worst(scores):
    whole = sum(pair.margin for pair in pairs(ranked(scores), which="best_worst"))
    assert sum(pair.margin for pair in pairs(ranked(scores), which="adjacent")) == whole
    assert whole == max(scores) - min(scores)


def test_pairs_keep_where_they_come_from():
    source = Ranked(prompt="?", answers=("a", "b"), scores=(0, 1), meta={"language": "en"})
    assert [pair.meta for pair in pairs(source)] == [{"language": "en"}]


def test_a_choice_of_pairs_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="which: 'best' is none of all, adjacent, best_worst"):
        list(pairs(ranked([0, 1]), which="best"))
