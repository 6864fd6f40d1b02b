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
wait for the end. Call a function here only if :func:`he._rows.has_ifma` is true; :mod:`he._powers` returns
the same numbers on every machine.

**One kernel multiplies.** It is long, and costs most of the time that compiling takes. So every function
here writes the products that it needs as a list of *steps*, and :func:`_follow` computes them.

No branch depends on a number. In :func:`raise_fixed` and :func:`raise_all` the rows and batches that are
read depend on secret exponents. Numba's cache does not notice a change of :mod:`he._strips` or :mod:`he._rows`:
when developing, empty the cache after a change there.
"""

import numpy as np
from numpy.typing import NDArray

from he._compiling import kernel
from he._rows import LANES
from he._strips import LIMB_BITS, STRIP, double, negate, settle, strip, strip_across, strip_of_square

Words = NDArray[np.uint64]
Places = NDArray[np.int64]

_AT_ONCE = 64  # batches that :func:`multiply` lays out at a time
_FACTORS = 15  # batches that :func:`raise_fixed` lays out at a time, so that they stay in the cache


def limbs_for(bits: int) -> int:
    """Limbs of a digit, for an N of ``bits`` bits: such that R > 16N, and two strips, the fewest that are right."""
    return max(2, -(-(bits + 4) // (LIMB_BITS * STRIP))) * STRIP  # a strip carries into the limb after it


@kernel
def _follow(batches: Words, steps: Places, ring: Words, scratch: Words) -> None:
    """Write ``a * b / R`` to batch ``out``, for each row (out, a, b) of ``steps``, one after the other.

    ``batches`` has two rows for each batch, one for each digit. ``out`` may be ``a`` or ``b``; if ``a`` is
    ``b``, the cheaper square is computed, which is the same. ``ring`` is (3, limbs): N, a multiple of N whose
    limbs are all above 2^52, and -1/N modulo 2^52 in the first word of the third row. ``scratch`` is four rows
    of limbs + 5 vectors; the limbs of the first row are zero before and after.
    """
    limbs = ring.shape[1]
    for i in range(steps.shape[0]):
        out, a, b = 2 * steps[i, 0], 2 * steps[i, 1], 2 * steps[i, 2]
        if a == b:
            double(batches[a], scratch[3], limbs)
            for at in range(0, limbs, STRIP):
                strip_of_square(scratch[0], batches[a], scratch[3], at, ring, scratch[2])
            negate(scratch[2], ring, scratch[1])
            double(batches[a + 1], scratch[3], limbs)
            for at in range(0, limbs, STRIP):
                strip(scratch[1], scratch[3], batches[a], at, ring, scratch[2])
        else:
            for at in range(0, limbs, STRIP):
                strip(scratch[0], batches[a], batches[b], at, ring, scratch[2])
            negate(scratch[2], ring, scratch[1])
            for at in range(0, limbs, STRIP):
                strip_across(scratch[1], batches[a], batches[b], at, ring)
        settle(scratch[0], batches[out], limbs)
        settle(scratch[1], batches[out + 1], limbs)


def _gather(rows: Words, places: Places, batches: Words) -> None:
    """Lay out the numbers ``rows[places[i, lane]]``, (2 limbs) each, in lane ``lane`` of batch i."""
    _lanes(batches, len(places))[:] = np.take(rows, places, axis=0)


def _scatter(batches: Words, places: Places, rows: Words) -> None:
    """Undo :func:`_gather`."""
    rows[places] = _lanes(batches, len(places))


def _lanes(batches: Words, count: int) -> Words:
    """The first ``count`` batches as numbers: (count, 8, 2 limbs)."""
    return batches[: 2 * count].reshape(count, -1, LANES).transpose(0, 2, 1)


def _batches(count: int, ring: Words) -> Words:
    return _zeros(2 * count, ring.shape[1] * LANES)


def _scratch(ring: Words) -> Words:
    return _zeros(4, (ring.shape[1] + STRIP) * LANES)


def _zeros(rows: int, columns: int) -> Words:
    """Rows of vectors that each lie in one cache line: otherwise every load and store takes two."""
    words = np.zeros(rows * columns + LANES, np.uint64)
    first = -words.ctypes.data // words.itemsize % LANES
    return words[first : first + rows * columns].reshape(rows, columns)


def _places(count: int) -> Places:
    """The places of ``count`` numbers in as few batches as they fill; lanes that are left repeat the last one."""
    return np.minimum(np.arange(-(-count // LANES) * LANES), count - 1).reshape(-1, LANES)


def multiply(a: Words, b: Words, out: Words, ring: Words) -> None:
    """Write ``a[i] * b[i] / R`` to ``out[i]``; one row of ``b`` multiplies all. Arrays are (count, 2 limbs)."""
    scratch, places = _scratch(ring), _places(len(a))
    for start in range(0, len(places), _AT_ONCE):
        part = places[start : start + _AT_ONCE]
        count = len(part)
        batches = _batches(2 * count, ring)
        _gather(a, part, batches)
        _gather(b, part if len(b) > 1 else np.zeros_like(part), batches[2 * count :])
        order = np.arange(count)
        _follow(batches, np.stack([order, order, count + order], axis=1), ring, scratch)
        _scatter(batches, part, out)


def fill_table(table: Words, ring: Words) -> None:
    """Fill ``table``, (windows, digits, 2 limbs), with powers of ``table[:, 1]``; ``table[:, 0]`` is 1."""
    digits = table.shape[1]
    if digits == 2:
        return
    batches, scratch, rows = _batches(digits, ring), _scratch(ring), table.reshape(-1, table.shape[2])
    steps = np.array([(digit, digit - 1, 1) for digit in range(2, digits)], np.int64)
    for windows in _places(len(table)):
        places = digits * windows + np.arange(digits)[:, None]
        _gather(rows, places[1:2], batches[2:])
        _follow(batches, steps, ring, scratch)
        _scatter(batches[4:], places[2:], rows)


def raise_fixed(table: Words, digits: NDArray[np.uint16], out: Words, ring: Words) -> None:
    """Write the product of ``table[j, digits[i, j]]`` over all windows j to ``out[i]``."""
    batches, scratch, rows = _batches(_FACTORS + 1, ring), _scratch(ring), table.reshape(-1, table.shape[2])
    steps = np.array([(0, 0, 1 + factor) for factor in range(_FACTORS)], np.int64)
    windows = np.arange(digits.shape[1])
    for numbers in _places(len(digits)):
        places = (digits[numbers] + table.shape[1] * windows).T
        _gather(rows, places[:1], batches)
        for start in range(1, len(places), _FACTORS):
            factors = places[start : start + _FACTORS]
            _gather(rows, factors, batches[2:])
            _follow(batches, steps[: len(factors)], ring, scratch)
        _scatter(batches, numbers[None], out)


def raise_all(bases: Words, one: Words, digits: NDArray[np.uint16], width: int, out: Words, ring: Words) -> None:
    """Raise each of ``bases``, (count, 2 limbs), to one exponent, and write the powers to ``out``.

    ``digits`` is the exponent in base 2^``width``, *most* significant first; ``one`` is R modulo N².
    """
    power = 1 << width  # the batch after those of the powers to each digit
    batches, scratch = _batches(power + 1, ring), _scratch(ring)
    _gather(one[None], np.zeros((1, LANES), np.int64), batches)
    steps = [(digit, digit - 1, 1) for digit in range(2, power)]
    last = int(digits[0])
    for digit in digits[1:].tolist():
        for _ in range(width):
            steps.append((power, last, last))
            last = power
        steps.append((power, power, digit))
    for numbers in _places(len(bases))[:, None]:
        _gather(bases, numbers, batches[2:])
        _follow(batches, np.array(steps, np.int64), ring, scratch)
        _scatter(batches[2 * last :], numbers, out)
