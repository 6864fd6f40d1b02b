"""Rows of residues as bits: the form in which polynomials are sent.

A group of n <= 8 polynomials of N residues takes N * bits / 64 words a polynomial. The words of its
polynomials take turns: an array (words, n). So a whole group is packed and unpacked without a shuffle.
"""

import numpy as np
from numba import config
from numpy.typing import NDArray

from he._rows import LANES
from he.ring import _packing, _plain
from he.ring.fields import lanes

Words = NDArray[np.uint64]

_loops = _plain if config.DISABLE_JIT else _packing


def words_of(degree: int, bits: int) -> int:
    """Words of one packed polynomial."""
    return degree * bits // 64


def pack(group: Words, bits: int, out: Words) -> None:
    """Write the first n lanes of ``group`` (N, 8), residues below 2^``bits``, to ``out`` (words, n)."""
    if out.shape[1] == LANES and out.flags.c_contiguous:
        _loops.pack(group, bits, out)
    else:
        words = lanes(len(out))
        _loops.pack(group, bits, words)
        out[:] = words[:, : out.shape[1]]


def unpack(words: Words, bits: int, group: Words) -> None:
    """Write the residues of ``words`` (words, n) to ``group`` (N, 8); the other lanes become 0."""
    _loops.unpack(_all_lanes(words), bits, group)


def fold(words: Words, bits: int, prime: int, group: Words) -> None:
    """Add the residues of ``words`` (words, n), below ``prime``, to ``group``, in place."""
    _loops.fold(_all_lanes(words), bits, np.uint64(prime), group)


def all_below(words: Words, bits: int, prime: int) -> bool:
    """Whether all residues of ``words`` (words, n) are below ``prime``."""
    top = lanes(1)
    _loops.largest(_all_lanes(words), bits, top)
    return bool(top.max() < prime)


def _all_lanes(words: Words) -> Words:
    if words.shape[1] == LANES and words.flags.c_contiguous:
        return words
    padded = lanes(len(words))
    padded[:] = 0
    padded[:, : words.shape[1]] = words
    return padded
