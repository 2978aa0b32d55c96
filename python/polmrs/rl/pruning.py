"""The survey's trajectory pruning."""

from __future__ import annotations

import numpy as np

from polmrs import _core
from polmrs._arrays import A, flat, made, mask_bytes, offsets
from polmrs._tensor import Array


def trajectory_pruning(
    values: A, cu_seqlens: Array, *, ratio: float, step_ends: Array | None = None
) -> tuple[A, A]:
    r"""Where to stop a path whose value falls well below the best that it had (survey 5.2.3).

    $$ \text{stop at } t \quad\text{if}\quad V(s_t) < \gamma \max_{k \le t} V(s_k) $$

    Gamma is a ratio, no discount, so it is called ``ratio`` here. The rule needs values that are not negative: if the
    best value is below zero, a share of it lies above it and every path is stopped at once. Pass the critic's output
    through softplus or sigmoid. Stopping biases the samples that remain; mark them ``pruned``, not ``finished``.

    Args:
        values: [tokens], the critic's V, float32 or float64.
        cu_seqlens: [sequences + 1], int32 or int64.
        ratio: In (0, 1]; the smaller, the more patient.
        step_ends: [tokens], bool or uint8: the tokens that carry a value, all if not given.

    Returns:
        For each sequence, how many tokens to keep (int64; up to and with the one that stopped it) and whether it was
        stopped (bool), of the kind of ``values``.

    Raises:
        ArrayError: A value is negative, an array has another type, length or layout, or offsets decrease.
        NonFiniteError: A value that counts is NaN or infinite.
        UsageError: ``ratio`` is not in (0, 1].

    >>> import numpy as np
    >>> kept, pruned = trajectory_pruning(np.array([0.5, 0.8, 0.3, 0.9, 0.2]), np.array([0, 4, 5]), ratio=0.5)
    >>> kept, pruned
    (array([3, 1]), array([ True, False]))
    """
    bounds = offsets(cu_seqlens)
    sequences = max(len(bounds) - 1, 0)
    kept, pruned = np.empty(sequences, np.int64), np.empty(sequences, np.bool_)
    ends = mask_bytes("step_ends", step_ends)
    _core.rl.trajectory_pruning(flat("values", values), bounds, ends, ratio, kept, pruned.view(np.uint8))
    return made(kept, values)[0], made(pruned, values)[0]
