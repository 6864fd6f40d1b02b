"""The compiled loops of the complex transform, by which CKKS encodes: eight polynomials side by side.

A real polynomial of N coefficients is N/2 complex numbers: coefficients k and k + N/2 are the parts of
number k. Numbers are rows of eight; the real parts are the upper half of an array (N, 8), the imaginary
parts the lower half. The transform has the shape of the negacyclic one: node r of the tree, in its left
half, has the root of unity with the exponent of r, bit-reversed, and the inner loops run over
neighbouring numbers that share a root.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from he._compiling import kernel
from he._rows import LANES

Reals = NDArray[np.float64]


@kernel
def forward(a: Reals, roots: Reals) -> None:
    """Replace the coefficients ``a`` (N, 8) by N/2 complex values, in place.

    ``roots`` (N/2, 2) are the parts of roots of unity: those of block g of ``groups`` at place ``groups + g``.
    Value i is at the root zeta^(2 r + 1), zeta = exp(pi sqrt(-1) / N), r being i with its log2 N bits reversed.
    """
    count = a.shape[0] >> 1
    real, imaginary = a[:count].reshape(-1), a[count:].reshape(-1)
    half, groups = count >> 1, 1
    while half > 0:
        size = half * LANES
        for g in range(groups):
            c, s = roots[groups + g, 0], roots[groups + g, 1]
            start = 2 * g * size
            x, y = real[start : start + size], imaginary[start : start + size]
            u, v = real[start + size : start + 2 * size], imaginary[start + size : start + 2 * size]
            for j in range(size):
                t, w = c * u[j] - s * v[j], c * v[j] + s * u[j]
                u[j], v[j] = x[j] - t, y[j] - w
                x[j], y[j] = x[j] + t, y[j] + w
        half, groups = half >> 1, groups << 1


@kernel
def backward(a: Reals, roots: Reals) -> None:
    """Undo :func:`forward`, in place, and multiply by N/2."""
    count = a.shape[0] >> 1
    real, imaginary = a[:count].reshape(-1), a[count:].reshape(-1)
    half, groups = 1, count >> 1
    while groups > 0:
        size = half * LANES
        for g in range(groups):
            c, s = roots[groups + g, 0], roots[groups + g, 1]
            start = 2 * g * size
            x, y = real[start : start + size], imaginary[start : start + size]
            u, v = real[start + size : start + 2 * size], imaginary[start + size : start + 2 * size]
            for j in range(size):
                t, w = x[j] - u[j], y[j] - v[j]
                x[j], y[j] = x[j] + u[j], y[j] + v[j]
                u[j], v[j] = c * t + s * w, c * w - s * t
        half, groups = half << 1, groups >> 1


@kernel
def convert(digits: NDArray[np.int64], a: Reals) -> None:
    """Write ``digits`` as real numbers to ``a``, which may be the same memory."""
    integers, numbers = digits.reshape(-1), a.reshape(-1)
    for i in range(numbers.size):
        numbers[i] = np.float64(integers[i])


@kernel
def add(a: Reals, digits: NDArray[np.int64], weight: float) -> None:
    """Add ``digits`` times ``weight`` to ``a``, in place."""
    integers, numbers = digits.reshape(-1), a.reshape(-1)
    for i in range(numbers.size):
        numbers[i] += np.float64(integers[i]) * weight


@kernel
def gather(values: NDArray[np.unsignedinteger[Any]], places: NDArray[np.int64], a: Reals) -> None:
    """Write value ``places[i]`` of each row of ``values`` (8, N) to row i of ``a``."""
    for i in range(places.size):
        for lane in range(LANES):
            a[i, lane] = np.float64(values[lane, places[i]])


@kernel
def scatter(a: Reals, step: float, places: NDArray[np.int64], middle: int, out: NDArray[np.int64]) -> float:
    """Write row i of ``a``, in units of ``step``, rounded, plus ``middle``, to places ``places[i]`` of ``out``.

    ``out`` has a row of N places for each of at most eight lanes. Returns how far a number is from the
    nearest multiple of ``step``, at most.
    """
    off = 0.0
    for lane in range(out.shape[0]):
        for i in range(places.size):
            nearest = np.rint(a[i, lane] / step)
            off = max(off, abs(a[i, lane] - nearest * step))
            out[lane, places[i]] = np.int64(nearest) + middle
    return off
