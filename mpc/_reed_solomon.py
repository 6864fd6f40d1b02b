"""Which answers agree: Reed-Solomon decoding modulo p = 2^31 - 1, and all small subsets beyond its radius.

All numbers here are public to whoever decodes, so nothing runs in constant time.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mpc._mersenne import PRIME

MAX_SUBSETS = 10_000
"""How many subsets of answers are tried where too many answers differ for Reed-Solomon decoding."""

Pattern = frozenset[int]


def agreements(points: Sequence[int], words: Sequence[Sequence[int]], threshold: int) -> Iterator[Pattern]:
    """Which answers agree with each other on polynomials of degree < ``threshold``: most answers first.

    ``words`` are several received words, each with one number for each of the distinct ``points``. A pattern has
    the indices of at least ``threshold`` answers that lie on one polynomial in each of the words. The first
    pattern is that of Reed-Solomon decoding, if at most half of the surplus answers differ. All others follow if
    there are at most ``MAX_SUBSETS`` subsets of ``threshold`` answers.
    """
    count = len(points)
    decoded = _decoded(points, words, threshold)
    if decoded is not None:
        yield decoded
    if math.comb(count, threshold) > MAX_SUBSETS or (decoded is not None and len(decoded) == count):
        return
    for pattern in _by_subsets(points, words, threshold):
        if pattern != decoded:
            yield pattern


def _decoded(points: Sequence[int], words: Sequence[Sequence[int]], threshold: int) -> Pattern | None:
    """The pattern from which at most half of the surplus answers differ; None if there is none."""
    radius = (len(points) - threshold) // 2
    agreeing = set(range(len(points)))
    for word in words:
        polynomial = decode(points, word, threshold)
        if polynomial is None:
            return None
        agreeing &= {i for i, point in enumerate(points) if _value(polynomial, point) == word[i]}
    return frozenset(agreeing) if len(agreeing) >= len(points) - radius else None


def decode(points: Sequence[int], word: Sequence[int], threshold: int) -> list[int] | None:
    """The polynomial of degree < ``threshold`` from which at most half of the surplus numbers of ``word`` differ.

    Its coefficients, constant term first; None if there is no such polynomial. This is S. Gao's algorithm (*A new
    algorithm for decoding Reed-Solomon codes*, 2003).
    """
    modulus, interpolated = [1], [0]
    for point, number in zip(points, word, strict=True):
        step = (number - _value(interpolated, point)) * pow(_value(modulus, point), -1, PRIME)
        interpolated = _plus(interpolated, modulus, step)
        modulus = _plus([0, *modulus], modulus, -point)
    before, remainder = modulus, interpolated
    factor_before, factor = [0], [1]
    while 2 * (len(remainder) - 1) >= len(points) + threshold:
        quotient, rest = _divided(before, remainder)
        before, remainder = remainder, rest
        factor_before, factor = factor, _minus_product(factor_before, quotient, factor)
    polynomial, rest = _divided(remainder, factor)
    return polynomial if not any(rest) and len(polynomial) <= threshold else None


def _by_subsets(points: Sequence[int], words: Sequence[Sequence[int]], threshold: int) -> list[Pattern]:
    """Every pattern, most answers first: the polynomials through all subsets at once, by Newton's interpolation."""
    count = len(points)
    subsets = np.array(list(itertools.combinations(range(count), threshold)))
    x = np.array(points, np.int64)
    inverses = np.array([[pow(p - q, -1, PRIME) if p != q else 0 for q in points] for p in points], np.int64)
    agree: NDArray[np.bool_] = np.ones((len(subsets), count), np.bool_)
    for word in np.array(words, np.int64):
        differences = word[subsets]
        for step in range(1, threshold):
            slopes = (differences[:, step:] - differences[:, step - 1 : -1]) % PRIME
            differences[:, step:] = slopes * inverses[subsets[:, step:], subsets[:, :-step]] % PRIME
        values = np.zeros((len(subsets), count), np.int64)
        for i in reversed(range(threshold)):
            values = (values * (x - x[subsets[:, i, None]]) + differences[:, i, None]) % PRIME
        agree &= values == word
    patterns = {frozenset(np.flatnonzero(row).tolist()) for row in np.unique(agree, axis=0)}
    return sorted(patterns, key=lambda pattern: (-len(pattern), sorted(pattern)))


def _value(polynomial: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


def _plus(a: Sequence[int], b: Sequence[int], factor: int) -> list[int]:
    """``a`` plus ``factor`` times ``b``."""
    return _trimmed([(x + factor * y) % PRIME for x, y in itertools.zip_longest(a, b, fillvalue=0)])


def _minus_product(a: Sequence[int], b: Sequence[int], c: Sequence[int]) -> list[int]:
    """``a`` minus ``b`` times ``c``."""
    for shift, coefficient in enumerate(b):
        a = _plus(a, [0] * shift + list(c), -coefficient)
    return list(a)


def _divided(a: Sequence[int], b: Sequence[int]) -> tuple[list[int], list[int]]:
    """The quotient and the remainder of two polynomials; ``b`` has a leading coefficient other than zero."""
    rest = list(a)
    quotient = [0] * max(1, len(a) - len(b) + 1)
    inverse = pow(b[-1], -1, PRIME)
    for shift in reversed(range(len(a) - len(b) + 1)):
        quotient[shift] = factor = rest[shift + len(b) - 1] * inverse % PRIME
        for i, coefficient in enumerate(b):
            rest[shift + i] = (rest[shift + i] - factor * coefficient) % PRIME
    return _trimmed(quotient), _trimmed(rest)


def _trimmed(polynomial: list[int]) -> list[int]:
    while len(polynomial) > 1 and not polynomial[-1]:
        polynomial.pop()
    return polynomial
