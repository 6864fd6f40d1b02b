"""The randomized Hadamard rotation as it is defined: the double loop, and the matrix."""

import numpy as np
from numpy.typing import NDArray


def hadamard(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """H·x, one addition at a time, level by level."""
    x = [float(value) for value in vector]
    h = 1
    while h < len(x):
        for start in range(0, len(x), 2 * h):
            for i in range(start, start + h):
                x[i], x[i + h] = x[i] + x[i + h], x[i] - x[i + h]
        h *= 2
    return np.array(x)


def matrix(size: int) -> NDArray[np.float64]:
    """Sylvester's matrix: the entry at (i, j) is (-1)^(number of ones that i and j share)."""
    return np.array([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)])
