"""The transform, products and packing in NumPy, where nothing is compiled (``NUMBA_DISABLE_JIT``).

It has the results of :mod:`he.ring._transforms` and :mod:`he.ring._packing` bit for bit, in
:class:`~he.ring._vectors.Word`'s arithmetic, one level of the transform at a time.
"""

import numpy as np
from numpy.typing import NDArray

from he._rows import LANES
from he.ring._vectors import Ifma, Word

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


def add_product(a: Words, others: Words, factors: Words, modulus: Ifma | Word) -> None:
    """As :func:`he.ring._transforms.add_product`."""
    a += _times(others, factors[:, :1], factors[:, 1:], modulus.prime)
    np.minimum(a, a - modulus.prime, out=a)


def scale(a: Words, factor: Words, modulus: Ifma | Word) -> None:
    """As :func:`he.ring._transforms.scale`."""
    multiply(a, factor, modulus)


def _places(count: int, bits: int) -> tuple[NDArray[np.int64], Words]:
    """The word in which each residue begins, and its lowest bit there."""
    starts = np.arange(count) * bits
    return starts >> 6, (starts & 63).astype(np.uint64)[:, None]


def pack(group: Words, bits: int, words: Words) -> None:
    """As :func:`he.ring._packing.pack`."""
    at, shift = _places(len(group), bits)
    words[:] = 0
    np.bitwise_or.at(words, at, group << shift)
    over = shift[:, 0] + np.uint64(bits) > 64
    np.bitwise_or.at(words, at[over] + 1, group[over] >> (np.uint64(64) - shift[over]))


def _residues(words: Words, bits: int, count: int) -> Words:
    at, shift = _places(count, bits)
    after = words[np.minimum(at + 1, len(words) - 1)] << np.uint64(1) << np.uint64(63) - shift
    residues: Words = (words[at] >> shift | after) & np.uint64((1 << bits) - 1)
    return residues


def unpack(words: Words, bits: int, group: Words) -> None:
    """As :func:`he.ring._packing.unpack`."""
    group[:] = _residues(words, bits, len(group))


def fold(words: Words, bits: int, prime: np.uint64, group: Words) -> None:
    """As :func:`he.ring._packing.fold`."""
    group += _residues(words, bits, len(group))
    np.minimum(group, group - prime, out=group)


def largest(words: Words, bits: int, out: Words) -> None:
    """As :func:`he.ring._packing.largest`."""
    out[:] = _residues(words, bits, len(words) * 64 // bits).max(axis=0)
