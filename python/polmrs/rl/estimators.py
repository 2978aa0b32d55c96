"""Unbiased pass@k and maj@k from n >= k samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from polmrs import _core
from polmrs._arrays import GroupIds, group_ids, integers, mask_bytes
from polmrs._tensor import Array


def pass_at_k(
    samples: Array | Sequence[int], correct: Array | Sequence[int], k: int
) -> npt.NDArray[np.float64]:
    r"""For each problem, the chance that k of its samples hold a right one (Chen et al., arXiv:2107.03374, eq. 1).

    $$ 1 - \binom{n - c}{k} \Big/ \binom{n}{k} $$

    Args:
        samples: [problems], how many samples n were drawn; at least k.
        correct: [problems], how many of them c are right.
        k: The size of the draw.

    Returns:
        [problems], float64, in [0, 1].

    Raises:
        ArrayError: A count is negative, c is more than n, or n is less than k.
        UsageError: ``k`` is less than 1.

    >>> pass_at_k([10, 10, 10], [0, 3, 10], k=2).round(4)
    array([0.    , 0.5333, 1.    ])
    """
    n = integers("samples", samples)
    chances = np.empty(len(n))
    _core.rl.pass_at_k(n, integers("correct", correct), k, chances)
    return chances


def maj_at_k(
    answers: Array | Sequence[int],
    correct: Array,
    groups: GroupIds,
    k: int,
    *,
    ties: Literal["shared", "lost"] = "shared",
) -> npt.NDArray[np.float64]:
    """For each group, the chance that the plurality vote of k of its samples is right (self-consistency, arXiv:2203.11171).

    Exact over all subsets of k samples, to about 1e-12: no subset is drawn.

    Args:
        answers: [samples], a number for each distinct answer of a group; negative for a sample that gave none.
        correct: [samples], bool or uint8, whether the answer is right.
        groups: [samples], the prompt of each sample.
        k: The size of the draw.
        ties: ``shared``: each of the leading answers wins with equal chance, which is also what "the first to appear"
            gives over random orders; ``lost``: a tied vote is wrong.

    Returns:
        [groups], float64, in order of first appearance.

    Raises:
        ArrayError: A group has fewer than k samples, or one answer is both right and wrong.
        UsageError: ``k`` is less than 1.

    >>> import numpy as np
    >>> maj_at_k([1, 1, 2, 3], np.array([True, True, False, False]), [0, 0, 0, 0], k=3).round(4)
    array([0.6667])
    >>> maj_at_k([1, 1, 2, 3], np.array([True, True, False, False]), [0, 0, 0, 0], k=2).round(4)
    array([0.5])
    """
    ids = group_ids(groups)
    votes = _core.rl.maj_at_k(integers("answers", answers), mask_bytes("correct", correct), ids, k, ties)
    return np.array(votes)
