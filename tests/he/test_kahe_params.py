"""Rings for one-time keys: their security, the bound of errors, and what the choice costs."""

import re
from fractions import Fraction
from math import comb, cosh, exp, log2, prod

import pytest

from he import kahe, kahe_params, security
from he.errors import HEError
from he.kahe_params import MODULUS_BITS, choose, error_bound

TASKS = [
    ((10**6, bound), clients)
    for bound in (1, 254, 65534, 2**20 - 2, 2**32 - 2)
    for clients in (2, 100, 10**4, 10**6, 2**24)
]


def test_the_limits_are_the_last_with_a_core_svp_of_128_bits() -> None:
    for degree, bits in MODULUS_BITS.items():
        assert (
            security.core_svp(degree, bits, 4.0, 4.0).classical
            >= 128
            > security.core_svp(degree, bits + 1, 4.0, 4.0).classical
        )
        assert security.core_svp(degree, bits, 3.8, 3.8).classical >= 128, "the rarest hint everywhere"


def test_the_hint_about_one_coefficient_of_two_is_hypergeometric() -> None:
    """Exactly: the variance of one of two binomials, given their sum."""

    def variance(heads: int) -> Fraction:
        ways = {x: comb(128, x) * comb(128, heads - x) for x in range(max(0, heads - 128), min(128, heads) + 1)}
        total = sum(ways.values())
        mean = Fraction(sum(x * w for x, w in ways.items()), total)
        assert mean == Fraction(heads, 2)
        return sum((x - mean) ** 2 * w for x, w in ways.items()) / total

    hinted = {heads: variance(heads) for heads in range(257)}
    assert max(hinted.values()) == hinted[128] == Fraction(128 * 128, 4 * 255)
    assert sum(comb(256, heads) * v for heads, v in hinted.items()) == 16 * 2**256
    rarest = next(t for t in range(129) if 2 * sum(comb(256, heads) for heads in range(t + 1)) * 10**6 > 2**256)
    assert rarest == 89
    assert hinted[rarest] > 3.8**2


@pytest.mark.parametrize(("segment", "clients"), TASKS)
def test_printed_blocks_recompute_to_128_bits_and_sums_fit(segment: tuple[int, int], clients: int) -> None:
    p = choose((segment, (1, 1000)), clients, 28)
    block = int(re.search(r"blocks of (\d+)\)", p.describe())[1])  # type: ignore[index]
    assert 0.292 * block >= 128
    assert block == security.core_svp(p.degree, p.modulus_bits, 4.0, 4.0).block
    assert all(prime % (2 * p.degree) == 1 and prime.bit_length() <= 50 for prime in p.primes)
    assert len(set(p.primes)) == len(p.primes) <= 5
    assert max(p.bits) - min(p.bits) <= 1
    q, half = prod(p.primes), 2 ** (p.shift - 1)
    assert p.error == error_bound(clients) < half
    for plane, (length, bound) in zip(p.planes, (segment, (1, 1000)), strict=True):
        assert clients * bound < 2**plane.width
        assert plane.places * plane.per_coefficient >= length
        fields = [clients * bound << plane.width * k + p.shift for k in range(plane.per_coefficient)]
        assert sum(fields) + half + p.error < q
        assert plane.first == sum(other.places for other in p.planes if other.first < plane.first)
    empty = p.places - sum(plane.places for plane in p.planes)
    assert empty >= p.guards >= 64 / (log2(q) - p.shift), "a wrong key passes with 2^-64"
    assert p.places % 8 == 0
    assert empty < p.guards + 8
    assert p.size == sum(-(-rows * bits // 64) * 64 for rows in p.rows for bits in p.bits)
    assert sum(p.rows) * 8 == p.places


def test_bytes_of_the_reference_task() -> None:
    """16 bits: below the bars for a ciphertext with its shares."""
    assert choose(((10**6, 65534),), 100, 28).size <= 3.33e6
    assert choose(((10**6, 65534),), 10**4, 28).size <= 4.15e6
    small, large = choose(((10**5, 65534),), 100, 28), choose(((10**6, 65534),), 100, 28)
    assert small.degree < large.degree, "a long key pays only for long vectors"
    assert choose(((10**6, 65534),), 100, 10**4).degree < large.degree
    for degree in MODULUS_BITS:
        if degree != large.degree:
            alone = min(
                (
                    candidate.size + 28 * degree
                    for bits in range(1, MODULUS_BITS[degree] + 1)
                    if (primes := kahe_params._primes(degree, bits))
                    and (candidate := kahe_params._parameters(degree, primes, ((10**6, 65534),), 100))
                ),
            )
            assert alone >= large.size + 28 * large.degree


@pytest.mark.parametrize("largest", [1, 25_500, 2**40])
def test_a_modulus_is_long_enough_for_the_largest_sum_and_error(largest: int) -> None:
    """To the last unit: one less, and the largest sum with the largest error would wrap."""
    shift, error, width = 11, 652, largest.bit_length()
    for count in (1, 2, 5):
        fields = sum(largest << width * k for k in range(count))
        top = (fields << shift) + error + 2 ** (shift - 1)
        assert kahe_params._fields(top, shift, error, largest) == count - 1
        assert kahe_params._fields(top + 1, shift, error, largest) == count


def test_errors_leave_their_bound_once_in_2_to_the_64() -> None:
    """The moments' bound that Chernoff's needs, and the exact tail of some sums."""
    for h in (0.01, 0.1, 0.5, 1.0, 2.0, 4.0):
        assert cosh(h / 2) ** 128 <= exp(16 * h * h) * (1 + 1e-12)
    for clients in (1, 2, 5, 20):
        coins, bound = 128 * clients, error_bound(clients)
        tail = 2 * sum(comb(coins, coins // 2 + k) for k in range(bound + 1, coins // 2 + 1))
        assert tail * 2**31 * 2**64 < 2**coins
    assert [error_bound(n) for n in (1, 2, 64, 100, 10**4, 10**6)] == [64, 92, 522, 652, 6525, 65258]


@pytest.mark.parametrize(
    ("segments", "clients", "key_bytes", "named"),
    [
        ((), 10, 0, "at least one pair"),
        ((5,), 10, 0, "at least one pair"),
        (7, 10, 0, "at least one pair"),
        (((0, 5),), 10, 0, "integers of at least 1"),
        (((5, True),), 10, 0, "integers of at least 1"),
        (((5, 7),), 0, 0, "max_clients=0"),
        (((5, 7),), 2**24 + 1, 0, "from 1 to 16777216"),
        (((5, 7),), 10, -1, "key_bytes=-1"),
        (((5, 2**60),), 10, 0, "at most 62 bits"),
        (((5, 2**61),), 2, 0, "sums of 63 bits"),
        (((2**30, 7), (1, 7)), 10, 0, "1073741824 values in all"),
    ],
)
def test_impossible_parameters_are_refused(segments: object, clients: int, key_bytes: int, named: str) -> None:
    with pytest.raises(HEError, match=named):
        kahe.Scheme(segments, clients, key_bytes)  # type: ignore[arg-type]
