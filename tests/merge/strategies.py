"""What hypothesis draws for the properties of merge methods."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

# A fine grid with its zeros, repeats and opposites, and numbers off it; nothing so small that products are subnormal.
numbers = st.integers(-16, 16).map(lambda x: x / 8) | st.floats(-4, 4, width=32).filter(
    lambda x: abs(x) > 1e-3
)
densities = st.sampled_from([0.0, 1e-9, 0.1, 0.5, 0.9, 1.0]) | st.floats(0, 1)
weights = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0])


@st.composite
def families(draw, least=1, most=4):
    """A base and some models of it, in f32."""
    count = draw(st.integers(least, most))
    shape = (count + 1, draw(st.integers(1, 24)))
    base, *models = torch.from_numpy(draw(arrays.arrays(np.float32, shape, elements=numbers)))
    return base, models
