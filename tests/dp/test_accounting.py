"""The accountant: against dp-accounting's figures, exact divergences, and itself."""

import json
import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st

from dp import _curves
from dp.accounting import DEFAULT_ORDERS, RDPAccountant, epsilon_of
from dp.errors import DPError
from dp.events import (
    MAX_COUNT,
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
from dp.pld import pld_epsilon
from tests.reference import dp_amplification, dp_distributed as twin, dp_oracle

THEIRS = json.loads(dp_oracle.VECTORS.read_text())
DELTA = 1e-5


def accountant(event: Event | None = None, count: int = 1, **options: object) -> RDPAccountant:
    fresh = RDPAccountant(DELTA, **options)  # type: ignore[arg-type]
    return fresh if event is None else fresh.compose(event, count)


@pytest.mark.parametrize("kind", ["full", "poisson", "fixed"])
def test_divergences_are_those_of_dp_accounting(kind: str) -> None:
    rows = [row for row in THEIRS["rdp"] if row["kind"] == kind]
    assert len(rows) >= 18
    for row in rows:
        gaussian = GaussianEvent(row["z"])
        event: Event = gaussian
        if kind == "poisson":
            event = PoissonSampled(row["rate"], gaussian)
        elif kind == "fixed":
            population = THEIRS["population"]
            event = FixedSizeSampled(population, round(row["rate"] * population), gaussian)
        neighbours = "replace-one" if kind == "fixed" else "zero-out"
        ours = accountant(event, row["steps"], orders=THEIRS["orders"], neighbours=neighbours)
        expected = np.array(row["rdp"])
        if kind == "fixed":  # theirs exceeds what the event costs without any sampling
            plain = accountant(gaussian, row["steps"], orders=THEIRS["orders"], neighbours=neighbours)
            expected = np.minimum(expected, plain.rdp)
        np.testing.assert_allclose(ours.rdp, expected, rtol=1e-9, atol=0)
        if "epsilon" in row:
            renyi = epsilon_of(ours.orders, ours.rdp, DELTA)
            assert renyi == pytest.approx(row["epsilon"], rel=1e-9)
            assert ours.get_epsilon() <= renyi
            assert kind != "full" or ours.get_epsilon() < renyi, "of Gaussians in full less is known to do"


@pytest.mark.stacks
@pytest.mark.parametrize("row", THEIRS["pld"])
def test_loss_distributions_are_dp_accountings_and_tighter(row: dict) -> None:
    pytest.importorskip("dp_accounting", reason="needs pip install 'secagg[pld]'")
    gaussian = GaussianEvent(row["z"])
    event: Event = gaussian if row["rate"] == 1 else PoissonSampled(row["rate"], gaussian)
    ours = accountant(event, row["steps"], neighbours=row["neighbours"])
    epsilon = pld_epsilon(ours.events, DELTA, neighbours=row["neighbours"])
    assert epsilon == pytest.approx(row["epsilon"], rel=1e-9)
    if row["rate"] == 1:  # theirs is discretised, upwards
        assert ours.get_epsilon() <= epsilon == pytest.approx(ours.get_epsilon(), rel=1e-3)
    else:
        assert 0.7 * ours.get_epsilon() < epsilon < ours.get_epsilon()


@pytest.mark.stacks
def test_loss_distributions_refuse_what_they_dont_know() -> None:
    pytest.importorskip("dp_accounting", reason="needs pip install 'secagg[pld]'")
    sampled = [(PoissonSampled(0.1, GaussianEvent(1.0)), 3)]
    assert pld_epsilon(sampled, DELTA, amplified=False) > pld_epsilon(sampled, DELTA)
    composed = Composed((GaussianEvent(1.0), SelfComposed(GaussianEvent(1.0), 2)))
    assert pld_epsilon([(composed, 1)], DELTA) == pytest.approx(pld_epsilon([(GaussianEvent(1.0), 3)], DELTA))
    for event, neighbours in [(SkellamEvent(9.0, 1.0, 1.0), "zero-out"), (sampled[0][0], "replace-one")]:
        with pytest.raises(DPError, match="use RDPAccountant"):
            pld_epsilon([(event, 1)], DELTA, neighbours=neighbours)  # type: ignore[arg-type]
    with pytest.raises(DPError, match="delta"):
        pld_epsilon(sampled, 0.0)


@pytest.mark.stacks
def test_the_vectors_are_what_dp_accounting_says_today() -> None:
    pytest.importorskip("dp_accounting", reason="needs pip install 'secagg[pld]'")
    now = dp_oracle.vectors()
    assert now.keys() == THEIRS.keys()
    assert {row["kind"] for row in now["rdp"]} == {"full", "poisson", "fixed"}
    for table in ("rdp", "pld"):
        for fresh, kept in zip(now[table], THEIRS[table], strict=True):
            assert fresh.keys() == kept.keys()
            for name, value in kept.items():
                if name in ("rdp", "epsilon"):
                    np.testing.assert_allclose(fresh[name], value, rtol=1e-12)
                else:
                    assert fresh[name] == value


def test_dp_md_reference_point() -> None:
    """1500 rounds of 100 out of 3400: dp-accounting with its own, fractional, orders says 6.697."""
    account = RDPAccountant(1 / 3400).compose(PoissonSampled(100 / 3400, GaussianEvent(1.0)), 1500)
    assert 6.697 <= account.get_epsilon() <= 6.72


@pytest.mark.parametrize(("multiplier", "highest"), [(0.3, 40), (1.0, 40), (25.0, 24), (200.0, 12)])
def test_central_moments_are_the_alternating_sums(multiplier: float, highest: int) -> None:
    """Where floats would have no digit left: at 200 the terms are 1 and the sums 10^-50."""
    moments = _curves._log_central_moments(multiplier, highest)
    with localcontext(prec=400):
        step = 1 / (2 * Decimal(multiplier) ** 2)
        for j in range(1, highest // 2 + 1):
            signed = [
                (-1) ** i * math.comb(2 * j, i) * (Decimal(i * (i - 1)) * step).exp() for i in range(2 * j + 1)
            ]
            assert moments[j] == pytest.approx(float(sum(signed, Decimal(0)).ln()), rel=1e-12)


def exact_divergence(pmf: np.ndarray, shift: int, alpha: int) -> float:
    """The Rényi divergence of a pmf moved by ``shift`` from itself, by summing it up."""
    inside = (pmf[shift:] > 0) & (pmf[:-shift] > 0)
    moved, still = np.log(pmf[:-shift][inside]), np.log(pmf[shift:][inside])
    return float(np.logaddexp.reduce(alpha * moved - (alpha - 1) * still)) / (alpha - 1)


def test_sums_of_discrete_gaussians_stay_below_the_bound() -> None:
    """Below σ = 1/2 nothing is proved of their sums, and what τ gives there is not charged."""
    worst = 0.0
    for sigma in (0.5, 0.6, 0.7, 1.0, 2.0):
        one = np.array(twin.gaussian_pmf(sigma, max(14, math.ceil(12 * sigma))))
        pmf = one
        for honest in range(1, 6):
            for shift in (1, 2):
                for alpha in (2, 3, 5):
                    event = DistributedGaussianEvent(honest, sigma, float(shift), float(shift), 1)
                    bound = accountant(event, orders=(alpha,)).rdp[0]
                    exact = exact_divergence(pmf, shift, alpha)
                    assert exact <= bound * (1 + 1e-9)
                    worst = max(worst, exact / (alpha * shift**2 / (2 * honest * sigma**2)))
            pmf = np.convolve(pmf, one)
    assert worst > 1.01, "or the error of the sum is not seen here"


NARROW = [(sigma, honest) for sigma in (0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.45) for honest in (1, 2, 5, 20)]


@pytest.mark.parametrize(("sigma", "honest"), [*NARROW, (0.5, 1), (0.5, 2), (0.5, 5), (0.7, 5)])
def test_no_epsilon_is_claimed_that_the_exact_divergence_denies(sigma: float, honest: int) -> None:
    pmf = twin.sum_of(np.array(twin.gaussian_pmf(sigma, 14)), honest)
    claimed = accountant(DistributedGaussianEvent(honest, sigma, 1.0, 1.0, 1)).get_epsilon()
    assert twin.moved_delta(pmf, 1, claimed) <= DELTA
    assert math.isinf(claimed) == (sigma < 0.5 and honest > 1)


def test_control_below_a_half_the_bound_claims_what_is_not_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_curves, "NARROWEST_TERM", 0.0)
    _curves._curve.cache_clear()
    pmf = twin.sum_of(np.array(twin.gaussian_pmf(0.07, 14)), 5)
    claimed = accountant(DistributedGaussianEvent(5, 0.07, 1.0, 1.0, 1)).get_epsilon()
    _curves._curve.cache_clear()
    assert claimed < 90
    assert twin.moved_delta(pmf, 1, claimed) > 0.9999


def test_narrow_skellam_stays_below_the_bound() -> None:
    """Of which no condition is needed: the sum is Skellam noise, however little of it there is."""
    for variance in (0.001, 0.01, 0.1, 0.5, 2.0):
        pmf = np.array(twin.skellam_pmf(variance, 12))
        for shift in (1, 2):
            claimed = accountant(SkellamEvent(variance, float(shift), float(shift))).get_epsilon()
            assert twin.moved_delta(pmf, shift, claimed) <= DELTA


def test_skellam_stays_below_the_bound() -> None:
    for variance in (10.0, 30.0, 100.0):
        pmf = np.array(twin.skellam_pmf(variance, math.ceil(14 * math.sqrt(variance))))
        for shift in (1, 3):
            for alpha in (2, 3, 4):
                bound = accountant(SkellamEvent(variance, float(shift), float(shift)), orders=(alpha,)).rdp[0]
                exact = exact_divergence(pmf, shift, alpha)
                assert 0.7 * bound < exact <= bound
    divergence = exact_divergence(np.array(twin.skellam_pmf(100.0, 140)), 3, 4)
    assert f"{divergence:.4f}" == "0.1795"


def test_one_discrete_gaussian_costs_what_the_continuous_one_does() -> None:
    discrete = accountant(DiscreteGaussianEvent(3.0, 2.0)).rdp
    assert np.allclose(discrete, accountant(GaussianEvent(1.5)).rdp, rtol=1e-15)
    exact = exact_divergence(np.array(twin.gaussian_pmf(3.0, 60)), 2, 4)
    assert exact == pytest.approx(discrete[DEFAULT_ORDERS.index(4)], rel=1e-12)
    summed = accountant(DistributedGaussianEvent(1, 3.0, 2.0, 2.0, 1)).rdp
    assert (summed == discrete).all(), "one term needs no sum, so it has no error of one"


@pytest.mark.parametrize("epsilon", [1e-9, 1e-4, 0.3, 1.0, 4.0, 30.0])
def test_pure_privacy_costs_what_randomised_response_does(epsilon: float) -> None:
    """Its divergence summed over both answers, in as many digits as it takes; above 700 no float holds it."""
    orders = (2, 3, 8, 64, 1024)
    curve = accountant(PureEvent(epsilon), orders=orders).rdp
    with mpmath.workdps(60):
        true = mpmath.exp(epsilon) / (1 + mpmath.exp(epsilon))
        for alpha, cost in zip(orders, curve, strict=True):
            summed = true**alpha * (1 - true) ** (1 - alpha) + (1 - true) ** alpha * true ** (1 - alpha)
            exact = float(mpmath.log(summed) / (alpha - 1))
            assert exact * (1 - 1e-12) <= cost <= epsilon
            if alpha * epsilon < 700:
                assert cost == pytest.approx(exact, rel=1e-12)
    assert (accountant(PureEvent(1000.0)).rdp == 1000.0).all()
    assert (
        accountant(PureEvent(epsilon), neighbours="replace-one").rdp == accountant(PureEvent(2 * epsilon)).rdp
    ).all()


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_discrete_laplace_noise_costs_all_that_pure_privacy_allows(epsilon: float) -> None:
    """Moved by one step, all its probabilities change by e^ε up or down: it is a randomised response."""
    reach = math.ceil(60 / epsilon)
    pmf = np.exp(-epsilon * np.abs(np.arange(-reach, reach + 1)))
    pmf /= pmf.sum()
    for alpha in (2, 3, 8):
        bound = accountant(PureEvent(epsilon), orders=(alpha,)).rdp[0]
        assert exact_divergence(pmf, 1, alpha) == pytest.approx(bound, rel=1e-9)


def test_mismatch_is_its_sum_and_never_less() -> None:
    for sigma in (0.3, 0.6, 1.0):
        expected = 10 * math.fsum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, 1000))
        assert _curves.mismatch(1000, sigma) == pytest.approx(expected, rel=1e-12)
    terms = np.arange(1, 1 << 22)  # beyond 2^20 the rest is bounded, not summed
    summed = 10 * float(np.exp(-2 * math.pi**2 * 0.36 * terms / (terms + 1)).sum())
    assert summed <= _curves.mismatch(1 << 22, 0.6) <= summed * (1 + 1e-5)


