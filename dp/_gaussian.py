"""The (ε, δ) of Gaussian noise, and of integer noise that is nearly Gaussian, without Rényi divergences.

A sum of discrete Gaussians is nearly Gaussian: it is a random rounding of a Gaussian, up to a factor e^±s on every
probability (docs/privacy.md proves it). So its δ at ε is at most e^s times that of the Gaussian at ε - 2s. A
composition of Gaussians is equivalent to one Gaussian (Dong, Roth and Su 2019), and the factors multiply.

Sources: Balle and Wang 2018 (the δ of a Gaussian); Kairouz, Liu and Steinke 2021 (sums of discrete Gaussians).
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dp._curves import NARROWEST_TERM, mismatch
from dp.events import (
    Composed,
    DiscreteGaussianEvent,
    DistributedGaussianEvent,
    Event,
    GaussianEvent,
    SelfComposed,
)

SPARE = 2.0**-36  # relative margin of δ: 2^6 times the largest error of the floats here
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_FACTOR = 30.0  # the random rounding costs a factor of e^(e^-30) over all coordinates
_MOST = 1e4  # beyond a distance of so many standard deviations ε is millions, and floats lose digits
_HALVINGS = 60


class Loss(NamedTuple):
    """The cost of a release whose noise is nearly Gaussian."""

    squares: float  # squared distance between neighbours, in standard deviations of the noise
    slack: float  # s: each probability is that of the rounded Gaussian up to a factor e^±s


NOTHING = Loss(0.0, 0.0)


def hockey_stick(epsilon: float, ratio: float) -> float:
    """δ at ``epsilon`` of Gaussian noise whose standard deviation is ``ratio`` times the distance of neighbours.

    Φ(1/2r - εr) - e^ε Φ(-1/2r - εr) for the ratio r, computed as the integral of φ(t - 1/2r + εr) (1 - e^(-t/r))
    over t > 0, in which no digits cancel.
    """
    centre = 0.5 / ratio - epsilon * ratio
    begin = max(0.0, centre - 12)
    # Beyond the end the integrand is below e^-50 of its value at the beginning or the peak.
    end = centre + math.hypot(centre, 10) if centre < 0 else centre + 12
    edges = begin + (end - begin) * np.concatenate([[0.0], 2.0 ** np.arange(-14, 1)])
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (1 + _NODES)
    density = np.exp(-((t - centre) ** 2) / 2) / math.sqrt(2 * math.pi)
    return float((half * _WEIGHTS * density * -np.expm1(-t / ratio)).sum())


def added(one: Loss | None, other: Loss | None, count: int = 1) -> Loss | None:
    """The loss of ``one`` and ``count`` times the ``other`` together; None if either is not nearly Gaussian."""
    if one is None or other is None:
        return None
    return Loss(one.squares + count * other.squares, one.slack + count * other.slack)


@lru_cache(maxsize=256)
def loss(event: Event, neighbours: str) -> Loss | None:
    """The loss of an ``event`` without sampling; None if the event is not known to be nearly Gaussian."""
    factor = 2.0 if neighbours == "replace-one" else 1.0
    match event:
        case GaussianEvent():
            return Loss((factor / event.noise_multiplier) ** 2, 0.0)
        case DiscreteGaussianEvent():
            return _rounded(factor * event.l2, event.sigma**2, math.inf, 0.0)
        case DistributedGaussianEvent():
            if event.honest > 1 and event.sigma < NARROWEST_TERM:
                return None
            apart = mismatch(event.honest, event.sigma) / 2
            return _rounded(factor * event.l2, event.honest * event.sigma**2, event.dimension, apart)
        case SelfComposed():
            return added(NOTHING, loss(event.event, neighbours), event.count)
        case Composed():
            total: Loss | None = NOTHING
            for part in event.events:
                total = added(total, loss(part, neighbours))
            return total
        case _:
            return None


def _rounded(l2: float, variance: float, dimension: float, apart: float) -> Loss | None:
    """The loss of integer noise within e^±``apart`` of a discrete Gaussian of ``variance`` in each coordinate.

    Integers of norm ``l2`` are nonzero in at most l2² coordinates. The other coordinates reveal nothing.
    """
    nonzero = max(1.0, min(dimension, l2 * l2))
    rounding = (math.log(5 * nonzero) + _FACTOR) / (2 * math.pi**2)  # V₂: the part of the variance for the rounding
    if not rounding < variance:
        return None
    return Loss(l2 * l2 / (variance - rounding), nonzero * apart + math.exp(-_FACTOR))


def delta_at(loss: Loss | None, epsilon: float) -> float:
    """δ at ``epsilon`` (0 or more), rounded up; 1 if no bound is known."""
    if loss is None or not 2 * loss.slack <= epsilon < math.inf or not loss.squares <= _MOST**2:
        return 1.0
    if not loss.squares:
        return 0.0
    exact = hockey_stick(epsilon - 2 * loss.slack, 1 / math.sqrt(loss.squares))
    return min(1.0, exact * math.exp(min(loss.slack, 700.0)) * (1 + SPARE))


@lru_cache(maxsize=1024)
def epsilon_at(loss: Loss | None, delta: float) -> float:
    """The least ε at ``delta``, rounded up; infinite if no bound is known."""
    if loss is None or not loss.squares <= _MOST**2:
        return math.inf
    least = 2 * loss.slack
    if delta_at(loss, least) <= delta:
        return least
    high = least + 1.0
    while delta_at(loss, high) > delta:
        high = least + 2 * (high - least)
    low = least
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(loss, middle) > delta else (low, middle)
    return high
