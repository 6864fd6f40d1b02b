"""The compiled loops over eight polynomials side by side, besides the transform.

No branch and no memory address depends on a residue, except where residues of a *public* polynomial are
refused.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from he._compiling import inlined, kernel
from he._rows import LANES

Words = NDArray[np.uint64]
Reals = NDArray[np.float64]
Small = NDArray[np.int8]
Values = NDArray[np.unsignedinteger[Any]]
Places = NDArray[np.int64]

_0, _1, _2, _21, _22, _32, _42, _44, _62 = (np.uint64(n) for n in (0, 1, 2, 21, 22, 32, 42, 44, 62))
_LOW = np.uint64(0xFFFFFFFF)
_COINS_MASK = np.uint64((1 << 21) - 1)
_PAIRS, _FOURS, _BYTES, _ONES = (
    np.uint64(n) for n in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)


@inlined
def _high(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 bits of a product."""
    low, high = b & _LOW, b >> _32
    first = (a >> _32) * low + (((a & _LOW) * low) >> _32)
    second = (a & _LOW) * high + (first & _LOW)
    return (a >> _32) * high + (first >> _32) + (second >> _32)


@inlined
def _below(a: np.uint64, p: np.uint64) -> np.uint64:
    """``a`` in [0, 2p), reduced below p. The difference wraps where it is negative, so the minimum is right."""
    return min(a, a - p)


@inlined
def _population(x: np.uint64) -> np.uint64:
    """How many bits of ``x`` are set. The compiler knows this sum, and uses the CPU's own instruction."""
    x -= (x >> _1) & _PAIRS
    x = (x & _FOURS) + ((x >> _2) & _FOURS)
    x = (x + (x >> np.uint64(4))) & _BYTES
    return (x * _ONES) >> np.uint64(56)


@inlined
def _difference(coins: np.uint64) -> np.int8:
    """The heads of 21 coins minus those of 21 others: the lowest 42 bits."""
    heads = np.int64(_population(coins & _COINS_MASK))
    return np.int8(heads - np.int64(_population((coins >> _21) & _COINS_MASK)))


@kernel
def quotients(values: Words, p: np.uint64, inverse: np.uint64, shifts: tuple[int, int], out: Words) -> None:
    """Write each w of ``values``, below p, and floor(w * 2^bits / p) to ``out`` (n, 2).

    ``shifts`` are s and ``bits``, with 2^s < p < 2^(s + 1); ``inverse`` is floor(2^(64 + s) / p). Then
    floor(w * inverse / 2^s) is floor(w * 2^64 / p), or at most 2 less.
    """
    down, up, drop = np.uint64(shifts[0]), np.uint64(64 - shifts[0]), np.uint64(64 - shifts[1])
    for i in range(values.size):
        w = values[i]
        quotient = _high(w, inverse) << up | (w * inverse) >> down
        rest = _0 - quotient * p  # w * 2^64 - quotient * p, below 3p
        quotient += np.uint64(rest >= p) + np.uint64(rest >= p + p)
        out[i, 0] = w
        out[i, 1] = quotient >> drop


@kernel
def reduce(group: Words, p: np.uint64, quotient: np.uint64) -> None:
    """Bring any 64-bit words below p, in place; ``quotient`` is floor(2^64 / p)."""
    words = group.reshape(-1)
    for i in range(words.size):
        words[i] = _below(words[i] - _high(quotient, words[i]) * p, p)


@kernel
def add(group: Words, other: Words, p: np.uint64) -> None:
    """Add ``other`` to ``group``, both below p, in place."""
    words, others = group.reshape(-1), other.reshape(-1)
    for i in range(words.size):
        words[i] = _below(words[i] + others[i], p)


@kernel
def add_small(group: Words, small: Small, p: np.uint64) -> None:
    """Add ``small``, numbers from -128 to 127, to ``group``, below p, in place."""
    words, numbers = group.reshape(-1), small.reshape(-1)
    for i in range(words.size):
        number = np.int64(numbers[i])
        words[i] = _below(words[i] + (np.uint64(number) + (p & np.uint64(number >> 63))), p)


@kernel
def lift(small: Small, p: np.uint64, group: Words) -> None:
    """Write ``small``, numbers from -128 to 127, modulo p, to ``group``."""
    words, numbers = group.reshape(-1), small.reshape(-1)
    for i in range(words.size):
        number = np.int64(numbers[i])
        words[i] = np.uint64(number) + (p & np.uint64(number >> 63))


