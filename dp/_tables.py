"""Tables of cumulative probabilities of integer laws, exact to any number of bits. The samplers invert them.

A law here is symmetric or one-sided (on 0, 1, 2, ...), and its weights decrease away from zero. Its thresholds at
``bits`` are floor(2^bits P(|X| <= k)) for k = 0, 1, ... until 2^bits - 1 is reached. Everything is computed in
Python's integers with a bound on the error. If the bound leaves a floor undecided, the computation is repeated
with more bits, so no threshold is ever off by one.
"""

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_GUARD_BITS = 64  # with so many, a floor is undecided with a probability of about 2^-60


class Law(Hashable, Protocol):
    """A distribution on the integers, described by weights with a bound on their error."""

    @property
    def one_sided(self) -> bool:
        """Whether only 0, 1, 2, ... carry weight; otherwise the law is symmetric."""
        ...

    def weights(self, bits: int) -> tuple[list[int], int]:
        """The weights of 0, 1, ... and the slack, all on the same arbitrary scale.

        The slack bounds two errors: that of each partial sum (in which a symmetric law counts each weight twice,
        except the first), and the difference between the sum of these weights and the true total, which includes
        all weights beyond the last. The slack is below 2^(2 - bits) of the total.
        """
        ...


@dataclass(frozen=True)
class Gaussian:
    """Weight exp(-k² / (2 ``variance``)): the discrete Gaussian (Canonne, Kamath and Steinke 2020)."""

    variance: Fraction
    one_sided: bool = False

    def weights(self, bits: int) -> tuple[list[int], int]:
        """See :class:`Law`."""
        count = math.isqrt(math.ceil(2 * math.log(2) * (bits + 8) * self.variance)) + 3
        places = bits + 3 * (count + 2).bit_length() + 2
        ratio = exp_below(1 / (2 * self.variance), places)
        fall = exp_below(1 / self.variance, places)
        weights = [1 << places]
        for _ in range(count):
            weights.append(weights[-1] * ratio >> places)
            ratio = ratio * fall >> places
        # Everything is rounded down. The k-th ratio is too small by at most 3 + 4k units, so the k-th weight by at
        # most 2k² + 2k, and twice their sum by at most 2 (count + 2)³. The ratios decrease, so a geometric series
        # bounds the weights beyond the last.
        last = weights[-1] + 2 * (count + 1) ** 2
        rest = (last << places) // ((1 << places) - ratio - 4 * (count + 2)) + 1
        return weights, 2 * (count + 2) ** 3 + 2 * rest


@dataclass(frozen=True)
class Laplace:
    """Weight exp(-k / ``scale``): the discrete Laplace, two-sided geometric."""

    scale: Fraction
    one_sided: bool = False

    def weights(self, bits: int) -> tuple[list[int], int]:
        """See :class:`Law`."""
        count = math.ceil(self.scale * Fraction(math.log(2)) * (bits + 8)) + 3
        places = bits + 2 * (count + 2).bit_length() + 2
        ratio = exp_below(1 / self.scale, places)
        weights = [1 << places]
        for _ in range(count):
            weights.append(weights[-1] * ratio >> places)
        rest = ((weights[-1] + 4 * count) << places) // ((1 << places) - ratio - 3) + 1
        return weights, 4 * (count + 1) ** 2 + 2 * rest


@dataclass(frozen=True)
class Skellam:
    """Weight I_k(``variance``): the difference of two Poisson variables of half the variance each.

    Miller's backward recurrence I_(k-1) = I_(k+1) + (2k / variance) I_k, started ``count`` steps out.
    """

    variance: Fraction
    one_sided: bool = False

    def weights(self, bits: int) -> tuple[list[int], int]:
        """See :class:`Law`."""
        count = _skellam_reach(float(self.variance), bits)
        places = bits + 2 * (count + 2).bit_length() + 4
        top, bottom = self.variance.numerator, self.variance.denominator
        y = count / float(self.variance)
        after, here = int((math.hypot(1, y) - y) * 2**53) << places >> 53, 1 << places
        weights = [here]
        for k in range(count, 0, -1):
            after, here = here, after + 2 * k * bottom * here // top
            weights.append(here)
        weights.reverse()
        least = min(weights)
        # Rounding down: a unit lost at j grows to at most weight_k / weight_j at k, so the relative error is at
        # most count / least. The start mixes in the second solution of the recurrence. Its quotient by the first
        # solution changes by 1 / (w_k w_(k-1)) a step (their Casoratian is constant), so the error is at most
        # 2 count² last weights in all, doubled for the scale. Beyond the last weight, ratios are below
        # sqrt(1 + y²) - y (Amos 1974), so the remaining weights sum to less than 1 + 1/y of the last.
        rounding = 2 * sum(weights) * (count + 1) // least + 1
        falling = weights == sorted(weights, reverse=True)  # the argument needs this; it always holds
        start = 8 * (count + 1) ** 2 << places if falling else sum(weights)
        rest = 4 * (2 + math.ceil(self.variance / count)) << places
        return weights, rounding + start + rest


