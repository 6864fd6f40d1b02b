"""SEAL's generator of public polynomials, BLAKE2Xb (J.-P. Aumasson et al., *BLAKE2X*, 2016)."""

import hashlib
from collections.abc import Iterator
from itertools import count as count_from

import numpy as np
from numpy.typing import NDArray

from he import _blake2

Words = NDArray[np.uint64]

SEED_WORDS = 8
"""A seed of SEAL's generator, in 64-bit words."""

BUFFER = 4096
"""Bytes in one buffer of SEAL's generator."""


def expand(seeds: Words, degree: int, primes: tuple[int, ...]) -> Words:
    """The polynomials (k, primes, N) that SEAL draws from ``seeds`` (k, 8).

    Its generator hashes a counter with the seed as key, 4096 bytes at a time. A word is reduced modulo
    the prime. A word above the prime's last whole multiple is replaced by the next such word that follows
    all others.
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
        out[j] %= np.uint64(prime)
    return out.transpose(1, 0, 2)


def stream(seed: Words, first: int, count: int) -> Words:
    """``count`` buffers, from number ``first`` on, of SEAL's generator with ``seed`` (8 words)."""
    key = seed.tobytes()
    roots = b"".join(
        hashlib.blake2b(number.to_bytes(8, "little"), key=key, node_offset=BUFFER << 32).digest()
        for number in range(first, first + count)
    )
    out = np.empty((count, BUFFER // 64, 8), dtype=np.uint64)
    _blake2.tree_nodes(np.frombuffer(roots, dtype=np.uint64).reshape(count, 8), BUFFER, out)
    return out.reshape(-1)


def _words_from(seed: Words, first: int) -> Iterator[np.uint64]:
    for number in count_from(first):
        yield from stream(seed, number, 1)


def _limit(prime: int) -> int:
    """The least word that is replaced."""
    return 2**64 - 2 - (2**64 - 1) % prime
