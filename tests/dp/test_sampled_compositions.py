"""Curves of samples of compositions, against integrals of the definition and the theorems written out anew.

The mechanisms here release a sum of one continuous and one more coordinate, so that a divergence is a double sum
over what may be seen: no curve, and nothing of the code, is used to find it.
"""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from dp import _curves
from dp.accounting import RDPAccountant
from dp.events import (
    Composed,
    DiscreteGaussianEvent,
    Event,
    FixedSizeSampled,
    GaussianEvent,
    PoissonSampled,
    PureEvent,
    SelfComposed,
)
from tests.reference import dp_amplification

ORDERS = (2, 3, 4, 6, 9)
Law = tuple[np.ndarray, Callable[[float], np.ndarray]]  # weights of what is seen, ratios to it after a shift

X = np.arange(-13, 13, 0.1)


def gaussian(z: float) -> Law:
    """A coordinate of noise 1, moved by a shift of ``shift``/z."""
    weights = np.exp(-(X**2) / 2)
    return weights / weights.sum(), lambda shift: np.exp(X * shift / z - (shift / z) ** 2 / 2)


def discrete(sigma: float, reach: int = 60) -> Law:
    """An integer with discrete Gaussian noise, moved by a shift of ``shift``."""
    k = np.arange(-reach, reach + 1)
    weights = np.exp(-(k**2) / (2 * sigma**2))
    return weights / weights.sum(), lambda shift: np.exp((2 * k * shift - shift**2) / (2 * sigma**2))


def answer(epsilon: float) -> Law:
    """A bit, right with probability 1/(1 + e^-ε): moved by 1 or -1 it is the other one."""
    right = 1 / (1 + math.exp(-epsilon / 2))
    weights = np.array([0.5, 0.5])
    return (
        weights,
        lambda shift: 2 * np.array([1 - right, right])[:: 1 if shift > 0 else -1] if shift else np.ones(2),
    )


def exact(laws: tuple[Law, Law], rate: float, alpha: int, *, first: int, second: int) -> float:
    """D_α of what a sample sees of an update at ``first`` from what it sees of one at ``second`` in its place."""
    (p, p_moved), (q, q_moved) = laws
    weights = np.multiply.outer(p, q)

    def sampled(shift: int) -> np.ndarray:
        return (1 - rate) + rate * np.multiply.outer(p_moved(shift), q_moved(shift))  # type: ignore[no-any-return]

    one, other = sampled(first), sampled(second)
    return math.log(float((weights * one**alpha * other ** (1 - alpha)).sum())) / (alpha - 1)


def curve(event: Event, neighbours: str = "zero-out") -> np.ndarray:
    return RDPAccountant(1e-5, orders=ORDERS, neighbours=neighbours).compose(event).rdp  # type: ignore[arg-type]


#: A coordinate that tells nothing.
ONE: Law = (np.ones(1), lambda shift: np.ones(1))

TWO: Event = Composed((GaussianEvent(2.0), GaussianEvent(3.0)))
#: All of them amount to the same one Gaussian: that the two coordinates of TWO do.
ALIKE = [
    TWO,
    Composed((TWO,)),
    Composed((GaussianEvent(3.0), Composed((GaussianEvent(2.0),)))),
    Composed((SelfComposed(GaussianEvent(2.0 * math.sqrt(2)), 2), GaussianEvent(3.0))),
    SelfComposed(Composed((GaussianEvent(2.0 * math.sqrt(5)), GaussianEvent(3.0 * math.sqrt(5)))), 5),
]
LAWS = gaussian(2.0), gaussian(3.0)


#: Integers with discrete Gaussian noise, narrow and wide: what is seen, by the same shift.
ON_INTEGERS: list[tuple[Event, tuple[Law, Law]]] = [
    (DiscreteGaussianEvent(0.5, 1.0), (discrete(0.5, 13), ONE)),
    (DiscreteGaussianEvent(4.0, 1.0), (discrete(4.0), ONE)),
    (DiscreteGaussianEvent(1.5, math.sqrt(2)), (discrete(1.5), discrete(1.5))),
]

#: Several releases of one sample, with discrete noise. A later shift may follow an earlier result there.
IN_TURN: list[tuple[Event, tuple[Law, Law]]] = [
    (Composed((GaussianEvent(2.0), DiscreteGaussianEvent(4.0, 1.0))), (gaussian(2.0), discrete(4.0))),
    (SelfComposed(DiscreteGaussianEvent(1.5, 1.0), 2), (discrete(1.5), discrete(1.5))),
]


@pytest.mark.parametrize(("event", "laws"), [*((event, LAWS) for event in ALIKE), *ON_INTEGERS])
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.8])
def test_a_sample_with_gaussian_noise_costs_what_its_integral_says(
    event: Event, laws: tuple[Law, Law], rate: float
) -> None:
    """On integers, shifts are integers, and their moments are those of the continuous Gaussian at any width."""
    ours = curve(PoissonSampled(rate, event))
    expected = [exact(laws, rate, alpha, first=1, second=0) for alpha in ORDERS]
    np.testing.assert_allclose(ours, expected, rtol=1e-8)
    turned = [exact(laws, rate, alpha, first=0, second=1) for alpha in ORDERS]
    assert (turned <= ours * (1 + 1e-9)).all(), "and removing an update costs no more than adding it"


