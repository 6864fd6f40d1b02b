"""BFV for sums of integer vectors, exact (J. Fan and F. Vercauteren, eprint 2012/144; Z. Brakerski, CRYPTO 2012).

A ciphertext has N slots, which are integers modulo a prime t that is 1 modulo 2N (N. P. Smart and
F. Vercauteren, *Fully homomorphic SIMD operations*, 2014). It takes somewhat fewer bytes than CKKS's.
t is at least 2^8 times the largest sum. So a ciphertext that puts anything else into the slots, such
as the key, is detected when the sum is opened. :mod:`he.params` derives the ring and the moduli;
:mod:`he._rlwe_format` has the byte formats.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import numpy as np

from he import _rlwe, params
from he._rlwe_format import Integers, Words
from he._rlwe_keys import Adder, PublicKey, SecretKey
from he.params import BFVParameters
from he.ring import Field, _lanes, field, slots
from he.ring.residues import balanced_digits, reduced

__all__ = ["Adder", "PublicKey", "Scheme", "SecretKey"]


@dataclass(frozen=True)
class Scheme(_rlwe.Scheme):
    """BFV for sums of up to ``max_clients`` vectors with integers in 0..``bound``, exact.

    :class:`he._rlwe.Scheme` says what ``seeded`` chooses. Raises :class:`he.errors.HEError` if no
    ring of 128 bits of security carries the sums.
    """

    name: ClassVar[str] = "bfv"

    @property
    def parameters(self) -> BFVParameters:
        """Derived in :func:`he.params.bfv`."""
        return params.bfv(self.bound, self.max_clients, self.seeded)

    def _encode(self, values: Words, out: Words, spare: Words) -> None:
        # q m / t, rounded, is (q m - r) / t, where r is q m modulo t, between -t/2 and t/2. Modulo a
        # prime of q that is -r / t.
        p, t = self.parameters, self.parameters.plain_modulus
        _lanes.gather(values, slots.modular_places(p.degree), spare)
        self._plain.backward(spare, prod(p.primes) % t)
        for field_, row in zip(self._fields, out, strict=True):
            row[:] = spare
            if t > field_.prime:
                field_.reduce(row)
            field_.scale(row, -pow(t, -1, field_.prime))
            _lanes.add_upper(row, spare, np.uint64(t // 2), np.uint64(field_.prime))

    def _decode(self, rows: Words, spare: Words, count: int, sums: Integers) -> bool:
        # t x / q, rounded, is (t x - y) / q, where y is t x modulo q, between -q/2 and q/2. Modulo t
        # that is -y / q.
        p, t, plain = self.parameters, self.parameters.plain_modulus, self._plain
        for field_, row in zip(self._fields, rows, strict=True):
            field_.scale(row, t)
        weight = -pow(prod(p.primes), -1, t)
        values: Words | None = None
        for digit, prime in zip(balanced_digits(rows, self._fields, spare), p.primes, strict=True):
            part = reduced(digit.view(np.uint64), prime // 2, plain)
            plain.scale(part, weight)
            if values is None:
                values = part
            else:
                plain.add(values, part)
            weight *= prime
        assert values is not None
        plain.forward(values)
        _lanes.scatter(values, slots.modular_places(p.degree), sums)
        return True

    @cached_property
    def _plain(self) -> Field:
        return field(self.parameters.degree, self.parameters.plain_modulus)
