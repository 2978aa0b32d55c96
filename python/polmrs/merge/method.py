"""What a merge method is in Python: a frozen dataclass that writes its part of a configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from os import PathLike, fspath
from typing import Any, ClassVar, Literal, TypeAlias

from polmrs.errors import ConfigError

BaseRole: TypeAlias = Literal["required", "optional", "none"]
"""Whether a method takes a base model."""

PathOrName: TypeAlias = str | PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Method:
    """The base of all merge methods; the generated classes in ``polmrs.merge.methods`` are the methods."""

    name: ClassVar[str]
    base: ClassVar[BaseRole]
    per_model: ClassVar[tuple[str, ...]]

    def shared_parameters(self) -> dict[str, Any]:
        """The parameters for all models, under their names in a configuration."""
        names = (field.name for field in fields(self) if field.name not in self.per_model)
        return {name.rstrip("_"): _plain(getattr(self, name)) for name in names}

    def model_parameters(self, models: int) -> list[dict[str, Any]]:
        """The parameters of each of ``models`` models.

        Raises ``ConfigError`` if a sequence does not have one value a model.
        """
        rows: list[dict[str, Any]] = [{} for _ in range(models)]
        for name in self.per_model:
            value = _plain(getattr(self, name))
            several = isinstance(value, Sequence) and not isinstance(value, str)
            values = [_plain(one) for one in value] if several else [value] * models
            if len(values) != models:
                raise ConfigError(f"{self.name}.{name}: {len(values)} values for {models} models")
            for row, one in zip(rows, values, strict=True):
                row[name] = one
        return rows


def _plain(value: Any) -> Any:
    """A number or a list of numbers of Python's own, from numpy's or torch's; a path as text."""
    if isinstance(value, PathLike):
        return fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value
