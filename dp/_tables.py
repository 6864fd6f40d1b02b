"""Cumulative probabilities of integer laws, exact to any number of bits: what the samplers invert.

A law here falls from zero outwards and is symmetric, or is one-sided on 0, 1, 2, ... Its thresholds
at ``bits`` are floor(2^bits P(|X| <= k)) for k = 0, 1, ... until 2^bits - 1 is reached. Everything is
computed in Python's integers with a bound on the error; where that bound leaves a floor undecided,
the computation is repeated with more bits, so that no threshold is ever off by one.
"""

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_GUARD_BITS = 64  # a floor is undecided with a probability of about 2^-60


class Law(Hashable, Protocol):
    """A distribution on the integers, known by its weights to within a bound."""

    @property
    def one_sided(self) -> bool:
        """Whether only 0, 1, 2, ... carry weight; otherwise the law is symmetric."""
        ...

    def weights(self, bits: int) -> tuple[list[int], int]:
        """Weights of 0, 1, ..., and the slack: all on one scale, whatever it is.

        No partial sum (symmetric laws count every weight but the first twice) differs from the true
        one by more than the slack, nor does the sum of all from the true total, what lies beyond
        the last weight included. The slack is below 2^(2 - bits) of the total.
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
        # All is rounded down. The k-th ratio lacks at most 3 + 4k units, so the k-th weight at most
        # 2k² + 2k, and twice their sum at most 2 (count + 2)³. Ratios fall: the rest is geometric.
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
        # Rounding down: one unit lost at j grows to at most weight_k / weight_j at k, hence
        # relatively at most count / least. The start: it mixes in the second solution, whose
        # quotient by the first changes by 1 / (w_k w_(k-1)) a step (their Casoratian is constant),
        # hence at most 2 count² last weights in all, doubled for the scale. Beyond the last one
        # ratios are below sqrt(1 + y²) - y (Amos 1974), so the rest is below 1 + 1/y of it.
        rounding = 2 * sum(weights) * (count + 1) // least + 1
        falling = weights == sorted(weights, reverse=True)  # as that argument wants them, and they are
        start = 8 * (count + 1) ** 2 << places if falling else sum(weights)
        rest = 4 * (2 + math.ceil(self.variance / count)) << places
        return weights, rounding + start + rest


def thresholds(law: Law, bits: int) -> list[int]:
    """floor(2^bits P(|X| <= k)) for k = 0, 1, ... until that is 2^bits - 1: no entry is off."""
    guard = _GUARD_BITS
    while True:
        found = list(_thresholds(law, bits, guard))
        if found[-1] >= 0:
            return found
        guard *= 2


def _thresholds(law: Law, bits: int, guard: int) -> Iterator[int]:
    """As :func:`thresholds`, ended early by -1 where ``guard`` more bits don't decide an entry."""
    weights, slack = law.weights(bits + guard)
    fold = 1 if law.one_sided else 2
    total = fold * sum(weights) - (fold - 1) * weights[0]
    if 3 * slack >= total:  # the precision asked for was too low for the bound to hold
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
    """The :func:`thresholds` of at most 64 bits, read-only."""
    found = np.array(thresholds(law, bits), dtype=np.uint64)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=8)
def guide(law: Law, bits: int) -> tuple[NDArray[np.int64], int]:
    """Where to begin in the :func:`table` for a word's top bits, and how far to shift it for them.

    Entry j is how many thresholds lie below j << shift. There are about twice as many as thresholds.
    """
    entries = table(law, bits)
    shift = bits - min(bits, entries.size.bit_length() + 1)
    edges = np.arange(1 << (bits - shift), dtype=np.uint64) << np.uint64(shift)
    starts = np.searchsorted(entries, edges, side="left").astype(np.int64)
    starts.flags.writeable = False
    return starts, shift


def exp_below(x: Fraction, bits: int) -> int:
    """An integer at most 2^bits exp(-x), ``x`` >= 0, and at most 3 less than it."""
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
    # Each term is off by at most 3 units, each squaring doubles that: below half a unit of 2^-bits.
    return max(0, (value >> (places - bits)) - 1)


def _skellam_reach(variance: float, bits: int) -> int:
    """A k where I_k is surely below 2^-bits / k³ of I_0, by Chernoff's bound on the tail."""

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
