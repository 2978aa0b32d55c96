"""The boundary: numpy and torch, no copies, and every array that does not fit, named."""

import numpy as np
import polmrs.rl as rl
import pytest
import torch
from polmrs.errors import ArrayError

CU = np.array([0, 2, 3])
CALLS = {
    "gae": lambda x, cu: rl.gae(x, x + 1, cu, gamma=0.9, lam=0.9),
    "discounted_returns": lambda x, cu: rl.discounted_returns(x, cu, gamma=0.9),
    "vtrace": lambda x, cu: rl.vtrace(x * 0, x, x + 1, cu, gamma=0.9),
    "group_advantages": lambda x, cu: rl.group_advantages(x, [0, 0, 0]),
    "process_advantages": lambda x, cu: rl.process_advantages(x, x > 0, cu, [0, 0]),
    "leave_one_out": lambda x, cu: rl.leave_one_out(x, [0, 0, 0]),
    "opo": lambda x, cu: rl.opo(x, [1, 2, 3], [0, 0, 0]),
    "maxrl": lambda x, cu: rl.maxrl(x * 0, [0, 0, 0]),
    "passk_advantages": lambda x, cu: rl.passk_advantages(x, [0, 0, 0], k=2),
    "passk_training_advantages": lambda x, cu: rl.passk_training_advantages(x * 0, [0, 0, 0], k=2),
    "whiten": lambda x, cu: rl.whiten(x),
    "kl_estimate": lambda x, cu: rl.kl_estimate(x, x + 1),
    "kl_shaped_rewards": lambda x, cu: rl.kl_shaped_rewards(x[:2], x, x + 1, cu),
    "reinforce_pp": lambda x, cu: rl.reinforce_pp(x, cu),
    "reinforce_pp_baseline": lambda x, cu: rl.reinforce_pp_baseline(x, [1, 2, 3], [0, 0, 0]),
    "adaptive_entropy": lambda x, cu: rl.adaptive_entropy(x, cu, alpha=0.1, beta=1.0),
    "trajectory_pruning": lambda x, cu: rl.trajectory_pruning(x, cu, ratio=0.5),
}


def each(answer):
    return answer if isinstance(answer, tuple) else (answer,)


def test_every_function_that_takes_arrays_is_called_here():
    arrays = {name for name in rl.__all__ if name[0].islower()}
    assert arrays - {"group_stats", "moments", "pass_at_k", "maj_at_k"} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_in_gives_torch_out_and_the_same_numbers(name, dtype):
    plain = np.array([0.5, 1.0, 0.25], dtype)
    from_numpy = each(CALLS[name](plain, CU))
    from_torch = each(CALLS[name](torch.from_numpy(plain.copy()), torch.from_numpy(CU)))
    for one, other in zip(from_numpy, from_torch, strict=True):
        assert isinstance(one, np.ndarray)
        assert isinstance(other, torch.Tensor)
        assert one.dtype in (dtype, np.int64, np.bool_)
        assert np.array_equal(one, other.numpy())


@pytest.mark.parametrize("name", CALLS)
def test_inputs_are_left_as_they_were(name):
    x = np.array([0.5, 1.0, 0.25])
    CALLS[name](x, CU)
    assert x.tolist() == [0.5, 1.0, 0.25]


def test_a_tensor_that_needs_a_gradient_is_read_without_it():
    x = torch.tensor([1.0, 0.0], requires_grad=True)
    assert not rl.group_advantages(x, [0, 0]).requires_grad


def test_out_may_be_a_tensor_and_is_written_in_place():
    out = torch.zeros(2)
    assert rl.leave_one_out(torch.tensor([1.0, 0.0]), [0, 0], out=out) is out
    assert out.tolist() == [1.0, -1.0]


