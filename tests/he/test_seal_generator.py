"""SEAL's generator of public polynomials against its definition; also without the compiler."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest

from he import _seal_generator, params
from tests.reference import rlwe as twin


@pytest.fixture(autouse=True)
def wrapping() -> Iterator[None]:
    """Sums wrap on purpose, which NumPy says when the kernels are not compiled."""
    with np.errstate(over="ignore"):
        yield


def test_generator_is_blake2xb() -> None:
    seed = np.random.default_rng(7).integers(0, 2**64, 8, dtype=np.uint64)
    plain = bytes([64, 5, 1, 1]) + bytes(60)
    assert twin.blake2b(b"abc" * 99, plain, b"12345") == hashlib.blake2b(b"abc" * 99, key=b"12345").digest()
    expected = b"".join(twin.blake2xb(n.to_bytes(8, "little"), seed.tobytes(), 4096) for n in (3, 4))
    assert _seal_generator.stream(seed, 3, 2).tobytes() == expected


def test_words_above_the_last_multiple_are_drawn_anew() -> None:
    """With a prime of which 2^64 is far from a multiple, and one of which all words are taken."""
    degree = 512
    awkward = next(p for p in range(2**65 // 33 // 1024 * 1024 + 1, 2**60, 2 * degree) if params.is_prime(p))
    primes = (awkward, params.ntt_primes(degree, 53, 1)[0])
    seeds = np.random.default_rng(8).integers(0, 2**64, (2, 8), dtype=np.uint64)
    got = _seal_generator.expand(seeds, degree, primes)
    assert got.tolist() == [twin.uniform(seed.tobytes(), degree, list(primes)) for seed in seeds]
    limit = _seal_generator._limit(awkward)
    stream = np.concatenate([_seal_generator.stream(seed, 0, 1) for seed in seeds])
    assert 20 < (stream >= limit).sum() < 200  # the case has happened