@kernel
def binomial(stream: Words, small: Small) -> None:
    """Write to ``small`` the heads of 21 coins minus those of 21 others, all from one word of ``stream`` each."""
    for i in range(stream.size):
        small[i] = _difference(stream[i])


@kernel
def encryption(stream: Words, carrier: Small, first: Small, second: Small) -> None:
    """The secrets of an encryption, from two words of ``stream`` for each coefficient.

    42 bits of each word are the coins of an error, as in :func:`binomial`. The other 22 bits of both make a
    number below 2^44; times 3, in units of 2^44, it is the carrier's coefficient plus 1. So -1, 0 and 1 have
    the probability 1/3 up to 2^-44.
    """
    mask = (_1 << _44) - _1
    for i in range(carrier.size):
        one, two = stream[2 * i], stream[2 * i + 1]
        first[i] = _difference(one)
        second[i] = _difference(two)
        carrier[i] = np.int8(np.int64((np.uint64(3) * ((one >> _42 << _22 | two >> _42) & mask)) >> _44) - 1)


@kernel
def ternary(stream: Words, small: Small) -> None:
    """Write -1, 0 or 1 to ``small``, from one word of ``stream`` each; each has the probability 1/3 up to 2^-61."""
    for i in range(stream.size):
        # A number below 2^62, times 3, in units of 2^62.
        small[i] = np.int8(np.int64((np.uint64(3) * (stream[i] >> _2)) >> _62) - 1)


@kernel
def cut(stream: Words, bits: int, p: np.uint64) -> int:
    """Keep the low ``bits`` bits of each word, in place. Returns how many are then not below p."""
    words = stream.reshape(-1)
    mask = (_1 << np.uint64(bits)) - _1
    refused = 0
    for i in range(words.size):
        words[i] &= mask
        refused += 1 if words[i] >= p else 0
    return refused


@kernel
def gather(values: Values, places: Places, group: Words) -> None:
    """Write value ``places[i]`` of each row of ``values`` (8, N) to row i of ``group``."""
    for i in range(places.size):
        for lane in range(LANES):
            group[i, lane] = np.uint64(values[lane, places[i]])


@kernel
def scatter(group: Words, places: Places, out: Places) -> None:
    """Undo :func:`gather`, for values below 2^63, into the rows of ``out``, eight at most."""
    for lane in range(out.shape[0]):
        for i in range(places.size):
            out[lane, places[i]] = np.int64(group[i, lane])


@kernel
def round_to(reals: Reals, step: float, above: np.uint64, p: np.uint64, quotient: np.uint64, group: Words) -> None:
    """Write ``reals`` times ``step``, rounded to even, modulo p, to ``group``.

    The products are below 2^62 in size. ``above``, a multiple of p, is larger than each of them, so that the
    sums are positive. ``quotient`` is floor(2^64 / p).
    """
    numbers, words = reals.reshape(-1), group.reshape(-1)
    for i in range(words.size):
        word = np.uint64(np.int64(np.rint(numbers[i] * step))) + above
        words[i] = _below(word - _high(quotient, word) * p, p)


@kernel
def centre(group: Words, p: np.uint64) -> None:
    """Replace residues above p/2 by the negative numbers, in two's complement, that they stand for, in place."""
    words, half = group.reshape(-1), p >> _1
    for i in range(words.size):
        # A comparison would be compiled to a branch, where a CPU has no vectors of unsigned words.
        words[i] = _below(words[i] + half, p) - half


@kernel
def subtract(group: Words, other: Words, p: np.uint64) -> None:
    """Subtract ``other`` from ``group``, both below p, in place."""
    words, others = group.reshape(-1), other.reshape(-1)
    for i in range(words.size):
        words[i] = _below(words[i] + (p - others[i]), p)


@kernel
def add_upper(group: Words, values: Words, half: np.uint64, p: np.uint64) -> None:
    """Add 1 to ``group``, below p, where ``values`` are above ``half``, in place."""
    words, others = group.reshape(-1), values.reshape(-1)
    for i in range(words.size):
        words[i] = _below(words[i] + np.uint64(others[i] > half), p)
