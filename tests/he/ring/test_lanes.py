"""The loops over a group against their definitions, in Python's integers."""

import numpy as np
import pytest

from he import params
from he.ring import Field, _lanes, lanes
from he.ring._vectors import Ifma, Word
from tests.he.ring.groups import Words, extremes, least_prime, prime_of
from tests.reference import rlwe as twin

BITS = (13, 31, 50, 62)
U = np.uint64


def group_of(rows: Words) -> Words:
    group = lanes(len(rows))
    group[:] = rows
    return group


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("count", range(1, 9))
def test_values_go_to_their_places_and_back(dtype: type, count: int) -> None:
    degree, rng = 16, np.random.default_rng(count)
    values = rng.integers(0, np.iinfo(dtype).max // 2 + 1, (8, degree), dtype=dtype)
    places = rng.permutation(degree)
    group = lanes(degree)
    _lanes.gather(values, places, group)
    assert (group.T[:, np.argsort(places)] == values).all()
    out = np.full((8, degree), -1, dtype=np.int64)
    _lanes.scatter(group, places, out[:count])
    assert (out[:count] == values[:count]).all()
    assert (out[count:] == -1).all()


@pytest.mark.parametrize("bits", BITS)
def test_sums_and_differences(bits: int) -> None:
    prime = prime_of(16, bits)
    a, b = extremes(16, prime, 1), extremes(16, prime, 2)[:, ::-1].copy()
    total, rest = a.copy(), a.copy()
    _lanes.add(total, b, U(prime))
    _lanes.subtract(rest, b, U(prime))
    x, y = a.astype(object), b.astype(object)
    assert (total == (x + y) % prime).all()
    assert (rest == (x - y) % prime).all()
    assert (a - a == 0).all()


@pytest.mark.parametrize("bits", BITS)
def test_small_numbers(bits: int) -> None:
    prime = prime_of(32, bits)
    small = np.arange(-128, 128, dtype=np.int8).reshape(32, 8)
    group = lanes(32)
    _lanes.lift(small, U(prime), group)
    assert group.reshape(-1).tolist() == [x % prime for x in range(-128, 128)]
    a = extremes(32, prime)
    for rolled in range(8):
        total = np.roll(a, rolled, axis=1)
        expected = (total.astype(object) + small) % prime
        _lanes.add_small(total, small, U(prime))
        assert (total == expected).all()


@pytest.mark.parametrize("bits", BITS)
def test_any_words_are_reduced(bits: int) -> None:
    for prime in (prime_of(16, bits), least_prime(16, bits)):
        words = group_of(np.random.default_rng(bits).integers(0, 2**64, (16, 8), dtype=np.uint64))
        multiple = 2**64 // prime * prime
        words[0] = 2**64 - 1, 0, prime, prime - 1, multiple, multiple - 1, multiple - prime, 2**63
        expected = words.astype(object) % prime
        Field(16, prime, Word).reduce(words)
        assert (words == expected).all()


@pytest.mark.parametrize("bits", BITS)
def test_centred_residues(bits: int) -> None:
    prime = prime_of(16, bits)
    group = extremes(16, prime)
    group[0] = 0, 1, prime // 2, prime // 2 + 1, prime // 2 - 1, prime - 1, prime - 2, 2
    expected = [[twin.balanced(x, prime) for x in row] for row in group.tolist()]
    _lanes.centre(group, U(prime))
    assert group.view(np.int64).tolist() == expected


@pytest.mark.parametrize("bits", BITS)
def test_one_is_added_above_the_half(bits: int) -> None:
    prime, plain = prime_of(16, bits), 12_289
    a, values = extremes(16, prime), extremes(16, plain, 3)
    values[0] = 0, plain // 2, plain // 2 + 1, plain - 1, 1, plain // 2 - 1, 2, 3
    expected = (a.astype(object) + (values.astype(object) > plain // 2)) % prime
    _lanes.add_upper(a, values, U(plain // 2), U(prime))
    assert (a == expected).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", [Ifma, Word])
def test_quotients(kind: type, bits: int) -> None:
    shift = 52 if kind is Ifma else 64
    if kind is Ifma and bits > 50:
        bits = 49
    for prime in (prime_of(16, bits), least_prime(16, bits)):
        values = extremes(16, prime, 5).reshape(-1)
        values[:4] = 0, prime - 1, prime // 2, 1
        pairs = np.empty((values.size, 2), dtype=np.uint64)
        length = prime.bit_length() - 1
        _lanes.quotients(values, U(prime), U((1 << 64 + length) // prime), (length, shift), pairs)
        assert pairs.tolist() == [[w, (w << shift) // prime] for w in values.tolist()]


def test_quotients_of_all_small_numbers() -> None:
    """The estimate is right, 1 less or 2 less; here it is each of them."""
    off = set()
    for p in range(3, 300, 2):
        length, values = p.bit_length() - 1, np.arange(p, dtype=np.uint64)
        inverse, pairs = (1 << 64 + length) // p, np.empty((p, 2), dtype=np.uint64)
        _lanes.quotients(values, U(p), U(inverse), (length, 64), pairs)
        assert pairs[:, 1].tolist() == [(w << 64) // p for w in range(p)]
        off |= {(w << 64) // p - (w * inverse >> length) for w in range(p)}
    assert off == {0, 1, 2}


@pytest.mark.parametrize("bits", [13, 31, 50])
def test_real_numbers_are_rounded_to_even_residues(bits: int) -> None:
    prime = prime_of(16, bits)
    above = (params.MAX_COEFFICIENT // prime + 1) * prime
    reals = np.random.default_rng(bits).uniform(-(2.0**61), 2.0**61, (16, 8))
    reals[0] = 0.5, 1.5, -0.5, -1.5, 2.5, -0.0, 0.49999999999999994, -2.5
    reals[1, :2] = params.MAX_COEFFICIENT, -params.MAX_COEFFICIENT
    group = lanes(16)
    for step in (1.0, 0.75, 2.0**-20):
        _lanes.round_to(reals, step, U(above), U(prime), U(2**64 // prime), group)
        # Python's round() is to even, too.
        assert group.tolist() == [[round(float(x) * step) % prime for x in row] for row in reals]
