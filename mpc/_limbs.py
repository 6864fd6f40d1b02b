"""How a field element of :mod:`mpc.shamir` is laid out for the kernels. Nothing heavy is loaded here."""

import numpy as np
from numpy.typing import NDArray

Limbs = NDArray[np.int64]

LIMBS = 8
"""Limbs of a field element."""

DIGIT_BITS = 13
"""Bits of a digit of a weight: 2^16 shares x 2^13 x a 33-bit limb stays below 2^63."""

DIGITS = 20
"""Digits of a weight: the least number that holds 257 bits."""
