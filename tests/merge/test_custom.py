"""Custom: a merge method of one's own."""

import signal
import threading
import time

import numpy as np
import polmrs.merge as pm
import pytest
import torch
from merge.made import fine_tunes, folder, merged, weights
from polmrs.errors import ArrayError, UsageError


def average(name, base, models):
    return sum(models) / np.float32(len(models))


@pytest.mark.parametrize("grain", ["elements", "rows", "tensor"])
@pytest.mark.parametrize("shape", [(7,), (300, 1000), (4, 5, 6), (3, 70_000)], ids=str)
def test_a_function_at_every_grain_makes_the_whole_tensor(grain, shape):
    _, models = fine_tunes("continuous", int(np.prod(shape)))
    models = [model.reshape(shape) for model in models]
    result = merged(pm.Custom(average, grain), models)
    assert result.shape == shape
    assert torch.equal(result, torch.from_numpy(average("w", None, [model.numpy() for model in models])))


def test_a_call_sees_what_its_grain_says():
    shape, seen = (300, 1000), {}
    base, [model] = fine_tunes("continuous", 300_000, 1)

    def look(grain):
        def fn(name, base, models):
            assert (name, len(models), base.dtype, models[0].dtype) == ("w", 1, np.float32, np.float32)
            assert base.shape == models[0].shape
            seen.setdefault(grain, []).append(base.shape)
            return base

        return fn

    for grain in ("elements", "rows", "tensor"):
        result = merged(pm.Custom(look(grain), grain), [model.reshape(shape)], base.reshape(shape), threads=4)
        assert torch.equal(result, base.reshape(shape))
    assert seen["tensor"] == [shape]
    assert seen["elements"] == [(32_768,)] * 9 + [(300_000 - 9 * 32_768,)]
    assert seen["rows"] == [(32, 1000)] * 9 + [(12, 1000)]


def test_calls_come_one_after_the_other_in_order():
    tensors = {f"t{at}": torch.full((70_000,), float(at)) for at in range(5)}
    names, threads = [], set()

    def fn(name, base, models):
        names.append(name)
        threads.add(threading.get_ident())
        return models[0]

    pm.merge({"a": tensors}, method=pm.Custom(fn), threads=4)
    assert names == [name for name in tensors for _ in range(3)]
    assert len(threads) == 1


def test_a_folder_is_merged_and_the_plan_says_how(tmp_path):
    _, models = fine_tunes("continuous", 5000, dtype=torch.bfloat16)
    folders = [folder(tmp_path / f"m{at}", {"a.weight": model}) for at, model in enumerate(models)]
    method = pm.Custom(lambda name, base, models: np.maximum.reduce(models), "elements")
    notes = pm.plan(folders, method=method)["notes"]
    assert any("one block after the other, on one thread, under Python's lock" in note for note in notes)
    assert pm.plan(folders, method=method, threads=4)["threads"] == 1
    pm.merge(folders, method=method, to=tmp_path / "out")
    assert torch.equal(weights(tmp_path / "out")["a.weight"], torch.stack(models).amax(0))


def test_an_exception_comes_back_as_it_is_with_the_tensors_name(tmp_path):
    class MineError(Exception):
        pass

    mine = MineError("no")

    def fn(name, base, models):
        if name == "b":
            raise mine
        return models[0]

    tensors = {name: torch.ones(10) for name in "abc"}
    path = folder(tmp_path / "m", tensors)
    for call in (
        lambda: pm.merge({"m": tensors}, method=pm.Custom(fn)),
        lambda: pm.merge([path], method=pm.Custom(fn), to=tmp_path / "out"),
    ):
        mine.__notes__ = []
        with pytest.raises(MineError) as caught:
            call()
        assert caught.value is mine
        assert mine.__notes__ == ["in polmrs.merge.Custom, at tensor 'b'"]
        assert "in fn" in str(caught.traceback[-1])
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (np.zeros(3), ArrayError),
        (np.float32(1), ArrayError),
        ("x", ValueError),
        (None, (TypeError, ArrayError)),
    ],
    ids=str,
)
def test_a_result_that_is_not_an_array_of_that_shape_is_refused(result, error):
    def fn(name, base, models):
        return result

    with pytest.raises(error) as caught:
        merged(pm.Custom(fn), [torch.ones(10)])
    assert caught.value.__notes__ == ["in polmrs.merge.Custom, at tensor 'w'"]


def test_any_float_array_will_do():
    model = torch.arange(10.0)
    for convert in (np.float64, np.int64, torch.from_numpy, list):
        result = merged(pm.Custom(lambda name, base, models, to=convert: to(models[0])), [model])
        assert torch.equal(result, model)


def test_ctrl_c_stops_between_two_calls():
    calls = []

    def fn(name, base, models):
        calls.append(name)
        time.sleep(0.02)
        return models[0]

    main = threading.main_thread().ident
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        merged(pm.Custom(fn), [torch.ones(65_536 * 400)])
    timer.join()
    assert 0 < len(calls) < 100


def test_what_cannot_be_called_is_refused():
    with pytest.raises(UsageError, match=r"custom.grain: 'layer' is not one of"):
        pm.Custom(average, "layer")
    with pytest.raises(UsageError, match=r"custom.fn: 3 cannot be called"):
        pm.Custom(3)


def test_a_configuration_cannot_name_a_function(tmp_path):
    path = folder(tmp_path / "m", {"w": torch.ones(3)})
    config = tmp_path / "c.yml"
    config.write_text(f"merge_method: custom\nmodels: [{{model: {path}}}]\n")
    with pytest.raises(UsageError, match=r"custom: has no function; from Python, pass polmrs.merge.Custom"):
        pm.merge(config, to=tmp_path / "out")
