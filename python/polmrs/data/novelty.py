"""The pool filter of Self-Instruct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polmrs import _core
from polmrs.data.documents import texts


@dataclass(frozen=True, kw_only=True, eq=False)
class Novel:
    """What became of each candidate."""

    partner: npt.NDArray[np.int64]
    """[candidates]: -1 if it was kept, else the number of the text it is most like in ``[*pool, *candidates]``."""
    score: npt.NDArray[np.float64]
    """[candidates]: the F-measure with the partner; 0 for what was kept."""
    compared: int
    """How many pairs were compared; the others could not reach the threshold."""

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """The candidates that were kept."""
        return np.flatnonzero(self.partner < 0)


def novel(
    candidates: Sequence[str],
    pool: Sequence[str] = (),
    *,
    threshold: float = 0.7,
    stemmer: bool = False,
    prune: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Novel:
    """Keeps a text if its ROUGE-L with every text of the pool is below a threshold; what is kept joins the pool.

    Self-Instruct, arXiv:2212.10560, section 2.2. A common subsequence is no longer than the tokens that two texts share,
    so an index of rare tokens finds every text that can reach the threshold, and only those are compared. Kept texts,
    partners and scores are exactly those of comparing with all.

    Args:
        candidates: The texts, in the order in which they may join.
        pool: Texts that are there already, and stay.
        threshold: The F-measure from which a text goes, in (0, 1].
        stemmer: As in ``rouge_l``.
        prune: False compares with all.
        progress: Called with bytes done and bytes in all.

    Raises:
        UsageError: The threshold is out of range.

    >>> found = novel(["Write a poem.", "write a poem", "Add two numbers."], pool=["Sing a song."])
    >>> found.kept, found.partner
    (array([0, 2]), array([-1,  1, -1]))
    """
    partner, score, compared = _core.data.novel(
        texts("candidates", candidates), texts("pool", pool), threshold, stemmer, prune, progress
    )
    return Novel(partner=partner, score=score, compared=compared)
