"""The transform and products in NumPy, where nothing is compiled (``NUMBA_DISABLE_JIT``).

It has the results of :mod:`he.ring._transforms` bit for bit, in :class:`~he.ring._vectors.Word`'s
arithmetic, one level of the transform at a time.
"""

import numpy as np
from numpy.typing import NDArray

from he.ring._vectors import LANES, Ifma, Word

Words = NDArray[np.uint64]

_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def _times(a: Words, values: Words, quotients: Words, p: np.uint64) -> Words:
    """``a`` times factors with their quotients, below p."""
    low, high = quotients & _LOW, quotients >> _HALF
    first = (a >> _HALF) * low + ((a & _LOW) * low >> _HALF)
    second = (a & _LOW) * high + (first & _LOW)
    whole = (a >> _HALF) * high + (first >> _HALF) + (second >> _HALF)
    product: Words = values * a - whole * p
    reduced: Words = np.minimum(product, product - p)
    return reduced


def forward(a: Words, roots: Words, modulus: Ifma | Word) -> None:
    """As :func:`he.ring._transforms.forward`."""
    p, half, groups = modulus.prime, len(a) >> 1, 1
    while half:
        parts = a.reshape(groups, 2, half, LANES)
        w = roots[groups : 2 * groups, :, None, None]
        x, y = parts[:, 0], _times(parts[:, 1], w[:, 0], w[:, 1], p)
        total, rest = x + y, x + p - y
        parts[:, 0], parts[:, 1] = np.minimum(total, total - p), np.minimum(rest, rest - p)
        half, groups = half >> 1, groups << 1


def backward(a: Words, roots: Words, last: Words, modulus: Ifma | Word) -> None:
    """As :func:`he.ring._transforms.backward`."""
    p, half, groups = modulus.prime, 1, len(a) >> 1
    while groups:
        parts = a.reshape(groups, 2, half, LANES)
        w = roots[groups : 2 * groups, :, None, None]
        total, rest = parts[:, 0] + parts[:, 1], parts[:, 0] + p - parts[:, 1]
        parts[:, 0] = np.minimum(total, total - p)
        parts[:, 1] = _times(rest, w[:, 0], w[:, 1], p)
        half, groups = half << 1, groups >> 1
    scale(a, last, modulus)


def multiply(a: Words, factors: Words, modulus: Ifma | Word) -> None:
    """As :func:`he.ring._transforms.multiply`."""
    a[:] = _times(a, factors[:, :1], factors[:, 1:], modulus.prime)


def scale(a: Words, factor: Words, modulus: Ifma | Word) -> None:
    """As :func:`he.ring._transforms.scale`."""
    multiply(a, factor, modulus)
