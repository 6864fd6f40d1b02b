"""What all tests of the ring share."""

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def wrapping() -> Iterator[None]:
    """Products wrap on purpose, which NumPy says when the kernels are not compiled."""
    with np.errstate(over="ignore"):
        yield