def thresholds(law: Law, bits: int) -> list[int]:
    """floor(2^bits P(|X| <= k)) for k = 0, 1, ... until that is 2^bits - 1. Every entry is exact."""
    guard = _GUARD_BITS
    while True:
        entries = list(_thresholds(law, bits, guard))
        if entries[-1] >= 0:
            return entries
        guard *= 2


def _thresholds(law: Law, bits: int, guard: int) -> Iterator[int]:
    """As :func:`thresholds`, but end with -1 at an entry that ``guard`` more bits don't decide."""
    weights, slack = law.weights(bits + guard)
    fold = 1 if law.one_sided else 2
    total = fold * sum(weights) - (fold - 1) * weights[0]
    if 3 * slack >= total:  # the bound needs a higher precision
        yield -1
        return
    places = total.bit_length() + bits + guard
    scale = (1 << places) // total
    error = 3 * slack * (scale + 1) + total
    shift = places - bits
    top = (1 << bits) - 1
    partial = -weights[0] if fold == 2 else 0
    for weight in weights:
        partial += fold * weight
        value = partial * scale
        low, high = (value - error) >> shift, min((value + error) >> shift, top)
        if low != high:
            yield -1
            return
        yield low
        if low == top:
            return
    yield -1


@lru_cache(maxsize=8)
def table(law: Law, bits: int) -> NDArray[np.uint64]:
    """The :func:`thresholds` of at most 64 bits, as a read-only array."""
    entries = np.array(thresholds(law, bits), dtype=np.uint64)
    entries.flags.writeable = False
    return entries


@lru_cache(maxsize=8)
def guide(law: Law, bits: int) -> tuple[NDArray[np.int64], int]:
    """Where a search in the :func:`table` begins, by the top bits of a word; and the shift that yields these bits.

    Entry j is the number of thresholds below j << shift. There are about twice as many entries as thresholds.
    """
    entries = table(law, bits)
    shift = bits - min(bits, entries.size.bit_length() + 1)
    edges = np.arange(1 << (bits - shift), dtype=np.uint64) << np.uint64(shift)
    starts = np.searchsorted(entries, edges, side="left").astype(np.int64)
    starts.flags.writeable = False
    return starts, shift


def exp_below(x: Fraction, bits: int) -> int:
    """An integer from 2^bits exp(-x) - 3 to 2^bits exp(-x), for ``x`` >= 0."""
    if x > bits:
        return 0
    halvings = max(0, math.floor(x).bit_length() + 8)
    places = bits + halvings + 32
    y = (x.numerator << places >> halvings) // x.denominator
    value = term = 1 << places
    n = 0
    while term:
        n += 1
        term = (term * y >> places) // n
        value += term if n % 2 == 0 else -term
    for _ in range(halvings):
        value = value * value >> places
    # Each term is off by at most 3 units, and each squaring doubles the error: it stays below half of 2^-bits.
    return max(0, (value >> (places - bits)) - 1)


def _skellam_reach(variance: float, bits: int) -> int:
    """A k for which I_k is surely below 2^-bits / k³ of I_0, by Chernoff's bound on the tail."""

    def nats(k: int) -> float:
        y = k / variance
        # x asinh x - sqrt(1 + x²) + 1, without the cancellation near zero
        return variance * (y * math.asinh(y) - y * y / (1 + math.hypot(1, y)))

    def enough(k: int) -> bool:
        likely = math.log(8 * (1 + variance)) / 2 + 3 * math.log(k)  # P(0) >= 1 / sqrt(8 (1 + variance))
        return nats(k) >= math.log(2) * (bits + 16) + likely

    high = 4
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
