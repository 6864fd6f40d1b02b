"""Numbers that are known by their residues modulo several primes."""

import numpy as np
from numpy.typing import NDArray

from he.ring import _lanes
from he.ring.fields import Field

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


def balanced_digits(groups: Words, fields: list[Field], spare: Words) -> list[Integers]:
    """The signed digits of the numbers between -q/2 and q/2 with residues ``groups`` (primes, N, 8).

    A number is digit 0 + prime 0 * (digit 1 + prime 1 * (...)), digit i between half of -prime i and half
    of prime i (H. L. Garner, 1959, with signs). Since all primes are odd, these are the numbers between -q/2
    and q/2, q being the product of the primes. The digits take the place of ``groups``;
    ``spare`` (N, 8) is overwritten.
    """
    digits: list[Integers] = []
    for i, field in enumerate(fields):
        rest = groups[i]
        for lower, digit in zip(fields[:i], digits, strict=True):
            spare[:] = digit.view(np.uint64)
            field.subtract(rest, reduced(spare, lower.prime // 2, field))
            field.scale(rest, pow(lower.prime, -1, field.prime))
        _lanes.centre(rest, np.uint64(field.prime))
        digits.append(rest.view(np.int64))
    return digits


def reduced(numbers: Words, bound: int, field: Field) -> Words:
    """``numbers`` (N, 8), in two's complement, at most ``bound`` in size, modulo the field's prime, in place."""
    # A multiple of the prime that makes all of them positive.
    numbers += np.uint64(-(-bound // field.prime) * field.prime)
    field.reduce(numbers)
    return numbers
