"""What near-duplicates and contamination are looked for in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from polmrs.data.store import TokenStore
from polmrs.errors import ArrayError, UsageError

Documents: TypeAlias = Sequence[str] | TokenStore
Unit: TypeAlias = Literal["word", "char"]


def given(documents: Documents) -> Any:
    """Documents as the kernels take them."""
    if isinstance(documents, TokenStore):
        return documents.ids, documents.offsets
    return texts("documents", documents)


def texts(name: str, given: Sequence[str]) -> list[str]:
    """Texts as a list; a lone string, or anything else among them, is refused."""
    if isinstance(given, str):
        raise UsageError(f"{name}: one string; pass a list of texts")
    found = list(given)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise ArrayError(f"{name}[{i}]: expected a string, got {type(text).__name__}")
    return found


def positive(name: str, n: int) -> int:
    """A number of words, at least 1."""
    if n < 1:
        raise UsageError(f"{name}: {n} is not 1 or more")
    return n
