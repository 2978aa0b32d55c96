"""Greedy soup: models are averaged one by one, as long as a score does not fall (arXiv:2203.05482, Recipe 1).

```
sort the models by score, best first;  soup = the best
for every other model, in order:  keep it in the soup if score(average(soup + model)) >= score(average(soup))
```
Every average is made anew from its members, never from an earlier average that was rounded. Uniform and weighted soups
are ``Linear()`` and ``Linear(weight=...)``. On the command line: ``polmrs soup``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from polmrs import _core
from polmrs.errors import UsageError
from polmrs.merge.method import PathOrName
from polmrs.merge.methods import Linear
from polmrs.merge.run import Progress, StateDict, merge
from polmrs.merge.sweeps import Score


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One model that was tried: its score alone, that of the soup with it, and whether it stayed."""

    model: str
    alone: float
    with_it: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Soup:
    """What came of it: the members in the order in which they came in, the soup's score, everything that was tried.

    ``merged`` is the table that a folder's ``polmrs_soup.json`` has, where one was written, else the state dict.
    """

    members: tuple[str, ...]
    score: float
    tried: tuple[Tried, ...]
    merged: dict[str, Any]


def greedy_soup(
    models: Sequence[PathOrName] | Mapping[str, StateDict],
    *,
    score: Callable[[Any], float] | Score,
    to: str | PathLike[str] | None = None,
    maximize: bool = True,
    dtype: str | None = None,
    out_dtype: str | None = None,
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
) -> Soup:
    """The average of those models that, best first, do not make the score fall.

    ``models`` are folders, with the soup's folder in ``to``, or ``{name: state dict}``. ``score`` gets the folder (a
    ``Path``) or the state dict of a model or of an average, and gives a finite number: higher is better, lower without
    ``maximize``; for folders it may be a command, as for ``sweep``. It is called once for each model and at most once for
    each average. All other arguments are those of ``merge``.

    Averages of folders stand in ``TO.partial``, the best and the one being made. What was scored stays there if the run is
    interrupted or ``score`` fails: with ``resume`` it is not done again, if models, inputs and the command are the same
    (nobody can tell about a function). ``polmrs_soup.json`` in ``to`` has all that was tried.

    Raises ``UsageError`` if there are no models or a score is not finite, and what ``merge`` and ``score`` raise.

    >>> import numpy as np
    >>> models = {name: {"w": np.array([x])} for name, x in {"a": 1.0, "b": -0.8, "c": 9.0}.items()}
    >>> soup = greedy_soup(models, score=lambda tensors: -abs(tensors["w"][0]))
    >>> soup.members, round(float(soup.merged["w"][0]), 3)
    (('b', 'a'), 0.1)
    """
    if isinstance(models, Mapping):
        if to is not None:
            raise UsageError("to: state dicts merge in memory; save the result, or pass paths")
        if not callable(score):
            raise UsageError("score: a command scores folders; state dicts need a function")
        return _in_memory(
            models,
            score,
            maximize,
            dtype=dtype,
            out_dtype=out_dtype,
            threads=threads,
            max_memory=max_memory,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
        )
    if to is None:
        raise UsageError("to: a soup of folders needs a folder to write")
    table = json.loads(
        _core.merge.soup_folder(
            [fspath(model) for model in models],
            fspath(to),
            score=score,
            maximize=maximize,
            dtype=dtype,
            out_dtype=out_dtype,
            threads=threads,
            shard_size=shard_size,
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
    tried = tuple(Tried(**row) for row in table["tried"])
    return Soup(members=tuple(table["members"]), score=table["score"], tried=tried, merged=table)


def _in_memory(
    models: Mapping[str, StateDict], score: Callable[[Any], float], maximize: bool, **options: Any
) -> Soup:
    names = list(models)

    def average(members: Sequence[int]) -> dict[str, Any]:
        return merge({names[at]: models[names[at]] for at in members}, method=Linear(), **options)

    def scored(members: list[int]) -> float:
        value = float(score(models[names[members[0]]] if len(members) == 1 else average(members)))
        if math.isfinite(value):
            return value
        what = ", ".join(names[at] for at in members)
        what = what if len(members) == 1 else f"the average of {what}"
        raise UsageError(f"score: {value} for {what} is not a finite number")

    members, reached, tried = _core.merge.greedy_recipe(len(names), maximize, scored)
    return Soup(
        members=tuple(names[at] for at in members),
        score=reached,
        tried=tuple(
            Tried(model=names[at], alone=alone, with_it=with_it, kept=kept)
            for at, alone, with_it, kept in tried
        ),
        merged=average(members),
    )
