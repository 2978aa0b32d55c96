"""Passages: exact places, nothing lost, nothing cut within a token."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs import rag
from polmrs.errors import UsageError

prose = st.text(alphabet="ab .!?\n。Dr", max_size=120)


def joint(text):
    """Tokens of two characters that overlap by one in every run of ``a``, as bytes of one character do."""
    return [(place, place + 1 + (text[place : place + 2] == "aa")) for place in range(len(text))]


@given(prose, st.integers(1, 12), st.sampled_from(["sentences", "tokens"]), st.sampled_from([None, joint]))
def test_passages_one_after_another_are_the_text(text, size, by, tokenizer):
    made = rag.chunks(text, size, by=by, tokenizer=tokenizer)
    if tokenizer is None and not text.split():
        assert made == []
    else:
        assert "".join(chunk.text for chunk in made) == text
    if tokenizer is None:
        assert all(chunk.tokens == len(chunk.text.split()) for chunk in made)


@given(prose, st.integers(2, 12), st.data(), st.sampled_from(["sentences", "tokens"]))
def test_overlapping_passages_cover_the_text_and_keep_their_bounds(text, size, data, by):
    overlap = data.draw(st.integers(0, size - 1))
    made = rag.chunks(text, size, overlap=overlap, by=by)
    reached = 0
    for before, chunk in zip([None, *made], made, strict=False):
        assert chunk.text == text[chunk.start : chunk.end]
        assert 1 <= chunk.tokens <= size
        assert chunk.start <= reached < chunk.end
        if before:
            assert len(text[chunk.start : before.end].split()) <= overlap
        reached = chunk.end
    assert reached == (len(text) if text.split() else 0)
    words = [found.span() for found in re.finditer(r"\S+", text)]
    for chunk in made:
        assert not any(start < edge < end for start, end in words for edge in (chunk.start, chunk.end))


@given(st.text(alphabet="ab", max_size=60), st.integers(1, 6))
def test_what_shares_a_character_is_not_parted(text, size):
    for chunk in rag.chunks(text, size, by="tokens", tokenizer=joint):
        assert text[max(0, chunk.start - 1) : chunk.start + 1] != "aa"


def test_passages_end_with_sentences_where_they_can():
    text = "One two three. Four five. Six seven eight nine ten eleven twelve. Thirteen."
    assert [chunk.text for chunk in rag.chunks(text, 5)] == [
        "One two three. Four five. ",
        "Six seven eight nine ten ",
        "eleven twelve. Thirteen.",
    ]
    assert [chunk.text for chunk in rag.chunks("A b c. D e. F g.", 5, overlap=2)] == [
        "A b c. D e. ",
        "D e. F g.",
    ]
    assert [chunk.text for chunk in rag.chunks("A b c. Dd. E f g h i j.", 7, overlap=3)] == [
        "A b c. Dd. ",
        "Dd. E f g h i j.",
    ]


def test_a_repeated_sentence_that_leaves_no_room_is_not_repeated():
    assert [chunk.text for chunk in rag.chunks("A b. C d. E f g h i.", 5, overlap=2)] == [
        "A b. C d. ",
        "E f g h i.",
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. No came, e.g. by sea. He left!", ["Dr. No came, e.g. by sea. ", "He left!"]),
        ('He said "No." She left (so what?). Then', ['He said "No." ', "She left (so what?). ", "Then"]),
        ("Version 3.11 is out... Really?! Yes", ["Version 3.11 is out... ", "Really?! ", "Yes"]),
        ("A title\n\nand a text", ["A title\n\n", "and a text"]),
        ("一。二。三", ["一。", "二。", "三"]),
        ("", [""]),
    ],
)
def test_sentences_begin_where_a_reader_sees_them_begin(text, sentences):
    starts = [*rag.sentence_starts(text), len(text)]
    assert [text[a:b] for a, b in itertools.pairwise(starts)] == sentences


def test_whole_sentences_are_repeated_where_none_was_cut():
    found = rag.chunks("A b. C d e. F g h.", 4, overlap=3)
    assert [one.text for one in found] == ["A b. ", "C d e. ", "F g h."]


def test_an_empty_line_of_any_kind_ends_a_passage():
    for end in ("\n", "\r\n"):
        assert rag.chunks(f"A title{end * 2}and a text of some", 4)[0].text == f"A title{end * 2}"


def test_a_row_of_dots_is_one_mark():
    text = "Chapter one" + "." * 40_000 + " 7\nThen more. And more."
    assert [one.text for one in rag.chunks(text, 3)][-1] == "And more."


def test_a_tokenizer_of_transformers_gives_the_places():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE({"ab": 4, "a": 0, "b": 1, "Ġ": 2, "c": 3}, [("a", "b")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = rag.chunks(
        "ab c ab abc", 3, by="tokens", tokenizer=PreTrainedTokenizerFast(tokenizer_object=inner)
    )
    assert [(chunk.text, chunk.tokens) for chunk in made] == [("ab c", 3), (" ab ", 3), ("abc", 2)]


def test_bad_settings_are_refused():
    for given_, message in [
        ({"size": 0}, "size: 0 is not at least 1"),
        ({"size": 3, "overlap": 3}, r"overlap: 3 is not in \[0, 3\), the size"),
        ({"by": "lines"}, "by: 'lines' is not one of sentences, tokens"),
        ({"tokenizer": lambda text: [(3, 4), (0, 1)]}, "a token at 0..1 is not in order within 5"),
        ({"tokenizer": lambda text: [(0, 9)]}, "a token at 0..9 is not in order within 5"),
    ]:
        with pytest.raises(UsageError, match=message):
            rag.chunks("a b c", **given_)
