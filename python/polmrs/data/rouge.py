"""ROUGE-L, equal to the last digit to the package rouge-score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polmrs import _core
from polmrs.data.documents import texts


@dataclass(frozen=True, kw_only=True, eq=False)
class Rouge:
    """Scores, one of each for a pair of texts, float64 from 0 to 1."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    fmeasure: npt.NDArray[np.float64]


def rouge_l(predictions: Sequence[str], references: Sequence[str], *, stemmer: bool = False) -> Rouge:
    r"""ROUGE-L of texts, pair by pair (Lin, 2004).

    With the longest common subsequence $c$ of the tokens of prediction ($a$) and reference ($b$):

    $$ P = c / a, \quad R = c / b, \quad F = 2 P R / (P + R) $$

    Tokens are runs of ``a-z0-9`` of the lower-case text, as in rouge-score; other scripts have none, and score 0.

    Args:
        predictions: [pairs]
        references: [pairs]
        stemmer: Whether tokens of more than three letters are stemmed (rouge-score's ``use_stemmer``).

    Raises:
        ArrayError: The two are not as long as each other.

    >>> rouge_l(["the cat sat"], ["the cat sat down"]).fmeasure.round(4)
    array([0.8571])
    """
    precision, recall, fmeasure = _core.data.rouge_l(
        texts("predictions", predictions), texts("references", references), stemmer
    )
    return Rouge(precision=precision, recall=recall, fmeasure=fmeasure)


def rouge_l_pool(candidate: str, pool: Sequence[str], *, stemmer: bool = False) -> Rouge:
    """ROUGE-L of one text, as the prediction, with every text of a pool.

    Args:
        candidate: The text.
        pool: [texts]
        stemmer: As in ``rouge_l``.

    >>> rouge_l_pool("a b", ["a b", "b a", "c"]).fmeasure
    array([1. , 0.5, 0. ])
    """
    precision, recall, fmeasure = _core.data.rouge_l_pool(candidate, texts("pool", pool), stemmer)
    return Rouge(precision=precision, recall=recall, fmeasure=fmeasure)


def porter_stem(word: str) -> str:
    """The stem of an English word: Porter's algorithm (1980) with the extensions of NLTK.

    Args:
        word: ASCII letters and digits; upper case is lowered.

    Raises:
        UsageError: The word has other characters.

    >>> [porter_stem(word) for word in ("relational", "hopping", "skies")]
    ['relat', 'hop', 'sky']
    """
    return _core.data.porter_stem(word)