KINDS: list[Callable[[float], Event]] = [
    GaussianEvent,
    lambda z: PureEvent(1 / z),
    lambda z: DiscreteGaussianEvent(z, 1.0),
    lambda z: DistributedGaussianEvent(4, z, 1.0, 1.0, 1),
    lambda z: SkellamEvent(z * z, 1.0, 1.0),
]


@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(1.0, 20.0), st.floats(1e-3, 0.5), st.integers(1, 50))
def test_less_noise_more_rounds_and_larger_samples_cost_more(
    kind: Callable[[float], Event], z: float, rate: float, count: int
) -> None:
    def cost(z: float, rate: float, count: int) -> float:
        return accountant(PoissonSampled(rate, kind(z)), count, orders=(2, 4, 8, 16, 32)).get_epsilon()

    here = cost(z, rate, count)
    assert cost(z * 1.1, rate, count) <= here <= cost(z, rate, count + 1)
    assert here <= cost(z, min(1.0, rate * 1.1), count)
    assert here <= cost(z, 1.0, count) == accountant(kind(z), count, orders=(2, 4, 8, 16, 32)).get_epsilon()


def test_replacing_costs_twice_the_sensitivity() -> None:
    for event, twice in [
        (GaussianEvent(2.0), GaussianEvent(1.0)),
        (DiscreteGaussianEvent(5.0, 1.5), DiscreteGaussianEvent(5.0, 3.0)),
        (DistributedGaussianEvent(9, 0.6, 1.0, 2.0, 4), DistributedGaussianEvent(9, 0.6, 2.0, 4.0, 4)),
        (SkellamEvent(50.0, 1.0, 2.0), SkellamEvent(50.0, 2.0, 4.0)),
    ]:
        assert (accountant(event, neighbours="replace-one").rdp == accountant(twice).rdp).all()


