"""``sweep``: one merge with several values of some parameters, every combination scored, the best kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

from polmrs import _core
from polmrs.errors import UsageError
from polmrs.merge.method import Method, PathOrName
from polmrs.merge.run import Combination, Progress, source

Score: TypeAlias = Callable[[Path], float] | str | Sequence[str]
"""A function of a model's folder, or a command: one line, or its words, with ``{out}`` where the folder goes."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One combination of values, by parameter, and its score."""

    parameters: dict[str, Any]
    score: float


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The best candidate, which is in the output folder, and all of them in the order in which they were tried."""

    best: Candidate
    candidates: tuple[Candidate, ...]


def sweep(
    models: PathOrName | Sequence[PathOrName],
    *,
    over: Mapping[str, Sequence[Any]],
    score: Score,
    to: str | PathLike[str],
    maximize: bool = True,
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
) -> Sweep:
    """Merges with every combination of the values ``over`` has, and keeps the one with the best score in ``to``.

    ``over={"density": [0.1, 0.3], "weight": [0.5, 1.0]}`` is four candidates, the last parameter changing fastest; of
    equal scores the first wins. A value replaces whatever the configuration says of the parameter, at any place, by filter
    or by layer; ``"models[1].weight"`` is the weight at that place alone. A list as a value is a gradient over layers. In a file
    of several documents these are the parameters of the result's document; what comes before it is merged once.

    ``score`` gets the ``Path`` of a candidate's folder and gives a finite number; a command prints it in its last line.
    The best candidate and the one being made are the only ones on the disk, in ``TO.partial``. What was scored stays there
    if the sweep is interrupted or ``score`` fails: with ``resume`` it is not done again, if configuration, candidates,
    inputs and the command are the same (nobody can tell about a function). ``polmrs_sweep.json`` in ``to`` has the table.

    All other arguments are those of ``merge``. Every candidate is planned before the first is merged. Raises as ``merge``
    does, ``UsageError`` for a parameter that the method does not have or a score that is no finite number, and what
    ``score`` raises.

    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import load_file, save_file
    >>> from polmrs.merge import Linear
    >>> home = Path(tempfile.mkdtemp())
    >>> for name, value in {"a": 0.0, "b": 10.0}.items():
    ...     save_file({"w": np.full(3, value, np.float32)}, home / f"{name}.safetensors")
    >>> found = sweep(
    ...     [home / "a.safetensors", home / "b.safetensors"],
    ...     method=Linear(),
    ...     over={"models[1].weight": [0.25, 1.0, 4.0]},
    ...     score=lambda folder: abs(float(load_file(folder / "model.safetensors")["w"][0]) - 2.5),
    ...     maximize=False,
    ...     to=home / "best",
    ... )
    >>> found.best
    Candidate(parameters={'models[1].weight': 0.25}, score=0.5)
    """
    if isinstance(models, Mapping):
        raise UsageError("models: a sweep is over folders or files; state dicts merge in memory")
    text, origin = source(models, base, method, dtype, out_dtype, combination_type, svd_rank)
    table = json.loads(
        _core.merge.sweep_folder(
            text,
            origin,
            fspath(to),
            over=json.dumps({name.rstrip("_"): list(values) for name, values in over.items()}),
            score=score,
            maximize=maximize,
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
    candidates = tuple(Candidate(**row) for row in table["candidates"])
    return Sweep(best=candidates[table["best"]["candidate"]], candidates=candidates)
