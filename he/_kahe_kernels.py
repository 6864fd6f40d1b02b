"""The compiled loops of :mod:`he.kahe`, over neighbouring coefficients of a group of eight polynomials.

No branch and no memory address depends on a
value, a key, an error or a residue of a client. (The sum that is opened is known to those who open it.)
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from he._compiling import inlined, kernel
from he.ring._lanes import _high, _population

Words = NDArray[np.uint64]
Small = NDArray[np.int8]
Integers = NDArray[np.int64]
Values = NDArray[np.unsignedinteger[Any]]

CHUNK = 512
"""Places that a loop takes at once: words of that many fit the first-level cache several times."""

_1 = np.uint64(1)


@kernel
def coins(stream: Words, small: Small) -> None:
    """Write to ``small`` the heads of 128 coins, minus 64: two words of ``stream`` each."""
    for i in range(small.size):
        heads = np.int64(_population(stream[2 * i])) + np.int64(_population(stream[2 * i + 1]))
        small[i] = np.int8(heads - 64)


@kernel
def add_values(values: Values, first: int, stride: int, digits: Words, sums: Words) -> None:
    """Add to each of ``sums`` (places), which stay below 2^64, the encoding of values modulo a prime.

    Place j holds the values ``first`` + j + k * ``stride``, for all k that lead to a value. ``digits`` (k, n, 3)
    are those of value k: a digit's lowest bit, a mask of its bits, and the number to multiply it by.
    """
    for start in range(0, sums.size, CHUNK):
        for k in range(digits.shape[0]):
            at = first + start + k * stride
            part = values[at : max(at, min(at + min(CHUNK, sums.size - start), values.size))]
            into = sums[start : start + part.size]
            for digit in range(digits.shape[1]):
                shift, mask, factor = digits[k, digit, 0], digits[k, digit, 1], digits[k, digit, 2]
                for j in range(part.size):
                    into[j] += ((np.uint64(part[j]) >> shift) & mask) * factor


@kernel
def add_constant(rows: Words, constant: np.uint64, p: np.uint64) -> None:
    """Add ``constant``, below p, to ``rows``, below p, in place."""
    flat = rows.reshape(-1)
    for i in range(flat.size):
        total = flat[i] + constant
        flat[i] = min(total, total - p)


@inlined
def _join(digits: Integers, start: int, size: int, primes: Words, limbs: Words) -> None:
    """Write numbers with mixed-radix ``digits`` (primes, places) to ``limbs`` (primes, CHUNK), lowest first.

    A digit of prime p is between -p/2 and p/2, and stands for the digit that is (p - 1)/2 larger.
    """
    count = primes.size
    for k in range(count - 1, -1, -1):
        p, half = primes[k], primes[k] >> _1
        carry = limbs[count - 1 - k]  # the next limb
        for j in range(size):
            carry[j] = np.uint64(digits[k, start + j]) + half
        for m in range(count - 1 - k):
            limb = limbs[m]
            for j in range(size):
                low = limb[j] * p
                high = _high(limb[j], p)
                limb[j] = low + carry[j]
                carry[j] = high + np.uint64(limb[j] < low)


@inlined
def _field(limbs: Words, bit: int, width: int, size: int, out: Words) -> None:
    """Write the ``width`` bits from ``bit`` on of each number in ``limbs`` to ``out``."""
    at, shift = bit >> 6, np.uint64(bit & 63)
    back, mask = np.uint64(63) - shift, (_1 << np.uint64(width)) - _1
    low, high = limbs[at], limbs[min(at + 1, limbs.shape[0] - 1)]
    for j in range(size):
        out[j] = (low[j] >> shift | (high[j] << _1) << back) & mask  # a shift by 64 would be undefined


@kernel
def read(
    digits: Integers,
    primes: Words,
    widths: tuple[int, int, int],
    place: tuple[int, int],
    work: Words,
    out: Integers,
    seen: Words,
) -> None:
    """Take numbers with mixed-radix ``digits`` (primes, places) apart: an error, then fields, then nothing.

    ``widths`` are the bits of the error, the bits of a field, and how many fields there are. ``place`` is
    (first, stride): field k of place j goes to ``out`` at first + j + k * stride. ``work`` (primes + 2, CHUNK) is
    zero. Into ``seen`` (4) go the least and the largest error
    and the largest field, if they lie outside what it holds, and all bits that are set where none may be:
    in fields after the end of ``out``, and above the last field.
    """
    shift, width, count = widths
    first, stride = place
    limbs, numbers = work[: primes.size + 1], work[primes.size + 1]  # the last limb stays zero
    for start in range(0, digits.shape[1], CHUNK):
        size = min(CHUNK, digits.shape[1] - start)
        _join(digits, start, size, primes, limbs)
        for k in range(-1, count):
            bit, bits = (shift + width * k, width) if k >= 0 else (0, shift)  # the error comes first
            _field(limbs, bit, bits, size, numbers)
            least, most = numbers[0], numbers[0]
            for j in range(size):
                least, most = min(least, numbers[j]), max(most, numbers[j])
            if k < 0:
                seen[0], seen[1] = min(seen[0], least), max(seen[1], most)
                continue
            seen[2] = max(seen[2], most)
            at = first + start + k * stride
            inside = max(0, min(size, out.size - at))
            for j in range(inside):
                out[at + j] = np.int64(numbers[j])
            for j in range(inside, size):
                seen[3] |= numbers[j]
        used = shift + width * count
        for m in range(used >> 6, limbs.shape[0]):
            above = np.uint64(used & 63 if m == used >> 6 else 0)
            for j in range(size):
                seen[3] |= limbs[m, j] >> above
