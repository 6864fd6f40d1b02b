"""Bounds on the Rényi divergence of an event, one for each integer order.

Sources: Mironov 2017 (Gaussian); Bun and Steinke 2016 (pure ε); Mironov, Talwar and Zhang 2019 (Poisson-sampled
Gaussian); Zhu and Wang 2019 (Poisson sampling of any event); Wang, Balle and Kasiviswanathan 2019 (fixed-size
samples); Canonne, Kamath and Steinke 2020 (discrete Gaussian); Kairouz, Liu and Steinke 2021 (sums of discrete
Gaussians); Agarwal, Kairouz and Liu 2021 (Skellam).

The formulas for sampling have the form log(Σ ...), in which the terms of order 0 and 1 sum to exactly 1. The code
computes log(1 + rest), so that the small rest keeps its digits.
"""

import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dp.errors import DPError
from dp.events import (
    Composed,
    DiscreteGaussianEvent,
    DistributedGaussianEvent,
    Event,
    FixedSizeSampled,
    GaussianEvent,
    PoissonSampled,
    PureEvent,
    SelfComposed,
    SkellamEvent,
)

Curve = NDArray[np.float64]
Orders = tuple[int, ...]

_EXACT_ORDERS = 256  # above this order, forward differences cost more than they gain
_LEAST_MULTIPLIER, _MOST_MULTIPLIER = 0.05, 200.0  # outside these, forward differences need too many digits
_GUARD_DIGITS = 25
_OVERFLOW = 700.0  # float64 holds exp of this
_MOST_TERMS = 1 << 20  # of the sum in τ; the last of these bounds each later one
NARROWEST_TERM = 0.5  # Kairouz, Liu and Steinke state their bound on sums for a σ of each term of at least this


def curve(event: Event, orders: Orders, neighbours: str) -> Curve:
    """Upper bounds on the Rényi divergence of ``event`` at integer ``orders`` (2 and above).

    ``neighbours`` is ``"zero-out"``, with the sensitivities that the event states, or ``"replace-one"``, with twice
    those. Raises :class:`DPError` for an event without a known bound under that relation.
    """
    return _curve(event, orders, neighbours).copy()


def clamped(event: Event) -> float:
    """A bound on the probability that ``event`` deviates from what its curve assumes."""
    match event:
        case DistributedGaussianEvent() | SkellamEvent():
            return event.clamped
        case PoissonSampled() | FixedSizeSampled():
            return clamped(event.event)
        case SelfComposed():
            return event.count * clamped(event.event)
        case Composed():
            return math.fsum(map(clamped, event.events))
        case _:
            return 0.0


@lru_cache(maxsize=256)
def _curve(event: Event, orders: Orders, neighbours: str) -> Curve:
    alpha = np.array(orders, np.float64)
    factor = 2.0 if neighbours == "replace-one" else 1.0
    with np.errstate(over="ignore", under="ignore"):
        match event:
            case GaussianEvent():
                return alpha * (factor / event.noise_multiplier) ** 2 / 2
            case PureEvent():
                return _pure(factor * event.epsilon, alpha)
            case DiscreteGaussianEvent():
                return alpha * (factor * event.l2 / event.sigma) ** 2 / 2
            case DistributedGaussianEvent():
                return _distributed_gaussian(event, alpha, factor)
            case SkellamEvent():
                return _skellam(event, alpha, factor)
            case SelfComposed():
                return event.count * _curve(event.event, orders, neighbours)
            case Composed():
                return sum((_curve(part, orders, neighbours) for part in event.events), np.zeros(alpha.size))
            case PoissonSampled():
                if neighbours != "zero-out":
                    raise DPError(
                        f"got Poisson sampling under {neighbours!r}; its amplification is proved for "
                        "'zero-out': use that, or FixedSizeSampled"
                    )
                return _poisson(event, orders, neighbours)
            case FixedSizeSampled():
                if neighbours != "replace-one":
                    raise DPError(
                        f"got a fixed-size sample under {neighbours!r}; its amplification is proved for "
                        "'replace-one', since a client that leaves the sample makes room for another: use that, or "
                        "PoissonSampled"
                    )
                return _fixed_size(event, orders, neighbours)
            case _:
                raise DPError(f"got a {type(event).__name__}, which is unsupported; no bound for it is known")


