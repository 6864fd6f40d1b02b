"""One-time keys against their definition, in rings that are small enough for it; also without the compiler."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, strategies as st

from he import _kahe_encryption, _kahe_format, _kahe_kernels, kahe, kahe_params, params
from tests.he.rings import ring, seed, small_rings, summed
from tests.reference import kahe as twin

PUBLIC = seed(7)


@pytest.fixture(autouse=True)
def wrapping() -> Iterator[None]:
    """Products wrap on purpose, which NumPy says when the kernels are not compiled."""
    with np.errstate(over="ignore"):
        yield


def vector_of(scheme: kahe.Scheme, number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [rng.integers(0, bound, length, endpoint=True) for length, bound in scheme.segments]


@pytest.mark.parametrize(
    ("segments", "clients", "bits"),
    [
        (((1700, 254),), 3, 36),  # one prime, two groups
        (((1801, 65534), (1, 1000), (777, 254)), 5, 91),  # two primes; segments that begin and end amid a group
        (((3900, 2**20 - 2), (5, 2**32 - 2)), 4, 150),  # three primes; digits of values
        (((3200, 65534),), 1000, 179),  # four primes
        (((9, 2**52 - 1),), 1000, 110),
    ],
)
def test_vectors_and_openings_are_the_definitions(
    segments: tuple[tuple[int, int], ...], clients: int, bits: int
) -> None:
    with small_rings(bits):
        scheme = kahe.Scheme(segments, clients)
    plain = ring(scheme)
    assert len(scheme.parameters.rows) == (1 if bits == 110 else 2)
    assert len(scheme.parameters.primes) == -(-bits // 50)
    vectors = [vector_of(scheme, i) for i in range(3)]
    uploads = [scheme.encrypt(vector, seed(i), PUBLIC) for i, vector in enumerate(vectors)]
    assert scheme.key(seed(0), PUBLIC).tolist() == plain.key(seed(0), PUBLIC)
    assert uploads[0] == plain.encrypt([array.tolist() for array in vectors[0]], seed(0), PUBLIC)
    assert len(uploads[0]) == scheme.size

    adder, keys = summed(scheme, vectors, PUBLIC)
    expected = [sum(parts).tolist() for parts in zip(*vectors, strict=True)]
    sums, errors = plain.opened(adder.total(), keys.tolist(), PUBLIC)
    assert sums == expected
    assert errors == np.sum([plain.errors(seed(i), PUBLIC) for i in range(3)], axis=0).tolist()
    assert [array.tolist() for array in scheme.open(adder.total(), keys, 3, PUBLIC)] == expected


@given(
    segments=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 2**33)), min_size=1, max_size=3),
    clients=st.integers(1, 6),
    more=st.sampled_from([0, 1, 1000, 2**20]),
    bits=st.sampled_from([95, 100, 133, 179]),
    degree=st.sampled_from([16, 32]),
    data=st.data(),
)
def test_sums_are_exact(
    segments: list[tuple[int, int]], clients: int, more: int, bits: int, degree: int, data: st.DataObject
) -> None:
    """For any segments, and values that are often extreme."""
    with small_rings(bits, degree):
        scheme = kahe.Scheme(tuple(segments), clients + more)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    vectors = []
    for _ in range(clients):
        share = data.draw(st.sampled_from([0, 1, None]))
        vectors.append(
            vector_of(scheme, int(rng.integers(99)))
            if share is None
            else [np.full(length, share * bound) for length, bound in segments]
        )
    adder, keys = summed(scheme, vectors, PUBLIC)
    sums = scheme.open(adder.total(), keys, clients, PUBLIC)
    assert [array.tolist() for array in sums] == [sum(parts).tolist() for parts in zip(*vectors, strict=True)]
    assert scheme.opens(adder.total(), keys, clients, PUBLIC)


def test_all_zeros_with_negative_errors_open_as_zeros() -> None:
    """Centred too late, a negative error would turn an empty coefficient into the largest there is."""
    with small_rings(81):
        scheme = kahe.Scheme(((2000, 3), (40, 65534)), 4)
    zeros = [np.zeros(length, dtype=np.uint8) for length, _ in scheme.segments]
    adder, keys = summed(scheme, [zeros] * 2, PUBLIC)
    _, errors = ring(scheme).opened(adder.total(), keys.tolist(), PUBLIC)
    assert min(errors[-scheme.parameters.guards :]) < 0 or min(errors) < 0 < max(errors)
    assert not any(array.any() for array in scheme.open(adder.total(), keys, 2, PUBLIC))


def test_binomials_are_heads_of_128_coins() -> None:
    octets = np.random.default_rng(0).bytes(16 * 300) + bytes(16) + b"\xff" * 16
    stream = np.frombuffer(octets, dtype="<u8")
    small = np.empty(302, dtype=np.int8)
    _kahe_kernels.coins(stream, small)
    assert small.tolist() == twin.binomials(octets)
    assert small[-2:].tolist() == [-64, 64]


def test_coins_are_counted_through_all_pieces_of_a_stream() -> None:
    """A stream is read piece by piece; an error must not be that of another place."""
    with small_rings(47):
        scheme = kahe.Scheme(((40_000, 2**31),), 2)
    expected = ring(scheme).errors(seed(3), PUBLIC)
    assert len(expected) > 2 * _kahe_format._PIECE
    coins = scheme._coins(seed(3), PUBLIC, b"error")
    for first in (0, 8, 1000):
        small = scheme._binomials(coins, first, np.empty(len(expected) - first, dtype=np.int8))
        assert small.tolist() == expected[first:]


@pytest.mark.parametrize("prime_bits", [14, 34, 45, 50])
def test_digits_of_values_never_overflow(prime_bits: int) -> None:
    """Whatever a prime's multipliers are, and a residue that is added."""
    (prime,) = params.ntt_primes(16, prime_bits, 1)
    for bits in (1, 8, 16, 17, 32, 61):
        for fields in (1, 2, 3, 7, 15, 31, 62):
            plane = kahe_params.Plane(99, 2**bits - 1, bits + 3, fields, 0, 99)
            digits = _kahe_encryption._digits(plane, 11, prime)
            masks = digits[..., 1].astype(object)
            assert (masks.sum() + 1) * (prime - 1) < 2**64
            assert ((masks << digits[..., 0].astype(object)).sum(axis=1) == 2**bits - 1).all()
            weights = [
                [pow(2, 11 + (bits + 3) * k + int(low), prime) for low in row]
                for k, row in enumerate(digits[..., 0])
            ]
            assert digits[..., 2].tolist() == weights


