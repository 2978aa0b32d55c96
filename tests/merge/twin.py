"""The merge methods once more, in numpy: short and obvious, in f32 and in the order in which polmrs computes.

Tensors are flat float32 arrays. Where the order of every operation is fixed, results are equal bit for bit.
"""

import math

import numpy as np

F = np.float32
BLOCK, LANES = 32_768, 16


def linear(xs, weights, normalize=True):
    """sum_i w_i x_i / sum_i w_i."""
    out = np.zeros_like(xs[0])
    for x, weight in zip(xs, weights, strict=True):
        out += x * F(weight)
    return out / total(weights) if normalize else out


def slerp(a, b, t):
    """Along the arc from a to b, or along the chord where they are nearly parallel."""
    length = [math.sqrt(square) if math.sqrt(square) > 1e-8 else 1.0 for square in (dot(a, a), dot(b, b))]
    cosine = min(max(dot(a, b) / (length[0] * length[1]), -1.0), 1.0)
    if abs(cosine) > 0.9995:
        return a * F(1 - t) + b * F(t)
    angle = math.acos(cosine)
    return a * F(math.sin((1 - t) * angle) / math.sin(angle)) + b * F(math.sin(t * angle) / math.sin(angle))


def task_vectors(base, xs, weights, *, keep=None, consensus=False, normalize=False, rescale=False, scale=1.0):
    """The family of task arithmetic, TIES and DARE; ``keep[i]`` masks the elements of model i that stay."""
    shares = []
    for model, (x, weight) in enumerate(zip(xs, weights, strict=True)):
        delta = x - base
        kept = delta if keep is None else np.where(keep[model], delta, F(0))
        factor = l1_factor(delta, kept) if rescale else F(1)
        shares.append(kept * factor * F(weight))
    merged = ordered(shares)
    if not consensus:
        divisor = total(weights) if normalize and abs(total(weights)) >= F(1e-8) else F(1)
        return base + merged / divisor * F(scale)
    agrees = [np.where(merged >= 0, share > 0, share < 0) for share in shares]
    merged = ordered([np.where(agree, share, F(0)) for agree, share in zip(agrees, shares, strict=True)])
    divisor = ordered(
        [np.where(agree, F(weight), F(0)) for agree, weight in zip(agrees, weights, strict=True)]
    )
    divisor = np.where((divisor != 0) & normalize, divisor, F(1))
    return base + merged / divisor * F(scale)


def largest(delta, density):
    """TIES' mask: the largest magnitudes; of equal ones, those with the lowest index."""
    count = 0 if density <= 0 else min(max(1, int(density * delta.size)), delta.size)
    mask = np.zeros(delta.size, bool)
    mask[np.argsort(-np.abs(delta), kind="stable")[:count]] = True
    return mask


def drawn(size, density, *, seed=0, tensor="w", model=0):
    """DARE's mask of one model."""
    return philox(key(seed, tensor, f"dare:{model}"), size) < round(density * 2**32)


def drawn_by_rank(delta, columns, density, epsilon, *, seed=0, tensor="w", model=0):
    """DELLA's mask: a row's smallest stays with probability density - epsilon, its largest with density + epsilon."""
    rows = delta.reshape(-1, columns)
    # Ascending magnitude; among equals, the lowest index ranks highest.
    order = np.lexsort((-np.arange(columns)[None].repeat(len(rows), 0), np.abs(rows)), axis=1)
    rank = np.argsort(order, axis=1)
    share = rank / (columns - 1) if columns > 1 else np.full(rows.shape, 0.5)
    threshold = np.round(((density - epsilon) + 2 * epsilon * share) * 2**32)
    return philox(key(seed, tensor, f"della:{model}"), delta.size) < threshold.reshape(-1)


def fusion(a, b):
    """Arcee Fusion's importance of every element of two matrices, and its threshold."""

    def softmax(x):
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True) + 1e-8

    p, q = softmax(b.astype(np.float64)), softmax(a.astype(np.float64))
    score = np.abs(b - a) * (p * np.log(p / q)).sum(1, keepdims=True).astype(F)
    ordered_scores = np.sort(score, axis=None)
    q1, median, q3 = (ordered_scores[int(at * (score.size - 1))] for at in (0.25, 0.5, 0.75))
    return score, median + F(1.5) * (q3 - q1)


def l1_factor(delta, kept):
    """What brings ``kept`` to the L1 norm of ``delta``."""
    before, after = (block_sum(np.abs(x).astype(np.float64)) for x in (delta, kept))
    return F(1) if min(before, after) < 1e-7 else F(before / after)


def total(weights):
    """The sum of the weights in f32, in the order of the models."""
    return ordered([F(weight) for weight in weights])


def ordered(terms):
    """A sum in the order of the models."""
    result = terms[0] * F(0)
    for term in terms:
        result = result + term
    return result


def dot(x, y):
    """The dot product as an ordered f64 sum."""
    return block_sum(x.astype(np.float64) * y)


def block_sum(terms):
    """Sixteen lanes inside blocks of 32,768 elements, lanes folded in halves, blocks added in order."""
    result = 0.0
    for start in range(0, terms.size, BLOCK):
        block = terms[start : start + BLOCK]
        lanes = np.zeros((-(-block.size // LANES), LANES))
        lanes.flat[: block.size] = block
        sums = np.add.accumulate(lanes, axis=0)[-1]
        while sums.size > 1:
            sums = sums[: sums.size // 2] + sums[sums.size // 2 :]
        result += float(sums[0])
    return result


def key(seed, tensor, stream):
    """Philox's key: FNV-1a over the length-prefixed parts, then the finaliser of SplitMix64."""
    state, wrap = 0xCBF29CE484222325, 2**64 - 1
    parts = seed.to_bytes(8, "little")
    for part in (tensor.encode(), stream.encode()):
        parts += len(part).to_bytes(8, "little") + part
    for byte in parts:
        state = (state ^ byte) * 0x100000001B3 & wrap
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & wrap
    state = (state ^ state >> 27) * 0x94D049BB133111EB & wrap
    state ^= state >> 31
    return state & 0xFFFFFFFF, state >> 32


def philox(key, size):
    """The random words of elements 0 .. size: Philox4x32-10; element 64 g + 16 j + i has word j of counter 16 g + i."""
    low = np.uint64(0xFFFFFFFF)
    counter = np.arange(-(-size // 64) * 16, dtype=np.uint64)
    words = [counter & low, counter >> np.uint64(32), np.zeros_like(counter), np.zeros_like(counter)]
    for step in range(10):
        keys = [
            np.uint64((word + step * weyl) & 0xFFFFFFFF)
            for word, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)
        ]
        a, b = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            b >> np.uint64(32) ^ words[1] ^ keys[0],
            b & low,
            a >> np.uint64(32) ^ words[3] ^ keys[1],
            a & low,
        ]
    return np.stack(words).reshape(4, -1, 16).swapaxes(0, 1).reshape(-1)[:size]
