"""The nearest vectors of every vector, and how many of them another encoder's vectors share."""

from typing import Any

import numpy as np

NEAREST = 10


def nearest(vectors: Any) -> Any:
    """[n, 10] the others with the largest cosine, of [n, dim] vectors of length 1."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]


def shared(found: Any, true: Any) -> float:
    """Recall: the share of the true ones that were found, in any order."""
    return float(np.mean([np.isin(theirs, ours) for ours, theirs in zip(found, true, strict=True)]))
