"""Texts cut into passages, with their places in the text."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from polmrs.errors import UsageError

Spans: TypeAlias = Sequence[tuple[int, int]]

_WORD = re.compile(r"\S+")
# A sentence ends with its mark, what closes around it, and white space; in Chinese and Japanese, with the mark; or with an
# empty line.
_CLOSE = "\"'\u201d\u2019\u00bb\u300d\u300f\uff09)\\]"
_END = re.compile(
    rf"(?<![.!?\u2026])[.!?\u2026]+[{_CLOSE}]*(?=\s)|[\u3002\uff01\uff1f]+[{_CLOSE}]*|\n[ \t\r]*(?=\n)"
)
_SHORT = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|(?i:dr|mr|mrs|ms|prof|st|vs|cf|al|fig|eq|sec|no|pp|approx|e\.g|i\.e))\.$"
)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A passage: ``text`` is ``source[start:end]``, in characters, and holds so many tokens of the source."""

    text: str
    start: int
    end: int
    tokens: int


def chunks(
    text: str,
    size: int = 256,
    *,
    overlap: int = 0,
    by: Literal["sentences", "tokens"] = "sentences",
    tokenizer: Callable[[str], Spans] | Any = None,
) -> list[Chunk]:
    """Cuts a text into passages of at most ``size`` tokens, between tokens, and between sentences where that is possible.

    Passages lie side by side, white space and all: without overlap, their texts one after another are the text. A passage
    is longer than ``size`` only where tokens share a character and cannot be parted.

    Args:
        text: The source.
        size: The most tokens of a passage, counted in the whole source; what a model's tokenizer makes of the passage alone
            can be a token more or less.
        overlap: How many tokens of a passage the next repeats, at most.
        by: ``sentences``: a passage ends with a sentence; one that is longer than ``size`` is cut. ``tokens``: a passage
            is as full as can be.
        tokenizer: A fast tokenizer of transformers, or any callable that gives the first character of each token and the
            one after its last. If nothing is said, a token is what stands between white space.

    Returns:
        Passages in order; none for a text without tokens.

    Raises:
        UsageError: ``size``, ``overlap`` or ``by`` is out of range, or the tokenizer gives no places.

    >>> [chunk.text for chunk in chunks("One two. Three four five. Six.", size=4)]
    ['One two. ', 'Three four five. Six.']
    >>> [chunk.text for chunk in chunks("a b c d e", size=3, overlap=1, by="tokens")]
    ['a b c ', 'c d e']
    """
    if size < 1:
        raise UsageError(f"size: {size} is not at least 1")
    if not 0 <= overlap < size:
        raise UsageError(f"overlap: {overlap} is not in [0, {size}), the size")
    if by not in ("sentences", "tokens"):
        raise UsageError(f"by: {by!r} is not one of sentences, tokens")
    spans = _spans(text, tokenizer)
    if not spans:
        return []
    starts = [start for start, _ in spans]
    cuts = _cuts(spans)
    wanted = cuts
    if by == "sentences":
        begins = {bisect_left(starts, place) for place in sentence_starts(text)}
        wanted = [cut for cut in cuts if cut in begins or cut == len(spans)]
    places = [0, *starts[1:], len(text)]
    return [
        Chunk(
            text=text[places[a] : places[b]],
            start=places[a],
            end=places[b],
            tokens=b - a,
        )
        for a, b in _cut(cuts, wanted, size, overlap)
    ]


def sentence_starts(text: str) -> list[int]:
    """Where sentences begin: after a mark and white space, or an empty line; not after an initial or ``e.g.``

    >>> text = "Dr. No came. He left!"
    >>> [text[start:] for start in sentence_starts(text)]
    ['Dr. No came. He left!', 'He left!']
    """
    starts = [0]
    for mark in _END.finditer(text):
        if mark.end() <= starts[-1]:
            continue  # within the white space before the last one
        if mark[0] == "." and _SHORT.search(text, max(0, mark.end() - 12), mark.end()):
            continue
        begin = _WORD.search(text, mark.end())
        if begin is None:
            break
        if begin.start() > starts[-1]:
            starts.append(begin.start())
    return starts


def _spans(text: str, tokenizer: Any) -> Spans:
    """Places of tokens, in order, without empty ones."""
    if tokenizer is None:
        return [found.span() for found in _WORD.finditer(text)]
    if hasattr(tokenizer, "is_fast"):
        if not tokenizer.is_fast:
            raise UsageError(
                f"tokenizer: {type(tokenizer).__name__} does not know the places of tokens; take a fast one"
            )
        given: Iterable[tuple[int, int]] = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )["offset_mapping"]
    else:
        given = tokenizer(text)
    spans = [(int(start), int(end)) for start, end in given if end > start]
    last = 0
    for start, end in spans:
        if start < last or end > len(text):
            raise UsageError(f"tokenizer: a token at {start}..{end} is not in order within {len(text)}")
        last = start
    return spans


def _cuts(spans: Spans) -> list[int]:
    """The tokens before which the text may be cut: those that share no character with one before. And the end."""
    cuts, reached = [], 0
    for at, (start, end) in enumerate(spans):
        if start >= reached or at == 0:
            cuts.append(at)
        reached = max(reached, end)
    return [*cuts, len(spans)]


def _cut(cuts: Sequence[int], wanted: Sequence[int], size: int, overlap: int) -> list[tuple[int, int]]:
    """From token to token: up to the last wanted cut within reach, or else the last cut, or else the next."""
    passages: list[tuple[int, int]] = []
    begin, before = 0, 0
    while before < cuts[-1]:
        end = _last(wanted, before, begin + size)
        if end is None and begin < before:
            begin = before  # what would be repeated leaves no room
            continue
        end = end or _last(cuts, before, begin + size) or cuts[bisect_right(cuts, before)]
        passages.append((begin, end))
        among = wanted if _last(wanted, end - 1, end) else cuts  # a sentence that was cut is repeated in part
        begin, before = among[bisect_left(among, max(begin + 1, end - overlap))], end
    return passages


def _last(cuts: Sequence[int], after: int, limit: int) -> int | None:
    """The last cut up to a limit, if it lies after another."""
    found = cuts[bisect_right(cuts, limit) - 1]
    return found if found > after else None
