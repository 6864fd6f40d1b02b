"""The compiled loops of the samplers.

A word is 64 random bits, read as a fraction between 0 and 1. The thresholds of ``dp._tables`` are probabilities,
rounded down: a word below a threshold is below the probability, and a word above the threshold is above the
probability. A word that equals a threshold is left undecided; this happens for each threshold with probability
2^-64.
"""

import numpy as np
from numpy.typing import NDArray

from dp._compiling import kernel

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

UNDECIDED = -1
"""The result for a word that needs more bits to decide."""

KEPT, REFUSED, OPEN = 0, 1, 2
"""The status of a proposal; an open one needs more bits to decide."""

MARGIN = 2.0**-40
"""The relative distance from a probability beyond which floats decide: 2^8 times their error."""

_STEEPEST = 2.0**-4  # beyond this x the series of exp(-x) is too short; the blocks are chosen to stay below


@kernel
def invert(words: Words, table: Words, guide: Integers, shift: int, out: Integers) -> int:
    """Write the number of thresholds below each word to ``out``; return the number of undecided words.

    ``table`` is ascending; its last threshold is at least as large as any word. ``guide`` says where to begin, by
    the bits of a word from ``shift`` on. Which entries are read depends on the words.
    """
    undecided = 0
    by = np.uint64(shift)
    for i in range(words.shape[0]):
        word = words[i]
        k = guide[word >> by]
        while table[k] < word:
            k += 1
        if table[k] == word:
            k = UNDECIDED
            undecided += 1
        out[i] = k
    return undecided


@kernel
def invert_evenly(words: Integers, table: Integers, out: Integers) -> int:
    """As :func:`invert`, but compare each word with every threshold: no branch or address depends on a word.

    2^63 is subtracted from words and thresholds, because vector instructions compare signed integers.
    """
    undecided = 0
    for i in range(words.shape[0]):
        word = words[i]
        above, equal = 0, 0
        for k in range(table.shape[0]):
            above += word > table[k]
            equal |= word == table[k]
        out[i] = above - equal * (above - UNDECIDED)
        undecided += equal
    return undecided


@kernel
def attach_signs(signs: Words, out: Integers) -> None:
    """Negate ``out`` where its bit in ``signs`` is set, lowest bit first."""
    for i in range(out.shape[0]):
        mask = -np.int64((signs[i >> 6] >> np.uint64(i & 63)) & np.uint64(1))
        out[i] = (out[i] ^ mask) - mask


@kernel
def place(
    words: Words,
    coins: Words,
    blocks: Integers,
    width: int,
    slope: float,
    curve: float,
    margin: float,
    out: Integers,
    status: NDArray[np.uint8],
) -> int:
    """Place each proposal in its block, and keep or refuse it; return the number of undecided proposals.

    The lowest ``width`` bits of a word are the place in its block of length 2^width; the highest bit is the sign. A
    coin refuses place u of the block that begins at m with the probability
    1 - exp(-(slope u + curve u (2m + u))); minus zero is always refused. ``status`` becomes :data:`KEPT`,
    :data:`REFUSED` or, if the coin is within ``margin`` of the probability, relative to it, :data:`OPEN`.
    """
    undecided = 0
    low = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for i in range(words.shape[0]):
        u = np.int64(words[i] & low)
        negative = np.int64(words[i] >> np.uint64(63))
        start = blocks[i] << width
        x = slope * np.float64(u) + curve * np.float64(u) * np.float64(2 * start + u)
        # the series of 1 - exp(-x), with only operations that IEEE 754 rounds correctly
        p = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5 * (1 - x / 6 * (1 - x / 7 * (1 - x / 8)))))))
        coin = np.float64(coins[i]) * 2.0**-64
        out[i] = ((start + u) ^ -negative) + negative
        if start + u == 0 and negative == 1:
            status[i] = REFUSED
        elif x < _STEEPEST and coin >= p * (1 + margin):
            status[i] = KEPT
        elif x < _STEEPEST and coin < p * (1 - margin):
            status[i] = REFUSED
        else:
            status[i] = OPEN
            undecided += 1
    return undecided
