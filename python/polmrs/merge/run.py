"""``merge``: from paths, a configuration or state dicts to a folder or a state dict."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from polmrs import _core
from polmrs._tensor import Array, from_bits, is_torch, to_bits
from polmrs.errors import ConfigError, NotFoundError, UsageError
from polmrs.merge.custom import Custom
from polmrs.merge.method import Method, PathOrName

StateDict: TypeAlias = Mapping[str, Array]
"""Tensor names to numpy arrays or CPU torch tensors."""

Progress: TypeAlias = Callable[[int, int], object]
"""Called a few times a second with (done, total), in bytes."""

Combination: TypeAlias = Literal["svd", "cat"]
"""What the factors of a merged adapter are made of: the nearest product of a rank, or the adapters' own side by side."""

Function: TypeAlias = tuple[str, Callable[..., Any]]
"""The grain of a ``Custom`` method, and its function."""


@overload
def merge(
    models: PathOrName | Sequence[PathOrName],
    *,
    to: str | PathLike[str],
    base: PathOrName | None = None,
    method: Method | None = None,
    dtype: str | None = None,
    out_dtype: str | None = None,
    combination_type: Combination | None = None,
    svd_rank: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    shard_size: int = 5_000_000_000,
    overwrite: bool = False,
    resume: bool = False,
    sync_every: int = 1 << 28,
    verify: bool = False,
    report: bool = False,
    max_memory: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]: ...


@overload
def merge(
    models: Mapping[str, StateDict],
    *,
    to: None = None,
    base: StateDict | str | None = None,
    method: Method,
    dtype: str | None = None,
    out_dtype: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    max_memory: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Array]: ...


