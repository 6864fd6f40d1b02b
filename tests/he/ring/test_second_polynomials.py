"""No two ciphertexts share their second polynomial: what shows plaintexts, and what keeps it from happening."""

from collections.abc import Callable
from concurrent.futures import Executor
from itertools import combinations

import numpy as np
import pytest

from he import _rlwe_encryption, bfv, ckks
from he._rlwe_encryption import BLOCK
from he._rlwe_format import DIGEST_BYTES
from he._rlwe_keys import engine_of
from he.ckks import SecretKey
from he.ring import LANES, Field, lanes, sampling
from tests.he.polynomials import coefficients, read
from tests.he.ring.groups import needs_compiler

pytestmark = needs_compiler

Scheme = bfv.Scheme | ckks.Scheme
SCHEMES: dict[str, Callable[[], Scheme]] = {
    "bfv": lambda: bfv.Scheme(254, 16),
    "bfv-seeded": lambda: bfv.Scheme(254, 16, seeded=True),
    "ckks": lambda: ckks.Scheme(254, 16),
    "ckks-seeded": lambda: ckks.Scheme(254, 16, seeded=True),
}
every = pytest.mark.parametrize("name", SCHEMES)
COUNT = 2 * BLOCK + LANES + 3
"""Ciphertexts of an upload: in three pieces of work, and six groups, the last of them in part."""


def fixed(octet: int) -> Callable[[int], bytes]:
    return lambda n: bytes([octet]) * n


