"""Linear mode connectivity: how far the loss rises on the straight line between two models."""

import polmrs.merge as pm
import pytest
import torch
from merge.made import folder
from merge.made import weights as tensors_of
from polmrs.errors import UsageError
from torch import nn

pytestmark = pytest.mark.method("merge.lmc")


def two_wells(tensors):
    return ((tensors["w"].double() ** 2 - 1) ** 2).mean().item()


def test_a_barrier_is_the_rise_above_the_chord():
    a, b = {"w": torch.tensor([-1.0])}, {"w": torch.tensor([1.5])}
    found = pm.lmc(a, b, loss=two_wells, steps=21)
    ends = two_wells(a), two_wells(b)
    rises = []
    for t, loss in zip(found.ts, found.losses, strict=True):
        x = {"w": ((1 - t) * a["w"].double() + t * b["w"].double()).float()}
        assert loss == pytest.approx(two_wells(x), abs=1e-6)
        rises.append(loss - (1 - t) * ends[0] - t * ends[1])
    assert found.barrier == max(rises) > 0.4
    assert found.at == found.ts[rises.index(max(rises))]


def test_a_convex_loss_has_no_barrier():
    a, b = {"w": torch.tensor([-1.0, 3])}, {"w": torch.tensor([1.0, 2])}
    found = pm.lmc(a, b, loss=lambda tensors: tensors["w"].double().square().sum().item())
    assert found.barrier == 0
    assert len(found.losses) == 11


def test_the_ends_are_the_models_themselves(tmp_path):
    a, b = (folder(tmp_path / name, {"w": torch.tensor([x])}) for name, x in {"a": -1.0, "b": 1.0}.items())
    seen = []

    def loss(path):
        seen.append(path)
        return two_wells(tensors_of(path))

    found = pm.lmc(a, b, loss=loss, steps=3)
    assert (seen[0], seen[-1], found.losses) == (a, b, (0, 1, 0))
    assert not seen[1].exists()


def permuted(state, order):
    """The same two-layer network with its hidden units in another order."""
    return {"0.weight": state["0.weight"][order], "0.bias": state["0.bias"][order],
            "2.weight": state["2.weight"][:, order], "2.bias": state["2.bias"]}  # fmt: skip


@pytest.fixture
def one_thread():
    """Threads of torch that wait for each other cost more than so small a network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_trained_network_and_its_permutation_are_one_function_with_a_barrier_between():
    torch.manual_seed(0)
    x = torch.rand(512, 2) * 2 - 1
    y = (x[:, :1] * x[:, 1:] > 0).float()
    network = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 1))
    score = nn.BCEWithLogitsLoss()
    weights = list(network.parameters())
    speed = [torch.zeros_like(weight) for weight in weights]
    for _ in range(300):  # gradient descent with momentum
        gradients = torch.autograd.grad(score(network(x), y), weights)
        for weight, moving, gradient in zip(weights, speed, gradients, strict=True):
            moving.mul_(0.9).add_(gradient)
            weight.data.sub_(0.3 * moving)

    def loss(tensors):
        with torch.no_grad():
            return score(torch.func.functional_call(network, dict(tensors), (x,)), y).item()

    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    other = {name: value.contiguous() for name, value in permuted(state, torch.randperm(24)).items()}
    found = pm.lmc(state, other, loss=loss, steps=9)
    assert found.losses[0] < 0.1
    assert found.losses[-1] == pytest.approx(found.losses[0], abs=1e-4)
    assert found.barrier > 0.2
    assert pm.lmc(state, state, loss=loss, steps=5).barrier < 1e-4


def test_slips_are_refused():
    a = {"w": torch.zeros(1)}
    with pytest.raises(UsageError, match="steps: 1 is not 2 or more"):
        pm.lmc(a, a, loss=two_wells, steps=1)
    with pytest.raises(UsageError, match="one is a state dict and the other is not"):
        pm.lmc(a, "b", loss=two_wells)
