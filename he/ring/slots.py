"""The places of slots: values that polynomials hold so that sums of polynomials are sums of values.

The order of slots is SEAL's, in BFV and in CKKS: slot j of the first half is at the root of unity with
the exponent 3^j, slot j of the second half at that with the exponent -3^j (N. P. Smart and F. Vercauteren,
*Fully homomorphic SIMD operations*, 2014). So a vector that TenSEAL decrypts has our order, of the real
parts in CKKS: :func:`complex_places` says how imaginary parts differ.
"""

from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from he.ring import _fourier
from he.ring.fields import bit_reversed

Places = NDArray[np.int64]
Reals = NDArray[np.float64]


@lru_cache(maxsize=8)
def modular_places(degree: int) -> Places:
    """The slot (N) that each row of a transformed group holds, for a plain modulus (BFV)."""
    slots = np.empty(degree, dtype=np.int64)
    order, power = bit_reversed(degree), 1
    for j in range(degree // 2):
        slots[order[power >> 1]], slots[order[(2 * degree - power) >> 1]] = j, j + degree // 2
        power = power * 3 % (2 * degree)
    return slots


@lru_cache(maxsize=8)
def complex_places(degree: int) -> Places:
    """The value (N) that each row of a complex group holds (CKKS).

    A complex slot holds two values: its real part value j, its imaginary part value j + N/2. Rows are at the
    exponents that are 1 modulo 4: of each pair of conjugate roots, one. For odd j that is not 3^j but its
    negative, so that there SEAL's slot j is the conjugate of ours.
    """
    half = degree // 2
    values = np.empty(degree, dtype=np.int64)
    order, power = bit_reversed(half), 1
    for j in range(half):
        row = order[(power if power % 4 == 1 else 2 * degree - power) >> 2]
        values[row], values[half + row] = j, j + half
        power = power * 3 % (2 * degree)
    return values


def to_slots(coefficients: Reals) -> None:
    """Replace the coefficients (N, 8) of real polynomials by the parts of their N/2 complex values, in place."""
    _fourier.forward(coefficients, _roots(len(coefficients)))


def from_slots(values: Reals) -> None:
    """Undo :func:`to_slots` in place, and multiply by N/2."""
    _fourier.backward(values, _roots(len(values)))


@lru_cache(maxsize=8)
def _roots(degree: int) -> Reals:
    """The roots (N/2, 2) of the tree below the factor x^(N/2) - sqrt(-1) of x^N + 1.

    Each part is the double that is nearest to it, on every machine: sines of C libraries differ in their last bit,
    and an encoding that differs is another plaintext under the same randomness.
    """
    order, powers = bit_reversed(degree), _powers(degree)
    roots = np.zeros((degree // 2, 2))
    groups = 1
    while groups < degree // 2:
        roots[groups : 2 * groups] = [powers[order[2 * groups + g]] for g in range(groups)]
        groups <<= 1
    return roots


def _powers(degree: int) -> list[tuple[float, float]]:
    """The N lowest powers of exp(pi sqrt(-1) / N), computed in integers, in units of 2^-160."""
    bits = 160
    one = 1 << bits
    cosine, sine = 0, one  # of a right angle, halved until it is pi / N
    for _ in range(degree.bit_length() - 2):
        cosine = isqrt(one + cosine << bits - 1)
        sine = (sine << bits - 1) // cosine
    powers, x, y = [], one, 0
    for _ in range(degree):
        powers.append((x / one, y / one))
        x, y = x * cosine - y * sine >> bits, x * sine + y * cosine >> bits
    return powers
