"""Kernels that call a kernel and keep what it returns in an array, or read a number from an array for it.

Made into an integer of Python, a returned number is looked at by the interpreter. Here the number stays
where Valgrind follows it, so that what is counted is the kernel's own.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import njit

from dp import _kernels as dp_kernels, _rotation
from he.ring import _fourier
from mpc import _packed
from secagg import _bits, _kernels as secagg_kernels

_compiled = cast(Callable[[Callable[..., Any]], Callable[..., Any]], njit(cache=True, nogil=True))


@_compiled
def pack(lanes: Any, bits: int, words: Any, last: Any) -> None:
    last[0] = _bits.pack(lanes, bits, words)


@_compiled
def unpack_add(words: Any, last: Any, bits: int, into: Any) -> None:
    _bits.unpack_add(words, last[0], bits, into)


@_compiled
def quantize_stochastic(vector: Any, random: Any, grid: Any, out: Any, counts: Any) -> None:
    clip, scale, share, top = grid
    counts[0], counts[1] = secagg_kernels.quantize_stochastic(vector, random, clip, scale, share, top, out)


@_compiled
def quantize_nearest(vector: Any, grid: Any, out: Any, counts: Any) -> None:
    clip, scale, share, top = grid
    counts[0], counts[1] = secagg_kernels.quantize_nearest(vector, clip, scale, share, top, out)


@_compiled
def dequantize(sums: Any, offset: int, step: float, weight: float, out: Any, mean: Any, counts: Any) -> None:
    counts[0] = secagg_kernels.dequantize(sums, offset, step, weight, out, mean)


@_compiled
def cut(words: Any, counts: Any) -> None:
    counts[0] = _packed.cut(words)


@_compiled
def misses(challenge: Any, share: Any, weights: Any, proof: Any, out: Any) -> None:
    out[0] = _packed.misses(challenge, share, weights, proof)


@_compiled
def invert(words: Any, table: Any, guide: Any, shift: int, out: Any, counts: Any) -> None:
    counts[0] = dp_kernels.invert(words, table, guide, shift, out)


@_compiled
def invert_evenly(words: Any, table: Any, out: Any, counts: Any) -> None:
    counts[0] = dp_kernels.invert_evenly(words, table, out)


@_compiled
def place(words: Any, coins: Any, blocks: Any, width: int, out: Any, status: Any, counts: Any) -> None:
    counts[0] = dp_kernels.place(words, coins, blocks, width, 1e-4, 1e-7, dp_kernels.MARGIN, out, status)


@_compiled
def round_stochastic(x: Any, scale: float, random: Any, limit: int, out: Any, squares: Any) -> None:
    squares[0] = _rotation.round_stochastic(x, scale, random, limit, out)


@_compiled
def scatter(a: Any, step: float, places: Any, middle: int, out: Any, off: Any) -> None:
    off[0] = _fourier.scatter(a, step, places, middle, out)


@_compiled
def compare(words: Any, expected: Any, out: Any) -> None:
    """Control: a branch depends on a secret. The comparison ends at the first word that differs."""
    out[0] = 1
    for i in range(words.size):
        if words[i] != expected[i]:
            out[0] = 0
            break


@_compiled
def look_up(words: Any, table: Any, out: Any) -> None:
    """Control: the addresses of the table's entries that are read depend on a secret."""
    for i in range(words.size):
        out[i] = table[words[i] & np.uint64(table.size - 1)]
