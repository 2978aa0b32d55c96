"""Made texts, and what Lucene's formula finds in them."""

import numpy as np
from ann import K
from search_ours import K1, B

WORDS = 30_000


def made_texts(n: int, queries: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Passages as numbers of words, as rare as in a language (Zipf and Mandelbrot), and queries of three to eight words of others."""
    rng = np.random.default_rng(seed)
    chance = 1 / (np.arange(WORDS) + 2.7)
    lengths = rng.lognormal(4.2, 0.5, n + queries).astype(int).clip(8, 400)
    words = rng.choice(WORDS, lengths.sum(), p=chance / chance.sum())
    bags = np.split(words, np.cumsum(lengths)[:-1])
    asked = [rng.permutation(np.unique(bag))[: rng.integers(3, 9)] for bag in bags[n:]]
    return bags[:n], asked


def text(words: np.ndarray) -> str:
    return " ".join(f"w{word}" for word in words)


def best_ten(bags: list[np.ndarray], asked: list[np.ndarray]) -> np.ndarray:
    """[queries, 10] the best passages by Lucene's formula in float64, equal scores by number."""
    n, lengths = len(bags), np.array([len(bag) for bag in bags])
    pairs, counts = np.unique(np.concatenate(bags) * n + np.repeat(np.arange(n), lengths), return_counts=True)
    words, rows = np.divmod(pairs, n)
    starts = np.searchsorted(words, np.arange(WORDS + 1))
    having = np.diff(starts)
    idf = np.log(1 + (n - having + 0.5) / (having + 0.5))
    impact = idf[words] * counts / (counts + K1 * (1 - B + B * (lengths / lengths.mean())[rows]))
    best = []
    for query in asked:
        scores = np.zeros(n)
        for word in query:
            span = slice(starts[word], starts[word + 1])
            scores[rows[span]] += impact[span]
        ten = np.argsort(-scores, kind="stable")[:K]
        best.append(np.where(scores[ten] > 0, ten, -1))
    return np.stack(best)
