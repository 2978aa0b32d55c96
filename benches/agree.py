"""Whether the results of two programs agree: within rounding, or, for random merges, in their statistics."""

import numpy as np
from checkpoints import Bits, wide
from numpy.typing import NDArray

LARGE_TENSOR = 500_000  # elements; below, the figures of one random mask are too noisy to compare
NEAR = 0.02  # two random masks of a large tensor differ by less, 5 deviations out


def equal(name: str, ours: dict[str, Bits], theirs: dict[str, Bits], most: float) -> bool:
    """Whether all but a share of the elements are within 1 ulp, or 4e-6 of the tensor's deviation near a cancellation."""
    refuse_other_tensors(ours, theirs)
    total = same = beyond = 0
    for tensor, a in ours.items():
        b = theirs[tensor]
        total += a.size
        same += int(np.count_nonzero(a == b))
        far = np.flatnonzero(np.abs(ordered(a) - ordered(b)) > 1)
        if far.size:
            difference = np.abs(wide(a[far]) - wide(b[far]))
            beyond += int(np.count_nonzero(difference > 4e-6 * wide(b).std()))
    kept = beyond <= most * total
    print(
        f"{name}: results: {same / total:.4%} of {total:,} elements have the same bits, {beyond / total:.5%} differ by "
        f"more than 1 ulp (asked: <= {most:.2%}){'' if kept else '  MISSED'}"
    )
    return kept


def ordered(bits: Bits) -> NDArray[np.int32]:
    """Integers in the order of the numbers, so that neighbours differ by 1."""
    integers = bits.astype(np.int32)
    return np.where(integers < 0x8000, integers, 0x8000 - integers)


def alike(name: str, base: dict[str, Bits], ours: dict[str, Bits], theirs: dict[str, Bits]) -> bool:
    """Whether what two random merges added to the base looks alike, in every tensor of half a million elements."""
    refuse_other_tensors(ours, theirs)
    worst = dict.fromkeys(("unchanged", "mean |d|", "deviation"), 0.0)
    seen = 0
    for tensor, a in ours.items():
        if a.size < LARGE_TENSOR:
            continue
        seen += 1
        for figure, (x, y) in zip(
            worst, zip(moved(base[tensor], a), moved(base[tensor], theirs[tensor]), strict=True), strict=True
        ):
            worst[figure] = max(worst[figure], abs(x / y - 1))
    kept = seen > 0 and max(worst.values()) <= NEAR
    figures = ", ".join(f"{figure} {value:.2%}" for figure, value in worst.items())
    print(
        f"{name}: results: of {seen} tensors, the largest difference in {figures} (asked: <= {NEAR:.0%})"
        f"{'' if kept else '  MISSED'}"
    )
    return kept


def moved(base: Bits, merged: Bits) -> tuple[float, float, float]:
    """The share of elements that a merge left as they were, the mean size of its changes, and their deviation."""
    delta = wide(merged) - wide(base)
    return float(np.mean(delta == 0)), float(np.abs(delta).mean()), float(delta.std())


def refuse_other_tensors(ours: dict[str, Bits], theirs: dict[str, Bits]) -> None:
    if {name: bits.size for name, bits in ours.items()} != {name: bits.size for name, bits in theirs.items()}:
        raise SystemExit(f"different tensors: {sorted(ours.keys() ^ theirs.keys())[:5]} ...")
