"""Schedules at their corners, against torch's and transformers' own."""

import pytest
import torch
import transformers
from polmrs.errors import ConfigError
from polmrs.train import Schedule


def theirs(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


CASES = {
    "linear": lambda o: transformers.get_linear_schedule_with_warmup(o, 3, 20),
    "cosine": lambda o: transformers.get_cosine_schedule_with_warmup(o, 3, 20),
    "constant": lambda o: transformers.get_constant_schedule_with_warmup(o, 3),
    "inverse_sqrt": lambda o: transformers.get_inverse_sqrt_schedule(o, 3),
}


@pytest.mark.parametrize("shape", CASES)
def test_shapes_are_those_of_transformers(shape):
    ours = [Schedule(shape=shape, warmup=3).factor(step, steps=20) for step in range(20)]
    assert ours == pytest.approx(theirs(CASES[shape], 20), abs=1e-12)


def test_a_share_of_warmup_is_rounded_up():
    assert Schedule(warmup=0.11).factor(1, steps=10) == 0.5


def test_wsd_stays_then_goes_down_to_its_floor():
    shape = Schedule(shape="wsd", warmup=2, decay=0.25, floor=0.1)
    factors = [shape.factor(step, steps=16) for step in range(17)]
    assert factors[:2] == [0, 0.5]
    assert set(factors[2:13]) == {1.0}
    assert factors[13] == pytest.approx(0.775)
    assert factors[16] == pytest.approx(0.1)


@pytest.mark.parametrize("given", [{"shape": "lin"}, {"warmup": -1}, {"floor": 2}, {"decay": 0}])
def test_what_is_no_schedule_is_refused(given):
    with pytest.raises(ConfigError, match="schedule"):
        Schedule(**given)
