"""Word n-grams that a training set shares with test sets."""

from __future__ import annotations

from dataclasses import dataclass

from polmrs import _core
from polmrs.data.documents import Documents, Unit, given, positive


@dataclass(frozen=True, kw_only=True)
class Match:
    """Words of a training document that also stand in a test item, in that order. Places count words from 0."""

    train: int
    """The training document."""
    test: int
    """The test item."""
    train_word: int
    """Where the words begin in the training document."""
    test_word: int
    """Where they begin in the test item."""
    words: int
    """How many there are."""


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """What was found."""

    matches: list[Match]
    """In the order of training documents, then test items."""
    skipped: list[int]
    """Test items of too few words to look for."""
    passed_over: int
    """N-grams that stand in too many training documents to be evidence."""

    @property
    def train(self) -> list[int]:
        """The training documents with a match."""
        return sorted({match.train for match in self.matches})

    @property
    def tests(self) -> list[int]:
        """The test items with a match."""
        return sorted({match.test for match in self.matches})


def contamination(
    train: Documents,
    tests: Documents,
    *,
    n: int = 13,
    least: int = 8,
    common: int | None = None,
    unit: Unit = "word",
) -> Contamination:
    """Looks for the n-grams of test items in training documents (Brown et al., arXiv:2005.14165, appendix C).

    That paper takes n between 8 and 13 by the length of the test items, and passes over n-grams that stand in more than
    10 training documents: here, an item of fewer than ``n`` words is looked for whole if it has ``least`` words, and
    ``common=10`` is the second rule. Words are runs of letters and digits in lower case. Hits are compared word by word.

    Args:
        train: Texts, or rows of tokens.
        tests: Texts, or rows of tokens by the same tokenizer.
        n: Words (or tokens) of an n-gram.
        least: The fewest words of a test item that is looked for, at most ``n``.
        common: In how many training documents an n-gram may stand.
        unit: ``word`` or ``char``; see ``near_duplicates``.

    Raises:
        UsageError: A setting is out of range.

    >>> found = contamination(["so: one two three four five"], ["One, two, three!"], n=3, least=3)
    >>> found.matches
    [Match(train=0, test=0, train_word=1, test_word=0, words=3)]
    """
    matches, skipped, passed_over = _core.data.contamination(
        given(train), given(tests), unit, positive("n", n), positive("least", least), common
    )
    names = ("train", "test", "train_word", "test_word", "words")
    return Contamination(
        matches=[Match(**dict(zip(names, match, strict=True))) for match in matches],
        skipped=skipped,
        passed_over=passed_over,
    )


def word_spans(text: str, *, unit: Unit = "word") -> list[tuple[int, int]]:
    """Where the words of a text stand, as ``contamination`` counts them: begin and end of each, in characters.

    Args:
        text: The text.
        unit: As in ``contamination``.

    >>> text = "so: one two"
    >>> [text[begin:end] for begin, end in word_spans(text)]
    ['so', 'one', 'two']
    """
    return _core.data.words(text, unit)
