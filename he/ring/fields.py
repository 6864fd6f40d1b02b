"""Polynomials modulo x^N + 1 and a prime, eight side by side.

A transform uses SEAL's root, the least primitive 2N-th root of unity, and SEAL's order of values,
bit-reversed. So SEAL's keys and ciphertexts need no conversion.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import config
from numpy.typing import NDArray

from he._rows import LANES, has_ifma
from he.errors import HEError
from he.ring import _lanes, _plain, _transforms
from he.ring._vectors import Ifma, Word

Words = NDArray[np.uint64]

VARIABLE = "SECAGG_RING"
"""The environment variable that forces an arithmetic, ``ifma`` or ``word``."""

MAX_IFMA_BITS, MAX_WORD_BITS = 50, 62
_MAX_BITS: dict[type[Ifma] | type[Word], int] = {Ifma: MAX_IFMA_BITS, Word: MAX_WORD_BITS}
_QUOTIENT_BITS = {Ifma: 52, Word: 64}


def arithmetic(prime: int) -> type[Ifma] | type[Word]:
    """The arithmetic modulo ``prime``: ``Ifma`` where this CPU has it and the prime is below 2^50, else ``Word``.

    The environment variable :data:`VARIABLE` forces one; ``ifma`` still leaves larger primes to ``Word``.
    Raises :class:`HEError` if it asks for what this CPU does not have, or holds another word.
    """
    forced = os.environ.get(VARIABLE, "")
    if forced not in ("", "ifma", "word"):
        raise HEError(f"got {VARIABLE}={forced!r}; expected ifma or word, or no such variable")
    if forced == "ifma" and not has_ifma():
        raise HEError(
            f"got {VARIABLE}=ifma, on a CPU without AVX-512 IFMA, or with the compiler off; expected "
            f"{VARIABLE}=word, or no such variable"
        )
    return Ifma if has_ifma() and forced != "word" and not prime >> MAX_IFMA_BITS else Word


def lanes(*shape: int) -> Words:
    """An array of ``shape`` and eight lanes, not yet filled, that begins at a boundary of 64 bytes."""
    words = LANES
    for length in shape:
        words *= length
    raw = np.empty(8 * words + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 8 * words].view(np.uint64).reshape(*shape, LANES)


class Factor:
    """Numbers below a field's prime by which to multiply, with their quotients. :meth:`Field.factor` makes one.

    ``field`` is that field, and ``pairs`` has a row of number and quotient for each. A pickle holds the numbers
    alone: on another CPU the arithmetic and the quotients may be others.
    """

    __slots__ = ("field", "pairs")

    def __init__(self, field: "Field", pairs: Words) -> None:
        self.field, self.pairs = field, pairs

    def __reduce__(self) -> tuple[Any, ...]:
        return Field.factor, (self.field, self.values.copy())

    @property
    def values(self) -> Words:
        """The numbers."""
        return self.pairs[:, 0]


class Field:
    """Polynomials of ``degree`` N modulo ``prime``, which is 1 modulo 2N. :func:`field` makes one.

    ``kind`` is the arithmetic, as :func:`arithmetic` returns it. A ``group`` is an array (N, 8): eight polynomials
    side by side, all residues below the prime.
    """

    def __init__(self, degree: int, prime: int, kind: type[Ifma] | type[Word]) -> None:
        if degree < 4 or degree & (degree - 1) or prime >> _MAX_BITS[kind] or prime % (2 * degree) != 1:
            raise HEError(
                f"got degree {degree} and prime {prime}; expected a power of 2 from 4 on, and a prime below "
                f"2^{_MAX_BITS[kind]} that is 1 modulo twice the degree"
            )
        self.degree, self.prime = degree, prime
        self.modulus = kind(np.uint64(prime))
        root = _least_root(degree, prime)
        self._roots = self._tree(root)
        self._inverse_roots = self._tree(pow(root, -1, prime))
        self._last = self._pairs([pow(degree, -1, prime)])
        self._steps = _plain if config.DISABLE_JIT else _transforms

    def __reduce__(self) -> tuple[Any, ...]:
        return field, (self.degree, self.prime)  # none of the tables

    def forward(self, group: Words) -> None:
        """Replace coefficients by values, in place: row i is the value at root^(2r + 1), r being i bit-reversed."""
        self._steps.forward(group, self._roots, self.modulus)

    def backward(self, group: Words, factor: int = 1) -> None:
        """Replace values by coefficients times ``factor``, in place."""
        last = self._last if factor == 1 else self._pairs([factor * pow(self.degree, -1, self.prime)])
        self._steps.backward(group, self._inverse_roots, last, self.modulus)

    def factor(self, values: Words) -> Factor:
        """``values`` (N), below the prime, as a factor. No branch or address depends on them."""
        pairs = np.empty((len(values), 2), dtype=np.uint64)
        length, bits = self.prime.bit_length() - 1, _QUOTIENT_BITS[type(self.modulus)]
        inverse = np.uint64((1 << 64 + length) // self.prime)
        _lanes.quotients(values, np.uint64(self.prime), inverse, (length, bits), pairs)
        return Factor(self, pairs)

    def multiply(self, group: Words, factor: Factor) -> None:
        """Multiply each of the eight polynomials by ``factor``, row by row, in place."""
        self._steps.multiply(group, factor.pairs, self.modulus)

    def add_product(self, group: Words, other: Words, factor: Factor) -> None:
        """Add ``other``, each of its polynomials times ``factor``, row by row, to ``group``, in place."""
        self._steps.add_product(group, other, factor.pairs, self.modulus)

    def scale(self, group: Words, factor: int) -> None:
        """Multiply ``group`` by the one number ``factor``, in place."""
        self._steps.scale(group, self._pairs([factor]), self.modulus)

    def add(self, group: Words, other: Words) -> None:
        """Add ``other`` to ``group``, in place."""
        _lanes.add(group, other, np.uint64(self.prime))

    def subtract(self, group: Words, other: Words) -> None:
        """Subtract ``other`` from ``group``, in place."""
        _lanes.subtract(group, other, np.uint64(self.prime))

    def reduce(self, group: Words) -> None:
        """Bring ``group``, any 64-bit words, below the prime, in place."""
        _lanes.reduce(group, np.uint64(self.prime), np.uint64((1 << 64) // self.prime))

    def _tree(self, root: int) -> Words:
        """The powers of ``root`` below N in bit-reversed order, each with its quotient."""
        powers = np.array(_powers(1, root, self.prime, self.degree), dtype=np.uint64)
        return self.factor(powers[np.array(bit_reversed(self.degree))]).pairs

    def _pairs(self, numbers: Sequence[int]) -> Words:
        bits = _QUOTIENT_BITS[type(self.modulus)]
        reduced = [number % self.prime for number in numbers]
        return np.array([(number, (number << bits) // self.prime) for number in reduced], dtype=np.uint64)


def field(degree: int, prime: int) -> Field:
    """The field with its tables, computed once in each process for each arithmetic.

    ``degree`` and ``prime`` are those of :class:`Field`.
    """
    return _field(degree, prime, arithmetic(prime).__name__)


@lru_cache(maxsize=64)
def _field(degree: int, prime: int, kind: str) -> Field:
    return Field(degree, prime, Ifma if kind == "Ifma" else Word)


@lru_cache(maxsize=16)
def bit_reversed(count: int) -> tuple[int, ...]:
    """The numbers below ``count``, a power of 2, with their bits reversed, in order."""
    order = np.zeros(1, dtype=np.int64)
    while order.size < count:
        order = np.concatenate([2 * order, 2 * order + 1])
    return tuple(order.tolist())


def _least_root(degree: int, prime: int) -> int:
    """The least primitive root of unity of order 2 * ``degree``."""
    for base in range(2, prime):
        root = pow(base, (prime - 1) // (2 * degree), prime)
        if pow(root, degree, prime) == prime - 1:
            return min(_powers(root, root * root % prime, prime, degree))
    raise AssertionError(f"{prime} is not 1 modulo {2 * degree}")


def _powers(first: int, factor: int, prime: int, count: int) -> list[int]:
    """``first`` times the ``count`` lowest powers of ``factor``."""
    powers = [first]
    for _ in range(count - 1):
        powers.append(powers[-1] * factor % prime)
    return powers
