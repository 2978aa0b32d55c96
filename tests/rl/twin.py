"""The kernels again, as short loops of float64 in the order that the documentation gives."""

import itertools
import math

import numpy as np


def sequences(cu_seqlens):
    return [range(a, b) for a, b in itertools.pairwise(int(c) for c in cu_seqlens)]


def step_back(holes, after, now):
    """The state that a hole hands on."""
    return {"carry": after, "reset": tuple(0.0 for _ in after)}.get(holes, now)


def gae(rewards, values, cu_seqlens, *, gamma, lam, lam_value=None, mask=None, bootstrap=None, holes="carry"):
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    advantages, returns = np.zeros(len(rewards)), np.zeros(len(rewards))
    lam_value = lam if lam_value is None else lam_value
    for i, tokens in enumerate(sequences(cu_seqlens)):
        state = (0.0 if bootstrap is None else float(bootstrap[i]), 0.0, 0.0)
        for t in reversed(tokens):
            here = mask is None or bool(mask[t])
            r, v = (0.0, 0.0) if holes == "decay" and not here else (rewards[t], values[t])
            delta = r + gamma * state[0] - v
            a, b = delta + (gamma * lam) * state[1], delta + (gamma * lam_value) * state[2]
            if here:
                advantages[t], returns[t] = a, b + v
            state = (v, a, b) if here else step_back(holes, state, (v, a, b))
    return advantages, returns


def discounted_returns(rewards, cu_seqlens, *, gamma, mask=None, bootstrap=None, holes="carry"):
    out = np.zeros(len(rewards))
    for i, tokens in enumerate(sequences(cu_seqlens)):
        state = (0.0 if bootstrap is None else float(bootstrap[i]),)
        for t in reversed(tokens):
            here = mask is None or bool(mask[t])
            r = 0.0 if holes == "decay" and not here else float(rewards[t])
            now = (r + gamma * state[0],)
            if here:
                out[t] = now[0]
            state = now if here else step_back(holes, state, now)
    return out


def vtrace(
    log_ratios,
    rewards,
    values,
    cu_seqlens,
    *,
    gamma,
    lam,
    rho_bar,
    c_bar,
    mask=None,
    bootstrap=None,
    holes="carry",
):
    advantages, targets = np.zeros(len(rewards)), np.zeros(len(rewards))
    for i, tokens in enumerate(sequences(cu_seqlens)):
        state = (0.0 if bootstrap is None else float(bootstrap[i]), 0.0)
        for t in reversed(tokens):
            here = mask is None or bool(mask[t])
            blank = holes == "decay" and not here
            d, r, v = (0.0, 0.0, 0.0) if blank else (float(x[t]) for x in (log_ratios, rewards, values))
            ratio = math.exp(d)
            rho, c = min(rho_bar, ratio), lam * min(c_bar, ratio)
            excess = rho * (r + gamma * state[0] - v) + gamma * c * state[1]
            if here:
                advantages[t] = rho * (r + gamma * (state[0] + state[1]) - v)
                targets[t] = v + excess
            state = (v, excess) if here else step_back(holes, state, (v, excess))
    return advantages, targets


def add(numbers):
    """The sum, from left to right."""
    total = 0.0
    for number in numbers:
        total += float(number)
    return total


def by_group(rewards, groups, advantages):
    """``advantages(rewards, samples)`` for each group of two or more scored rewards that differ; 0 elsewhere."""
    out = np.zeros(len(rewards))
    for group in dict.fromkeys(groups):
        samples = [i for i, g in enumerate(groups) if g == group and not np.isnan(rewards[i])]
        scored = [float(rewards[i]) for i in samples]
        if len(set(scored)) > 1:
            out[samples] = advantages(scored, samples)
    return out


def normalised(rewards, scale, ddof, eps):
    mean = add(rewards) / len(rewards)
    if scale == "std":
        divisor = math.sqrt(add((r - mean) * (r - mean) for r in rewards) / (len(rewards) - ddof)) + eps
    elif scale == "mad":
        divisor = add(abs(r - mean) for r in rewards) / len(rewards) + eps
    else:
        divisor = 1.0
    return [(r - mean) / divisor for r in rewards]


def lanes(x):
    """The sum of a block: sixteen lanes, folded in halves."""
    padded = np.zeros(-(-len(x) // 16) * 16)
    padded[: len(x)] = x
    sums = np.zeros(16)
    for row in padded.reshape(-1, 16):
        sums += row
    for width in (8, 4, 2, 1):
        sums[:width] += sums[width : 2 * width]
    return float(sums[0])


def moments(x, mask=None, block=32_768):
    """(n, mean, m2) by blocks, merged in order by Chan's rule."""
    x = np.asarray(x, np.float64).reshape(-1)
    keep = np.ones(len(x), bool) if mask is None else np.asarray(mask, bool).reshape(-1)
    n, mean, m2 = 0.0, 0.0, 0.0
    for start in range(0, len(x), block):
        part, kept = x[start : start + block], keep[start : start + block]
        count = float(kept.sum())
        if count == 0:
            continue
        centre = lanes(np.where(kept, part, 0.0)) / count
        squares = lanes(np.where(kept, (part - centre) * (part - centre), 0.0))
        if n == 0:
            n, mean, m2 = count, centre, squares
            continue
        apart, both = centre - mean, n + count
        mean, m2, n = (
            mean + apart * (count / both),
            m2 + squares + apart * apart * (n * count / both),
            both,
        )
    return n, mean, m2
