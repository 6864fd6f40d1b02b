"""The compiled loops of this package.

Arithmetic is modulo p = 2^256 + 297. A number is eight signed 64-bit limbs of 32 bits, least
significant first; the last limb also holds the part above 2^256. Between steps a limb may be
negative or a few bits too long. :func:`_fold` carries, and replaces the part above 2^256 by -297
times itself. With signed limbs that is a plain subtraction, and no product comes near 2^63. No
branch and no memory address depends on a limb.
"""

import numpy as np
from numpy.typing import NDArray

from mpc._compiling import kernel
from mpc._limbs import DIGIT_BITS, DIGITS, LIMBS, Limbs

_LIMB_MASK = 0xFFFFFFFF
_FOLD = 297


@kernel
def _fold(a: Limbs) -> None:
    """Carry along the limbs, and fold the part above 2^256 back into the first limb."""
    carry = 0
    for k in range(LIMBS):
        limb = a[k] + carry
        a[k] = limb & _LIMB_MASK
        carry = limb >> 32
    a[0] -= _FOLD * carry


@kernel
def _reduce(a: Limbs) -> None:
    """Bring ``a`` into [0, p). Its limbs must be below 2^62 in size."""
    # For every a, the first fold leaves a value below 2^256 + 2^40 in size; the second leaves one in
    # [-297, p). Adding p under a mask then corrects a negative value.
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
    is (n,), each in [0, 2^16); ``out`` is (n, 8). It applies Horner's rule to all points at once.
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
    ``values`` is (t, 8), fully reduced; ``out`` is (1, 8). Digits of equal place are summed first.
    The sums are the 20 coefficients of a polynomial, which is evaluated at 2^13.
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
    """Write to ``out`` (n,) which of ``values`` (n, 8; limbs in [0, 2^40)) are below p."""
    for i in range(values.shape[0]):
        borrow = (values[i, 0] - _FOLD) >> 32
        for k in range(1, LIMBS - 1):
            borrow = (values[i, k] + borrow) >> 32
        out[i] = values[i, LIMBS - 1] - (_LIMB_MASK + 1) + borrow < 0