@given(
    primes=st.lists(st.integers(2**13, 2**49).map(lambda n: 2 * n + 1), min_size=1, max_size=4),
    shift=st.integers(6, 20),
    width=st.integers(1, 62),
    number=st.integers(0, 99),
)
def test_numbers_are_taken_apart(primes: list[int], shift: int, width: int, number: int) -> None:
    """Mixed-radix digits with signs into an error, fields and the rest; also where fields cross words."""
    rng = np.random.default_rng(number)
    q = int(np.prod([int(p) for p in primes], dtype=object))
    count = max(0, min((q.bit_length() - shift) // width, 9))
    digits = np.stack([rng.integers(-(p // 2), p // 2, 700, endpoint=True) for p in primes])
    for k, p in enumerate(primes):
        digits[k, 0], digits[k, 1] = p // 2, -(p // 2)
    wholes = [0] * 700
    for k in reversed(range(len(primes))):
        wholes = [whole * primes[k] + int(d) + primes[k] // 2 for whole, d in zip(wholes, digits[k], strict=True)]
    out, seen = np.full(700 * count, -1, dtype=np.int64), np.array([2**63, 0, 0, 0], dtype=np.uint64)
    work = np.zeros((len(primes) + 2, _kahe_kernels.CHUNK), dtype=np.uint64)
    moduli = np.array(primes, dtype=np.uint64)
    _kahe_kernels.read(digits, moduli, (shift, width, count), (0, 700), work, out, seen)
    fields = [w >> shift + width * k & (1 << width) - 1 for k in range(count) for w in wholes]
    assert out.tolist() == fields
    errors = [w & (1 << shift) - 1 for w in wholes]
    assert seen[:3].tolist() == [min(errors), max(errors), max(fields, default=0)]
    assert bool(seen[3]) == any(w >> shift + width * count for w in wholes)
