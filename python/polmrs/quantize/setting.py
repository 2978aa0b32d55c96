"""What a scheme or a method is in Python: a frozen dataclass that says itself as the command line takes it."""

from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A row of the native tables with its settings; the generated classes in ``polmrs.quantize.schemes`` are the rows."""

    name: ClassVar[str]

    def __str__(self) -> str:
        """The name, and the settings after it: ``w4a16 group=64 asym``."""
        words = [self.name]
        for field in fields(self):
            value = getattr(self, field.name)
            if value is True:
                words.append(field.name)
            elif value is not False:
                words.append(f"{field.name}={value}")
        return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class Scheme(Setting):
    """What weights become."""


@dataclass(frozen=True, kw_only=True)
class Method(Setting):
    """How codes are found."""
