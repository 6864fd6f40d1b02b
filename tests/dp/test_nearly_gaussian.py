"""Integer noise as Gaussian noise: the lemmas of docs/privacy.md in many digits, and what follows from them."""

import math
from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np
import pytest

from dp import _curves
from dp._gaussian import Loss, delta_at, epsilon_at, hockey_stick, loss
from dp.accounting import RDPAccountant, epsilon_of
from dp.errors import DPError
from dp.events import (
    Composed,
    DiscreteGaussianEvent,
    DistributedGaussianEvent,
    GaussianEvent,
    PoissonSampled,
    SelfComposed,
    SkellamEvent,
)
from tests.reference import dp_distributed as twin


def weights(variance: float, reach: int) -> list[Any]:
    densities = [mpmath.exp(-mpmath.mpf(k * k) / (2 * variance)) for k in range(-reach, reach + 1)]
    total = mpmath.fsum(densities)
    return [weight / total for weight in densities]


@pytest.mark.parametrize("s", [0.36, 0.5, 0.8, 1.2])
def test_sums_over_a_shifted_grid_are_nearly_the_same(s: float) -> None:
    """Lemma 1: their logarithms lie within 5 e^(-2π²s²) of each other, for s² of 1/8 and more."""
    with mpmath.workdps(40):
        shifts = [mpmath.mpf(c) / 16 for c in range(9)]
        sums = [
            mpmath.fsum(mpmath.exp(-((k - c) ** 2) / (2 * mpmath.mpf(s) ** 2)) for k in range(-20, 21))
            for c in shifts
        ]
        spread = mpmath.log(max(sums) / min(sums))
        bound = 5 * mpmath.exp(-2 * mpmath.pi**2 * mpmath.mpf(s) ** 2)
        assert 0.75 * bound < spread <= bound, "and no constant below 4 would do"


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0])
def test_a_sum_is_nearly_a_discrete_gaussian(sigma: float) -> None:
    """Lemma 2: to within half of τ, at every integer that the weights of all terms reach."""
    with mpmath.workdps(60):
        reach = math.ceil(14 * sigma) + 8
        one = weights(sigma**2, reach)
        total = one
        for count in range(2, 6):
            total = [
                mpmath.fsum(total[i] * one[k - i] for i in range(max(0, k - len(one) + 1), min(k + 1, len(total))))
                for k in range(len(total) + len(one) - 1)
            ]
            middle = len(total) // 2
            whole = weights(count * sigma**2, middle)
            near = range(middle - 3 * reach // 4, middle + 3 * reach // 4)
            apart = max(abs(mpmath.log(total[k] / whole[k])) for k in near)
            assert apart <= _curves.mismatch(count, sigma) / 2
            if count == 2:
                assert apart > 0.3 * _curves.mismatch(count, sigma) / 2, "it is there to be bounded"


@pytest.mark.parametrize(("variance", "kept"), [(0.5, 0.125), (1.0, 0.25), (2.0, 0.5), (2.0, 1.0), (5.0, 1.0)])
def test_a_rounded_gaussian_is_nearly_a_discrete_one(variance: float, kept: float) -> None:
    """Lemma 3: round N(0, V - V₂) to k with weight e^(-(k - x)²/2V₂), whose sum over k repeats with x + 1."""
    with mpmath.workdps(50):
        step = 24  # points to one; of so smooth a function the trapezoidal rule misses less than all digits
        sums = [
            mpmath.fsum(mpmath.exp(-((j - mpmath.mpf(i) / step) ** 2) / (2 * kept)) for j in range(-24, 26))
            for i in range(step)
        ]
        points = [(i, mpmath.mpf(i) / step) for i in range(-22 * step, 22 * step)]

        def rounded(k: int) -> Any:
            return mpmath.fsum(
                mpmath.exp(-(x**2) / (2 * (variance - kept)) - (k - x) ** 2 / (2 * kept)) / sums[i % step]
                for i, x in points
            ) / (step * mpmath.sqrt(2 * mpmath.pi * (variance - kept)))

        whole = weights(variance, 60)
        apart = max(abs(mpmath.log(rounded(k) / whole[60 + k])) for k in range(4))
        bound = 5 * mpmath.exp(-2 * mpmath.pi**2 * mpmath.mpf(kept))
        assert bound**4 < apart <= bound, "it is there to be bounded, and it is"


def summed(sigma: float, honest: int) -> np.ndarray:
    return twin.sum_of(np.array(twin.gaussian_pmf(sigma, math.ceil(14 * sigma) + 8)), honest)


SUMS = [(honest, sigma, shift) for honest in (1, 2, 5, 20) for sigma in (0.8, 1.5, 3.0, 8.0) for shift in (1, 2, 5)]


def claims(change: Any = lambda ours, variance, shift: ours) -> Iterator[tuple[float, float]]:
    """At every ε, the δ of a moved sum of discrete Gaussians, and the one that the loss claims after ``change``."""
    for honest, sigma, shift in SUMS:
        ours = loss(DistributedGaussianEvent(honest, sigma, float(shift), float(shift), 1), "zero-out")
        if ours is None:
            assert honest * sigma**2 < 1.7, "too little noise to round with"
            continue
        pmf, claimed = summed(sigma, honest), change(ours, honest * sigma**2, shift)
        for epsilon in np.linspace(0, 4 * shift / sigma, 41):
            yield twin.moved_delta(pmf, shift, epsilon), delta_at(claimed, epsilon)


def test_no_delta_is_claimed_that_the_exact_sum_denies() -> None:
    pairs = list(claims())
    assert all(true <= claimed * (1 + 1e-9) + 1e-15 for true, claimed in pairs)
    ratios = [true / claimed for true, claimed in pairs if true > 1e-9 and claimed < 1]
    assert len(ratios) > 600
    assert max(ratios) > 0.97


def test_two_coordinates_too() -> None:
    pmf = summed(1.5, 4)
    ours = loss(DistributedGaussianEvent(4, 1.5, math.sqrt(5), 3.0, 2), "zero-out")
    gaps = [np.concatenate([np.zeros(at), pmf, np.zeros(2 - at)]) for at in (2, 1, 0)]
    moved, still = np.multiply.outer(gaps[0], gaps[1]), np.multiply.outer(gaps[2], gaps[2])
    for epsilon in np.linspace(0, 6, 13):
        true = float(np.maximum(0, moved - math.exp(epsilon) * still).sum())
        assert true <= delta_at(ours, epsilon) * (1 + 1e-9)


def test_controls_what_is_left_out_of_the_loss_is_missed() -> None:
    def denied(change: Any) -> bool:
        return any(true > claimed * (1 + 1e-6) + 1e-12 for true, claimed in claims(change))

    assert denied(lambda ours, variance, shift: Loss(shift**2 / variance, 0.0)), "as if nothing were rounded"
    assert denied(lambda ours, variance, shift: ours._replace(squares=ours.squares * 0.7))
    assert denied(lambda ours, variance, shift: ours._replace(squares=ours.squares / 4)), "a factor of two"


def test_the_loss_of_gaussians_is_balle_and_wangs() -> None:
    for z in (0.3, 1.0, 5.0):
        ours = loss(GaussianEvent(z), "zero-out")
        assert ours == Loss((1 / z) ** 2, 0.0)
        for epsilon in (0.0, 0.5, 3.0, 20.0):
            assert delta_at(ours, epsilon) == pytest.approx(hockey_stick(epsilon, z), rel=1e-9)
            with mpmath.workdps(40):
                a, b = 1 / (2 * mpmath.mpf(z)), epsilon * mpmath.mpf(z)
                printed = mpmath.ncdf(a - b) - mpmath.exp(epsilon) * mpmath.ncdf(-a - b)
            assert delta_at(ours, epsilon) == pytest.approx(float(printed), rel=1e-8)
        assert delta_at(ours, epsilon_at(ours, 1e-5)) == pytest.approx(1e-5, rel=1e-9)
    assert RDPAccountant(1e-5).compose(GaussianEvent(1.0)).get_delta(math.inf) == 0
    assert f"{RDPAccountant(1e-5).compose(GaussianEvent(1.0)).get_epsilon():.3f}" == "4.377"


def test_losses_add_up_and_what_is_not_gaussian_has_none() -> None:
    one, two = DistributedGaussianEvent(10, 4.0, 3.0, 9.0, 16), GaussianEvent(2.0)
    parts = [loss(event, "zero-out") for event in (one, one, one, two)]
    together = loss(Composed((SelfComposed(one, 3), two)), "zero-out")
    assert together == pytest.approx(tuple(np.sum(parts, axis=0)))
    assert together is not None
    assert together.squares > 3 * 9 / 160 + 1 / 4
    for event in (
        SkellamEvent(50.0, 1.0, 1.0),
        PoissonSampled(0.1, two),
        Composed((two, SkellamEvent(50.0, 1.0, 1.0))),
    ):
        assert loss(event, "zero-out") is None
    assert loss(DistributedGaussianEvent(5, 0.49, 1.0, 1.0, 1), "zero-out") is None
    assert loss(DiscreteGaussianEvent(1.0, 1.0), "zero-out") is None, "less variance than the rounding takes"
    doubled = loss(one, "replace-one")
    assert doubled is not None
    assert doubled.squares == pytest.approx(4 * parts[0].squares, rel=0.01)  # type: ignore[union-attr]


@pytest.mark.parametrize("neighbours", ["zero-out", "replace-one"])
def test_the_lesser_figure_is_given_and_sampling_never_costs_more(neighbours: Any) -> None:
    event = DistributedGaussianEvent(80, 50.0, 400.0, 4000.0, 1024)
    for count in (1, 20):
        book = RDPAccountant(1e-5, neighbours=neighbours).compose(event, count)
        renyi = epsilon_of(book.orders, book.rdp, 1e-5)
        assert 0.8 * renyi < book.get_epsilon() < 0.96 * renyi
        assert book.get_delta(book.get_epsilon()) == pytest.approx(1e-5, rel=1e-6)
        assert book.get_epsilon() == RDPAccountant.from_bytes(book.to_bytes()).get_epsilon()
    narrow = DistributedGaussianEvent(1000, 0.9, 300.0, 9000.0, 2**20)  # with a τ that counts for every coordinate
    book = RDPAccountant(1e-5, neighbours=neighbours).compose(narrow)
    assert book.get_epsilon() == epsilon_of(book.orders, book.rdp, 1e-5)
    few = DistributedGaussianEvent(1000, 0.51, 1.0, 1.0, 2**20)  # of which integers of norm 1 touch one
    book = RDPAccountant(1e-5, neighbours=neighbours).compose(few)
    assert book.get_epsilon() < epsilon_of(book.orders, book.rdp, 1e-5) / 100
    if neighbours == "zero-out":
        sampled = RDPAccountant(1e-5).compose(PoissonSampled(0.9, GaussianEvent(1.0)))
        plain = RDPAccountant(1e-5).compose(GaussianEvent(1.0))
        assert sampled.get_epsilon() <= plain.get_epsilon() == sampled.get_epsilon(amplified=False)


def test_an_accountant_needs_a_delta_only_to_answer() -> None:
    book = RDPAccountant().compose(GaussianEvent(1.0))
    assert book.delta is None
    assert book.get_epsilon(1e-5) == RDPAccountant(1e-5).compose(GaussianEvent(1.0)).get_epsilon()
    assert book.get_delta(4.3772) == pytest.approx(1e-5, rel=1e-4)
    assert book.epsilon_after(GaussianEvent(1.0), delta=1e-5) > book.get_epsilon(1e-5)
    assert book.would_exceed(GaussianEvent(1.0), 5.0, delta=1e-5)
    again = RDPAccountant.from_bytes(book.copy().to_bytes())
    assert (again.delta, again.get_epsilon(1e-5)) == (None, book.get_epsilon(1e-5))
    for ask in (book.get_epsilon, lambda: book.epsilon_after(GaussianEvent(1.0))):
        with pytest.raises(DPError, match="got no delta"):
            ask()
    assert RDPAccountant().get_epsilon(1e-5) == 0
