"""What hypothesis draws for ragged batches: empty sequences, single tokens, holes anywhere, both element types."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

numbers = st.floats(-4, 4, width=32)
holes = st.sampled_from(["carry", "decay", "ignore", "reset"])
unit = st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]) | st.floats(0, 1)
dtypes = st.sampled_from([np.float32, np.float64])


@dataclass
class Batch:
    dtype: type
    cu_seqlens: np.ndarray
    columns: list[np.ndarray]
    mask: np.ndarray | None
    bootstrap: np.ndarray | None


@st.composite
def batches(draw, columns=2, masked=None):
    """A batch of up to nine sequences of up to eleven tokens."""
    lengths = draw(st.lists(st.integers(0, 11), min_size=0, max_size=9))
    tokens, dtype = sum(lengths), draw(dtypes)
    offsets = draw(st.sampled_from([np.int32, np.int64]))

    def column(size):
        return np.array(draw(st.lists(numbers, min_size=size, max_size=size)), dtype)

    if masked is None:
        masked = draw(st.booleans())
    hidden = draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)) if masked else None
    return Batch(
        dtype=dtype,
        cu_seqlens=np.cumsum([0, *lengths]).astype(offsets),
        columns=[column(tokens) for _ in range(columns)],
        mask=None if hidden is None else np.array(hidden, draw(st.sampled_from([np.bool_, np.uint8]))),
        bootstrap=column(len(lengths)) if draw(st.booleans()) else None,
    )


@st.composite
def grouped(draw, rewards=numbers, missing=True, max_size=24):
    """Rewards, some NaN, and group ids in any order."""
    size = draw(st.integers(0, max_size))
    reward = (rewards | st.just(float("nan"))) if missing else rewards
    values = draw(st.lists(reward, min_size=size, max_size=size))
    ids = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    return np.array(values, draw(dtypes)), ids


def spoiled(column, mask, filler):
    """The column with something else in its holes."""
    return np.where(np.asarray(mask, bool), column, np.asarray(filler, column.dtype))
