"""The compiled loops of rotation and rounding. They validate nothing; their callers do.

A vector of 2^m doubles is transformed in place, level by level: level l pairs coordinates that are 2^l apart,
and writes their sum and their difference. The lower levels run on blocks that stay in a core's cache. The upper
levels run in pairs, each pair in one pass over memory. Each coordinate undergoes the same additions in the same
order as in the plain double loop, so both give the same bits.
"""

import numpy as np
from numpy.typing import NDArray

from dp._compiling import inlined, kernel

Floats = NDArray[np.float64]

BLOCK = 1 << 12
"""Coordinates of a block: 32 KiB, which a first-level cache holds."""


@kernel
def flip(x: Floats, signs: NDArray[np.uint8], scale: float) -> None:
    """Multiply ``x[i]`` by ``scale``, or by -``scale`` if bit i mod 8 of ``signs[i // 8]`` is set."""
    for i in range(x.size):
        bit = (signs[i >> 3] >> (i & 7)) & 1
        x[i] *= scale * (1.0 - 2.0 * bit)


@inlined
def _first_levels(x: Floats, start: int, stop: int) -> None:
    """The levels 1, 2 and 4 of a block, eight coordinates at a time."""
    for i in range(start, stop, 8):
        a, b, c, d = x[i] + x[i + 1], x[i] - x[i + 1], x[i + 2] + x[i + 3], x[i + 2] - x[i + 3]
        e, f, g, h = x[i + 4] + x[i + 5], x[i + 4] - x[i + 5], x[i + 6] + x[i + 7], x[i + 6] - x[i + 7]
        a, c, b, d = a + c, a - c, b + d, b - d
        e, g, f, h = e + g, e - g, f + h, f - h
        x[i], x[i + 4] = a + e, a - e
        x[i + 1], x[i + 5] = b + f, b - f
        x[i + 2], x[i + 6] = c + g, c - g
        x[i + 3], x[i + 7] = d + h, d - h


@kernel
def hadamard(x: Floats) -> None:
    """Replace ``x``, of 2^m coordinates, by H·x, where H has the entries 1 and -1 in Sylvester's order."""
    size = x.size
    block = min(size, BLOCK)
    for begin in range(0, size + 1, block):
        start, stop, h = begin, begin + block, 1
        if begin == size:  # all blocks are done: the levels above them
            start, stop, h = 0, size, block
        elif block >= 8:
            _first_levels(x, start, stop)
            h = 8
        last = stop - start
        while 4 * h <= last:  # the levels h and 2h, in one pass over memory
            for first in range(start, stop, 4 * h):
                p, q = x[first : first + h], x[first + h : first + 2 * h]
                r, s = x[first + 2 * h : first + 3 * h], x[first + 3 * h : first + 4 * h]
                for j in range(h):
                    a, b = p[j] + q[j], p[j] - q[j]
                    c, d = r[j] + s[j], r[j] - s[j]
                    p[j] = a + c
                    q[j] = b + d
                    r[j] = a - c
                    s[j] = b - d
            h *= 4
        if h < last:
            low, high = x[start : start + h], x[start + h : stop]
            for j in range(h):
                a, b = low[j], high[j]
                low[j] = a + b
                high[j] = a - b


@kernel
def round_stochastic(
    x: Floats, scale: float, random: NDArray[np.uint32], limit: int, out: NDArray[np.int64]
) -> int:
    """Round ``x``·``scale`` at random, and write the integers to ``out``.

    A number is rounded up with the probability of its fraction, to 2^-32. An integer beyond ±``limit`` becomes
    ±``limit``. Returns Σ ``out``², which must stay below 2^63.
    """
    squares = 0
    for i in range(x.size):
        scaled = x[i] * scale
        down = np.floor(scaled)
        value = int(down) + int(random[i] < (scaled - down) * 4294967296.0)
        # LLVM makes branches of min and max where a loop has no vectors, but not of these shifts.
        above, below = limit - value, value + limit
        value += (above & above >> 63) - (below & below >> 63)
        out[i] = value
        squares += value * value
    return squares