def polynomials(scheme: Scheme, upload: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second polynomials (k, primes, N) of an upload, as its receiver has them."""
    rows = read(scheme, upload)
    count = len(rows)
    end = DIGEST_BYTES + 8 * count * scheme._stride
    primes = len(scheme._fields)
    if not scheme.seeded:
        return rows[:, :primes], rows[:, primes:]
    second = engine_of(scheme).second(scheme, upload[end:])
    groups = [second(group).copy().transpose(2, 0, 1) for group in range(-(-count // LANES))]
    return rows, np.concatenate(groups)[:count]


def equal(rows: np.ndarray) -> set[tuple[int, int]]:
    """The pairs of ciphertexts with an equal second polynomial, modulo any prime."""
    return {
        (i, j)
        for i, j in combinations(range(len(rows)), 2)
        if any((one == other).all() for one, other in zip(rows[i], rows[j], strict=True))
    }


@every
def test_no_two_ciphertexts_of_an_upload_share_their_second_polynomial(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: if all groups began at one word of the stream, ciphertexts 8 apart would."""
    scheme = SCHEMES[name]()
    key = scheme.generate(fixed(1))
    values = np.zeros(COUNT * scheme.slots - 7, dtype=np.int64)  # all the same, as is nothing else
    upload = key.encrypt(values, rng=fixed(2))
    first, second = polynomials(scheme, upload)
    assert len(first) == len(second) == COUNT
    assert equal(first) == equal(second) == set()
    monkeypatch.setattr(sampling, "GROUP", 0)
    shared = equal(polynomials(scheme, key.encrypt(values, rng=fixed(2)))[1])
    assert shared == {(i, j) for i, j in combinations(range(COUNT), 2) if (j - i) % LANES == 0}


@every
def test_uploads_and_the_public_key_share_no_second_polynomial(name: str) -> None:
    """Of one client twice, of another client, and of the key that encrypts."""
    scheme = SCHEMES[name]()
    key = scheme.generate(fixed(1))
    values = np.zeros(LANES * scheme.slots + 1, dtype=np.int64)
    uploads = [key.encrypt(values, rng=fixed(octet)) for octet in (2, 3)]
    rows = [row for upload in uploads for row in polynomials(scheme, upload)[1]]
    if key.public is not None:
        rows += [key.public._key.rows[len(scheme._fields) :]]
    assert equal(np.array(rows)) == set()


@every
def test_threads_share_a_stream_and_write_the_same_bytes(name: str, threads: Executor) -> None:
    scheme = SCHEMES[name]()
    key = scheme.generate(fixed(1))
    values = np.arange(COUNT * scheme.slots - 7) % 255
    assert key.encrypt(values, threads, rng=fixed(2)) == key.encrypt(values, rng=fixed(2))


@pytest.mark.parametrize("name", ["bfv-seeded", "ckks-seeded"])
def test_under_seal_no_two_ciphertexts_share_their_second_polynomial(name: str) -> None:
    pytest.importorskip("tenseal")
    ours = SCHEMES[name]()
    scheme = type(ours)(ours.bound, ours.max_clients, seeded=True, engine="seal")
    key, values = scheme.generate(), np.zeros(10 * scheme.slots, dtype=np.int64)
    rows = [polynomials(scheme, key.encrypt(values))[1] for _ in range(2)]
    assert equal(np.concatenate(rows)) == set()


def difference(scheme: Scheme, one: bytes, other: bytes) -> np.ndarray | None:
    """What a reader without a key gets from two uploads: the difference of their vectors, if masks are equal."""
    (first, second), (third, fourth) = polynomials(scheme, one), polynomials(scheme, other)
    if (second != fourth).any():
        return None
    rows = lanes(len(scheme._fields), scheme.parameters.degree)
    sums = np.empty((1, scheme.slots), dtype=np.int64)
    for field, row, x, y in zip(scheme._fields, rows, first[0], third[0], strict=True):
        row[:] = x[:, None]
        other_row = lanes(scheme.parameters.degree)
        other_row[:] = y[:, None]
        field.subtract(row, other_row)
        field.backward(row)
    assert scheme._decode(rows, lanes(scheme.parameters.degree), 0, sums)
    modulus = getattr(scheme.parameters, "plain_modulus", None)
    if modulus is not None:
        sums[sums > modulus // 2] -= modulus
    return sums[0]


@every
def test_randomness_that_repeats_shows_the_difference_of_two_vectors(name: str) -> None:
    """The control of seeds: with ``rng`` twice the same, no key is needed. With a new one, nothing is shared."""
    scheme = SCHEMES[name]()
    key: SecretKey = scheme.generate(fixed(1))
    rng = np.random.default_rng(5)
    one, other = (rng.integers(0, scheme.bound, scheme.slots, endpoint=True) for _ in range(2))
    shown = difference(scheme, key.encrypt(one, rng=fixed(2)), key.encrypt(other, rng=fixed(2)))
    assert shown is not None
    assert (shown == one - other).all()
    assert difference(scheme, key.encrypt(one, rng=fixed(2)), key.encrypt(other, rng=fixed(3))) is None


def secret_of(scheme: Scheme, upload: bytes, one: int, other: int) -> np.ndarray | None:
    """The secret key, (c - c') / (a' - a), if two ciphertexts of one plaintext share their error; else None."""
    firsts, seconds = (rows.astype(object)[:, 0] for rows in polynomials(scheme, upload))
    return ternary_quotient(scheme._fields[0], firsts[one] - firsts[other], seconds[other] - seconds[one])


def ternary_quotient(field: Field, dividend: np.ndarray, divisor: np.ndarray) -> np.ndarray | None:
    """The polynomial with these values, divided one by one, if it has coefficients in -1, 0, 1."""
    inverses = np.array([pow(int(value % field.prime), -1, field.prime) for value in divisor])
    quotients = (dividend * inverses % field.prime).astype(np.uint64)
    small = coefficients(field, quotients).astype(np.int64)
    small -= field.prime * (small > field.prime // 2)
    return small if np.abs(small).max() <= 1 else None


@pytest.mark.parametrize("name", ["bfv-seeded", "ckks-seeded"])
def test_no_two_ciphertexts_share_their_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one group, in two, in two pieces of work. Control: with errors that begin anew, the server has the key."""
    scheme = SCHEMES[name]()
    key: SecretKey = scheme.generate(fixed(1))
    zeros = np.zeros(COUNT * scheme.slots, dtype=np.int64)
    for other in (1, LANES, BLOCK):
        assert secret_of(scheme, key.encrypt(zeros), 0, other) is None
    drawn = sampling.Sampler.binomial
    monkeypatch.setattr(sampling.Sampler, "binomial", lambda sampler, stream, _: drawn(sampler, stream, 0))
    for other in (LANES, BLOCK):
        recovered = secret_of(scheme, key.encrypt(zeros), 0, other)
        assert recovered is not None
        assert (recovered == key._secret).all()


@pytest.mark.parametrize("name", ["bfv-seeded", "ckks-seeded"])
def test_the_seed_that_the_server_gets_does_not_give_the_errors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: if it is the seed of the errors too, a server that knows one vector has the key by a division."""
    scheme = SCHEMES[name]()
    key: SecretKey = scheme.generate(fixed(1))

    def recovered() -> np.ndarray | None:
        upload = key.encrypt(np.zeros(scheme.slots, dtype=np.int64))
        stream = _rlwe_encryption._stream(scheme, upload[-32:], b"encryption")
        error = sampling.Sampler(scheme.slots).binomial(stream, 0)[:, 0]
        (first,), (second,) = (rows[:, 0].astype(object) for rows in polynomials(scheme, upload))
        field = scheme._fields[0]
        return ternary_quotient(field, _rlwe_encryption.values_of(error, field).astype(object) - first, second)

    assert recovered() is None
    monkeypatch.setattr(_rlwe_encryption, "_public_seed", lambda _, seed: seed)
    assert (recovered() == key._secret).all()
