"""Vectors that lie in clusters, as embeddings do, and the scores that a few lines of numpy give."""

import hashlib

import numpy as np
from polmrs import rag

KINDS = [rag.Flat(), *(rag.Quantized(bits=bits) for bits in (1, 4, 8))]


def clustered(n, dim, seed=0, clusters=40):
    """Rows around a few centres whose coordinates fall off, and a mean that is not zero."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, dim + 1) ** -0.5
    centres = rng.standard_normal((clusters, dim)) * spread + 0.3 * spread
    return (centres[rng.integers(clusters, size=n)] + 0.7 * rng.standard_normal((n, dim)) * spread).astype(
        np.float32
    )


def scores(metric, queries, vectors):
    """[queries, vectors] in float64, rounded once."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return np.stack([-((one - x) ** 2).sum(-1) for one in q]).astype(np.float32)
    dots = q @ x.T
    if metric == "cosine":
        norms = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)[None]
        dots = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    return dots.astype(np.float32)


def best(metric, queries, vectors, k):
    """The numbers of the best rows, equal scores by number."""
    return np.argsort(-scores(metric, queries, vectors), axis=1, kind="stable")[:, :k]


def recall(hits, wanted):
    """The share of the true neighbours that was found."""
    found = [len(set(map(int, ids)) & set(row.tolist())) for ids, row in zip(hits.ids, wanted, strict=True)]
    return sum(found) / wanted.size


def filled(vectors, ids=None, **settings):
    """An index of vectors under their numbers."""
    index = rag.Index(vectors.shape[1], **settings)
    index.add(range(len(vectors)) if ids is None else ids, vectors)
    return index


def few_by_few(index, queries, k):
    """Hits of queries that are not asked in batches, which some kinds of indexes answer in another way."""
    parts = [index.search(queries[first : first + 5], k) for first in range(0, len(queries), 5)]
    return rag.Hits(
        [one for hits in parts for one in hits.ids], [one for hits in parts for one in hits.scores]
    )


def digest():
    """Ids and scores of searches that no setting of the environment may change."""
    state = hashlib.sha256()
    for kind in KINDS:
        index, asked = filled(clustered(1200, 70), kind=kind, metric="l2"), clustered(60, 70, seed=1)
        for hits in (index.search(asked, 10), few_by_few(index, asked[:30], 10)):
            state.update(np.stack(hits.ids).tobytes() + np.stack(hits.scores).tobytes())
    return state.hexdigest()
