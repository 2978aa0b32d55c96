"""Merging state dicts in memory: what goes in, what comes out, and who is told what went wrong."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import polmrs.merge as pm
import pytest
import torch
from merge.made import same_bits
from polmrs import _tensor
from polmrs.errors import ArrayError, CheckpointError, ConfigError, PolmrsError, UsageError


def linear(*arrays, **options):
    return pm.merge(
        {f"m{at}": {"w": array} for at, array in enumerate(arrays)}, method=pm.Linear(), **options
    )["w"]


# In and out


def test_torch_goes_in_and_torch_comes_out():
    for dtype in (
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ):
        result = linear(torch.ones(2, 3).to(dtype), torch.ones(2, 3).to(dtype))
        assert same_bits(result, torch.ones(2, 3).to(dtype))


def test_numpy_goes_in_and_numpy_comes_out():
    for dtype in (
        np.float32,
        np.float64,
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
    ):
        result = linear(np.ones((2, 3), dtype), np.ones((2, 3), dtype))
        assert isinstance(result, np.ndarray)
        assert (result.dtype, result.shape) == (dtype, (2, 3))
        assert (result == 1).all()


def test_the_first_model_decides_what_comes_out():
    assert isinstance(linear(torch.ones(2), np.ones(2, np.float32)), torch.Tensor)
    assert isinstance(linear(np.ones(2, np.float32), torch.ones(2)), np.ndarray)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4, 5)])
@pytest.mark.parametrize(
    "method", [pm.Linear(), pm.TIES(density=0.5), pm.DARE(density=0.5), pm.SLERP(t=0.5)], ids=lambda m: m.name
)
def test_every_shape_comes_back(shape, method):
    base = {"w": torch.ones(shape)} if method.base == "required" else None
    assert pm.merge({"m": {"w": torch.ones(shape)}}, base=base, method=method)["w"].shape == shape


def test_tensors_come_back_in_the_order_of_the_base():
    names = ["z", "a", "m"]
    base = {name: torch.zeros(1) for name in names}
    model = {name: torch.ones(1) for name in sorted(names)}
    assert list(pm.merge({"m": model}, base=base, method=pm.TaskArithmetic())) == names


def test_arrays_are_read_in_place():
    for x in (np.ones(5, np.float32), np.ones((), np.float16), np.ones((2, 2), ml_dtypes.bfloat16)):
        assert np.shares_memory(_tensor.to_bits("x", x)[1], x)
    for t in (
        torch.ones(5),
        torch.ones(()),
        torch.ones(2, 2, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.float8_e5m2),
    ):
        assert _tensor.to_bits("t", t)[1].__array_interface__["data"][0] == t.data_ptr()


def test_results_are_not_copied_again():
    bits = np.arange(4, dtype=np.uint16)
    assert np.shares_memory(_tensor.from_bits("float16", bits, torch_wanted=False), bits)
    assert (
        _tensor.from_bits("bfloat16", bits, torch_wanted=True).data_ptr()
        == bits.__array_interface__["data"][0]
    )


@pytest.mark.parametrize(
    "method",
    [pm.TIES(density=0.5, rescale=True), pm.DARE(density=0.5), pm.SLERP(t=0.5)],
    ids=lambda m: m.name,
)
def test_inputs_are_left_as_they_were(method):
    base, model = torch.randn(100_000), torch.randn(100_000)
    copies = base.clone(), model.clone()
    result = pm.merge({"m": {"w": model}}, base={"w": base}, method=method)["w"]
    assert same_bits(base, copies[0])
    assert same_bits(model, copies[1])
    assert result.data_ptr() not in (base.data_ptr(), model.data_ptr())
    result.zero_()  # ours alone
    assert same_bits(base, copies[0])


def test_read_only_and_tracked_arrays_are_fine_as_inputs():
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    assert (linear(frozen, frozen) == 1).all()
    assert (linear(np.frombuffer(bytes(12), np.float32)) == 0).all()
    tracked = linear(torch.ones(3, requires_grad=True))
    assert torch.equal(tracked, torch.ones(3))
    assert not tracked.requires_grad


def test_one_array_may_be_in_several_places():
    x = torch.randn(1000)
    models = {"a": {"v": x, "w": x}, "b": {"v": x, "w": x[:]}}
    result = pm.merge(models, method=pm.Linear())
    assert torch.equal(result["v"], result["w"])
    overlapping = torch.arange(10.0)
    assert torch.equal(linear(overlapping[:6], overlapping[4:]), torch.arange(2.0, 8.0))


def test_integers_must_agree():
    ids = torch.arange(5)
    assert same_bits(linear(ids, ids.clone()), ids)
    with pytest.raises(CheckpointError, match="w: m0 and m1 hold different values; I64 is not averaged"):
        linear(ids, ids + 1)
    with pytest.raises(CheckpointError, match="'w': types I64, F32 do not go together"):
        linear(ids, ids.float())


# What is refused


def unaligned():
    return np.frombuffer(b"x" + np.ones(4, np.float32).tobytes(), np.uint8)[1:].view(np.float32)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 4), np.float32)[:, ::2], r"m0\['w'\]: the array is not C-contiguous; pass np.ascontiguousarray"),
        (np.ones((2, 3), np.float32).T, r"m0\['w'\]: the array is not C-contiguous"),
        (np.ones(3, np.float32)[::-1], r"m0\['w'\]: the array is not C-contiguous"),
        (np.broadcast_to(np.float32(1), (3,)), r"m0\['w'\]: the array is not C-contiguous"),
        (np.asfortranarray(np.ones((2, 3), np.float32)), r"m0\['w'\]: the array is not C-contiguous"),
        (np.ones(3, ">f4"), r"m0\['w'\]: dtype >f4 is big-endian; pass a little-endian copy"),
        (np.ones(3, np.complex128), r"m0\['w'\]: dtype complex128 is not a number"),
        (np.ones(3, np.complex64), "complex64"),
        (np.array(["a"], object), r"m0\['w'\]: dtype object is not a number"),
        (np.array(["ab"]), "is not"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.zeros(2, [("a", "f4")]), "is not one that polmrs knows"),
        (np.zeros(2, np.longdouble), "is not a number of 1, 2, 4 or 8 bytes"),
        (unaligned(), "align"),
        ([1.0, 2.0], r"m0\['w'\]: expected a numpy array or a torch tensor, got list"),
        (None, "got NoneType"),
        (torch.ones(4, 4)[:, ::2], r"m0\['w'\]: the tensor is not contiguous; pass x.contiguous\(\)"),
        (torch.ones(2, 3).T, "not contiguous"),
        (torch.ones(1).expand(3), "not contiguous"),
        (torch.ones(3, device="meta"), r"m0\['w'\]: the tensor is on meta; pass x.cpu\(\)"),
        (torch.ones(3, dtype=torch.complex64), "complex64"),
        (torch.ones(3, dtype=torch.complex128), "complex128"),
        (torch.ones(2, 2).to_sparse(), r"m0\['w'\]"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)  # fmt: skip
def test_what_is_no_plain_array_of_numbers_is_refused(array, message):
    with pytest.raises(ArrayError, match=message) as raised:
        linear(array)
    assert isinstance(raised.value, ValueError)


def test_types_that_numpy_lacks_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(
        ArrayError, match="numpy has no bfloat16; pass torch tensors, another out_dtype, or install ml_dtypes"
    ):
        linear(np.ones(2, np.float32), out_dtype="bfloat16")
    assert linear(np.ones(2, np.float32), out_dtype="float16").dtype == np.float16


def test_names_and_shapes_must_agree():
    one, two = {"w": torch.ones(2)}, {"w": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"b: 'w' has shape \[3\], but \[2\] in a"):
        pm.merge({"a": one, "b": two}, method=pm.Linear())
    with pytest.raises(CheckpointError, match=r"b: tensor 'weight' of a is missing; did you mean 'wieght'\?"):
        pm.merge({"a": {"weight": torch.ones(2)}, "b": {"wieght": torch.ones(2)}}, method=pm.Linear())
    with pytest.raises(CheckpointError, match=r"b: tensor 'v' is not in a"):
        pm.merge({"a": one, "b": one | {"v": torch.ones(1)}}, method=pm.Linear())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": None}, UsageError, "method: missing"),
        ({"to": "out", "method": pm.Linear()}, UsageError, "to: state dicts merge in memory"),
        ({"base": "nobody", "method": pm.TIES()}, UsageError, r"base: 'nobody' is not one of the models 'a', 'b'"),
        ({"base": "a", "method": pm.Linear()}, UsageError, "base: linear has none"),
        ({"method": pm.TIES()}, ConfigError, "'base_model' is missing; ties needs it"),
        ({"method": pm.Linear(), "dtype": "bfloat61"}, ConfigError, "dtype: 'bfloat61' is not one of"),
        ({"method": pm.Linear(), "threads": 0}, UsageError, "threads: 0 is not at least 1"),
        ({"method": pm.TIES(density=[0.5]), "base": {"w": torch.ones(2)}}, ConfigError, "ties.density: 1 values for 2 models"),
    ],
)  # fmt: skip
def test_a_call_that_makes_no_sense_is_refused(arguments, error, message):
    with pytest.raises(error, match=message) as raised:
        pm.merge({"a": {"w": torch.ones(2)}, "b": {"w": torch.zeros(2)}}, **arguments)
    assert isinstance(raised.value, PolmrsError)


def test_paths_need_a_folder_to_write_and_a_method():
    with pytest.raises(UsageError, match="to: a merge of paths needs a folder to write"):
        pm.merge(["a", "b"], method=pm.Linear())
    with pytest.raises(UsageError, match="method: missing"):
        pm.merge(["a", "b"], to="out")
    with pytest.raises(
        UsageError, match="a configuration file says the base, the method and all else itself"
    ):
        pm.merge("c.yml", to="out", method=pm.Linear())
    with pytest.raises(ConfigError, match="the same model is given twice"):
        pm.merge(["a", "a"], to="out", method=pm.Linear())


def test_an_error_about_a_tensor_without_elements_ends_the_merge():
    code = """