def test_sampling_needs_the_relation_it_is_proved_for() -> None:
    with pytest.raises(DPError, match="proved for 'zero-out'"):
        accountant(PoissonSampled(0.1, GaussianEvent(1.0)), neighbours="replace-one")
    with pytest.raises(DPError, match="proved for 'replace-one'"):
        accountant(FixedSizeSampled(100, 10, GaussianEvent(1.0)))


ANYTHING: list[tuple[Event, Callable[[int], float]]] = [
    (SkellamEvent(9.0, 2.0, 3.0), lambda alpha: twin.skellam(alpha, 1, 3.0, 2.0, 3.0, 1)),
    (DistributedGaussianEvent(6, 0.7, 1.5, 4.0, 8), lambda alpha: twin.gaussian(alpha, 6, 0.7, 1.5, 4.0, 8)),
]


@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.2, 0.7])
@pytest.mark.parametrize(("event", "cost"), ANYTHING)
def test_samples_of_anything_cost_what_the_theorem_says(
    event: Event, cost: Callable[[int], float], rate: float
) -> None:
    orders = (2, 3, 4, 7, 16, 64)
    curve = accountant(PoissonSampled(rate, event), orders=orders).rdp
    expected = [dp_amplification.poisson(alpha, rate, cost) for alpha in orders]
    np.testing.assert_allclose(curve, expected, rtol=1e-9)
    assert curve[0] < cost(2), "there is something to amplify"
    without = [dp_amplification.poisson(alpha, rate, cost, factor=1) for alpha in orders]
    # The control: with the theorem's 3 left out all orders above 2, where a sample helps, come out lower.
    helped = [a for a, alpha in enumerate(orders) if alpha > 2 and curve[a] < cost(alpha)]
    assert helped
    assert all(without[a] < curve[a] * (1 - 1e-6) for a in helped)


