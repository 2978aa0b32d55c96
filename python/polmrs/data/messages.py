"""Messages with typed content, and how much the loss counts each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from polmrs.errors import UsageError


@dataclass(frozen=True)
class Text:
    """Words."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture, by its path or address."""

    source: str


@dataclass(frozen=True)
class Audio:
    """A recording, by its path or address."""

    source: str


@dataclass(frozen=True)
class ToolCall:
    """What the model asks a tool to do."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered."""

    text: str
    id: str | None = None
    """The call that this answers."""


Content: TypeAlias = Text | Image | Audio | ToolCall | ToolResult


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    >>> Message.of("user", "Hello").weight, Message.of("assistant", "Hello to you").weight
    (0.0, 1.0)
    """

    role: str
    """``system``, ``user``, ``assistant`` or ``tool``; a chat template may know others."""
    content: tuple[Content, ...]
    weight: float
    """What the loss of each of its tokens is multiplied by; 0 trains nothing on it."""

    def __post_init__(self) -> None:
        """Refuses what no template can render and no loss can count."""
        if not self.role:
            raise UsageError("role: a message without one")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise UsageError(f"weight: {self.weight} of a {self.role} message is not a number from 0 up")

    @classmethod
    def of(cls, role: str, text: str, *, weight: float | None = None) -> Message:
        """A message that is only text.

        Args:
            role: Whose turn it is.
            text: What is said.
            weight: Of its loss; 1 for the assistant and 0 for others if not given.

        Raises:
            UsageError: There is no role, or the weight is negative or not finite.
        """
        return cls(role, (Text(text),), float(role == "assistant") if weight is None else weight)

    @property
    def text(self) -> str:
        """Its texts, end to end; pictures, recordings and tools leave no trace here."""
        return "".join(part.text for part in self.content if isinstance(part, Text))


Turns: TypeAlias = str | tuple[Message, ...]
"""Plain text, which is continued as it stands, or messages, which go through a chat template."""


def joined(before: Turns, after: Turns) -> Turns:
    """One after the other.

    Raises:
        UsageError: One is plain text and the other is messages.

    >>> joined("2 + 2 =", " 4")
    '2 + 2 = 4'
    """
    if isinstance(before, str) and isinstance(after, str):
        return before + after
    if isinstance(before, tuple) and isinstance(after, tuple):
        return before + after
    raise UsageError("prompt and completion: one is plain text and the other messages; make both the same")
