"""The compiled loops that pack residues into bits, eight polynomials side by side, and unpack them.

A packed row of eight polynomials of N residues is (words, 8): the lanes stay beside each other, so that
all of them have the same bits in the same place.
"""

import numpy as np
from numpy.typing import NDArray

from he._compiling import kernel
from he.ring._vectors import fold_row, largest_row, pack_row, shift_row, unpack_row

Words = NDArray[np.uint64]


@kernel
def pack(group: Words, bits: int, words: Words) -> None:
    """Write the residues of ``group`` (N, 8), ``bits`` bits each, first residue lowest, to ``words``."""
    words[:] = 0
    for i in range(group.shape[0]):
        word, shift = i * bits >> 6, i * bits & 63
        pack_row(group, i, words, word, shift)
        if shift + bits > 64:
            shift_row(group, i, words, word + 1, 64 - shift)


@kernel
def unpack(words: Words, bits: int, group: Words) -> None:
    """Undo :func:`pack`."""
    for i in range(group.shape[0]):
        unpack_row(words, i * bits, bits, group, i)


@kernel
def fold(words: Words, bits: int, prime: np.uint64, group: Words) -> None:
    """Add the residues, below ``prime``, that :func:`pack` wrote, to ``group``, in place."""
    for i in range(group.shape[0]):
        fold_row(words, i * bits, bits, group, i, prime)


@kernel
def largest(words: Words, bits: int, out: Words) -> None:
    """Write the largest residue of each lane to ``out`` (1, 8)."""
    out[:] = 0
    for i in range(words.shape[0] * 64 // bits):
        largest_row(words, i * bits, bits, out)