@pytest.mark.parametrize(("event", "laws"), IN_TURN)
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.8])
def test_releases_in_turn_with_discrete_noise_cost_what_any_releases_do(
    event: Event, laws: tuple[Law, Law], rate: float
) -> None:
    """The exact moments are proven for shifts that depend on no earlier result, so the general bound holds here."""
    ours = curve(PoissonSampled(rate, event))
    for first in (0, 1):
        fixed = [exact(laws, rate, alpha, first=first, second=1 - first) for alpha in ORDERS]
        assert (np.array(fixed)[1:] < ours[1:]).all(), "also of the shifts that depend on nothing"


def test_control_a_shift_that_is_not_an_integer_costs_another_number() -> None:
    """No neighbour has such a shift; where noise is narrow, its moments are not those of the Gaussian."""
    for rate in (0.01, 0.2, 0.8):
        half = [exact(ON_INTEGERS[0][1], rate, alpha, first=0.5, second=0) for alpha in ORDERS]  # type: ignore[arg-type]
        smooth = curve(PoissonSampled(rate, DiscreteGaussianEvent(0.5, 0.5)))
        assert np.abs(np.array(half) / smooth - 1).max() > 0.01


MIXED: list[tuple[Event, tuple[Law, Law], Callable[[int], float]]] = [
    (
        Composed((GaussianEvent(2.0), PureEvent(0.25))),
        (gaussian(2.0), answer(0.25)),
        lambda alpha: alpha / 2 / 4 + float(_curves.curve(PureEvent(0.25), (alpha,), "zero-out")[0]),
    ),
]


@pytest.mark.parametrize(("event", "laws", "cost"), MIXED, ids=["pure"])
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_a_sampled_mix_costs_what_the_theorem_for_anything_says(
    event: Event, laws: tuple[Law, Law], cost: Callable[[int], float], rate: float
) -> None:
    ours = curve(PoissonSampled(rate, event))
    expected = [dp_amplification.poisson(alpha, rate, cost) for alpha in ORDERS]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    seen = [exact(laws, rate, alpha, first=1, second=0) for alpha in ORDERS]
    assert (np.array(seen) <= ours * (1 + 1e-9)).all()
    # The controls: as the Gaussian's moments, or as the Gaussian part alone, it would come out lower.
    exactly = np.array([dp_amplification.poisson(alpha, rate, cost, factor=1) for alpha in ORDERS])
    assert (exactly[1:] < ours[1:] * (1 - 1e-4)).all()
    assert (curve(PoissonSampled(rate, GaussianEvent(2.0)))[0] < np.array(seen)[0]).all()


def moments(*multipliers: float) -> Callable[[int], float]:
    """E[(P/Q - 1)^j] of Gaussians twice the sensitivity apart in each of some coordinates, as powers say it."""
    apart = mpmath.fsum(4 / mpmath.mpf(z) ** 2 for z in multipliers)

    def moment(j: int) -> mpmath.mpf:
        with mpmath.workdps(60):
            return mpmath.fsum(
                (-1) ** (j - k) * mpmath.binomial(j, k) * mpmath.exp(mpmath.mpf(k * (k - 1)) / 2 * apart)
                for k in range(j + 1)
            )

    return moment


def test_the_powers_are_those_of_the_integral() -> None:
    (p, p_moved), (q, q_moved) = LAWS
    ratios = np.multiply.outer(p_moved(2), q_moved(2))
    for j in (2, 4, 6):
        integral = float((np.multiply.outer(p, q) * (ratios - 1) ** j).sum())
        assert integral == pytest.approx(float(moments(2.0, 3.0)(j)), rel=1e-8)


@pytest.mark.parametrize("event", ALIKE, ids=str)
@pytest.mark.parametrize(("population", "size"), [(1000, 10), (50, 20)])
def test_a_composition_in_a_fixed_sample_costs_what_the_theorem_says(
    event: Event, population: int, size: int
) -> None:
    ours = curve(FixedSizeSampled(population, size, event), "replace-one")
    rate = size / population

    def cost(alpha: int) -> float:
        return alpha / 2 * (4 / 4 + 4 / 9)

    expected = [dp_amplification.fixed_size(alpha, rate, cost, moments(2.0, 3.0)) for alpha in ORDERS]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    seen = np.array([exact(LAWS, rate, alpha, first=1, second=-1) for alpha in ORDERS])
    assert (seen <= ours).all()


@pytest.mark.parametrize(("population", "size"), [(10_000, 20), (1000, 10)])
def test_a_mix_in_a_fixed_sample_costs_what_the_theorem_for_anything_says(population: int, size: int) -> None:
    event = Composed((GaussianEvent(20.0), PureEvent(0.01)))

    def cost(alpha: int) -> float:
        pure = float(_curves.curve(PureEvent(0.01), (alpha,), "replace-one")[0])
        return alpha / 2 * 4 / 400 + pure

    ours, rate = curve(FixedSizeSampled(population, size, event), "replace-one"), size / population
    expected = [dp_amplification.fixed_size(alpha, rate, cost, None) for alpha in ORDERS]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    alone = np.array([dp_amplification.fixed_size(alpha, rate, cost, moments(20.0)) for alpha in ORDERS])
    assert (alone[1:] < ours[1:]).all(), "the control: with the moments of the Gaussian part it would be less"


def test_only_what_is_all_gaussian_amounts_to_one() -> None:
    for event in ALIKE:
        assert _curves._as_gaussian(event) == pytest.approx(1 / math.sqrt(1 / 4 + 1 / 9))
    for event, _ in ON_INTEGERS:
        assert _curves._as_gaussian(event) is not None
    for event in (*(event for event, _ in IN_TURN), *(event for event, _, _ in MIXED)):
        assert _curves._as_gaussian(event) is None
    assert _curves._as_gaussian(Composed(())) is None
    assert _curves._as_gaussian(Composed((PureEvent(0.25), GaussianEvent(2.0)))) is None
