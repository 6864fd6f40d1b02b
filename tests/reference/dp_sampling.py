"""Probabilities by mpmath's own functions, and the samplers one integer at a time: twins of ``dp.sampling``."""

import bisect
from collections.abc import Callable, Sequence
from fractions import Fraction

import mpmath
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Pmf = Callable[[int], mpmath.mpf]


def _mp(x: Fraction) -> mpmath.mpf:
    return mpmath.mpf(x.numerator) / x.denominator


def gaussian(variance: Fraction) -> Pmf:
    q = mpmath.exp(-1 / (2 * _mp(variance)))
    total = mpmath.jtheta(3, 0, q)
    return lambda k: q ** (k * k) / total


def laplace(scale: Fraction) -> Pmf:
    """Section 3 of the usual reference: (e^(1/b) - 1) / (e^(1/b) + 1) e^(-|k|/b)."""
    e = mpmath.exp(1 / _mp(scale))
    return lambda k: (e - 1) / (e + 1) * mpmath.exp(-abs(k) / _mp(scale))


def skellam(variance: Fraction) -> Pmf:
    mu = _mp(variance)
    return lambda k: mpmath.besseli(abs(k), mu) * mpmath.exp(-mu)


def thresholds(pmf: Pmf, bits: int, count: int) -> list[int]:
    """floor(2^bits P(|X| <= k)) for k below ``count``, at the precision that mpmath is set to."""
    entries, total = [], mpmath.mpf(0)
    for k in range(count):
        total += pmf(k) * (2 if k else 1)
        entries.append(int(mpmath.floor(total * mpmath.mpf(2) ** bits)))
    return entries


def probabilities(pmf: Pmf, reach: int) -> NDArray[np.float64]:
    """Of -reach, ..., reach."""
    half = [float(pmf(k)) for k in range(reach + 1)]
    return np.array(half[:0:-1] + half)


def invert(words: Sequence[int], table: Sequence[int], undecided: int) -> list[int]:
    """For each word the number of thresholds below it, or ``undecided`` where one equals it."""
    return [undecided if w in set(table) else sum(t < w for t in table) for w in words]


def signed(values: Sequence[int], signs: Sequence[int]) -> list[int]:
    return [-v if signs[i // 64] >> i % 64 & 1 else v for i, v in enumerate(values)]


def refusal(u: int, m: int, slope: Fraction, curve: Fraction) -> mpmath.mpf:
    """The probability that place u of the block from m on is refused, at 400 bits."""
    with mpmath.workprec(400):
        return 1 - mpmath.exp(-_mp(slope * u + curve * u * (2 * m + u)))


def place(
    words: Sequence[int], coins: Sequence[int], blocks: Sequence[int], width: int, slope: Fraction, curve: Fraction
) -> list[int | None]:
    """The integer of each proposal, None where it is refused."""
    placed: list[int | None] = []
    for word, coin, block in zip(words, coins, blocks, strict=True):
        u, m = word % 2**width, block << width
        negative = word >> 63 == 1
        kept = mpmath.ldexp(refusal(u, m, slope, curve), 64) <= coin and (m + u > 0 or not negative)
        placed.append((-(m + u) if negative else m + u) if kept else None)
    return placed


def draw(pmf: Pmf, key: bytes, count: int, piece: int) -> list[int]:
    """``count`` integers from the AES-256-CTR stream of ``key``: for each piece its words, then its signs."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    table = thresholds(pmf, 64, 100)

    def words(number: int) -> list[int]:
        octets = stream.update(bytes(8 * number))
        return [int.from_bytes(octets[i : i + 8], "little") for i in range(0, 8 * number, 8)]

    samples: list[int] = []
    while len(samples) < count:
        size = min(piece, count - len(samples))
        values = [bisect.bisect_left(table, word) for word in words(size)]
        samples += signed(values, words(-(-size // 64)))
    return samples
