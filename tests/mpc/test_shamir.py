"""Shamir: any t shares rebuild the secret, t - 1 say nothing, and whatever is wrong is named."""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numba
import numpy as np
import pytest
from hypothesis import given, strategies as st
from mpmath.libmp import isprime

from mpc import MPCError, _kernels, keys, shamir
from mpc.shamir import PRIME, Share
from tests.reference import shamir as twin

SECRETS = st.one_of(
    st.sampled_from([bytes(32), b"\xff" * 32, bytes(31) + b"\x01", b"\x80" + bytes(31)]),
    st.binary(min_size=32, max_size=32),
)
POINTS = st.one_of(st.integers(1, 20), st.integers(1, shamir.MAX_POINT), st.just(shamir.MAX_POINT))


@st.composite
def dealings(draw: st.DrawFn) -> tuple[bytes, int, list[int], bytes]:
    """A secret, a threshold, points and the bytes that the generator gives."""
    points = draw(st.lists(POINTS, min_size=2, max_size=7, unique=True))
    threshold = draw(st.integers(2, len(points)))
    size = 48 * (threshold - 1)
    stream = draw(st.one_of(st.just(b"\xff" * size), st.just(bytes(size)), st.binary(min_size=size, max_size=size)))
    return draw(SECRETS), threshold, points, stream


# --- the field -------------------------------------------------------------------------------


def test_the_prime_is_the_least_above_2_to_256() -> None:
    assert [k for k in range(1, 298, 2) if isprime(2**256 + k)] == [297]
    assert PRIME == 2**256 + 297 == twin.PRIME


# --- kernels and their twins -----------------------------------------------------------------

EDGES = [0, 1, 296, 297, 298, 2**256 - 298, 2**256 - 1, 2**256, 2**256 + 296, 2**256 + 297, 2**256 + 298, 2**257]
LIMB = st.one_of(
    st.sampled_from([0, 1, -1, 2**32 - 1, 2**32, -(2**32), 2**62 - 1, -(2**62) + 1]),
    st.integers(-(2**62) + 1, 2**62 - 1),
)


def reduced(limbs: list[int]) -> list[int]:
    """What evaluating a constant leaves of it."""
    out = np.empty((1, 8), dtype=np.int64)
    _kernels.evaluate(np.array([limbs], dtype=np.int64), np.array([1]), out)
    return [int(limb) for limb in out[0]]


@given(st.lists(LIMB, min_size=8, max_size=8))
def test_any_limbs_are_fully_reduced(limbs: list[int]) -> None:
    assert reduced(limbs) == twin.to_limbs(twin.from_limbs(limbs) % PRIME)


@pytest.mark.parametrize("number", [sign * edge for edge in EDGES for sign in (1, -1)])
def test_reduction_at_the_edges(number: int) -> None:
    limbs = twin.to_limbs(number)
    assert twin.from_limbs(limbs) == number
    assert reduced(limbs) == twin.to_limbs(number % PRIME)


@given(
    st.lists(st.lists(LIMB, min_size=8, max_size=8), min_size=1, max_size=5),
    st.lists(POINTS, min_size=1, max_size=4),
)
def test_evaluate_equals_its_twin(coefficients: list[list[int]], points: list[int]) -> None:
    out = np.empty((len(points), 8), dtype=np.int64)
    _kernels.evaluate(np.array(coefficients, dtype=np.int64), np.array(points, dtype=np.int64), out)
    numbers = [twin.from_limbs(c) for c in coefficients]
    assert out.tolist() == [twin.to_limbs(twin.evaluate(numbers, point)) for point in points]


def weighted(digits: np.ndarray, values: np.ndarray) -> np.ndarray:
    sums, out = np.empty((20, 8), dtype=np.int64), np.empty((1, 8), dtype=np.int64)
    _kernels.weigh(digits, values, sums)
    _kernels.evaluate(sums, np.array([1 << 13]), out)
    return out


