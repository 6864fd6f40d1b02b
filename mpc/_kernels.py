"""The compiled loops of this package.

Arithmetic is modulo p = 2^256 + 297. A number is eight signed 64-bit limbs of 32 bits, least
significant first; the last limb also holds whatever lies above 2^256. Between steps a limb may be
negative or a few bits too long: :func:`_fold` carries, and takes the part above 2^256 back in as
-297 times itself. Signed limbs make that a plain subtraction, and no product comes near 2^63. No
branch and no address depends on a limb.
"""

import numpy as np
from numpy.typing import NDArray

from mpc._compiling import kernel

Limbs = NDArray[np.int64]

LIMBS = 8
"""Limbs of a field element."""

DIGIT_BITS = 13
"""Bits of a digit of a weight: 2^16 shares x 2^13 x a 33-bit limb stays below 2^63."""

DIGITS = 20
"""Digits of a weight: the least number that holds 257 bits."""

_LIMB_MASK = 0xFFFFFFFF
_FOLD = 297


@kernel
def _fold(a: Limbs) -> None:
    """Carry along the limbs, and fold what lies above 2^256 back into the first."""
    carry = 0
    for k in range(LIMBS):
        limb = a[k] + carry
        a[k] = limb & _LIMB_MASK
        carry = limb >> 32
    a[0] -= _FOLD * carry


@kernel
def _reduce(a: Limbs) -> None:
    """Bring ``a`` into [0, p). Its limbs must be below 2^62 in size."""
    # Whatever |a|, the first fold leaves a value below 2^256 + 2^40 in size, the second one in
    # [-297, p). Only a negative value is left to mend, by adding p under a mask.
    _fold(a)
    _fold(a)
    carry = 0
    for k in range(LIMBS - 1):
        limb = a[k] + carry
        a[k] = limb & _LIMB_MASK
        carry = limb >> 32
    a[LIMBS - 1] += carry
    negative = a[LIMBS - 1] >> 63
    a[0] += negative & _FOLD
    a[LIMBS - 1] += negative & (_LIMB_MASK + 1)
    carry = 0
    for k in range(LIMBS - 1):
        limb = a[k] + carry
        a[k] = limb & _LIMB_MASK
        carry = limb >> 32
    a[LIMBS - 1] += carry


@kernel
def evaluate(coefficients: Limbs, points: NDArray[np.int64], out: Limbs) -> None:
    """Write the values of one polynomial at ``points``, fully reduced, to ``out``.

    ``coefficients`` is (degree + 1, 8), constant term first, limbs below 2^62 in size; ``points``
    is (n,), each in [0, 2^16); ``out`` is (n, 8). Horner's rule for all points at once.
    """
    out[:] = 0
    for i in range(coefficients.shape[0] - 1, -1, -1):
        c = coefficients[i]
        for j in range(points.shape[0]):
            x = points[j]
            carry = 0
            for k in range(LIMBS):
                limb = out[j, k] * x + c[k] + carry
                out[j, k] = limb & _LIMB_MASK
                carry = limb >> 32
            out[j, 0] -= _FOLD * carry
    for j in range(points.shape[0]):
        _reduce(out[j])


@kernel
def combine(digits: NDArray[np.uint16], values: Limbs, out: Limbs) -> None:
    """Write the sum of ``values``, each times its weight, fully reduced, to ``out``.

    ``digits`` is (t, 20): the weights in base 2^13, least significant digit first, t < 2^16;
    ``values`` is (t, 8), fully reduced; ``out`` is (1, 8). The digits of equal place are summed
    first; what is left is a polynomial with 20 coefficients, evaluated at 2^13.
    """
    sums = np.zeros((DIGITS, LIMBS), dtype=np.int64)
    for i in range(digits.shape[0]):
        for j in range(DIGITS):
            digit = np.int64(digits[i, j])
            for k in range(LIMBS):
                sums[j, k] += digit * values[i, k]
    evaluate(sums, np.full(1, 1 << DIGIT_BITS), out)


@kernel
def is_reduced(values: Limbs, out: NDArray[np.bool_]) -> None:
    """Write to ``out`` (n,) which of ``values`` (n, 8; limbs in [0, 2^40)) lie below p."""
    for i in range(values.shape[0]):
        borrow = (values[i, 0] - _FOLD) >> 32
        for k in range(1, LIMBS - 1):
            borrow = (values[i, k] + borrow) >> 32
        out[i] = values[i, LIMBS - 1] - (_LIMB_MASK + 1) + borrow < 0
