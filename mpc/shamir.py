"""Shamir's secret sharing of 32-byte secrets (A. Shamir, *How to share a secret*, CACM 1979).

The field is that of the least prime above 2^256, so that any 32-byte secret fits; a share has 33
bytes. Secrets and shares are big-endian numbers. Any ``threshold`` shares rebuild the secret; fewer
say nothing about it, if the coefficients come from a cryptographic generator. Shares carry no
authentication: to find out *which* share was tampered with, bind each share to its dealer.

No branch and no memory address depends on the bits of secrets or shares. Points, thresholds and the
weights that follow from them are public.

:func:`split` and :func:`combine` are for keeping or sending shares. Protocols that fix the points
themselves use :func:`share_values` and :func:`reconstruct`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from math import prod

import numpy as np
from numpy.typing import NDArray

from mpc._limbs import DIGIT_BITS, DIGITS, LIMBS, Limbs
from mpc._numbers import whole
from mpc.errors import MPCError

PRIME = 2**256 + 297
"""The order of the field: the least prime above 2^256."""

#: Bytes of a secret.
SECRET_BYTES = 32
#: Bytes of a share.
SHARE_BYTES = 33

MAX_POINT = 2**16 - 1
"""The largest evaluation point, and so the largest number of shares."""

_RADIX = np.full(1, 1 << DIGIT_BITS)
_DEALING_BYTES = 8
_COEFFICIENT_BYTES = 48  # 127 bits more than p has: the reduced number is within 2^-127 of uniform


@dataclass(frozen=True, slots=True)
class Share:
    """One share of a secret.

    ``point``, 1 to 65535, is where the polynomial was evaluated, and ``value`` is its value there
    (33 bytes, never shown by ``repr``). ``threshold`` shares rebuild the secret. ``dealing`` (8 random
    bytes) is the same in all shares of one split, and differs between splits.
    """

    point: int
    threshold: int
    value: bytes = field(repr=False)
    dealing: bytes


def split(secret: bytes, threshold: int, shares: int, rng: Callable[[int], bytes] = os.urandom) -> list[Share]:
    """``shares`` shares of ``secret`` (32 bytes), at the points 1, 2, ..., ``shares``.

    Any ``threshold`` of them (at least 2, at most ``shares``) rebuild it. ``rng(n)`` returns n bytes
    of a cryptographic generator. Raises :class:`MPCError` for arguments out of range.
    """
    threshold, shares = _integer("a threshold", threshold), _integer("a number of shares", shares)
    points = range(1, shares + 1)
    values = share_values(secret, threshold, points, rng)
    dealing = _draw(rng, _DEALING_BYTES)
    return [Share(point, threshold, value, dealing) for point, value in zip(points, values, strict=True)]


def combine(shares: Sequence[Share]) -> bytes:
    """The secret (32 bytes) that ``shares`` rebuild; shares beyond the threshold are checked.

    Raises :class:`MPCError` on too few shares, on two shares at one point, on shares of different
    splits, on a value that is not a reduced field element, on a share that does not lie on the
    polynomial through the first ``threshold`` shares, and on shares that rebuild a number above 2^256.
    """
    if not shares:
        raise MPCError("got no shares; expected as many as the threshold of their split")
    first = shares[0]
    for share in shares:
        if (share.dealing, share.threshold) != (first.dealing, first.threshold):
            raise MPCError(
                f"the share at point {share.point} (threshold {share.threshold}, dealing "
                f"{share.dealing.hex()}) belongs to another split than the share at point {first.point} (threshold "
                f"{first.threshold}, dealing {first.dealing.hex()}); combine shares of one split"
            )
    threshold = first.threshold
    _check_threshold(threshold)
    points = _checked_points([share.point for share in shares])
    if len(shares) < threshold:
        raise MPCError(f"got {len(shares)} shares; the threshold of their split is {threshold}: collect more")
    limbs = _checked_limbs(points, [share.value for share in shares])
    base, known = points[:threshold], limbs[:threshold]
    for point, value in zip(points[threshold:], limbs[threshold:], strict=True):
        if np.bitwise_or.reduce(_interpolate(base, known, at=point) ^ value, axis=None):
            raise MPCError(
                f"the share at point {point} does not lie on the polynomial through the first {threshold} "
                "shares: it or one of them is wrong; combine only shares that you know to be right"
            )
    return _secret_bytes(_interpolate(base, known, at=0))


def share_values(
    secret: bytes, threshold: int, points: Sequence[int], rng: Callable[[int], bytes] = os.urandom
) -> list[bytes]:
    """The values (33 bytes each) at ``points`` of a random polynomial that is ``secret`` at zero.

    ``secret`` has 32 bytes. The polynomial has ``threshold`` coefficients (at least 2, at most as
    many as there are points); ``points`` are distinct, 1 to 65535. All randomness comes from one call
    of ``rng(48 * (threshold - 1))``: a big-endian number of 48 bytes, reduced modulo the prime, for
    each coefficient, the linear one first. Raises :class:`MPCError` for arguments out of range.
    """
    from mpc import _kernels

    if not isinstance(secret, bytes) or len(secret) != SECRET_BYTES:
        raise MPCError(f"got a secret of {_size(secret)}; expected {SECRET_BYTES} bytes: share a key or a seed")
    threshold = _integer("a threshold", threshold)
    _check_threshold(threshold)
    points = _checked_points(points)
    if len(points) < threshold:
        raise MPCError(
            f"got a threshold of {threshold} for {len(points)} shares: they could never rebuild the secret; "
            "lower the threshold or deal more shares"
        )
    random = _words(_draw(rng, _COEFFICIENT_BYTES * (threshold - 1))).reshape(threshold - 1, -1)
    random = random[:, ::-1].astype(np.int64)
    coefficients = np.empty((threshold, LIMBS), dtype=np.int64)
    coefficients[0] = _words(secret)[::-1]
    coefficients[1:] = random[:, :LIMBS]
    high = random[:, LIMBS:]
    coefficients[1:, : high.shape[1]] -= (PRIME - 2**256) * high  # 2^256 = -297 modulo the prime
    limbs = np.empty((len(points), LIMBS), dtype=np.int64)
    _kernels.evaluate(coefficients, np.array(points, dtype=np.int64), limbs)
    return _value_bytes(limbs)


def reconstruct(points: Sequence[int], values: Sequence[bytes]) -> bytes:
    """The secret (32 bytes): the value at zero of the polynomial through all the shares.

    ``values[i]`` is the share at ``points[i]``. Pass exactly as many as the threshold: every share is
    used, and none is checked against the others. Raises :class:`MPCError` on points that are out of
    range or not distinct, on a value that is not a reduced field element, and on shares that rebuild a
    number above 2^256.
    """
    points = _checked_points(points)
    if len(points) != len(values):
        raise MPCError(f"got {len(values)} values for {len(points)} points; expected one for each")
    if not points:
        raise MPCError("got no shares; expected as many as the threshold of their split")
    return _secret_bytes(_interpolate(points, _checked_limbs(points, values), at=0))


def _integer(what: str, value: object) -> int:
    number = whole(value)
    if number is None:
        raise MPCError(f"got {what} of type {type(value).__name__}; expected an integer")
    return number


def _check_threshold(threshold: int) -> None:
    if not 2 <= threshold <= MAX_POINT:
        raise MPCError(f"got a threshold of {threshold}; expected 2 to {MAX_POINT}: at 1, each share is the secret")


def _checked_points(points: Sequence[int]) -> tuple[int, ...]:
    """``points`` as a tuple, once they are distinct and in range."""
    if len(points) > MAX_POINT:
        raise MPCError(f"got {len(points)} shares; expected at most {MAX_POINT}")
    checked = tuple(point if type(point) is int else _integer("a point", point) for point in points)
    if len(set(checked)) != len(checked) or (checked and not 1 <= min(checked) <= max(checked) <= MAX_POINT):
        _refuse_points(checked)
    return checked


def _refuse_points(points: tuple[int, ...]) -> None:
    """Name the first point that is out of range, or comes twice."""
    seen: set[int] = set()
    for point in points:
        if not 1 <= point <= MAX_POINT:
            raise MPCError(f"got a share at point {point}; expected points from 1 to {MAX_POINT}")
        if point in seen:
            raise MPCError(f"got two shares at point {point}; give each point once")
        seen.add(point)


def _checked_limbs(points: tuple[int, ...], values: Sequence[bytes]) -> Limbs:
    """The limbs (t, 8) of ``values``, once each has 33 bytes and is below the prime."""
    for point, value in zip(points, values, strict=True):
        if not isinstance(value, bytes) or len(value) != SHARE_BYTES:
            raise MPCError(f"the share at point {point} is {_size(value)}; expected {SHARE_BYTES} bytes")
    octets = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, SHARE_BYTES)
    limbs = _words(octets[:, 1:].tobytes()).reshape(-1, LIMBS)[:, ::-1].astype(np.int64)
    limbs[:, -1] += octets[:, 0].astype(np.int64) << 32
    reduced = _is_reduced(limbs)
    if not reduced.all():
        raise MPCError(
            f"the share at point {points[int(reduced.argmin())]} is not below 2^256 + 297, so it is not a "
            "share; ask its holder again"
        )
    return limbs


def _is_reduced(limbs: Limbs) -> NDArray[np.bool_]:
    """Which of ``limbs`` (n, 8; each in [0, 2^40)) are below the prime, whose limbs are 297, zeros and 2^32."""
    top = limbs[:, -1] - (1 << 32)
    rest = np.bitwise_or.reduce(limbs[:, 1:-1], axis=1) | (limbs[:, 0] >= PRIME - 2**256)
    reduced: NDArray[np.bool_] = (top < 0) | ((top | rest) == 0)
    return reduced


def _interpolate(points: tuple[int, ...], limbs: Limbs, *, at: int) -> Limbs:
    """The limbs (1, 8) of the value at ``at`` of the polynomial through the shares."""
    from mpc import _kernels

    out = np.empty((1, LIMBS), dtype=np.int64)
    sums = np.empty((DIGITS, LIMBS), dtype=np.int64)
    _kernels.weigh(_weights(points, at), limbs, sums)
    _kernels.evaluate(sums, _RADIX, out)
    return out


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...], at: int) -> NDArray[np.uint16]:
    """Lagrange's weights for the value at ``at``: (t, 20), in base 2^13, least digit first.

    The weight of point i is the product of all offsets, divided by its own offset and by its spread.
    """
    offsets = [point - at for point in points]
    divisors = [a * b for a, b in zip(offsets, _spreads(points), strict=True)]
    weights = [weight.to_bytes(SHARE_BYTES, "little") for weight in _quotients(prod(offsets), divisors)]
    octets = np.frombuffer(b"".join(weights), dtype=np.uint8).reshape(-1, SHARE_BYTES)
    bits = np.unpackbits(octets, axis=1, count=DIGITS * DIGIT_BITS, bitorder="little")
    places = 1 << np.arange(DIGIT_BITS, dtype=np.uint16)
    digits = bits.reshape(-1, DIGITS, DIGIT_BITS) @ places
    digits.flags.writeable = False  # the cache hands the same array to every caller
    return digits


@lru_cache(maxsize=64)
def _spreads(points: tuple[int, ...]) -> tuple[int, ...]:
    """For each point, the product of the differences from it to all others, modulo the prime."""
    return tuple([prod([other - point for other in points if other != point]) % PRIME for point in points])


def _quotients(dividend: int, divisors: list[int]) -> list[int]:
    """``dividend`` over each of ``divisors``, non-zero modulo the prime, by one inversion (Montgomery's trick)."""
    before = list(accumulate(divisors, lambda a, b: a * b % PRIME, initial=1))
    quotient = dividend * pow(before.pop(), -1, PRIME) % PRIME
    quotients = []
    for divisor, product in zip(reversed(divisors), reversed(before), strict=True):
        quotients.append(quotient * product % PRIME)
        quotient = quotient * divisor % PRIME
    return quotients[::-1]


def _words(octets: bytes) -> NDArray[np.uint32]:
    """``octets``, a multiple of four, as big-endian 32-bit words."""
    return np.frombuffer(octets, dtype=">u4")


def _value_bytes(limbs: Limbs) -> list[bytes]:
    """The big-endian bytes, 33 each, of fully reduced ``limbs`` (n, 8)."""
    octets = np.empty((len(limbs), SHARE_BYTES), dtype=np.uint8)
    octets[:, 0] = limbs[:, -1] >> 32
    words = (limbs[:, ::-1] & 0xFFFFFFFF).astype(">u4")
    octets[:, 1:] = words.view(np.uint8)
    return [row.tobytes() for row in octets]


def _secret_bytes(limbs: Limbs) -> bytes:
    (value,) = _value_bytes(limbs)
    if value[0]:
        raise MPCError(
            "the shares rebuild a number above 2^256, which is not a 32-byte secret: a share is wrong, or there "
            "are fewer shares than the threshold"
        )
    return value[1:]


def _draw(rng: Callable[[int], bytes], count: int) -> bytes:
    octets = rng(count)
    if not isinstance(octets, bytes) or len(octets) != count:
        raise MPCError(f"got {_size(octets)} from rng; expected {count} bytes: pass os.urandom or its like")
    return octets


def _size(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
