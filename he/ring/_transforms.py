"""The compiled loops of the transform, over rows of eight residues (:mod:`he.ring._vectors`).

``roots`` (N, 2) holds powers of a primitive 2N-th root of unity in bit-reversed order, each with its
quotient. Node r of the tree of factors of x^N + 1 has the root r; its halves are the nodes 2r and
2r + 1. Two levels are done in one pass. Below :data:`BLOCK` rows a block is finished before the next
one begins, so that it stays in the first-level cache.
"""

import numpy as np
from numpy.typing import NDArray

from he._compiling import inlined, kernel
from he.ring._vectors import Ifma, Word, add_times, gather2, gather4, settle, spread2, spread4, times

Words = NDArray[np.uint64]

BLOCK = 512
"""Rows of 64 bytes in half of a second-level, or all of a first-level cache."""


@inlined
def _forward_block(a: Words, start: int, size: int, node: int, roots: Words, modulus: Ifma | Word) -> None:
    """All levels of the block of ``size`` rows, a power of 4, at ``start``, which is ``node`` of the tree."""
    inner, count = size, 1
    while inner > 1:
        quarter = inner >> 2
        for block in range(count):
            first = start + block * inner
            for j in range(first, first + quarter):
                spread4(a, j, quarter, roots, node * count + block, modulus)
        inner, count = quarter, count << 2
    for j in range(start, start + size):
        settle(a, j, modulus)


@kernel
def forward(a: Words, roots: Words, modulus: Ifma | Word) -> None:
    """The negacyclic transform of eight polynomials side by side, ``a`` (N, 8), below p, in place.

    Row i of the result has the values at the root's power with exponent 2r + 1, r being i with its bits
    reversed.
    """
    size, groups = a.shape[0], 1
    if (size & 0x5555555555555555) == 0:  # an odd number of levels
        size, groups = size >> 1, 2
        for j in range(size):
            spread2(a, j, size, roots, 1, modulus)
    while size > BLOCK:
        quarter = size >> 2
        for g in range(groups):
            for j in range(g * size, g * size + quarter):
                spread4(a, j, quarter, roots, groups + g, modulus)
        size, groups = quarter, groups << 2
    for g in range(groups):
        _forward_block(a, g * size, size, groups + g, roots, modulus)


@inlined
def _backward_block(a: Words, start: int, size: int, node: int, roots: Words, modulus: Ifma | Word) -> None:
    inner, count = 4, size >> 2
    while count > 0:
        quarter = inner >> 2
        for block in range(count):
            first = start + block * inner
            for j in range(first, first + quarter):
                gather4(a, j, quarter, roots, node * count + block, modulus)
        inner, count = inner << 2, count >> 2


@kernel
def backward(a: Words, roots: Words, last: Words, modulus: Ifma | Word) -> None:
    """Undo :func:`forward`, in place, and multiply by N times ``last`` (1, 2), a factor and its quotient.

    ``roots`` are the inverse powers. The factor 1/N undoes :func:`forward` exactly.
    """
    levels, size = 0, a.shape[0]
    while size >> levels > 1:
        levels += 1
    size >>= levels & 1
    groups = a.shape[0] // size
    while size > BLOCK:
        size, groups = size >> 2, groups << 2
    for g in range(groups):
        _backward_block(a, g * size, size, groups + g, roots, modulus)
    while groups > 2:
        quarter, size, groups = size, size << 2, groups >> 2
        for g in range(groups):
            for j in range(g * size, g * size + quarter):
                gather4(a, j, quarter, roots, groups + g, modulus)
    if groups == 2:
        for j in range(size):
            gather2(a, j, size, roots, 1, modulus)
    for j in range(a.shape[0]):
        times(a, j, last, 0, modulus)


@kernel
def multiply(a: Words, factors: Words, modulus: Ifma | Word) -> None:
    """Multiply each row of ``a`` (N, 8) by its factor of ``factors`` (N, 2); results below p, in place."""
    for j in range(a.shape[0]):
        times(a, j, factors, j, modulus)


@kernel
def add_product(a: Words, others: Words, factors: Words, modulus: Ifma | Word) -> None:
    """Add each row of ``others`` (N, 8), times its factor of ``factors`` (N, 2), to ``a``, below p, in place."""
    for j in range(a.shape[0]):
        add_times(a, j, factors, others, modulus)


@kernel
def scale(a: Words, factor: Words, modulus: Ifma | Word) -> None:
    """Multiply all of ``a`` (N, 8) by ``factor`` (1, 2); results below p, in place."""
    for j in range(a.shape[0]):
        times(a, j, factor, 0, modulus)
