"""Collation against lists of Python, cuts by every rule, padding that never matters."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from polmrs import data
from polmrs.errors import ArrayError, UsageError


def twin(rows, masks, examples, max_length, too_long):
    """The batch in plain Python: (tokens, target, example, place, cut) of each sequence, and the dropped."""
    sequences, dropped = [], []
    for number, (prompt, completions) in enumerate(examples):
        head = [] if prompt < 0 else rows[prompt]
        over = max([len(head) + len(rows[c]) - (max_length or 10**9) for c in completions], default=0)
        lost = 0
        if over > 0:
            if too_long == "drop":
                dropped.append(number)
                continue
            longest = max(len(rows[c]) for c in completions)
            if too_long == "refuse" or over >= (longest if too_long == "completion_end" else len(head)):
                return None
            if too_long == "prompt_start":
                head, lost = head[over:], over
            if too_long == "prompt_end":
                head, lost = head[:-over], over
        for place, completion in enumerate(completions):
            tail, kept = rows[completion], masks[completion]
            if over > 0 and too_long == "completion_end":
                tail, kept = tail[: longest - over], kept[: longest - over]
            target = [0] * len(head) + list(kept)
            if not head and target:
                target[0] = 0
            cut = lost + len(rows[completion]) - len(tail)
            sequences.append((head + tail, target, number, place, cut))
    return sequences, dropped


@st.composite
def cases(draw):
    rows = draw(st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=6))
    masks = [draw(st.lists(st.integers(0, 1), min_size=len(row), max_size=len(row))) for row in rows]
    row = st.integers(0, len(rows) - 1)
    examples = draw(
        st.lists(st.tuples(st.integers(-1, len(rows) - 1), st.lists(row, max_size=3)), max_size=5)
    )
    return rows, masks, examples


@given(
    cases(),
    st.none() | st.integers(0, 8),
    st.sampled_from(["refuse", "drop", "prompt_start", "prompt_end", "completion_end"]),
)
def test_a_batch_is_that_of_plain_lists(case, max_length, too_long):
    rows, masks, examples = case
    tokens = data.TokenStore.of(rows, masks)
    prompts, completions = [prompt for prompt, _ in examples], [answers for _, answers in examples]

    def collated(out=None):
        return data.collate_lists(
            tokens,
            prompts=prompts,
            completions=completions,
            max_length=max_length,
            too_long=too_long,
            out=out,
        )

    expected = twin(rows, masks, examples, max_length or (0 if max_length == 0 else None), too_long)
    if max_length == 0:
        return  # the twin reads 0 as no limit
    if expected is None:
        with pytest.raises(ArrayError, match="more than max_length"):
            collated()
        return
    sequences, dropped = expected
    batch = collated()
    for again in (batch, collated(out=batch)):
        cu = again.cu_seqlens
        got = [
            (
                again.ids[cu[i] : cu[i + 1]].tolist(),
                again.target[cu[i] : cu[i + 1]].astype(int).tolist(),
                int(again.example[i]),
                int(again.place[i]),
                int(again.cut[i]),
            )
            for i in range(len(again))
        ]
        assert got == sequences
        assert again.dropped.tolist() == dropped
        assert cu.dtype == np.int32
        assert again.target.dtype == np.bool_
        assert again.positions.tolist() == [i for tokens, *_ in sequences for i in range(len(tokens))]


@given(cases(), st.sampled_from(["left", "right"]), st.integers(1, 4), st.integers(-9, 9))
def test_padding_stands_where_it_was_asked_for_and_nothing_looks_at_it(case, side, multiple, pad_id):
    rows, masks, examples = case
    batch = data.collate_lists(
        data.TokenStore.of(rows, masks),
        prompts=[prompt for prompt, _ in examples],
        completions=[answers for _, answers in examples],
    )
    padded = batch.padded(side=side, pad_id=pad_id, multiple_of=multiple)
    width = padded.ids.shape[1]
    longest = max(batch.lengths, default=0)
    assert width == -(-longest // multiple) * multiple
    for i, length in enumerate(batch.lengths):
        here = slice(batch.cu_seqlens[i], batch.cu_seqlens[i + 1])
        real = slice(width - length, width) if side == "left" else slice(0, length)
        assert padded.ids[i, real].tolist() == batch.ids[here].tolist()
        assert padded.target[i, real].tolist() == batch.target[here].tolist()
        assert padded.positions[i, real].tolist() == list(range(length))
        assert padded.attention[i, real].all()
        assert padded.attention[i].sum() == length
        assert padded.target[i].sum() == batch.target[here].sum()
        assert (np.delete(padded.ids[i], np.r_[real]) == pad_id).all()
    other = batch.padded(side=side, pad_id=pad_id + 1, multiple_of=multiple)
    for name in ("attention", "target", "positions"):
        assert np.array_equal(getattr(padded, name), getattr(other, name))


def test_pairs_share_their_prompt_and_know_their_places():
    tokens = data.TokenStore.of([[1], [2, 3], [4], [5, 5]])
    batch = data.collate_pairs(tokens, prompts=[0, 0], chosen=[1, 3], rejected=[2, 2])
    assert batch.example.tolist() == [0, 0, 1, 1]
    assert batch.place.tolist() == [0, 1, 0, 1]
    assert batch.ids.tolist() == [1, 2, 3, 1, 4, 1, 5, 5, 1, 4]


def test_a_pair_loses_the_same_of_its_prompt_on_both_sides():
    tokens = data.TokenStore.of([[1, 2, 3, 4], [10, 11], [20]])
    batch = data.collate_pairs(
        tokens, prompts=[0], chosen=[1], rejected=[2], max_length=4, too_long="prompt_start"
    )
    assert batch.ids.tolist() == [3, 4, 10, 11, 3, 4, 20]
    assert batch.cut.tolist() == [2, 2]


def test_a_batch_too_large_for_the_caches_is_the_same():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 1000, n).astype(np.int32) for n in rng.integers(0, 3000, 1600)]
    tokens = data.TokenStore.of(rows)
    order = rng.permutation(len(rows))
    batch = data.collate_completions(tokens, prompts=order, completions=order[::-1].copy())
    assert len(batch.ids) > 2**22
    pairs = [part for a, b in zip(order, order[::-1], strict=True) for part in (rows[a], rows[b])]
    assert np.array_equal(batch.ids, np.concatenate(pairs))
    target = [np.full(len(part), i % 2 == 1) for i, part in enumerate(pairs)]
    expected = np.concatenate(target)
    expected[[start for start, n in zip(batch.cu_seqlens, batch.lengths, strict=False) if n]] = False
    assert np.array_equal(batch.target, expected)


def test_rollouts_of_a_group_carry_its_number():
    tokens = data.TokenStore.of([[1], [2], [7], [8, 9], [6]])
    batch = data.collate_lists(tokens, prompts=[0, 1], completions=[[2, 3], [4]])
    assert batch.example.tolist() == [0, 0, 1]


def test_the_memory_of_a_batch_is_used_again_where_it_suffices():
    tokens = data.TokenStore.of([[1, 2, 3], [4], [5, 6, 7, 8, 9]])
    first = data.collate_rows(tokens, [0])
    second = data.collate_rows(tokens, [1], out=first)
    assert np.shares_memory(first.ids, second.ids)
    assert second.ids.tolist() == [4]
    third = data.collate_rows(tokens, [2], out=second)
    assert not np.shares_memory(first.ids, third.ids)
    assert third.ids.tolist() == [5, 6, 7, 8, 9]


def test_a_batch_may_not_be_written_over_its_source():
    tokens = data.TokenStore.of([[1, 2, 3]])
    batch = data.collate_rows(tokens, [0])
    source = data.TokenStore.flat(batch.ids, np.array([0, 3]))
    with pytest.raises(ArrayError, match="out: shares memory with ids"):
        data.collate_rows(source, [0], out=batch)


def test_torch_tensors_share_the_memory_of_the_batch():
    batch = data.collate_rows(data.TokenStore.of([[1, 2], [3]]), torch.tensor([1, 0]))
    tensors = batch.torch()
    assert tensors.ids.dtype == torch.int32
    assert tensors.target.dtype == torch.bool
    batch.ids[0] = 77
    assert tensors.ids.tolist() == [77, 1, 2]
    padded = tensors.padded(side="left", pad_id=0)
    assert isinstance(padded.attention, torch.Tensor)
    assert padded.ids.tolist() == [[0, 77], [1, 2]]
    assert tensors.positions.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"prompts": [0], "completions": [9]}, r"completions\[0\]: 9 is no row of the source, which has 2"),
        ({"prompts": [-2], "completions": [0]}, r"prompts\[0\]: -2 is no row"),
        ({"prompts": [0, 0], "completions": [1]}, "members: 1 elements, but prompts has 2"),
        ({"prompts": [0.5], "completions": [1]}, "prompts: expected a flat array of whole numbers"),
        ({"prompts": [0], "completions": [1], "too_long": "cut"}, "too_long: 'cut' is not one of 'refuse'"),
        (
            {"prompts": [0], "completions": [1], "max_length": 2, "too_long": "prompt_end"},
            "no token of the prompt",
        ),
    ],
)
def test_what_does_not_fit_is_named(keywords, message):
    tokens = data.TokenStore.of([[1], [2, 3]])
    with pytest.raises(ValueError, match=message):
        data.collate_completions(tokens, **keywords)


def test_a_width_below_the_longest_sequence_is_refused():
    batch = data.collate_rows(data.TokenStore.of([[1, 2, 3]]), [0])
    with pytest.raises(UsageError, match="width: 2 is less than 3"):
        batch.padded(side="right", pad_id=0, width=2)
    with pytest.raises(UsageError, match="multiple_of: 0"):
        batch.padded(side="right", pad_id=0, multiple_of=0)
    with pytest.raises(ValueError, match="side: 'middle' is not one of 'left', 'right'"):
        batch.padded(side="middle", pad_id=0)


def test_nothing_is_a_batch_too():
    batch = data.collate_rows(data.TokenStore.of([]), [])
    assert (len(batch), batch.ids.size) == (0, 0)
    assert batch.padded(side="left", pad_id=0).ids.shape == (0, 0)
