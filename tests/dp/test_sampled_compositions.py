"""A sampled composition costs what the definition of Rényi divergence says; no less, where not all is Gaussian."""

import math
from itertools import product

import numpy as np
import pytest

from dp import RDPAccountant
from dp.events import Composed, Event, GaussianEvent, PoissonSampled, PureEvent, SelfComposed

RATE = 0.05
ORDERS = (2, 3, 4, 6, 8)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)


def curve(event: Event) -> np.ndarray:
    return RDPAccountant(1e-5, orders=ORDERS).compose(PoissonSampled(RATE, event)).rdp


def by_definition(multipliers: tuple[float, ...], response: float = 0.0) -> np.ndarray:
    """The larger of both directions, by quadrature over every mechanism's own output.

    Each Gaussian shows a number whose mean is 1 with the client and 0 without. A randomized response of
    ``response`` shows a bit: 1 at odds of e^response to 1 with the client, and of 1 to e^response without.
    """
    bit = 1 / (1 + math.exp(response))
    bits = [(1 - bit, bit), (bit, 1 - bit)] if response else [(1.0, 1.0)]  # probability without, with the client
    without, with_it = [], []  # masses of an output without the client, and with it
    for places in product(range(len(NODES)), repeat=len(multipliers)):
        mass = math.prod(WEIGHTS[at] / math.sqrt(2 * math.pi) for at in places)
        ratio = math.exp(sum(NODES[at] / s - 1 / (2 * s * s) for at, s in zip(places, multipliers, strict=True)))
        for absent, present in bits:
            without.append(mass * absent)
            with_it.append(mass * ratio * present)
    q, p = np.array(without), np.array(with_it)
    mixed = (1 - RATE) * q + RATE * p
    both = [
        [math.log(float(np.sum(under * (over / under) ** order))) / (order - 1) for order in ORDERS]
        for over, under in ((mixed, q), (q, mixed))
    ]
    return np.max(both, axis=0)


@pytest.mark.parametrize(
    "event",
    [
        Composed((GaussianEvent(2.0), GaussianEvent(3.0))),
        Composed((GaussianEvent(2.0), SelfComposed(GaussianEvent(6.0), 4))),
        SelfComposed(Composed((GaussianEvent(2.0 * math.sqrt(2)), GaussianEvent(3.0 * math.sqrt(2)))), 2),
    ],
)
def test_gaussians_cost_what_the_definition_says(event: Event) -> None:
    np.testing.assert_allclose(curve(event), by_definition((2.0, 3.0)), rtol=1e-6)


def test_repeated_gaussians_are_one_with_less_noise() -> None:
    np.testing.assert_allclose(curve(SelfComposed(GaussianEvent(4.0), 4)), curve(GaussianEvent(2.0)), rtol=1e-12)


def test_a_mix_is_not_priced_as_its_gaussian_part_alone() -> None:
    """The figure bounds what two such mechanisms do, which is more than what the Gaussian does alone.

    Above order 2 it is the bound for any mechanism, three times a term: a mix has no moments known exactly.
    """
    exact = by_definition((2.0,), response=0.3)
    assert (curve(GaussianEvent(2.0)) < exact * (1 - 1e-3)).all()
    for parts in ((GaussianEvent(2.0), PureEvent(0.3)), (PureEvent(0.3), GaussianEvent(2.0))):
        found = curve(Composed(parts))
        assert (found >= exact * (1 - 1e-9)).all()
        assert (found[1:] > 1.1 * exact[1:]).all()
