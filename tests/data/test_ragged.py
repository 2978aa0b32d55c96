"""Ragged batches of torch tensors, and epochs of them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs import data
from polmrs.data.epochs import Epochs
from polmrs.data.ragged import Batch
from polmrs.errors import ArrayError, ConfigError, UsageError

LISTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=6), min_size=1, max_size=5)


def each(batch):
    ends = batch.cu_seqlens.tolist()
    return [batch.ids[a:b].tolist() for a, b in itertools.pairwise(ends)]


@given(LISTS)
def test_examples_end_to_end_are_the_examples(rows):
    batch = Batch.cat([Batch.of([row]) for row in rows])
    assert each(batch) == rows
    assert batch.examples == len(batch) == len(rows)
    assert batch.lengths.tolist() == [len(row) for row in rows]
    assert batch.positions.tolist() == [t for row in rows for t in range(len(row))]


@given(LISTS, st.integers(0, 99))
def test_padding_keeps_every_token_in_its_place(rows, pad):
    batch = Batch.of(rows)
    padded = batch.padded(pad)
    assert padded.ids.flatten()[padded.place].tolist() == batch.ids.tolist()
    assert padded.positions.flatten()[padded.place].tolist() == batch.positions.tolist()
    assert padded.attention.sum(1).tolist() == batch.lengths.tolist()
    assert (padded.ids[~padded.attention] == pad).all()


@given(LISTS)
def test_sums_are_those_of_each_sequence(rows):
    batch = Batch.of(rows)
    assert batch.sums(batch.ids.double()).tolist() == [float(sum(row)) for row in rows]


def test_the_end_is_the_last_token_that_counts():
    batch = Batch.of([[1, 2, 3], [1, 2]], weights=[[0, 1, 0], [0, 1]])
    assert batch.ends.tolist() == [1, 4]
    with pytest.raises(ArrayError, match=r"sequence 0 \(a.jsonl:3\) has none"):
        _ = Batch.of([[1, 2]], weights=[[0, 0]], name="a.jsonl:3").ends


def test_extras_travel_with_their_example():
    pairs = [
        Batch.of(
            [[1, 2], [3]],
            per_token={"old": [[0.0, i], [0.0]]},
            per_sequence={"score": [1.0, 2.0]},
            per_example={"margin": i},
            name=f"p:{i}",
        )
        for i in range(2)
    ]
    both = Batch.cat(pairs)
    assert both.per_token["old"].tolist() == [0, 0, 0, 0, 1, 0]
    assert both.per_sequence["score"].shape == (4,)
    assert both.per_example["margin"].tolist() == [0, 1]
    assert both.names == ("p:0", "p:1")
    with pytest.raises(ArrayError, match="different extras"):
        Batch.cat([pairs[0], Batch.of([[1]])])


def test_what_collation_makes_is_taken_over():
    tokens = data.TokenStore.of([[1, 2], [10, 11], [20]])
    batch = Batch.collated(data.collate_pairs(tokens, prompts=[0], chosen=[1], rejected=[2]))
    assert each(batch) == [[1, 2, 10, 11], [1, 2, 20]]
    assert batch.weights.tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert batch.example.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequences": [[]]}, "empty sequence"),
        ({"sequences": []}, "empty sequence, or none"),
        ({"sequences": [[1, 2]], "weights": [[1, 1]]}, "first token of sequence 0"),
        ({"sequences": [[1, 2]], "weights": [[0]]}, r"lengths \[1\], but sequences have \[2\]"),
        ({"sequences": [[1, 2]], "weights": [[0, -1]]}, "0 or more"),
        ({"sequences": [[1, 2]], "weights": [[0, float("nan")]]}, "finite"),
    ],
)
def test_what_is_no_example_is_refused(arguments, message):
    with pytest.raises(ArrayError, match=message):
        Batch.of(**arguments)


EXAMPLES = [Batch.of([[i, i]]) for i in range(7)]


def drawn(stream, steps):
    return [[int(one.ids[0]) for one in next(stream)] for _ in range(steps)]


def test_an_epoch_holds_every_example_once_and_the_next_has_another_order():
    steps = drawn(Epochs(EXAMPLES, batch=3), 6)
    first, second = list(itertools.chain(*steps[:3])), list(itertools.chain(*steps[3:]))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


@given(st.integers(0, 9))
def test_a_resumed_stream_goes_on_where_it_was(steps):
    stream, other = Epochs(EXAMPLES, batch=2, seed=3), Epochs(EXAMPLES, batch=2, seed=3)
    drawn(stream, steps)
    other.load_state_dict(stream.state_dict())
    assert drawn(other, 5) == drawn(stream, 5)


def test_a_position_in_other_data_is_refused():
    with pytest.raises(ConfigError, match="batch: 3, but the run that is resumed had 2"):
        Epochs(EXAMPLES, batch=3).load_state_dict(Epochs(EXAMPLES, batch=2).state_dict())
    with pytest.raises(UsageError, match="none to train on"):
        Epochs([], batch=3)
