"""The central encoding: what leaves a client, the one noise of the server, and an audit that can fail."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dp import central
from dp.accounting import RDPAccountant
from dp.central import CentralGaussian
from dp.errors import DPError
from dp.events import DiscreteGaussianEvent, Release
from dp.ledger import PrivacyLedger
from tests.dp.test_audit import epsilon_at_least
from tests.dp.test_distributed import Flat, seeded
from tests.reference import dp_distributed as twin

KEY = bytes(range(32))
RUNS = 6000
SILENT = 1e-6  # of clips: noise so narrow that all of it is zero


def send(code: CentralGaussian, vector: Any, seed: int = 0) -> Any:
    flat = np.asarray(vector, np.float64)
    (terms,) = code.encode(flat, layout=Flat(flat.size), weight=None, max_weight=None, rng=seeded(seed))
    return terms


def opened(code: CentralGaussian, sums: Any, survivors: int, key: bytes = KEY) -> Any:
    at = code.for_server(key)
    return at.decode([sums], layout=Flat(sums.size), survivors=survivors, max_weight=None)


def added(code: CentralGaussian, updates: Any) -> Any:
    return np.sum([send(code, update, seed) for seed, update in enumerate(updates)], axis=0, dtype=np.uint64)


def test_the_sum_is_exact_beneath_the_noise() -> None:
    code = CentralGaussian(1.0, SILENT)
    updates = np.random.default_rng(1).normal(0, 0.02, (9, 500))
    terms = [send(code, update, seed).astype(np.int64) - (2**15 - 1) for seed, update in enumerate(updates)]
    outcome = opened(code, added(code, updates), 9)
    step = 1 / (2**15 - 1)
    assert (outcome.sum == np.sum(terms, axis=0) * step).all()
    assert (outcome.mean == outcome.sum / 9).all()
    assert np.abs(outcome.sum - updates.sum(axis=0)).max() < 9 * step
    assert (outcome.total_weight, outcome.clipped) == (9, None)
    (segment,) = code.segments(Flat(500), None)
    assert segment == (500, 2**16 - 2, None)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, 1e308])
@pytest.mark.parametrize("beta", [0.0, math.exp(-0.5), 0.9])
def test_what_leaves_a_client_is_never_longer_than_is_claimed(scale: float, beta: float) -> None:
    code = CentralGaussian(1.0, 1.0, 5, beta=beta)
    drawn_from = np.random.default_rng(2)
    for seed in range(40):
        update = drawn_from.normal(size=200) * drawn_from.choice([0.01, 1], 200)
        update *= scale / np.abs(update).max() if scale > 1e300 else scale
        terms = send(code, update, seed).astype(np.int64) - 15
        assert float(np.sum(terms**2)) ** 0.5 / 15 <= code.l2_sensitivity(200)
    assert (send(code, np.zeros(200)) == 15).all(), "zero is a point of the grid"


def test_noise_is_in_clips_and_epsilon_that_of_the_longer_update() -> None:
    coarse, fine = CentralGaussian(2.0, 1.0, 8), CentralGaussian(2.0, 1.0, 20)
    for code in (coarse, fine):
        noise = opened(code, np.full(10**6, (1 << (code.bits - 1)) - 1, np.uint64), 1).sum
        assert np.std(noise) == pytest.approx(2.0, rel=0.01)
    assert fine.l2_sensitivity(10**6) == pytest.approx(2.0, rel=1e-5)
    assert fine.epsilon(10**6) == pytest.approx(4.3772, abs=1e-4)
    assert coarse.l2_sensitivity(10**6) > 8
    assert coarse.epsilon(10**6) > 24
    assert CentralGaussian(2.0, 1.0, 8, beta=0.0).epsilon(10**6) > coarse.epsilon(10**6)
    enough = coarse.with_epsilon(3.0, 10**6, rounds=4)
    assert 2.9999 < enough.epsilon(10**6, rounds=4) <= 3.0
    with pytest.raises(DPError, match="expected fewer than 1 rounds"):
        replace(coarse, delta=1e-300).with_epsilon(1e-9, 10**6)


def test_the_release_is_charged_under_central_trust() -> None:
    code = CentralGaussian(1.0, 1.0)
    ledger = PrivacyLedger(5.0, 1e-5, unit="client", trust="central")
    outcome = opened(code, added(code, np.zeros((3, 64))), 3)
    assert ledger.charge(code.release(64)) == outcome.epsilon_guaranteed == outcome.epsilon_realised
    with pytest.raises(DPError, match="the budget is 5"):
        ledger.charge(code.release(64))
    with pytest.raises(DPError, match="trust 'central'"):
        PrivacyLedger(5.0, 1e-5, unit="client", trust="distributed").charge(code.release(64))
    assert isinstance(code.release(64), Release)


# Beta


def mean_of_squares(beta: float) -> float:
    """What a rounding of 196 halves has on average; 98 is unbiased."""
    code = CentralGaussian(7.0, 1.0, 4, beta=beta)
    sent = [send(code, np.full(196, 0.5), seed).astype(np.int64) - 7 for seed in range(1500)]
    return float(np.mean([np.sum(term) for term in sent]))


def test_beta_zero_is_unbiased_and_more_is_within_its_bound() -> None:
    error = 7 / math.sqrt(1500)
    assert abs(mean_of_squares(0.0) - 98) < 4 * error
    biased = mean_of_squares(0.9)
    assert biased < 98 - 8 * error, "the control: conditioning shortens"
    assert (98 - biased) / 14 <= 14 * 0.9 / (1 - 0.9)


# The audit


def exact_delta(code: CentralGaussian, dimension: int, epsilon: float, sigma: float = 1.0) -> float:
    """δ for the longest update of ones: the sum of what it changes says all about it."""
    event: Any = code.event(dimension)
    ones = math.floor(event.l2**2)
    assert ones <= dimension
    pmf = np.array(twin.gaussian_pmf(event.sigma * sigma, math.ceil(14 * event.sigma) + 4))
    total = twin.sum_of(pmf, ones)
    return twin.moved_delta(total, ones, epsilon)


#: A clip of one step: rounded, an update of 16 coordinates may have eight ones.
COARSE = CentralGaussian(1.0, 4.0, 2)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("multiplier", [2.0, 4.0, 10.0])
def test_exact_delta(delta: float, multiplier: float) -> None:
    code = replace(COARSE, noise_multiplier=multiplier, delta=delta)
    assert 0.001 * delta < exact_delta(code, 16, code.epsilon(16)) <= delta


def test_control_half_the_noise() -> None:
    assert exact_delta(COARSE, 16, COARSE.epsilon(16), sigma=0.5) > 100 * COARSE.delta


def test_control_the_norm_of_the_update_in_place_of_that_of_its_integers() -> None:
    event: Any = COARSE.event(16)
    assert event.l2 == pytest.approx(math.sqrt(8))
    claimed = RDPAccountant(1e-5).compose(DiscreteGaussianEvent(event.sigma, 1.0)).get_epsilon()
    assert claimed < COARSE.epsilon(16) / 2
    assert exact_delta(COARSE, 16, claimed) > 100 * COARSE.delta


def test_the_longest_update_leaves_a_client() -> None:
    """This is a real worst case: of 16 coordinates 1/4 long each, eight become 1 and eight 0."""
    seen = max(int(np.sum(send(COARSE, np.full(16, 0.25), seed).astype(np.int64) - 1)) for seed in range(400))
    assert seen == 8


def beyond(code: CentralGaussian, update: float, first: int) -> int:
    edge, hits = 2 * code.noise_multiplier, 0
    for run in range(first, first + RUNS):
        hits += opened(code, send(code, [update], run), 1, seeded(run)(32)).sum[0] > edge
    return hits


def seen(code: CentralGaussian) -> float:
    return epsilon_at_least(beyond(code, 1.0, 0), beyond(code, 0.0, RUNS), RUNS, 1e-2)


def test_runs_of_the_code_show_less_than_is_claimed_and_with_half_the_noise_more() -> None:
    code = CentralGaussian(1.0, 2.0, delta=1e-2)
    assert 0.05 < seen(code) <= code.epsilon(1)
    assert seen(replace(code, noise_multiplier=1.0)) > code.epsilon(1), "the control"


# One sum, one noise


def test_a_sum_has_one_noise_and_another_sum_another() -> None:
    code = CentralGaussian(1.0, 1.0)
    updates = np.random.default_rng(3).normal(0, 0.02, (4, 200))
    both, fewer = added(code, updates), added(code, updates[:3])
    first = opened(code, both, 4)
    assert (opened(code, both, 4).sum == first.sum).all()
    assert (opened(code, both.astype(np.uint32), 4).sum == first.sum).all(), "whatever its lanes"
    assert np.std(opened(code, both, 4, bytes(32)).sum - first.sum) > 1, "of another server another"
    assert np.std(first.sum - opened(code, fewer, 3).sum - updates[3]) > 1
    assert np.std(opened(code, both, 5).sum - first.sum) > 1


def test_control_a_noise_of_the_key_alone_gives_away_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    class Keyed:
        def __init__(self, key: bytes, *_: object) -> None:
            self.key = key

        def update(self, _: bytes) -> None:
            """What the noise should follow from too."""

        def digest(self) -> bytes:
            return self.key

    monkeypatch.setattr(central.hmac, "new", Keyed)
    code = CentralGaussian(1.0, 1.0)
    updates = np.random.default_rng(3).normal(0, 0.02, (4, 200))
    whole, fewer = (opened(code, added(code, updates[:n]), n).sum for n in (4, 3))
    assert np.abs(whole - fewer - updates[3]).max() < 2 / (2**15 - 1)


def test_without_a_key_nothing_is_decoded_and_no_key_is_shown() -> None:
    code = CentralGaussian(1.0, 1.0)
    sums = added(code, np.zeros((2, 8)))
    with pytest.raises(DPError, match=r"expected for_server\(key\)"):
        code.decode([sums], layout=Flat(8), survivors=2, max_weight=None)
    for bad in (b"", bytes(31), "k" * 32):
        with pytest.raises(DPError, match="not 32 bytes"):
            code.for_server(bad)  # type: ignore[arg-type]
    secret = b"s" * 32
    assert str(secret)[2:-1] not in repr(code.for_server(secret)) + f"{code.for_server(secret)}"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"l2_clip": 0.0}, "l2_clip"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"bits": 1}, "bits"),
        ({"bits": 32}, "bits"),
        ({"bits": 16.0}, "bits"),
        ({"beta": 0.95}, "beta"),
        ({"delta": 0.0}, "delta"),
    ],
)
def test_fields_outside_are_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(DPError, match=match):
        CentralGaussian(**({"l2_clip": 1.0, "noise_multiplier": 1.0} | fields))
