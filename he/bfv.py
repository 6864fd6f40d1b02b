"""BFV for sums of integer vectors, exact (J. Fan and F. Vercauteren, eprint 2012/144; Z. Brakerski, CRYPTO 2012).

A ciphertext has N slots, integers modulo a prime t that is 1 modulo 2N (N. P. Smart and F. Vercauteren, *Fully
homomorphic SIMD operations*, 2014), in somewhat fewer bytes than CKKS's. t is at least 2^8 times the largest sum,
so that a ciphertext which puts something else into slots, the key above all, shows when the sum is opened.
:mod:`he.params` derives ring and moduli; :mod:`he._rlwe` has the formats.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from he import _ring, _rlwe, params
from he._rlwe import Adder, PublicKey, SecretKey
from he.params import BFVParameters

__all__ = ["Adder", "PublicKey", "Scheme", "SecretKey"]

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Scheme(_rlwe.Scheme):
    """Sums of up to ``max_clients`` vectors with integers in 0..``bound``, exact.

    ``seeded=False``: clients encrypt with a public key, whose secret another party holds.
    ``seeded=True``: clients share the secret key, for half the bytes: one client that colludes with the server
    reads every client's vector.

    Raises :class:`he.errors.HEError` where no ring of 128 bits of security, classical and
    quantum, carries the sums.
    """

    name: ClassVar[str] = "bfv"
    transformed: ClassVar[bool] = False

    @property
    def parameters(self) -> BFVParameters:
        """Derived in :func:`he.params.bfv`."""
        return params.bfv(self.bound, self.max_clients, self.seeded)

    @property
    def slots(self) -> int:
        """N, modulo the plaintext modulus."""
        return self.parameters.degree

    def _encode(self, values: Words) -> list[Words]:
        # q m / t rounded is (q m - r) / t, r being q m modulo t, taken about zero; modulo a prime of q, -r / t.
        t, q = self.parameters.plain_modulus, prod(self.parameters.primes)
        self._plain.backward(values, q % t)
        return [field.divide(values, t) for field in self._fields]

    def _decode(self, rows: list[Words], count: int) -> tuple[Integers, bool]:
        # t x / q rounded is (t x - y) / q, y being t x modulo q, taken about zero; modulo t, -y / q.
        p = self.parameters
        t, q = p.plain_modulus, prod(p.primes)
        for field, part in zip(self._fields, rows, strict=True):
            field.scale(part, t)
        digits, negative = _rlwe.digits(rows, p)
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