def test_samples_of_everyone_are_no_samples() -> None:
    full = accountant(GaussianEvent(1.3)).rdp
    assert (accountant(PoissonSampled(1.0, GaussianEvent(1.3))).rdp == full).all()
    replaced = accountant(GaussianEvent(1.3), neighbours="replace-one").rdp
    sampled = accountant(FixedSizeSampled(50, 50, GaussianEvent(1.3)), neighbours="replace-one").rdp
    assert (sampled == replaced).all()


def test_both_figures_are_kept() -> None:
    account = accountant(PoissonSampled(0.01, GaussianEvent(1.0)), 20)
    assert account.get_epsilon() < 1.1
    assert account.get_epsilon(amplified=False) == accountant(GaussianEvent(1.0), 20).get_epsilon() > 20
    nested = Composed((SelfComposed(PoissonSampled(0.01, GaussianEvent(1.0)), 4), GaussianEvent(2.0)))
    plain = Composed((SelfComposed(GaussianEvent(1.0), 4), GaussianEvent(2.0)))
    assert accountant(nested).get_epsilon(amplified=False) == accountant(plain).get_epsilon()


def test_compositions_add_up() -> None:
    one, two = GaussianEvent(1.0), SkellamEvent(40.0, 2.0, 3.0)
    apart = accountant(one, 3).compose(two, 2)
    together = accountant(Composed((SelfComposed(one, 3), two, two)))
    assert np.allclose(apart.rdp, together.rdp, rtol=1e-14)
    assert apart.events == ((one, 3), (two, 2))
    assert apart.compose(two).events == ((one, 3), (two, 3))
    assert apart.num_releases == 6