def merge(
    models: Any,
    *,
    base: Any = None,
    method: Method | None = None,
    to: str | PathLike[str] | None = None,
    dtype: str | None = None,
    out_dtype: str | None = None,
    combination_type: Combination | None = None,
    svd_rank: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    shard_size: int = 5_000_000_000,
    overwrite: bool = False,
    resume: bool = False,
    sync_every: int = 1 << 28,
    verify: bool = False,
    report: bool = False,
    max_memory: int | None = None,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Merges models.

    ``models`` is one of:

    * a sequence of model folders (or .safetensors files), merged by ``method`` into the folder ``to``;
    * a sequence of peft LoRA adapters alone, merged into an adapter without reading a model;
    * the path of a mergekit configuration, merged into ``to``;
    * ``{name: state dict}``, merged in memory; tensors are read in place and the result is new.

    ``base`` is a path, a state dict, or the name of one of the models. ``dtype`` is the type that inputs are rounded to
    first, ``out_dtype`` that of the result (both default to the inputs'); arithmetic is in f32. ``seed`` decides random
    masks: the same seed gives the same bits for any number of threads. Memory stays bounded by buffers, about 300 MB;
    ``max_memory`` sets another bound, in bytes, and refuses a method that needs more for one tensor.

    The factors of a merged adapter are of rank ``svd_rank``, which is the largest of the inputs' if it is not given; with
    ``combination_type="cat"``, for linear methods, they are all inputs' factors side by side, and nothing is lost.

    A merge into a folder that was interrupted leaves ``TO.partial``. With ``resume`` the next one goes on from there, at
    most ``sync_every`` bytes back, to the same bits; without, it starts over. ``verify`` reads the result back and
    compares it with what was written; ``report`` writes ``polmrs_report.json``, which ``polmrs report`` shows.

    Returns the report of a merge into a folder (``polmrs.merge/1``: method, tensors, bytes, seconds), or the state dict:
    torch tensors if the first model has torch tensors, else numpy arrays. Raises ``ConfigError`` for a parameter out
    of its range, ``CheckpointError`` for models that do not fit together, ``NonFiniteError`` for NaN or infinities
    (unless ``allow_nonfinite``), ``OutputExistsError`` if ``to`` exists (unless ``overwrite``).

    >>> import numpy as np
    >>> from polmrs.merge import Linear
    >>> a, b = {"w": np.array([0.0, 2.0])}, {"w": np.array([4.0, 2.0])}
    >>> merge({"a": a, "b": b}, method=Linear(weight=[3, 1]))["w"]
    array([1., 2.])
    """
    if isinstance(models, Mapping):
        if to is not None:
            raise UsageError("to: state dicts merge in memory; save the result, or pass paths")
        state_dicts = _with_base(models, base)
        if (combination_type, svd_rank) != (None, None):
            raise UsageError("combination_type, svd_rank: are for adapters; state dicts merge as models")
        config = _config(list(models), _base_name(base), method, dtype, out_dtype)
        function = _function(method)
        return _merge_arrays(
            config, state_dicts, function, seed, threads, max_memory, allow_nonfinite, progress
        )
    if to is None:
        raise UsageError("to: a merge of paths needs a folder to write")
    text, origin = source(models, base, method, dtype, out_dtype, combination_type, svd_rank)
    done: dict[str, Any] = json.loads(
        _core.merge.merge_folder(
            text,
            origin,
            fspath(to),
            function=_function(method),
            threads=threads,
            shard_size=shard_size,
            seed=seed,
            overwrite=overwrite,
            resume=resume,
            sync_every=sync_every,
            verify=verify,
            report=report,
            max_memory=max_memory,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
        )
    )
    return done


def plan(
    models: PathOrName | Sequence[PathOrName],
    *,
    base: PathOrName | None = None,
    method: Method | None = None,
    dtype: str | None = None,
    out_dtype: str | None = None,
    combination_type: Combination | None = None,
    svd_rank: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    shard_size: int = 5_000_000_000,
    max_memory: int | None = None,
) -> dict[str, Any]:
    """What ``merge`` of the same arguments will read, write and need (``polmrs.plan/1``), from headers alone."""
    text, origin = source(models, base, method, dtype, out_dtype, combination_type, svd_rank)
    described: dict[str, Any] = json.loads(
        _core.merge.plan_folder(
            text,
            origin,
            function=_function(method),
            threads=threads,
            shard_size=shard_size,
            seed=seed,
            max_memory=max_memory,
        )
    )
    return described


def _function(method: Method | None) -> Function | None:
    return (method.grain, method.fn) if isinstance(method, Custom) else None


def source(
    models: PathOrName | Sequence[PathOrName],
    base: PathOrName | None,
    method: Method | None,
    dtype: str | None,
    out_dtype: str | None,
    combination_type: Combination | None,
    svd_rank: int | None,
) -> tuple[str, str]:
    """The configuration's text and what messages call it."""
    if not isinstance(models, str | PathLike):
        names = [fspath(model) for model in models]
        config = _config(names, None if base is None else fspath(base), method, dtype, out_dtype)
        factors = {"combination_type": combination_type, "svd_rank": svd_rank}
        return json.dumps(config | factors), "merge"
    given = (base, method, dtype, out_dtype, combination_type, svd_rank)
    if any(option is not None for option in given):
        raise UsageError("models: a configuration file says the base, the method and all else itself")
    try:
        return Path(models).read_text(encoding="utf-8"), fspath(models)
    except FileNotFoundError:
        raise NotFoundError(f"{fspath(models)}: no such configuration file") from None


def _config(
    models: list[str], base: str | None, method: Method | None, dtype: str | None, out_dtype: str | None
) -> dict[str, Any]:
    """A mergekit configuration from Python's arguments."""
    if method is None:
        raise UsageError("method: missing; pass one of polmrs.merge's, such as TIES(density=0.2)")
    if base is not None and method.base == "none":
        raise UsageError(f"base: {method.name} has none; list it among the models if it is one of them")
    merged = [model for model in models if model != base]
    rows = dict(zip(merged, method.model_parameters(len(merged)), strict=True))
    if len(rows) != len(merged):
        raise ConfigError("models: the same model is given twice")
    config: dict[str, Any] = {
        "merge_method": method.name,
        "models": [{"model": model, "parameters": rows.get(model, {})} for model in models],
        "parameters": method.shared_parameters(),
        "base_model": base,
        "dtype": None if dtype is None else str(dtype),
        "out_dtype": None if out_dtype is None else str(out_dtype),
    }
    return config


_BASE = "base"


def _base_name(base: StateDict | str | None) -> str | None:
    return base if base is None or isinstance(base, str) else _BASE


def _with_base(models: Mapping[str, StateDict], base: StateDict | str | None) -> dict[str, StateDict]:
    """The models, and a base that is a state dict of its own last."""
    if isinstance(base, Mapping):
        if _BASE in models:
            raise UsageError("models: one is called 'base'; pass base='base' to use it as such, or rename it")
        return {**models, _BASE: base}
    if base is not None and base not in models:
        raise UsageError(f"base: {base!r} is not one of the models {', '.join(map(repr, models))}")
    return dict(models)


def _merge_arrays(
    config: dict[str, Any],
    state_dicts: dict[str, StateDict],
    function: Function | None,
    seed: int,
    threads: int | None,
    max_memory: int | None,
    allow_nonfinite: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    models = []
    for model, tensors in state_dicts.items():
        rows = []
        for name, tensor in tensors.items():
            dtype, bits = to_bits(f"{model}[{name!r}]", tensor)
            rows.append((name, dtype, bits))
        models.append((model, rows))
    merged = _core.merge.merge_arrays(
        json.dumps(config),
        models,
        function=function,
        threads=threads,
        seed=seed,
        max_memory=max_memory,
        allow_nonfinite=allow_nonfinite,
        progress=progress,
    )
    first = next(iter(state_dicts.values()), {})
    torch_wanted = any(is_torch(tensor) for tensor in first.values())
    return {name: from_bits(dtype, bits, torch_wanted=torch_wanted) for name, dtype, bits in merged}
