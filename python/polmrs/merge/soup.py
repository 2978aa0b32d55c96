"""Greedy soup: models are averaged one by one, as long as a score does not fall (arXiv:2203.05482, Recipe 1).

```
sort the models by score, best first;  soup = the best
for every other model, in order:  keep it in the soup if score(average(soup + model)) >= score(average(soup))
```
Every average is made anew from its members, never from an earlier average that was rounded. Uniform and weighted soups
are ``Linear()`` and ``Linear(weight=...)``.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

from polmrs.errors import OutputExistsError, UsageError
from polmrs.merge.method import PathOrName
from polmrs.merge.methods import Linear
from polmrs.merge.run import StateDict, merge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


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

    ``merged`` is the merge's report where a folder was written, else the state dict.
    """

    members: tuple[str, ...]
    score: float
    tried: tuple[Tried, ...]
    merged: dict[str, Any]


def greedy_soup(
    models: Sequence[PathOrName] | Mapping[str, StateDict],
    *,
    score: Callable[[Any], float],
    to: PathOrName | None = None,
    maximize: bool = True,
    overwrite: bool = False,
    **options: Any,
) -> Soup:
    """The average of those models that, best first, do not make the score fall.

    ``models`` are folders, with the soup's folder in ``to``, or ``{name: state dict}``. ``score`` gets the folder (a
    ``Path``) or the state dict of a model or of an average, and gives a finite number: higher is better, lower without
    ``maximize``. It is called once for each model and once for each average. ``options`` are those of ``merge``: ``dtype``,
    ``out_dtype``, ``threads``, and so on. Averages of folders that are being scored stand beside ``to`` and are removed.

    Raises ``UsageError`` if there are no models or a score is not finite, and what ``merge`` and ``score`` raise.

    >>> import numpy as np
    >>> models = {name: {"w": np.array([x])} for name, x in {"a": 1.0, "b": -0.8, "c": 9.0}.items()}
    >>> soup = greedy_soup(models, score=lambda tensors: -abs(tensors["w"][0]))
    >>> soup.members, round(float(soup.merged["w"][0]), 3)
    (('b', 'a'), 0.1)
    """
    kitchen = (
        _in_memory(models, to, options)
        if isinstance(models, Mapping)
        else _Folders(models, to, overwrite, options)
    )
    sign = 1.0 if maximize else -1.0

    def scored(model: Any, what: str) -> float:
        value = float(score(model))
        if not math.isfinite(value):
            raise UsageError(f"score: {value} for {what} is not a finite number")
        return value

    alone = {name: scored(kitchen.model(name), name) for name in kitchen.names}
    best, *others = sorted(alone, key=lambda name: -sign * alone[name])
    members, reached = [best], alone[best]
    tried = [Tried(model=best, alone=reached, with_it=reached, kept=True)]
    for name in others:
        with kitchen.average([*members, name]) as average:
            value = scored(average, f"the average of {', '.join([*members, name])}")
        kept = sign * value >= sign * reached
        if kept:
            members.append(name)
            reached = value
        tried.append(Tried(model=name, alone=alone[name], with_it=value, kept=kept))
    return Soup(members=tuple(members), score=reached, tried=tuple(tried), merged=kitchen.serve(members))


class _Folders:
    """Averages of model folders, made beside the output."""

    def __init__(
        self, models: Sequence[PathOrName], to: PathOrName | None, overwrite: bool, options: dict[str, Any]
    ) -> None:
        if to is None:
            raise UsageError("to: a soup of folders needs a folder to write")
        self.to, self.overwrite, self.options = Path(to), overwrite, options
        if self.to.exists() and not overwrite:  # better now than after the last score
            raise OutputExistsError(f"{self.to}: exists; pass overwrite=True to replace it")
        self.names = _distinct([fspath(model) for model in models])

    def model(self, name: str) -> Path:
        return Path(name)

    @contextmanager
    def average(self, members: list[str]) -> Iterator[Path]:
        self.to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.to.name}.soup-", dir=self.to.parent) as folder:
            merge(members, method=Linear(), to=Path(folder) / "average", **self.options)
            yield Path(folder) / "average"

    def serve(self, members: list[str]) -> dict[str, Any]:
        return merge(members, method=Linear(), to=self.to, overwrite=self.overwrite, **self.options)


class _StateDicts:
    """Averages of state dicts."""

    def __init__(self, models: Mapping[str, StateDict], options: dict[str, Any]) -> None:
        self.models, self.options = models, options
        self.names = _distinct(list(models))

    def model(self, name: str) -> StateDict:
        return self.models[name]

    @contextmanager
    def average(self, members: list[str]) -> Iterator[StateDict]:
        yield self.serve(members)

    def serve(self, members: list[str]) -> dict[str, Any]:
        return merge({name: self.models[name] for name in members}, method=Linear(), **self.options)


def _in_memory(
    models: Mapping[str, StateDict], to: PathOrName | None, options: dict[str, Any]
) -> _StateDicts:
    if to is not None:
        raise UsageError("to: state dicts merge in memory; save the result, or pass paths")
    return _StateDicts(models, options)


def _distinct(names: list[str]) -> list[str]:
    if not names:
        raise UsageError("models: a soup needs at least one")
    if len(set(names)) != len(names):
        raise UsageError("models: the same model is given twice")
    return names
