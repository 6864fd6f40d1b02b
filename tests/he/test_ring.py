"""Ring arithmetic against its definition; also without the compiler."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, strategies as st

from he import _ring, _ring_kernels, ckks, params
from tests.reference import rlwe as twin

DEGREE = 64
PRIMES = [params.ntt_primes(DEGREE, bits, 1)[0] for bits in (12, 31, 53, 60)]


@pytest.fixture(autouse=True)
def wrapping() -> Iterator[None]:
    """Products wrap on purpose, which NumPy says when the kernels are not compiled."""
    with np.errstate(over="ignore"):
        yield


def residues(prime: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, prime, (3, DEGREE), dtype=np.uint64)
    rows[0, :2] = 0, prime - 1
    rows[1] = prime - 1
    return rows


@pytest.mark.parametrize("prime", PRIMES)
def test_quotients(prime: int) -> None:
    numbers = residues(prime).reshape(-1)
    got = _ring.Factor(numbers, prime).quotients
    assert got.tolist() == [(int(w) << 64) // prime for w in numbers]


@pytest.mark.parametrize("prime", PRIMES)
def test_transform_is_the_values_at_the_odd_powers_of_the_least_root(prime: int) -> None:
    rows = residues(prime)
    root = _ring._least_root(DEGREE, prime)
    if prime < 2**13:
        assert root == twin.least_root(DEGREE, prime)
    expected = [twin.values(row.tolist(), root, prime) for row in rows]
    field = _ring.field(DEGREE, prime)
    field.forward(rows)
    assert rows.tolist() == expected
    field.backward(rows)
    assert rows.tolist() == residues(prime).tolist()
    field.backward(rows, 5)
    field.forward(rows)
    assert rows.tolist() == [[5 * x % prime for x in row] for row in residues(prime).tolist()]


@pytest.mark.parametrize("prime", PRIMES)
def test_product_of_polynomials(prime: int) -> None:
    a, b = residues(prime, 1), residues(prime, 2)
    expected = [twin.product(x.tolist(), b[0].tolist(), prime) for x in a]
    field = _ring.field(DEGREE, prime)
    field.forward(a)
    field.forward(b)
    field.multiply(a, _ring.Factor(b[0], prime))
    field.backward(a)
    assert a.tolist() == expected


@pytest.mark.parametrize("prime", PRIMES)
def test_sums_multiples_and_remainders(prime: int) -> None:
    field = _ring.field(DEGREE, prime)
    a, b = residues(prime, 3), residues(prime, 4)
    total = a.copy()
    field.add(total, b)
    assert total.tolist() == [
        [(x + y) % prime for x, y in zip(*r, strict=True)] for r in zip(a.tolist(), b.tolist(), strict=True)
    ]
    words = np.random.default_rng(5).integers(0, 2**64, 100, dtype=np.uint64)
    words[:2] = 2**64 - 1, 0
    for factor in (0, 1, prime - 1, -3):
        got = words.copy()
        field.scale(got, factor)
        assert got.tolist() == [w * factor % prime for w in words.tolist()]


@given(bits=st.integers(2, 60), seed=st.integers(0, 99))
def test_packing(bits: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2**bits, 128, dtype=np.uint64)
    numbers[:3] = 2**bits - 1, 0, 2**bits - 1
    words = np.empty(2 * bits, dtype=np.uint64)
    _ring_kernels.pack(numbers, bits, words)
    assert words.tobytes() == twin.packed(numbers.tolist(), bits)
    back = np.empty_like(numbers)
    _ring_kernels.unpack(words, bits, back)
    assert (back == numbers).all()


@pytest.mark.parametrize("seed_words", [0, 8])
def test_check_and_fold_of_ciphertexts(seed_words: int) -> None:
    primes, bits, rows = PRIMES[1:2] + list(params.ntt_primes(DEGREE, 31, 2)[1:]), 31, 4
    limits = np.array(primes, dtype=np.uint64)
    rng = np.random.default_rng(6)
    numbers = np.stack([rng.integers(0, p, (3, DEGREE), dtype=np.uint64) for p in primes * 2], axis=1)
    width = DEGREE * bits // 64
    words = rng.integers(0, 2**64, (3, rows * width + seed_words), dtype=np.uint64)
    for c in range(3):
        _ring_kernels.pack(numbers[c].reshape(-1), bits, words[c, : rows * width])
    flat, stride = words.reshape(-1), words.shape[1]
    assert _ring_kernels.first_unreduced(flat, bits, stride, limits, DEGREE, rows) == -1
    total = np.zeros_like(numbers)
    for k in (1, 2):
        _ring_kernels.fold(flat, bits, stride, limits, rows, total)
        assert (total == k * numbers % np.resize(limits, rows)[:, None]).all()
    for place in ((0, 0, 0), (1, 2, 5), (2, 3, DEGREE - 1)):
        wrong = numbers.copy()
        wrong[place] = primes[place[1] % 2]
        _ring_kernels.pack(wrong[place[0]].reshape(-1), bits, words[place[0], : rows * width])
        at = _ring_kernels.first_unreduced(flat, bits, stride, limits, DEGREE, rows)
        assert np.unravel_index(at, numbers.shape) == place
        _ring_kernels.pack(numbers[place[0]].reshape(-1), bits, words[place[0], : rows * width])


def test_generator_is_blake2xb() -> None:
    seed = np.random.default_rng(7).integers(0, 2**64, 8, dtype=np.uint64)
    plain = bytes([64, 5, 1, 1]) + bytes(60)
    assert twin.blake2b(b"abc" * 99, plain, b"12345") == hashlib.blake2b(b"abc" * 99, key=b"12345").digest()
    expected = b"".join(twin.blake2xb(n.to_bytes(8, "little"), seed.tobytes(), 4096) for n in (3, 4))
    assert _ring.stream(seed, 3, 2).tobytes() == expected


def test_words_above_the_last_multiple_are_drawn_anew() -> None:
    """With a prime of which 2^64 is far from a multiple, and one of which all words are taken."""
    degree = 512
    awkward = next(p for p in range(2**65 // 33 // 1024 * 1024 + 1, 2**60, 2 * degree) if params.is_prime(p))
    primes = (awkward, params.ntt_primes(degree, 53, 1)[0])
    seeds = np.random.default_rng(8).integers(0, 2**64, (2, 8), dtype=np.uint64)
    got = _ring.expand(seeds, degree, primes)
    assert got.tolist() == [twin.uniform(seed.tobytes(), degree, list(primes)) for seed in seeds]
    limit = _ring._limit(awkward)
    stream = np.concatenate([_ring.stream(seed, 0, 1) for seed in seeds])
    assert 20 < (stream >= limit).sum() < 200  # the case has happened


def test_complex_slots() -> None:
    values = np.random.default_rng(9).uniform(0, 1000, (2, 32))
    got = ckks.coefficients_of(values)
    assert np.allclose([twin.complex_slots(row.tolist()) for row in got], values, atol=1e-9)
    assert np.allclose(ckks.slots_of(got), values, atol=1e-9)


@pytest.mark.parametrize("modulus", [params.ntt_primes(16, 10, 1)[0], params.ntt_primes(16, 30, 1)[0]])
def test_exact_slots(modulus: int) -> None:
    """Plaintext slots modulo t, and q m / t rounded: BFV's encoding, in small."""
    t, q = modulus, params.ntt_primes(16, 50, 1)[0]
    slots = np.random.default_rng(10).integers(0, t, (3, 16), dtype=np.uint64)
    root = _ring._least_root(16, t)
    expected = [twin.scaled(twin.plain_coefficients(row.tolist(), root, t), q, t) for row in slots]
    field = _ring.field(16, t)
    field.backward(slots, q % t)
    assert _ring.field(16, q).divide(slots, t).tolist() == expected


def test_sum_and_pack_at_once() -> None:
    prime, bits = PRIMES[2], 53
    a, b = residues(prime, 11)[2], residues(prime, 12)[2]
    words = np.empty(DEGREE * bits // 64, dtype=np.uint64)
    _ring_kernels.add_and_pack(a, b, np.uint64(prime), bits, words)
    expected = [(x + y) % prime for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert words.tobytes() == twin.packed(expected, bits)
