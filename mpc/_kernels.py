"""The compiled loops of this package.

Arithmetic is modulo p = 2^256 + 297. A number is eight signed 64-bit limbs of 32 bits, least
significant first; the last limb also holds the part above 2^256. Between steps a limb may be
negative or a few bits too long. *Folding* carries along the limbs, and replaces the part above 2^256 by
-297 times itself. With signed limbs that is a plain subtraction, and no product comes near 2^63. No
branch and no memory address depends on a limb.
"""

import numpy as np
from numpy.typing import NDArray

from mpc._compiling import kernel
from mpc._limbs import DIGITS, LIMBS, Limbs

_LIMB_MASK = 0xFFFFFFFF
_FOLD = 297


@kernel
def evaluate(coefficients: Limbs, points: NDArray[np.int64], out: Limbs) -> None:
    """Write the values of one polynomial at ``points``, fully reduced, to ``out``.

    ``coefficients`` is (degree + 1, 8), constant term first, limbs below 2^62 in size; ``points``
    is (n,), each in [0, 2^16); ``out`` is (n, 8). It applies Horner's rule to all points at once.
    """
    for j in range(points.shape[0]):
        for k in range(LIMBS):
            out[j, k] = 0
    for i in range(coefficients.shape[0] - 1, -1, -1):
        for j in range(points.shape[0]):
            x = points[j]
            carry = 0
            for k in range(LIMBS):
                limb = out[j, k] * x + coefficients[i, k] + carry
                out[j, k] = limb & _LIMB_MASK
                carry = limb >> 32
            out[j, 0] -= _FOLD * carry
    for j in range(points.shape[0]):
        # For limbs below 2^62 in size, the first turn leaves a value below 2^256 + 2^40 in size; the second
        # leaves one in [-297, p). The third adds p to a negative value, under a mask, and the fourth carries.
        for turn in range(4):
            carry = 0
            for k in range(LIMBS - 1):
                limb = out[j, k] + carry
                out[j, k] = limb & _LIMB_MASK
                carry = limb >> 32
            top = out[j, LIMBS - 1] + carry
            if turn < 2:
                out[j, 0] -= _FOLD * (top >> 32)
                top &= _LIMB_MASK
            elif turn == 2:
                negative = top >> 63
                out[j, 0] += negative & _FOLD
                top += negative & (_LIMB_MASK + 1)
            out[j, LIMBS - 1] = top


@kernel
def weigh(digits: NDArray[np.uint16], values: Limbs, sums: Limbs) -> None:
    """Write the sum of ``values``, each times digit k of its weight, to ``sums[k]``.

    ``digits`` is (t, 20): the weights in base 2^13, least significant digit first, t < 2^16;
    ``values`` is (t, 8), fully reduced. ``sums``, (20, 8), are the coefficients of a polynomial whose value at
    2^13 is the weighted sum.
    """
    for j in range(DIGITS):
        for k in range(LIMBS):
            sums[j, k] = 0
    for i in range(digits.shape[0]):
        for j in range(DIGITS):
            digit = np.int64(digits[i, j])
            for k in range(LIMBS):
                sums[j, k] += digit * values[i, k]