def test_an_error_changes_nothing() -> None:
    account = accountant(GaussianEvent(1.0))

    class Unknown(Event):
        pass

    before = account.to_bytes(), account.get_epsilon()
    for bad in (
        Unknown(),
        Composed((GaussianEvent(1.0), Unknown())),
        Composed((GaussianEvent(1.0), FixedSizeSampled(9, 3, GaussianEvent(1.0)))),
        "GaussianEvent",
    ):
        with pytest.raises(DPError):
            account.compose(bad)  # type: ignore[arg-type]
    for count in (0, -1, 1.5, True, 1 << 50):
        with pytest.raises(DPError, match="count"):
            account.compose(GaussianEvent(1.0), count)  # type: ignore[arg-type]
    assert (account.to_bytes(), account.get_epsilon()) == before
    account.rdp[:] = 0
    assert account.get_epsilon() == before[1]


def test_composing_beyond_the_most_changes_nothing() -> None:
    event, other = GaussianEvent(1e6), GaussianEvent(2e6)
    account = accountant(event, MAX_COUNT)
    before = account.to_bytes(), account.rdp.tolist(), account.num_releases, account.get_epsilon(amplified=False)
    for count in (1, MAX_COUNT):
        with pytest.raises(DPError, match=f"one event more than {MAX_COUNT} times"):
            account.compose(event, count)
    after = account.to_bytes(), account.rdp.tolist(), account.num_releases, account.get_epsilon(amplified=False)
    assert after == before
    account.compose(other).compose(event)  # an event between them, and it is another entry
    assert account.events == ((event, MAX_COUNT), (other, 1), (event, 1))


def test_more_changes_of_event_than_there_is_room_for_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dp.accounting.MAX_EVENTS", 3)
    account = accountant(GaussianEvent(1.0)).compose(GaussianEvent(2.0)).compose(GaussianEvent(1.0))
    before = account.to_bytes(), account.rdp.tolist()
    with pytest.raises(DPError, match="more than 3 entries of events"):
        account.compose(GaussianEvent(3.0))
    assert (account.to_bytes(), account.rdp.tolist()) == before
    assert account.compose(GaussianEvent(1.0), 4).num_releases == 7, "the last event has room still"