def _pure(epsilon: float, alpha: Curve) -> Curve:
    """The curve of randomised response, which costs most among all releases of the same ``epsilon``."""
    finite = alpha * epsilon < _OVERFLOW
    e = np.where(finite, epsilon, 1.0)
    # (e^(αε) + e^((1-α)ε)) / (1 + e^ε), less one, as a product in which no digits cancel.
    more = -np.expm1(alpha * e) * np.expm1((1 - alpha) * e) / (1 + np.exp(e))
    bounds: Curve = np.where(finite, np.minimum(np.log1p(more) / (alpha - 1), epsilon), epsilon)
    return bounds


def mismatch(count: int, sigma: float) -> float:
    """τ: the distance of a sum of ``count`` discrete Gaussians from one discrete Gaussian of the same variance."""
    # The terms decrease from exp(-π²σ²) towards exp(-2π²σ²).
    terms = np.arange(1, min(count, _MOST_TERMS), dtype=np.float64)
    exponents = -2 * math.pi**2 * sigma**2 * (terms / (terms + 1))
    rest = max(count - _MOST_TERMS, 0) * (math.exp(exponents[-1]) if exponents.size else 0.0)
    return 10 * (float(np.exp(exponents).sum()) + rest)


def _distributed_gaussian(event: DistributedGaussianEvent, alpha: Curve, factor: float) -> Curve:
    if event.honest > 1 and event.sigma < NARROWEST_TERM:
        # Such sums are hardly noise: for five terms with σ = 0.07, τ yields ε = 88, where δ is in truth 0.99999.
        return np.full(alpha.shape, np.inf)
    l2, l1 = factor * event.l2, factor * event.l1
    width = math.sqrt(event.honest) * event.sigma
    tau = mismatch(event.honest, event.sigma)
    shifts = (
        alpha * (l2 / width) ** 2 / 2 + tau * event.dimension,
        alpha / 2 * ((l2 / width) ** 2 + 2 * l1 * tau / width + tau**2 * event.dimension),
        alpha / 2 * (l2 / width + math.sqrt(event.dimension) * tau) ** 2,
    )
    bounds: Curve = np.minimum.reduce(shifts)
    return bounds


