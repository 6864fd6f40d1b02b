"""The mean in float64 with NumPy alone. The protocols' results are compared with trainings that use this mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean(updates: Sequence[Any], weights: Sequence[int]) -> Any:
    """The weighted mean of updates: of single arrays, or of dicts of arrays by name."""
    if isinstance(updates[0], Mapping):
        return {name: mean([update[name] for update in updates], weights) for name in updates[0]}
    average: Floats = np.average(updates, axis=0, weights=weights)
    return average