NUMBER = st.one_of(st.sampled_from([0, 1, 2**256 - 1, 2**256, PRIME - 1]), st.integers(0, PRIME - 1))


@given(
    st.lists(
        st.tuples(NUMBER, st.lists(st.integers(0, 2**13 - 1), min_size=20, max_size=20)), min_size=1, max_size=6
    )
)
def test_a_weighted_sum_equals_its_twin(terms: list[tuple[int, list[int]]]) -> None:
    out = weighted(
        np.array([d for _, d in terms], dtype=np.uint16),
        np.array([twin.to_limbs(v) for v, _ in terms], dtype=np.int64),
    )
    weights = [sum(digit << (13 * place) for place, digit in enumerate(d)) for _, d in terms]
    expected = sum(w * v for w, (v, _) in zip(weights, terms, strict=True)) % PRIME
    assert out[0].tolist() == twin.to_limbs(expected)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="65535 shares take a minute without the compiler")
@pytest.mark.parametrize("value", [PRIME - 1, 2**256 - 1])
def test_a_weighted_sum_does_not_overflow_with_the_most_shares_there_can_be(value: int) -> None:
    digits = np.full((shamir.MAX_POINT, 20), 2**13 - 1, dtype=np.uint16)
    values = np.tile(np.array(twin.to_limbs(value), dtype=np.int64), (shamir.MAX_POINT, 1))
    out = weighted(digits, values)
    assert out[0].tolist() == twin.to_limbs(shamir.MAX_POINT * (2**260 - 1) * value % PRIME)


@pytest.mark.parametrize("number", [*EDGES, 2**264 - 1])
def test_is_reduced_equals_its_twin(number: int) -> None:
    assert shamir._is_reduced(np.array([twin.to_limbs(number)], dtype=np.int64)).tolist() == [number < PRIME]


@given(st.lists(POINTS, min_size=2, max_size=7, unique=True), st.integers(0, 8))
def test_weights_equal_their_twin(points: list[int], at: int) -> None:
    if at in points:
        points.remove(at)
    digits = shamir._weights(tuple(points), at)
    weights = [sum(digit << (13 * place) for place, digit in enumerate(row)) for row in digits.tolist()]
    assert weights == twin.lagrange(points, at)


@given(dealings())
def test_shares_equal_their_twin(dealing: tuple[bytes, int, list[int], bytes]) -> None:
    secret, threshold, points, stream = dealing
    values = shamir.share_values(secret, threshold, points, lambda count: stream)
    assert values == twin.share_values(secret, threshold, points, stream)
    assert all(len(v) == 33 and int.from_bytes(v, "big") < PRIME for v in values)
    chosen = points[:threshold]
    assert shamir.reconstruct(chosen, values[:threshold]) == twin.reconstruct(chosen, values[:threshold]) == secret


# --- what goes in comes out ------------------------------------------------------------------


@given(SECRETS, st.data())
def test_any_threshold_shares_rebuild_the_secret(secret: bytes, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 8))
    threshold = data.draw(st.integers(2, count))
    shares = shamir.split(secret, threshold, count)
    order = data.draw(st.permutations(shares))
    kept = order[: data.draw(st.integers(threshold, count))]
    assert [s.point for s in shares] == list(range(1, count + 1))
    assert shamir.combine(kept) == secret


def test_every_subset_of_a_small_split_rebuilds_or_is_refused() -> None:
    secret = os.urandom(32)
    shares = shamir.split(secret, 3, 5)
    for size in range(1, 6):
        for subset in itertools.combinations(shares, size):
            if size >= 3:
                assert shamir.combine(subset) == secret
            else:
                with pytest.raises(MPCError, match=f"got {size} shares; the threshold of their split is 3"):
                    shamir.combine(subset)


def test_a_large_split() -> None:
    secret = os.urandom(32)
    shares = shamir.split(secret, 67, 100)
    assert shamir.combine(shares[33:]) == secret
    assert shamir.combine(shares[:70]) == secret