def _skellam(event: SkellamEvent, alpha: Curve, factor: float) -> Curve:
    l2, l1, variance = factor * event.l2, factor * event.l1, event.variance
    excess = np.minimum(((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
    return alpha * l2**2 / (2 * variance) + excess


def _poisson(event: PoissonSampled, orders: Orders, neighbours: str) -> Curve:
    inner = _curve(event.event, orders, neighbours)
    if event.rate == 1:
        return inner
    lower = _below(event.event, orders, neighbours)
    # The terms of order 3 and above get a factor of 3, except for a Gaussian, whose moments are exact.
    gaussian = _as_gaussian(event.event) is not None
    rate = math.log(event.rate), math.log1p(-event.rate)

    def rest(alpha: int) -> float:
        at = np.arange(2, alpha + 1)
        growth = (at - 1) * lower[: alpha - 1]
        factors = np.where((at > 2) & (not gaussian), math.log(3), 0.0)
        moments = _log_minus_one(factors + growth)
        return _log_sum(_log_binomial(alpha, at) + at * rate[0] + (alpha - at) * rate[1] + moments)

    return np.minimum(_amplified(rest, orders), inner)


def _fixed_size(event: FixedSizeSampled, orders: Orders, neighbours: str) -> Curve:
    inner = _curve(event.event, orders, neighbours)
    if event.size == event.population:
        return inner
    lower = _below(event.event, orders, neighbours)
    rate = math.log(event.size) - math.log(event.population)
    multiplier = _as_gaussian(event.event)
    moments = None
    if multiplier is not None and multiplier / 2 >= _LEAST_MULTIPLIER:
        # Moments decrease as the noise grows, so the moments for less noise bound them.
        moments = _log_central_moments(min(multiplier / 2, _MOST_MULTIPLIER), max(orders))

    def rest(alpha: int) -> float:
        at = np.arange(2, alpha + 1)
        growth = (at - 1) * lower[: alpha - 1]
        terms = math.log(2) + growth
        terms[0] = min(math.log(4) + float(_log_minus_one(growth[:1])[0]), float(terms[0]))
        if moments is not None and alpha <= _EXACT_ORDERS:
            exact = math.log(4) + (moments[at // 2] + moments[(at + 1) // 2]) / 2
            terms[1:] = np.minimum(terms, exact)[1:]
        return _log_sum(_log_binomial(alpha, at) + at * rate + terms)

    return np.minimum(_amplified(rest, orders), inner)


def _below(event: Event, orders: Orders, neighbours: str) -> Curve:
    """The curve at each order from 2 to the highest of ``orders``."""
    return _curve(event, tuple(range(2, max(orders) + 1)), neighbours)


def _amplified(rest: Callable[[int], float], orders: Orders) -> Curve:
    """log(1 + exp(rest(α))) / (α - 1)."""
    return np.array([float(np.logaddexp(0.0, rest(alpha))) / (alpha - 1) for alpha in orders])


def _as_gaussian(event: Event) -> float | None:
    """The noise multiplier of the Gaussian that has the same moments as ``event``; None if no Gaussian has."""
    match event:
        case GaussianEvent():
            return event.noise_multiplier
        case DiscreteGaussianEvent():
            # For a shift by integers d, E[(P/Q)^k] is exactly exp(k(k - 1)|d|²/2σ²), as for continuous noise, and
            # x -> d - x swaps P and Q. The theorems on samples of Gaussians use nothing else.
            return event.sigma / event.l2
        case SelfComposed():
            multiplier = _as_gaussian(event.event) if _is_continuous(event.event) else None
            return None if multiplier is None else multiplier / math.sqrt(event.count)
        case Composed():
            # Continuous noise alone: there a choice of shifts by results gains nothing (Gaussian DP). With noise on
            # integers, the swap of P and Q needs a shift that depends on no earlier result.
            parts = [_as_gaussian(part) if _is_continuous(part) else None for part in event.events]
            if not parts or None in parts:
                return None
            return 1 / math.sqrt(math.fsum(part**-2 for part in parts if part is not None))
        case _:
            return None


def _is_continuous(event: Event) -> bool:
    match event:
        case SelfComposed():
            return _is_continuous(event.event)
        case Composed():
            return all(map(_is_continuous, event.events))
        case _:
            return isinstance(event, GaussianEvent)


@lru_cache(maxsize=64)
def _log_central_moments(multiplier: float, highest: int) -> Curve:
    """log E[(P/Q - 1)^2j] at index j under Q, for Gaussians P and Q whose means are 1/``multiplier`` apart.

    This is the 2j-th forward difference at 0 of exp(x(x - 1) / (2·multiplier²)), computed with so many digits that
    25 of them remain in its alternating sum.
    """
    top = min(highest, _EXACT_ORDERS) + 1
    digits = 64
    while True:
        moments = _differences(multiplier, top - top % 2, digits)
        if moments is not None:
            return moments
        digits *= 2


def _differences(multiplier: float, top: int, digits: int) -> Curve | None:
    """See :func:`_log_central_moments`; None if ``digits`` are too few."""
    context = Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN)
    step = context.divide(Decimal(1), context.multiply(Decimal(2), Decimal(multiplier) ** 2))
    values = [context.exp(context.multiply(Decimal(x * (x - 1)), step)) for x in range(top + 1)]
    row, logs = values, [0.0]
    for level in range(1, top + 1):
        row = [context.subtract(after, before) for before, after in pairwise(row)]
        if level % 2 == 0:
            # The first entry of the row is an alternating sum of values[: level + 1], whose factors sum to 2^level.
            lost = digits - _GUARD_DIGITS - math.ceil(level * math.log10(2))
            if row[0] <= 0 or row[0].adjusted() < values[level].adjusted() - lost:
                return None
            logs.append(float(context.ln(row[0])))
    return np.array(logs)


def _log_binomial(n: int, k: NDArray[np.int64]) -> Curve:
    factorials = _log_factorials(1 << n.bit_length())
    logs: Curve = factorials[n] - factorials[k] - factorials[n - k]
    return logs


@lru_cache(maxsize=16)
def _log_factorials(count: int) -> Curve:
    return np.array([math.lgamma(n + 1) for n in range(count)])


def _log_minus_one(x: Curve) -> Curve:
    """log(exp(x) - 1) for x above 0."""
    with np.errstate(divide="ignore"):
        return x + np.log(-np.expm1(-x))


def _log_sum(terms: Curve) -> float:
    largest = float(terms.max())
    return largest + math.log(float(np.exp(terms - largest).sum())) if math.isfinite(largest) else largest
