"""Groups of eight polynomials that tests start from, and which arithmetic this CPU has."""

import numpy as np
import pytest
from numba import config

from he import params
from he._rows import has_ifma
from he.ring import lanes
from he.ring._vectors import Ifma, Word

Words = np.ndarray
KINDS = [Ifma, Word] if has_ifma() else [Word]
BITS = {Ifma: 50, Word: 62}
needs_compiler = pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled")
needs_ifma = pytest.mark.skipif(not has_ifma(), reason="this CPU has no AVX-512 IFMA")


def prime_of(degree: int, bits: int) -> int:
    """The largest prime of so many bits that is 1 modulo 2 * degree."""
    return params.ntt_primes(degree, bits, 1)[0]


def least_prime(degree: int, bits: int) -> int:
    """The least prime above 2^(bits - 1) that is 1 modulo 2 * degree."""
    return next(p for p in range(2 ** (bits - 1) + 1, 2**bits, 2 * degree) if params.is_prime(p))


def extremes(degree: int, prime: int, seed: int = 0) -> Words:
    """A group (N, 8): largest residues, zeros, both by turns, a monomial, and drawn ones."""
    group = lanes(degree)
    group[:] = np.random.default_rng(seed).integers(0, prime, (degree, 8), dtype=np.uint64)
    group[:, 0], group[:, 1] = prime - 1, 0
    group[::2, 2], group[1::2, 2] = prime - 1, 0
    group[::2, 3], group[1::2, 3] = 0, prime - 1
    group[:, 4] = 0
    group[-1, 4] = prime - 1
    group[: degree // 2, 5], group[degree // 2 :, 5] = prime - 1, 0
    return group