def test_delta_and_epsilon_are_each_others_inverse() -> None:
    account = accountant(GaussianEvent(1.0), 3)
    for delta in (1e-9, 1e-5, 1e-2):
        assert account.get_delta(account.get_epsilon(delta)) == pytest.approx(delta, rel=1e-9)
    assert account.get_delta(0.0) <= 1
    assert accountant().get_epsilon() == accountant().get_delta(0.0) == 0
    assert accountant(GaussianEvent(1e6)).get_epsilon() == 0, "the total variation is below δ"
    assert accountant(SelfComposed(DiscreteGaussianEvent(1e-75, 1e75), 1 << 40)).get_epsilon() == math.inf


def test_clamping_is_charged_to_delta() -> None:
    def event(clamped: float) -> Event:
        return DistributedGaussianEvent(5, 8.0, 10.0, 30.0, 16, clamped)

    clean, rare, often = (accountant(event(p), 3) for p in (0.0, 1e-9, 1e-4))
    epsilon = rare.get_epsilon()
    assert clean.get_epsilon() < epsilon
    slack = 3e-9 * (1 + math.exp(epsilon))
    assert clean.get_delta(epsilon) + slack == pytest.approx(DELTA, rel=1e-6)
    assert rare.get_delta(epsilon) == pytest.approx(DELTA, rel=1e-6)
    assert often.get_epsilon() == math.inf
    assert often.get_delta(1.0) > 3e-4


norms = st.sampled_from([1e-75, 1e-9, 0.3, 1.0, 40.0, 1e9, 1e75])
plain_events = st.one_of(
    st.builds(GaussianEvent, norms),
    st.builds(PureEvent, norms),
    st.builds(DiscreteGaussianEvent, norms, norms),
    st.builds(
        DistributedGaussianEvent, st.sampled_from([1, 7, 1 << 40]), norms, norms, norms, st.integers(1, 1 << 40)
    ),
    st.builds(SkellamEvent, norms, norms, norms),
)


@given(plain_events, st.sampled_from([1e-9, 0.5, 1 - 1e-9]), st.sampled_from([1, 1 << 40]))
def test_extremes_give_a_figure(event: Event, rate: float, count: int) -> None:
    """Zero, a number or infinity: never an error, a warning or not-a-number."""
    for account in (
        accountant(event, count),
        accountant(PoissonSampled(rate, event), count),
        accountant(FixedSizeSampled(1000, 3, event), count, neighbours="replace-one"),
    ):
        assert 0 <= account.get_epsilon() <= account.get_epsilon(amplified=False) * (1 + 1e-9) + 1e-12 <= math.inf
        assert 0 <= account.get_delta(1.0) <= 1


def test_would_exceed_looks_without_touching() -> None:
    account = accountant(GaussianEvent(2.0), 2)
    event = GaussianEvent(1.5)
    after = accountant(GaussianEvent(2.0), 2).compose(event, 3).get_epsilon()
    assert account.epsilon_after(event, 3) == after
    assert not account.would_exceed(event, after, 3)
    assert account.would_exceed(event, after * 0.999, 3)
    assert account.events == ((GaussianEvent(2.0), 2),)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DPError, match="max_epsilon"):
            account.would_exceed(event, bad)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, "1e-5", True])
def test_deltas_outside_are_refused(delta: object) -> None:
    with pytest.raises(DPError, match="delta"):
        RDPAccountant(delta)  # type: ignore[arg-type]


@pytest.mark.parametrize("orders", [(), (1,), (2, 2), (3, 2), (2.5,), (5000,)])
def test_orders_outside_are_refused(orders: tuple) -> None:
    with pytest.raises(DPError, match="orders"):
        RDPAccountant(DELTA, orders=orders)


def test_an_unknown_relation_is_refused() -> None:
    with pytest.raises(DPError, match="zero-out, replace-one"):
        RDPAccountant(DELTA, neighbours="add-one")  # type: ignore[arg-type]