import numpy as np
import polmrs.merge as pm
for _ in range(300):
    try:
        pm.merge({name: {"w": np.zeros(0, np.float32)} for name in "abc"}, method=pm.MultiSLERP(), threads=4)
    except ValueError:
        pass
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


# The base


def test_the_base_is_a_state_dict_or_the_name_of_a_model():
    base, model = {"w": torch.zeros(3)}, {"w": torch.ones(3)}
    for models, given in [
        ({"m": model}, base),
        ({"base": base, "m": model}, "base"),
        ({"m": model, "b": base}, "b"),
    ]:
        result = pm.merge(models, base=given, method=pm.TaskArithmetic(weight=0.5))
        assert torch.equal(result["w"], torch.full((3,), 0.5))
    with pytest.raises(UsageError, match="one is called 'base'; pass base='base'"):
        pm.merge({"base": base, "m": model}, base=base, method=pm.TaskArithmetic())


def test_weights_are_those_of_the_models_without_the_base():
    models = {"a": {"w": torch.ones(1)}, "zero": {"w": torch.zeros(1)}, "b": {"w": torch.ones(1) * 10}}
    assert pm.merge(models, base="zero", method=pm.TaskArithmetic(weight=[1, 2]))["w"].item() == 21


# Progress


@pytest.fixture(scope="module")
def long():
    """Arguments of a merge of some hundred milliseconds."""
    x = np.random.default_rng(0).normal(size=1 << 24).astype(np.float32)
    return {
        "models": {"a": {"w": x}, "b": {"w": x[::-1].copy()}},
        "base": {"w": np.zeros_like(x)},
        "threads": 1,
        "method": pm.TIES(density=0.3),
    }


def test_progress_is_told_in_bytes(long):
    seen = []
    pm.merge(**long, progress=lambda done, total: seen.append((done, total)))
    assert seen
    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert all(0 <= done <= total for done, total in seen)
    assert len(set(seen)) == len(seen)


def test_an_exception_in_progress_cancels_and_is_raised(long):
    calls = []

    def stop(done, total):
        calls.append(done)
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        pm.merge(**long, progress=stop)
    assert len(calls) == 1


def test_a_cancelled_merge_of_folders_leaves_no_output(long, tmp_path):
    from safetensors.numpy import save_file

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file(long["models"][name], tmp_path / name / "model.safetensors")

    def stop(done, total):
        raise LookupError("enough")

    models, method = [tmp_path / "b"], pm.DARETIES(density=0.5)
    with pytest.raises(LookupError, match="enough"):
        pm.merge(models, base=tmp_path / "a", method=method, to=tmp_path / "out", threads=1, progress=stop)
    assert not (tmp_path / "out").exists()
    pm.merge(models, base=tmp_path / "a", method=method, to=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]
