"""The hot loops of encoding. They validate nothing: their callers do.

With the JIT off they run as plain Python on NumPy's scalars. Their additions may then warn of overflow,
which is intended here.
"""

import numpy as np
from numpy.typing import NDArray

from mpc.kernels import kernel

Lanes = NDArray[np.uint32] | NDArray[np.uint64]
Floats = NDArray[np.float32] | NDArray[np.float64]

_2_TO_32 = 4294967296.0


@kernel
def quantize_stochastic(
    vector: Floats,
    random: NDArray[np.uint32],
    clip: float,
    scale: float,
    share: float,
    top: float,
    out: NDArray[np.uint32],
) -> tuple[int, int]:
    """``share``·clip(x)·``scale`` + ``top``, rounded up if ``random``/2^32 is under the fraction.

    ``scale`` is ``top``/``clip``. Returns how many coordinates were clipped, and how many are not
    finite.
    """
    # Let c be the fraction in units of 2^-32, rounded up. An integer r is under it if and only if
    # c + (2^32 - 1 - r) reaches 2^32: the carry decides. The result needs no bounds check, because
    # x·scale stays below top where |x| < clip, by at least the last of 53 bits. Everything is compared in float64,
    # as it is selected: otherwise the coordinates after the last whole vector would be selected by a branch.
    clipped, bad = 0, 0
    fine, offset = share * _2_TO_32, np.int64(top)
    for i in range(vector.size):
        x = np.float64(vector[i])
        size = abs(x)
        clipped += 1 if size > clip else 0
        bad += 0 if size < np.inf else 1
        y = (x * scale if size < clip else np.copysign(top, x)) * fine
        out[i] = np.uint32(((np.int64(np.ceil(y)) + np.int64(~random[i])) >> 32) + offset)
    return clipped, bad


@kernel
def quantize_nearest(
    vector: Floats, clip: float, scale: float, share: float, top: float, out: NDArray[np.uint32]
) -> tuple[int, int]:
    """As :func:`quantize_stochastic`, rounded to the nearest integer, ties to even."""
    clipped, bad = 0, 0
    for i in range(vector.size):
        x = np.float64(vector[i])
        size = abs(x)
        clipped += 1 if size > clip else 0
        bad += 0 if size < np.inf else 1
        y = (x * scale if size < clip else np.copysign(top, x)) * share
        out[i] = np.uint32(np.int64(np.rint(y) + top))
    return clipped, bad


@kernel
def dequantize(
    sums: Lanes,
    offset: int,
    step: float,
    total_weight: float,
    out: NDArray[np.float64],
    mean: NDArray[np.float64],
) -> int:
    """``out`` = ``step``·(sums − ``offset``), ``mean`` = ``out``/``total_weight``.

    Returns how many sums exceed 2·``offset``, which no honest sum does.
    """
    impossible = 0
    limit = np.uint64(2 * offset)
    for i in range(sums.size):
        value = np.uint64(sums[i])
        impossible += 1 if value > limit else 0
        value = min(value, limit)
        out[i] = step * np.float64(np.int64(value) - offset)
        mean[i] = out[i] / total_weight
    return impossible
