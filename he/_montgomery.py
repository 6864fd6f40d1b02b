"""Multiplication modulo the squares of eight times the same number, by the processor's 52-bit multiply-and-add.

A number modulo N² is two *digits* in base N, each of ``limbs`` limbs of 52 bits, least significant first.
The digits x0, x1 stand for (x0 + x1 N) / R modulo N², where R = 2^(52 * limbs) > 16N. Limb i of eight
numbers is one vector, so that a digit of eight numbers is an array of limbs * 8 words. A *batch* is two
such arrays, one after the other.

**Why digits.** Montgomery's reduction of x0 y0 computes a quotient m with x0 y0 + m N = R t. So
(x0 + x1 N) (y0 + y1 N) / R is t + N (x0 y1 + x1 y0 - m) / R modulo N², and only the low digits of the
second fraction, modulo N, count. This is five multiplications of the size of N. A square is three and a
half, because most products of two limbs occur twice. Modulo N² without digits, both are eight.

**Ranges.** Digits are kept below 2N, not N. Then t is below (4N² + RN) / R < 2N again, and no final
subtraction is needed (Walter, "Montgomery exponentiation needs no final subtractions", 1999). In place
of -m, a multiple of N below 3R is added, less m: its limbs are all larger than those of m. The second
digit is below (8N² + 3R + RN) / R < 2N.

The loop takes a *strip* of five limbs of one factor at a time. Each of the limbs / 5 strips adds at
most 30 half products of 52 bits to a column. A column stays below 2^64 up to 680 limbs, so that carries
wait for the end. Call a kernel here only if :func:`he._rows.has_ifma` is true; :mod:`he._powers` returns
the same numbers on every machine.

No branch depends on a number. In :func:`raise_fixed` and :func:`raise_all` the table rows that are read
depend on secret exponents. Numba's cache does not notice a change of :mod:`he._strips` or :mod:`he._rows`:
when developing, empty the cache after a change there.
"""

import numpy as np
from numpy.typing import NDArray

from he._compiling import kernel
from he._rows import LANES
from he._strips import LIMB_BITS, STRIP, settle, strip, strip_across, strip_of_square

Words = NDArray[np.uint64]


