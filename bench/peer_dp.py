"""Noise and privacy accounting: OpenDP's sampler and dp-accounting's accountant, compared with ours."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np

from bench.measure import Call
from bench.peers import Pair, require

NOISE, THEIR_NOISE = 1_000_000, 20_000
RATE, MULTIPLIER, STEPS, DELTA = 0.01, 1.1, 1000, 1e-5


def opendp_sampler(sigma: float) -> Any:
    """OpenDP's discrete Gaussian: a function from a count to as many integers, through ``make_gaussian``."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    measurement = dp.m.make_gaussian(*space, scale=sigma)
    return lambda count: measurement([0] * count)


def gaussian(sigma: float) -> Pair:
    """Integers of a discrete Gaussian, from a CSPRNG on both sides. Ours runs in constant time at small sigma."""
    from dp import sampling

    theirs, ours = opendp_sampler(sigma), partial(sampling.sample_discrete_gaussian, sigma)
    for name, noise in (("opendp", theirs(THEIR_NOISE)), ("dp.sampling", ours(NOISE))):
        values = np.asarray(noise, np.float64)
        # Six standard deviations of the mean, and of the variance over sigma^2.
        spread = 6 * (2 / len(values)) ** 0.5
        right = abs(values.mean()) < 6 * sigma / len(values) ** 0.5 and abs(values.var() / sigma**2 - 1) < spread
        require(right and (values == np.rint(values)).all(), f"{name}'s discrete Gaussian")
    return Pair(
        Call(lambda: theirs(THEIR_NOISE)),
        Call(lambda: ours(NOISE)),
        their_units=THEIR_NOISE,
        our_units=NOISE,
    )


def accounts() -> Pair:
    """ε of 1000 Poisson-sampled Gaussian steps, by Rényi divergences at the same orders, without our caches."""
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    from dp import RDPAccountant
    from dp.accounting import DEFAULT_ORDERS
    from dp.events import GaussianEvent, PoissonSampled

    event = dp_accounting.PoissonSampledDpEvent(RATE, dp_accounting.GaussianDpEvent(MULTIPLIER))

    def theirs() -> float:
        return float(RdpAccountant(DEFAULT_ORDERS).compose(event, STEPS).get_epsilon(DELTA))

    def ours(multiplier: float) -> float:
        return RDPAccountant(DELTA).compose(PoissonSampled(RATE, GaussianEvent(multiplier)), STEPS).get_epsilon()

    # A multiplier that no call had before finds no curve in our caches.
    multipliers = (MULTIPLIER * (1 + number * 1e-9) for number in itertools.count(1))
    require(abs(theirs() / ours(MULTIPLIER) - 1) < 1e-9, "dp-accounting's or our accountant")
    return Pair(Call(theirs), Call(ours, lambda: next(multipliers)))
