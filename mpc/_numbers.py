"""Convert numbers that callers pass, from Python or NumPy, to Python's own.

The packages dp, he, mpc and secagg each have this module, word for word, because none imports another's
private modules.
"""

import math
from numbers import Real
from operator import index
from typing import SupportsIndex


def whole(value: object) -> int | None:
    """``value`` as an int; None unless it is an integer, such as ``7`` or ``np.int64(7)``. Bools are refused."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return index(value)
    except Exception:  # an array of several values, or an object that only claims to be an integer
        return None


def real(value: object) -> float:
    """``value`` as a float; NaN unless it is a real number, such as ``np.float32(2)``. Bools are refused."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except Exception:  # an integer beyond float64, or an object that only claims to be a number
        return math.nan