def test_a_seeded_split_repeats_itself() -> None:
    def deal() -> list[Share]:
        return shamir.split(b"s" * 32, 3, 4, keys.seeded_rng(bytes(32), salt=b"", info=b"polynomial"))

    assert deal() == deal()
    assert deal() != shamir.split(b"s" * 32, 3, 4)


def test_the_rng_is_asked_once_for_all_coefficients() -> None:
    asked: list[int] = []

    def rng(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    shamir.share_values(bytes(32), 5, range(1, 8), rng)
    assert asked == [48 * 4]


def test_a_share_does_not_show_its_value() -> None:
    share = shamir.split(b"\xab" * 32, 2, 2)[0]
    assert "value" not in repr(share)
    assert repr(share.value) not in repr(share)


# --- what t - 1 shares say -------------------------------------------------------------------


@given(SECRETS, SECRETS, st.data())
def test_fewer_shares_fit_every_secret(secret: bytes, other: bytes, data: st.DataObject) -> None:
    """For t - 1 shares of one secret and any other secret there is one polynomial: write it down.

    Coefficients are uniform and independent, so each secret is then as likely as before.
    """
    threshold = data.draw(st.integers(2, 5))
    points = list(range(1, threshold))
    seen = shamir.share_values(secret, threshold, range(1, threshold + 1))[:-1]
    # The last share that would make `other` the secret: the polynomial through zero and the seen points.
    last = twin.interpolate(
        [0, *points], [int.from_bytes(v, "big") for v in (other, *seen)], at=threshold
    ).to_bytes(33, "big")
    assert shamir.reconstruct([*points, threshold], [*seen, last]) == other


def test_shares_of_two_secrets_look_alike() -> None:
    """One share of the least and one of the greatest secret: the top bits are equally often set."""

    def ones(secret: bytes) -> int:
        return sum(shamir.share_values(secret, 2, [1, 2])[0][1] >> 7 for _ in range(400))

    # 400 fair coins: 6 standard deviations are 60.
    assert abs(ones(bytes(32)) - 200) < 60
    assert abs(ones(b"\xff" * 32) - 200) < 60


def test_control_constant_coefficients_leak() -> None:
    """With the generator broken, one share alone gives the secret."""

    def broken(count: int) -> bytes:
        return b"\x01" * count

    secret = os.urandom(32)
    share = shamir.split(secret, 3, 5, broken)[3]
    coefficient = int.from_bytes(b"\x01" * 48, "big")
    known = coefficient * share.point + coefficient * share.point**2
    assert (int.from_bytes(share.value, "big") - known) % PRIME == int.from_bytes(secret, "big")


# --- what is refused -------------------------------------------------------------------------


@pytest.fixture
def shares() -> list[Share]:
    return shamir.split(b"k" * 32, 3, 5)


def changed(share: Share, number: int) -> Share:
    return replace(share, value=number.to_bytes(33, "big"))


SECRET, VALUE = bytes(32), bytes(33)
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: shamir.combine([]), "got no shares"),
    (lambda: shamir.reconstruct([], []), "got no shares"),
    (lambda: shamir.combine([Share(2, 2, VALUE, b"d")] * 2), "two shares at point 2"),
    (lambda: shamir.reconstruct([7, 7], [VALUE, VALUE]), "two shares at point 7"),
    (lambda: shamir.share_values(SECRET, 2, [7, 7]), "two shares at point 7"),
    *(
        (partial(call, threshold), f"got a threshold of {threshold}; expected 2 to 65535")
        for threshold in (-1, 0, 1, 65536)
        for call in (lambda t: shamir.split(SECRET, t, 3), lambda t: shamir.combine([Share(1, t, VALUE, b"d")]))
    ),
    (lambda: shamir.split(SECRET, 4, 3), "got a threshold of 4 for 3 shares"),
    (lambda: shamir.split(SECRET, 2, 65536), "got 65536 shares; expected at most 65535"),
    (lambda: shamir.reconstruct([1, 2], [VALUE]), "got 1 values for 2 points"),
    (
        lambda: shamir.split(SECRET, 2, 3, lambda count: bytes(count - 1)),
        "got 47 bytes from rng; expected 48 bytes",
    ),
    *(
        (partial(shamir.split, secret, 2, 3), "got a secret of .*; expected 32 bytes")
        for secret in (bytes(31), bytes(33), b"", "s" * 32)
    ),
]


