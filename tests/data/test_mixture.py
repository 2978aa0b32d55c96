"""Mixtures: how often tasks are drawn, what their losses count, positions."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polmrs.data.epochs import Epochs
from polmrs.data.mixture import Mixture, mixed, shares
from polmrs.data.ragged import Batch
from polmrs.errors import ConfigError, UsageError

SIZES = st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 10**6), min_size=1, max_size=5)
TASKS = {
    name: [Batch.of([[i, j, j]]) for j in range(n)]
    for i, (name, n) in enumerate([("a", 3), ("b", 9), ("c", 30)])
}


def drawn(stream, steps):
    return [[one.ids.tolist() for one in next(stream)] for _ in range(steps)]


@pytest.mark.method("data.proportional-sampling")
@given(SIZES, st.integers(1, 10**6), st.floats(0.5, 20))
def test_shares_are_those_of_the_formula(sizes, cap, temperature):
    powers = {name: min(size, cap) ** (1 / temperature) for name, size in sizes.items()}
    found = shares(sizes, cap=cap, temperature=temperature)
    assert found == pytest.approx(
        {name: power / sum(powers.values()) for name, power in powers.items()}, rel=1e-12
    )
    assert sum(found.values()) == pytest.approx(1, rel=1e-12)


def test_a_high_temperature_makes_tasks_equal_and_one_keeps_proportions():
    sizes = {"a": 10, "b": 1000}
    assert shares(sizes, temperature=1e9) == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-8)
    assert shares(sizes) == pytest.approx({"a": 10 / 1010, "b": 1000 / 1010})
    assert shares(sizes, cap=10) == {"a": 0.5, "b": 0.5}


@pytest.mark.method("data.proportional-sampling")
@pytest.mark.parametrize(("cap", "temperature"), [(1e9, 1.0), (5, 1.0), (1e9, 3.0)])
def test_tasks_are_drawn_as_often_as_their_shares(cap, temperature):
    expected = shares({name: len(rows) for name, rows in TASKS.items()}, cap=cap, temperature=temperature)
    stream = mixed(TASKS, batch=50, cap=cap, temperature=temperature)
    counts = collections.Counter(ids[0] for step in drawn(stream, 80) for ids in step)
    for i, share in enumerate(expected.values()):  # 4,000 draws: 5 standard errors
        assert counts[i] / 4000 == pytest.approx(share, abs=5 * (share * (1 - share) / 4000) ** 0.5)


def test_a_task_is_gone_through_before_any_of_its_examples_comes_again():
    stream = mixed(TASKS, batch=10)
    seen = [ids[1] for step in drawn(stream, 60) for ids in step if ids[0] == 1]
    for at in range(0, len(seen) - 9, 9):
        assert sorted(seen[at : at + 9]) == list(range(9))


def test_a_task_weight_multiplies_its_losses_alone():
    stream = mixed(TASKS, batch=40, weights={"c": 0.25})
    for one in next(stream):
        assert one.weights.tolist() == ([0, 0.25, 0.25] if int(one.ids[0]) == 2 else [0, 1, 1])


@given(st.integers(0, 12), st.integers(0, 3))
def test_a_resumed_mixture_goes_on_where_it_was(steps, seed):
    first, again = mixed(TASKS, batch=5, seed=seed), mixed(TASKS, batch=5, seed=seed)
    drawn(first, steps)
    again.load_state_dict(first.state_dict())
    assert drawn(again, 6) == drawn(first, 6)


def test_mixtures_nest_and_end_with_the_stream_that_is_drawn():
    inner = Mixture({"a": Epochs(TASKS["a"], batch=1)}, {"a": 1}, batch=1)
    outer = Mixture({"m": inner, "c": Epochs(TASKS["c"], batch=1)}, {"m": 1, "c": 1}, batch=4)
    assert {ids[0] for step in drawn(outer, 5) for ids in step} == {0, 2}
    ending = Mixture({"a": Epochs(TASKS["a"], batch=1, epochs=2)}, {"a": 1}, batch=2)
    assert len(list(ending)) == 3


def test_what_is_no_mixture_is_refused():
    streams = {"a": Epochs(TASKS["a"], batch=1)}
    for arguments, message in [
        (((streams, {"b": 1}), {"batch": 1}), "shares: of .'b'., but the streams are .'a'."),
        (((streams, {"a": 0}), {"batch": 1}), "with one above 0"),
        (((streams, {"a": 1}), {"batch": 0}), "batch: 0"),
        (((streams, {"a": 1}), {"batch": 1, "weights": {"x": 1}}), "weights: .'x'. are none of"),
        (((streams, {"a": 1}), {"batch": 1, "weights": {"a": -1}}), "from 0 up"),
    ]:
        with pytest.raises(UsageError, match=message):
            Mixture(*arguments[0], **arguments[1])
    for settings in ({"cap": 0}, {"temperature": 0}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            shares({"a": 1}, **settings)
    with pytest.raises(UsageError, match="sizes"):
        shares({"a": 0})


def test_a_position_in_another_mixture_is_refused():
    with pytest.raises(ConfigError, match="batch: 3, but the run that is resumed had 2"):
        mixed(TASKS, batch=3).load_state_dict(mixed(TASKS, batch=2).state_dict())
    ahead = Mixture({"a": Epochs(TASKS["a"], batch=3)}, {"a": 1}, batch=2)
    next(ahead)
    with pytest.raises(UsageError, match="a mixture resumes with batch=1"):
        ahead.state_dict()
