"""BFV for sums of integer vectors, exact (J. Fan and F. Vercauteren, eprint 2012/144; Z. Brakerski, CRYPTO 2012).

A ciphertext has N slots, which are integers modulo a prime t that is 1 modulo 2N (N. P. Smart and
F. Vercauteren, *Fully homomorphic SIMD operations*, 2014). It takes somewhat fewer bytes than CKKS's.
t is at least 2^8 times the largest sum. So a ciphertext that puts anything else into the slots, such
as the key, is detected when the sum is opened. :mod:`he.params` derives the ring and the moduli;
:mod:`he._rlwe_format` has the byte formats.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from he import _ring, _rlwe, params
from he._rlwe_format import Integers, Words
from he._rlwe_keys import Adder, PublicKey, SecretKey
from he.params import BFVParameters

__all__ = ["Adder", "PublicKey", "Scheme", "SecretKey"]


@dataclass(frozen=True)
class Scheme(_rlwe.Scheme):
    """BFV for sums of up to ``max_clients`` vectors with integers in 0..``bound``, exact.

    :class:`he._rlwe.Scheme` says what ``seeded`` chooses. Raises :class:`he.errors.HEError` if no
    ring of 128 bits of security carries the sums.
    """

    name: ClassVar[str] = "bfv"
    transformed: ClassVar[bool] = False

    @property
    def parameters(self) -> BFVParameters:
        """Derived in :func:`he.params.bfv`."""
        return params.bfv(self.bound, self.max_clients, self.seeded)

    def _encode(self, values: Words) -> list[Words]:
        # q m / t, rounded, is (q m - r) / t, where r is q m modulo t, between -t/2 and t/2. Modulo a
        # prime of q that is -r / t.
        t, q = self.parameters.plain_modulus, prod(self.parameters.primes)
        self._plain.backward(values, q % t)
        return [field.divide(values, t) for field in self._fields]

    def _decode(self, rows: list[Words], count: int) -> tuple[Integers, bool]:
        # t x / q, rounded, is (t x - y) / q, where y is t x modulo q, between -q/2 and q/2. Modulo t
        # that is -y / q.
        p = self.parameters
        t, q = p.plain_modulus, prod(p.primes)
        for field, part in zip(self._fields, rows, strict=True):
            field.scale(part, t)
        digits, negative = _ring.mixed_radix(rows, p.degree, p.primes)
        values = negative.astype(np.uint64)
        weight = -pow(q, -1, t)
        for digit, prime in zip(digits, p.primes, strict=True):
            part = digit.copy()
            self._plain.scale(part, weight)
            self._plain.add(values, part)
            weight *= prime
        self._plain.forward(values)
        return values.astype(np.int64), True

    @property
    def _plain(self) -> _ring.Field:
        return _ring.field(self.parameters.degree, self.parameters.plain_modulus)