def limbs_for(bits: int) -> int:
    """Limbs of a digit, for an N of ``bits`` bits: such that R > 16N."""
    return -(-(bits + 4) // (LIMB_BITS * STRIP)) * STRIP


@kernel
def _negate(quotient: Words, ring: Words, total: Words) -> None:
    """Write a multiple of N less ``quotient`` to ``total``."""
    for i in range(ring.shape[1]):
        for lane in range(LANES):
            total[i * LANES + lane] = ring[1, i] - quotient[i * LANES + lane]


@kernel
def _double(digit: Words, out: Words, limbs: int) -> None:
    for i in range(limbs * LANES):
        out[i] = digit[i] << np.uint64(1)
    settle(out, out, limbs)


@kernel
def _multiply(out: Words, a: Words, b: Words, ring: Words, scratch: Words) -> None:
    """Write ``a * b / R`` to the batch ``out``, which may be ``a`` or ``b``.

    ``ring`` is (3, limbs): N, a multiple of N whose limbs are all above 2^52, and -1/N modulo 2^52 in
    the first word of the third row. ``scratch`` is four rows of limbs + 5 vectors; the limbs of the first
    row are zero before and after.
    """
    limbs, half = ring.shape[1], ring.shape[1] * LANES
    for at in range(0, limbs, STRIP):
        strip(scratch[0], a[:half], b[:half], at, ring, scratch[2])
    _negate(scratch[2], ring, scratch[1])
    for at in range(0, limbs, STRIP):
        strip_across(scratch[1], a, b, at, ring)
    settle(scratch[0], out[:half], limbs)
    settle(scratch[1], out[half:], limbs)


@kernel
def _square(out: Words, a: Words, ring: Words, scratch: Words) -> None:
    """Write ``a * a / R`` to the batch ``out``, which may be ``a``. See :func:`_multiply`."""
    limbs, half = ring.shape[1], ring.shape[1] * LANES
    twice = scratch[3]
    _double(a[:half], twice, limbs)
    for at in range(0, limbs, STRIP):
        strip_of_square(scratch[0], a[:half], twice, at, ring, scratch[2])
    _negate(scratch[2], ring, scratch[1])
    _double(a[half:], twice, limbs)
    for at in range(0, limbs, STRIP):
        strip(scratch[1], twice, a[:half], at, ring, scratch[2])
    settle(scratch[0], out[:half], limbs)
    settle(scratch[1], out[half:], limbs)


@kernel
def _gather(batch: Words, lane: int, number: Words) -> None:
    limbs, half = number.size // 2, batch.size // 2
    for i in range(limbs):
        batch[i * LANES + lane] = number[i]
        batch[half + i * LANES + lane] = number[limbs + i]


@kernel
def _scatter(batch: Words, lane: int, number: Words) -> None:
    limbs, half = number.size // 2, batch.size // 2
    for i in range(limbs):
        number[i] = batch[i * LANES + lane]
        number[limbs + i] = batch[half + i * LANES + lane]


@kernel
def multiply(a: Words, b: Words, out: Words, ring: Words) -> None:
    """Write ``a[i] * b[i] / R`` to ``out[i]``; one row of ``b`` multiplies all. Arrays are (count, 2 limbs)."""
    left, right = np.zeros((2, 2 * ring.shape[1] * LANES), np.uint64)
    scratch = np.zeros((4, (ring.shape[1] + STRIP) * LANES), np.uint64)
    for start in range(0, a.shape[0], LANES):
        lanes = min(LANES, a.shape[0] - start)
        for lane in range(lanes):
            _gather(left, lane, a[start + lane])
            _gather(right, lane, b[start + lane if b.shape[0] > 1 else 0])
        _multiply(left, left, right, ring, scratch)
        for lane in range(lanes):
            _scatter(left, lane, out[start + lane])


@kernel
def fill_table(table: Words, ring: Words) -> None:
    """Fill ``table``, (windows, digits, 2 limbs), with powers of ``table[:, 1]``; ``table[:, 0]`` is 1."""
    base, power = np.zeros((2, 2 * ring.shape[1] * LANES), np.uint64)
    scratch = np.zeros((4, (ring.shape[1] + STRIP) * LANES), np.uint64)
    for start in range(0, table.shape[0], LANES):
        lanes = min(LANES, table.shape[0] - start)
        for lane in range(lanes):
            _gather(base, lane, table[start + lane, 1])
        power[:] = base
        for digit in range(2, table.shape[1]):
            _multiply(power, power, base, ring, scratch)
            for lane in range(lanes):
                _scatter(power, lane, table[start + lane, digit])


@kernel
def raise_fixed(table: Words, digits: NDArray[np.uint16], out: Words, ring: Words) -> None:
    """Write the product of ``table[j, digits[i, j]]`` over all windows j to ``out[i]``."""
    power, factor = np.zeros((2, 2 * ring.shape[1] * LANES), np.uint64)
    scratch = np.zeros((4, (ring.shape[1] + STRIP) * LANES), np.uint64)
    for start in range(0, digits.shape[0], LANES):
        lanes = min(LANES, digits.shape[0] - start)
        for lane in range(lanes):
            _gather(power, lane, table[0, digits[start + lane, 0]])
        for window in range(1, digits.shape[1]):
            for lane in range(lanes):
                _gather(factor, lane, table[window, digits[start + lane, window]])
            _multiply(power, power, factor, ring, scratch)
        for lane in range(lanes):
            _scatter(power, lane, out[start + lane])


@kernel
def raise_all(bases: Words, one: Words, digits: NDArray[np.uint16], width: int, out: Words, ring: Words) -> None:
    """Raise each of ``bases``, (count, 2 limbs), to one exponent, and write the powers to ``out``.

    ``digits`` is the exponent in base 2^``width``, *most* significant first; ``one`` is R modulo N².
    """
    powers = np.zeros((1 << width, 2 * ring.shape[1] * LANES), np.uint64)
    power = np.zeros(2 * ring.shape[1] * LANES, np.uint64)
    scratch = np.zeros((4, (ring.shape[1] + STRIP) * LANES), np.uint64)
    for lane in range(LANES):
        _gather(powers[0], lane, one)
    for start in range(0, bases.shape[0], LANES):
        lanes = min(LANES, bases.shape[0] - start)
        for lane in range(lanes):
            _gather(powers[1], lane, bases[start + lane])
        for digit in range(2, 1 << width):
            _multiply(powers[digit], powers[digit - 1], powers[1], ring, scratch)
        power[:] = powers[digits[0]]
        for i in range(1, digits.size):
            for _ in range(width):
                _square(power, power, ring, scratch)
            _multiply(power, power, powers[digits[i]], ring, scratch)
        for lane in range(lanes):
            _scatter(power, lane, out[start + lane])
