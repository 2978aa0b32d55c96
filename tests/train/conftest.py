"""What the tests of training share."""

import pytest
from train.recipes import furnish


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A tiny model with a tokenizer, and data for every verb of ``polmrs train``."""
    return furnish(tmp_path_factory.mktemp("train"))
