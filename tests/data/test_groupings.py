"""Packing, bucketing and balancing against searches that look at everything."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs import data
from polmrs.errors import ArrayError, UsageError

LENGTHS = st.lists(st.integers(0, 30), max_size=40)


def rooms(lengths, capacity, strategy):
    """The room that is left in each pack, sorted, by looking at every pack for every sequence."""
    order = sorted(lengths, reverse=True) if "decreasing" in strategy else lengths
    left = []
    for length in order:
        fitting = [i for i, room in enumerate(left) if room >= length]
        if strategy == "sequential":
            fitting = [i for i in fitting if i == len(left) - 1]
        if not fitting:
            left.append(capacity)
            fitting = [len(left) - 1]
        chosen = min(fitting, key=lambda i: left[i]) if "best" in strategy else fitting[0]
        left[chosen] -= length
    return sorted(left)


@given(LENGTHS, st.integers(30, 80), st.none() | st.integers(0, 5))
@pytest.mark.parametrize(
    "strategy", ["best_fit_decreasing", "first_fit_decreasing", "first_fit", "sequential"]
)
def test_packs_leave_the_room_that_a_full_search_leaves(strategy, lengths, capacity, seed):
    packs = data.pack(lengths, capacity, strategy=strategy, seed=seed)
    assert sorted(packs.order.tolist()) == list(range(len(lengths)))
    assert sorted(capacity - packs.totals) == rooms(lengths, capacity, strategy)
    assert [sum(lengths[i] for i in rows) for rows in packs] == packs.totals.tolist()
    if len(packs):
        assert packs.fill == pytest.approx(sum(lengths) / (len(packs) * capacity))
    if strategy == "sequential" and seed is None:
        assert packs.order.tolist() == list(range(len(lengths)))


def test_a_seed_reorders_packs_and_a_position_goes_on():
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    plain, one, two, again = (data.pack(lengths, 128, seed=seed) for seed in (None, 1, 2, 1))
    as_sets = [{tuple(rows) for rows in plan} for plan in (plain, one, two)]
    assert as_sets[0] == as_sets[1] == as_sets[2]
    assert one.order.tolist() == again.order.tolist() != two.order.tolist()
    first = [rows.tolist() for rows in one]
    assert [rows.tolist() for rows in again.after(7)] == first[7:]


def test_what_is_longer_than_a_pack_is_named_or_listed():
    with pytest.raises(ArrayError, match=r"lengths\[1\]: 9 is more than the capacity of 8"):
        data.pack([1, 9], 8)
    packs = data.pack([1, 9, 8], 8, too_long="drop")
    assert packs.dropped.tolist() == [1]
    assert [rows.tolist() for rows in packs] == [[2], [0]]
    with pytest.raises(UsageError, match="capacity: 0 is not in"):
        data.pack([1], 0)
    with pytest.raises(ArrayError, match=r"lengths\[0\]: -1 is negative"):
        data.pack([-1], 4)
    with pytest.raises(ArrayError, match="whole numbers, got float64"):
        data.pack(np.array([1.0, float("nan")]), 4)
    with pytest.raises(ValueError, match="strategy: 'bfd' is not one of"):
        data.pack([1], 4, strategy="bfd")


@given(LENGTHS, st.integers(30, 90), st.booleans(), st.integers(0, 9), st.none() | st.integers(0, 3))
def test_batches_keep_to_their_budget_and_leave_nothing_out(lengths, budget, padded, window, seed):
    batches = data.token_batches(lengths, budget, padded=padded, window=window, seed=seed)
    assert sorted(batches.order.tolist()) == list(range(len(lengths)))
    for rows in batches:
        sizes = [lengths[i] for i in rows]
        assert len(rows) > 0
        assert sizes == sorted(sizes)
        assert (len(rows) * max(sizes) if padded else sum(sizes)) <= budget
    if seed is None and not window:  # nobody could have joined the batch before
        every = list(batches)
        for before, after in itertools.pairwise(every):
            joined = [lengths[i] for i in [*before, after[0]]]
            assert (len(joined) * max(joined) if padded else sum(joined)) > budget


def test_buckets_pad_less_than_chance_and_differ_by_seed():
    lengths = np.random.default_rng(0).integers(1, 1000, 2000)
    waste = {}
    for window in (0, 16):
        batches = data.token_batches(lengths, 8000, padded=True, window=window, seed=4)
        held = [len(rows) * lengths[rows].max() for rows in batches]
        waste[window] = 1 - lengths.sum() / sum(held)
    assert waste[0] < 0.02 < waste[16] < 0.5
    other = data.token_batches(lengths, 8000, padded=True, seed=5)
    same = data.token_batches(lengths, 8000, padded=True, seed=4)
    assert same.order.tolist() == data.token_batches(lengths, 8000, padded=True, seed=4).order.tolist()
    assert same.order.tolist() != other.order.tolist()


def greedy(costs, ranks):
    loads = [(0, rank) for rank in range(ranks)]
    for cost in sorted(costs, reverse=True):
        load, rank = heapq.heappop(loads)
        heapq.heappush(loads, (load + cost, rank))
    return sorted(load for load, _ in loads)


def differenced(costs, ranks):
    """Largest differencing on whole vectors of sums."""
    states = [(-cost, i, [cost] + [0] * (ranks - 1)) for i, cost in enumerate(sorted(costs, reverse=True))]
    heapq.heapify(states)
    number = len(costs)
    while len(states) > 1:
        (_, _, a), (_, _, b) = heapq.heappop(states), heapq.heappop(states)
        sums = sorted((x + y for x, y in zip(a, reversed(b), strict=True)), reverse=True)
        heapq.heappush(states, (sums[-1] - sums[0], number, sums))
        number += 1
    return sorted(states[0][2]) if states else [0] * ranks


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 6))
def test_ranks_get_what_the_textbook_gives_them(costs, ranks):
    for method, slow in (("karmarkar_karp", differenced), ("greedy", greedy)):
        spread = data.balance(costs, ranks, method=method)
        assert sorted(spread.order.tolist()) == list(range(len(costs)))
        assert sorted(spread.totals.tolist()) == slow(costs, ranks)
    whole = costs[: len(costs) // ranks * ranks]
    for method in ("karmarkar_karp", "greedy"):
        spread = data.balance(whole, ranks, method=method, equal=True)
        assert (np.diff(spread.bounds) == len(whole) // ranks).all()
        assert sorted(spread.order.tolist()) == list(range(len(whole)))


def test_differencing_is_nearly_even_where_greedy_is_not():
    costs = np.random.default_rng(0).integers(100, 5000, 4096)
    spreads = {m: np.ptp(data.balance(costs, 64, method=m).totals) for m in ("karmarkar_karp", "greedy")}
    assert spreads["karmarkar_karp"] <= spreads["greedy"]
    assert spreads["greedy"] < 200  # of sums near 160,000
    with pytest.raises(UsageError, match="5 sequences do not come out even over 2"):
        data.balance([1] * 5, 2, equal=True)
    with pytest.raises(UsageError, match="ranks: 0 is not in"):
        data.balance([1], 0)
    with pytest.raises(ArrayError, match=r"costs\[0\]: -1 is negative"):
        data.balance([-1], 1)


def test_nothing_is_grouped_too():
    for made in (data.pack([], 8), data.token_batches([], 8), data.balance([], 1)):
        assert made.order.size == 0
    assert np.isnan(data.pack([], 8).fill)
    assert len(data.balance([], 3)) == 3
    with pytest.raises(IndexError, match="group 3 of 3"):
        data.balance([], 3)[3]