GOOD = np.ones(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(3, np.float16), GOOD, CU), "rewards: expected an array of float32 or float64, got float16"),
        ((np.ones(3, int), GOOD, CU), "rewards: expected an array of float32 or float64, got int64"),
        (
            (torch.ones(3, dtype=torch.bfloat16), GOOD, CU),
            "rewards: expected .* got bfloat16; pass x.float()",
        ),
        ((GOOD, np.ones(3, np.float32), CU), "values: expected an array of float64, got float32"),
        ((np.ones((3, 1)), GOOD, CU), r"rewards: shape \(3, 1\) is not flat"),
        ((np.ones(6)[::2], GOOD, CU), "rewards: the array is not C-contiguous"),
        ((torch.ones(6)[::2], GOOD, CU), "rewards: the tensor is not contiguous"),
        ((np.frombuffer(bytes(25), offset=1), GOOD, CU), "rewards: the array is not aligned"),
        (([1.0, 1.0, 1.0], GOOD, CU), "rewards: expected a numpy array or a torch tensor, got list"),
        ((GOOD, np.ones(2), CU), "values: 2 elements, but cu_seqlens has 3 tokens"),
        ((GOOD, GOOD, CU.astype(np.int16)), "cu_seqlens: expected an array of int32 or int64, got int16"),
        ((GOOD, GOOD, np.array([], int)), "cu_seqlens: empty; it starts with 0 and ends with 3"),
        ((GOOD, GOOD, np.array([1, 3])), r"cu_seqlens\[0\]: 1 is not 0"),
        (
            (GOOD, GOOD, np.array([0, 2, 1, 3])),
            r"cu_seqlens\[2\]: 1 is less than 2 before it; offsets never decrease",
        ),
        ((GOOD, GOOD, np.array([0, -1, 3])), r"cu_seqlens\[1\]: -1 is less than 0 before it"),
        ((GOOD, GOOD, np.array([0, 2])), r"cu_seqlens\[1\]: 2 is not 3, the length of rewards"),
    ],
)
def test_an_array_that_does_not_fit_is_named(arguments, message):
    with pytest.raises(ArrayError, match=message):
        rl.gae(*arguments, gamma=1.0, lam=1.0)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mask": np.ones(2, bool)}, "mask: 2 elements, but cu_seqlens has 3 tokens"),
        ({"mask": np.ones(3)}, "mask: expected an array of bool or uint8, got float64; pass mask.astype"),
        ({"bootstrap": np.ones(3)}, "bootstrap: 3 elements, but cu_seqlens has 2 sequences"),
        ({"bootstrap": np.ones(2, np.float32)}, "bootstrap: expected an array of float64, got float32"),
        ({"out": (np.ones(2), np.ones(3))}, r"out\[0\]: shape \(2,\) is not \(3,\)"),
        ({"out": (np.ones(3), np.ones(3, np.float32))}, "returns: expected an array of float64, got float32"),
        ({"holes": "skip"}, "holes: 'skip' is not one of 'carry', 'decay', 'ignore', 'reset'"),
    ],
)
def test_an_option_that_does_not_fit_is_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        rl.gae(GOOD, GOOD, CU, gamma=1.0, lam=1.0, **keywords)


def test_an_output_may_not_share_memory_with_an_input():
    x = np.ones(3)
    with pytest.raises(ArrayError, match="out: shares memory with x; pass another array"):
        rl.whiten(x, out=x)
    long = np.ones(4)
    with pytest.raises(ArrayError, match="out: shares memory with rewards"):
        rl.discounted_returns(long[:3], CU, gamma=1.0, out=long[1:])
    tensor = torch.ones(4)
    with pytest.raises(ArrayError, match="returns: shares memory with values"):
        rl.gae(torch.ones(3), tensor[:3], CU, gamma=1.0, lam=1.0, out=(torch.ones(3), tensor[1:]))
    both = np.ones(3)
    with pytest.raises(ArrayError, match="returns: shares memory with advantages"):
        rl.gae(x, np.ones(3), CU, gamma=1.0, lam=1.0, out=(both, both))


def test_inputs_may_share_memory_with_each_other():
    assert rl.gae(GOOD, GOOD, CU, gamma=1.0, lam=1.0)[0].shape == (3,)


def test_a_read_only_output_is_refused():
    out = np.ones(3)
    out.flags.writeable = False
    with pytest.raises(ArrayError, match="out: the array is read-only"):
        rl.whiten(np.arange(3.0), out=out)


def test_nothing_is_a_batch_too():
    nothing, zero = np.ones(0), np.array([0])
    assert rl.gae(nothing, nothing, zero, gamma=1.0, lam=1.0)[0].shape == (0,)
    assert rl.group_advantages(nothing, []).shape == (0,)
    assert rl.whiten(nothing).shape == (0,)
    assert rl.kl_estimate(nothing, nothing).shape == (0,)
    assert rl.trajectory_pruning(nothing, zero, ratio=0.5)[0].shape == (0,)
    assert rl.pass_at_k([], [], 1).shape == (0,)
    assert rl.gae(nothing, nothing, np.array([0, 0, 0]), gamma=1.0, lam=1.0)[0].shape == (0,)
