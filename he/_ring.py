"""Arithmetic on polynomials modulo x^N + 1 and a prime, by the kernels of this package.

A transform uses SEAL's root, the least primitive 2N-th root of unity, and SEAL's order of values,
bit-reversed. So SEAL's keys and ciphertexts need no conversion.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import count as count_from

import numpy as np
from numpy.typing import NDArray

from he import _ring_kernels

Words = NDArray[np.uint64]

SEED_WORDS = 8
"""A seed of SEAL's generator, in 64-bit words."""

BUFFER = 4096
"""Bytes in one buffer of SEAL's generator."""


class Factor:
    """Numbers below a prime, with the quotients that multiplication by them needs."""

    __slots__ = ("quotients", "values")

    def __init__(self, values: Words | list[int], prime: int) -> None:
        self.values = np.array(values, dtype=np.uint64)
        self.quotients = np.empty_like(self.values)
        _ring_kernels.quotients(self.values, np.uint64(prime), self.quotients)


class Field:
    """Polynomials of ``degree`` N modulo ``prime``, which is 1 modulo 2N. :func:`field` makes one."""

    def __init__(self, degree: int, prime: int) -> None:
        self.degree, self.prime = degree, np.uint64(prime)
        root = _least_root(degree, prime)
        length = degree.bit_length() - 1
        order = [int(f"{i:0{length}b}"[::-1], 2) for i in range(degree)]
        self._roots = Factor(_powers(root, prime, order), prime)
        self._inverse_roots = Factor(_powers(pow(root, -1, prime), prime, order), prime)
        self._last = self._pair(pow(degree, -1, prime))
        self._one = self._pair(1)

    def forward(self, rows: Words) -> None:
        """Replace coefficients (k, N) by values, in place."""
        _ring_kernels.forward(rows, self._roots.values, self._roots.quotients, self.prime)

    def backward(self, rows: Words, factor: int = 1) -> None:
        """Replace values (k, N) by coefficients times ``factor``, in place."""
        last = self._last if factor == 1 else self._pair(factor * pow(self.degree, -1, int(self.prime)))
        _ring_kernels.backward(rows, self._inverse_roots.values, self._inverse_roots.quotients, last, self.prime)

    def add(self, a: Words, b: Words) -> None:
        """Add ``b`` to ``a``, both contiguous, in place."""
        _ring_kernels.add(a.reshape(-1), b.reshape(-1), self.prime)

    def scale(self, a: Words, factor: int) -> None:
        """Multiply ``a``, any 64-bit words, contiguous, by one number, in place."""
        pair = self._pair(factor)
        _ring_kernels.scale(a.reshape(-1), pair, self.prime)

    def divide(self, values: Words, modulus: int) -> Words:
        """-r / ``modulus``, where r is ``values`` modulo the odd ``modulus``, between -modulus/2 and modulus/2."""
        out = np.empty_like(values)
        factor = self._pair(-pow(modulus, -1, int(self.prime)))
        _ring_kernels.divide(values.reshape(-1), np.uint64(modulus // 2), factor, self.prime, out.reshape(-1))
        return out

    def reduce(self, a: Words) -> None:
        """Bring ``a``, any 64-bit words, contiguous, below the prime, in place."""
        _ring_kernels.scale(a.reshape(-1), self._one, self.prime)

    def multiply(self, rows: Words, factor: Factor) -> None:
        """Multiply each row of ``rows`` (k, N) by ``factor`` (N), place by place, in place."""
        for row in rows:
            _ring_kernels.multiply(row, factor.values, factor.quotients, self.prime)

    def _pair(self, factor: int) -> Words:
        prime = int(self.prime)
        value = factor % prime
        return np.array([value, (value << 64) // prime], dtype=np.uint64)


@lru_cache(maxsize=32)
def field(degree: int, prime: int) -> Field:
    """The field with its tables, computed once in each process."""
    return Field(degree, prime)


def expand(seeds: Words, degree: int, primes: tuple[int, ...]) -> Words:
    """The polynomials (k, primes, N) that SEAL draws from ``seeds`` (k, 8).

    Its generator is BLAKE2Xb (J.-P. Aumasson et al., *BLAKE2X*, 2016) of a counter, keyed with the
    seed, 4096 bytes at a time. A word is reduced modulo the prime. A word above the prime's last whole
    multiple is replaced by the next such word that follows all others.
    """
    out = np.empty((len(primes), len(seeds), degree), dtype=np.uint64)
    buffers = len(primes) * degree * 8 // BUFFER
    limits = np.array([_limit(prime) for prime in primes], dtype=np.uint64)
    for k, seed in enumerate(seeds):
        words = stream(seed, 0, buffers).reshape(len(primes), degree)
        too_large = np.argwhere(words >= limits[:, None])
        if len(too_large):
            later = _words_from(seed, buffers)
            for j, i in too_large:
                words[j, i] = next(word for word in later if word < limits[j])
        out[:, k] = words
    for j, prime in enumerate(primes):
        field(degree, prime).reduce(out[j])
    return out.transpose(1, 0, 2)


def mixed_radix(rows: list[Words], degree: int, primes: tuple[int, ...]) -> tuple[list[Words], NDArray[np.bool_]]:
    """The digits of the numbers below q with residues ``rows``, and which of them lie above q/2.

    q is the product of ``primes``, two at most. A number is digit 0 + prime 0 * (digit 1 + ...)
    (H. L. Garner, 1959).
    """
    if len(rows) == 1:
        return rows, rows[0] > np.uint64(primes[0] // 2)
    low, high = rows
    first, second = primes
    other = field(degree, second)
    inverse = pow(first, -1, second)
    digit, part = high.copy(), low.copy()
    other.scale(digit, inverse)
    other.scale(part, -inverse)
    other.add(digit, part)
    middle = np.uint64(second // 2)
    return [low, digit], (digit > middle) | ((digit == middle) & (low > np.uint64(first // 2)))


def stream(seed: Words, first: int, count: int) -> Words:
    """``count`` buffers, from number ``first`` on, of SEAL's generator with ``seed`` (8 words)."""
    key = seed.tobytes()
    roots = b"".join(
        hashlib.blake2b(number.to_bytes(8, "little"), key=key, node_offset=BUFFER << 32).digest()
        for number in range(first, first + count)
    )
    out = np.empty((count, BUFFER // 64, 8), dtype=np.uint64)
    _ring_kernels.tree_nodes(np.frombuffer(roots, dtype=np.uint64).reshape(count, 8), BUFFER, out)
    return out.reshape(-1)


def _words_from(seed: Words, first: int) -> Iterator[np.uint64]:
    for number in count_from(first):
        yield from stream(seed, number, 1)


def _limit(prime: int) -> int:
    """The least word that is replaced."""
    return 2**64 - 2 - (2**64 - 1) % prime


def _least_root(degree: int, prime: int) -> int:
    """The least primitive root of unity of order 2 * ``degree``."""
    for base in range(2, prime):
        root = pow(base, (prime - 1) // (2 * degree), prime)
        if pow(root, degree, prime) == prime - 1:
            return min(_powers(root, prime, range(1, 2 * degree, 2)))
    raise AssertionError(f"{prime} is not 1 modulo {2 * degree}")


def _powers(root: int, prime: int, exponents: Iterable[int]) -> list[int]:
    return [pow(root, exponent, prime) for exponent in exponents]