@pytest.mark.parametrize(("call", "reason"), REFUSED)
def test_arguments_out_of_range_are_refused(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(MPCError, match=reason):
        call()


def test_shares_of_two_splits(shares: list[Share]) -> None:
    other = shamir.split(b"k" * 32, 3, 5)
    with pytest.raises(MPCError, match=r"at point 3 .* belongs to another split than the share at point 1"):
        shamir.combine([*shares[:2], other[2]])
    with pytest.raises(MPCError, match=r"at point 3 \(threshold 2"):
        shamir.combine([*shares[:2], replace(shares[2], threshold=2)])


def test_an_unreduced_value_and_the_largest_reduced_one(shares: list[Share]) -> None:
    for number in (PRIME, PRIME + 1, 2**257 - 1, 2**264 - 1):
        with pytest.raises(MPCError, match=r"share at point 2 is not below 2\^256 \+ 297"):
            shamir.combine([shares[0], changed(shares[1], number), shares[2]])
        with pytest.raises(MPCError, match=r"share at point 9 is not below 2\^256 \+ 297"):
            shamir.reconstruct([4, 9], [bytes(33), number.to_bytes(33, "big")])
    # p - 1 at 1 and p - 2 at 2 is the line -x: the secret is zero.
    values = [(PRIME - x).to_bytes(33, "big") for x in (1, 2)]
    assert shamir.reconstruct([1, 2], values) == bytes(32)


def test_an_inconsistent_extra_share(shares: list[Share]) -> None:
    value = int.from_bytes(shares[4].value, "big")
    wrong = changed(shares[4], value ^ 1 if value ^ 1 < PRIME else 0)
    with pytest.raises(MPCError, match="share at point 5 does not lie on the polynomial"):
        shamir.combine([*shares[:4], wrong])
    with pytest.raises(MPCError, match="share at point 1 does not lie on the polynomial"):
        shamir.combine([wrong, shares[2], shares[3], shares[0]])


@pytest.mark.parametrize("secret", [2**256, 2**256 + 1, PRIME - 1])
def test_a_result_above_2_to_256(secret: int) -> None:
    values = [(secret + 5 * x) % PRIME for x in (1, 2)]
    given_shares = [Share(x, 2, v.to_bytes(33, "big"), b"d") for x, v in zip((1, 2), values, strict=True)]
    with pytest.raises(MPCError, match=r"a number above 2\^256, which is not a 32-byte secret"):
        shamir.combine(given_shares)
    with pytest.raises(MPCError, match=r"a number above 2\^256, which is not a 32-byte secret"):
        shamir.reconstruct([1, 2], [share.value for share in given_shares])


@pytest.mark.parametrize("value", [bytes(32), bytes(34), b"", "x" * 33, None])
def test_a_value_of_another_size(shares: list[Share], value: bytes) -> None:
    with pytest.raises(MPCError, match=r"share at point 2 is .*; expected 33 bytes"):
        shamir.combine([shares[0], replace(shares[1], value=value), shares[2]])


@pytest.mark.parametrize("point", [0, -1, 65536])
def test_a_point_out_of_range(shares: list[Share], point: int) -> None:
    with pytest.raises(MPCError, match=f"a share at point {point}; expected points from 1 to 65535"):
        shamir.combine([shares[0], replace(shares[1], point=point), shares[2]])
    with pytest.raises(MPCError, match=f"a share at point {point}; expected points from 1 to 65535"):
        shamir.share_values(bytes(32), 2, [1, point])
