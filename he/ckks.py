"""CKKS for sums of integer vectors (J. H. Cheon, A. Kim, M. Kim and Y. Song, ASIACRYPT 2017).

The plaintexts are integers. The decryptor rounds each slot of a sum to an integer before anything
leaves it. The result is the exact sum, which says nothing about the noise and so nothing about the
key: the attack of B. Li and D. Micciancio (EUROCRYPT 2021) needs the noise. Nothing is released
without rounding, so no noise is added to flood it. This is safe only because the noise of a decrypted
sum never leaves the decryptor. :mod:`he.params` derives step, tolerance and ring;
:mod:`he._rlwe_format` has the byte formats.

A ring of degree N has N/2 complex slots; the real and the imaginary part of a slot hold one value
each (:mod:`he.ring.slots`).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from he import _rlwe, params
from he._rlwe_format import Integers, Words
from he._rlwe_keys import Adder, PublicKey, SecretKey
from he.params import CKKSParameters
from he.ring import Field, _fourier, _lanes, slots
from he.ring.residues import balanced_digits

__all__ = ["Adder", "PublicKey", "Scheme", "SecretKey"]

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Scheme(_rlwe.Scheme):
    """CKKS for sums of up to ``max_clients`` vectors with integers in 0..``bound``, exact.

    Both parts of a complex slot hold a value: the real parts come first, then the imaginary ones.
    :class:`he._rlwe.Scheme` says what ``seeded`` chooses. Raises :class:`he.errors.HEError` if no
    ring of 128 bits of security carries the sums.
    """

    name: ClassVar[str] = "ckks"

    @property
    def parameters(self) -> CKKSParameters:
        """Derived in :func:`he.params.ckks`."""
        return params.ckks(self.bound, self.max_clients, self.seeded)

    def _encode(self, values: Words, out: Words, spare: Words) -> None:
        p = self.parameters
        coefficients = spare.view(np.float64)
        _fourier.gather(values, slots.complex_places(p.degree), coefficients)
        slots.from_slots(coefficients)
        for field, row in zip(self._fields, out, strict=True):
            _round_to(coefficients, p.step / (p.degree // 2), field, row)

    def _decode(self, rows: Words, spare: Words, count: int, sums: Integers) -> bool:
        p = self.parameters
        middle = count * self.bound // 2
        for field, row in zip(self._fields, rows, strict=True):
            for constant in (0, p.degree // 2):  # of the real parts, of the imaginary parts
                moved = row[constant : constant + 1]
                moved += np.uint64(-p.step * middle % field.prime)
                field.reduce(moved)
        numbers = _numbers(rows, self._fields, spare)
        slots.to_slots(numbers)
        off = _fourier.scatter(numbers, float(p.step), slots.complex_places(p.degree), middle, sums)
        return bool(off <= p.tolerance)


def _round_to(coefficients: Reals, step: float, field: Field, out: Words) -> None:
    """Write ``coefficients`` times ``step``, rounded, modulo the field's prime, to ``out``."""
    prime, above = np.uint64(field.prime), np.uint64(_multiple_above(field.prime))
    _lanes.round_to(coefficients, step, above, prime, np.uint64((1 << 64) // field.prime), out)


def _multiple_above(prime: int) -> int:
    """The least multiple of ``prime`` above all coefficients; the sum of both stays below 2^63."""
    return (params.MAX_COEFFICIENT // prime + 1) * prime


def _numbers(rows: Words, fields: list[Field], spare: Words) -> Reals:
    """The numbers (N, 8) between -q/2 and q/2 with the residues ``rows`` (primes, N, 8), to double precision.

    They take the place of ``rows``; ``spare`` (N, 8) is overwritten.
    """
    digits, weight = balanced_digits(rows, fields, spare), 1.0
    numbers: Reals = digits[0].view(np.float64)
    _fourier.convert(digits[0], numbers)
    for digit, lower in zip(digits[1:], fields, strict=False):
        weight *= lower.prime
        _fourier.add(numbers, digit, weight)
    return numbers
