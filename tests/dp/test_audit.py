"""An audit that can fail: is what leaves the sum as private as it says?

Exactly, where the sum has one or two coordinates: the hockey-stick divergence Σ max(0, P - e^ε·Q) of the
distributions under two neighbouring inputs, in both directions, must be at most δ. And from runs of
the real code: a lower bound on ε, right with a probability of 1 - 10^-6, must be below what is claimed.
Each control takes one thing away, and the same audit catches it.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from dp import _distributed
from dp.accounting import RDPAccountant
from dp.distributed import DistributedGaussian
from tests.dp.test_distributed import Flat, encoding, kinds, seeded
from tests.reference import dp_distributed as twin

Pmf = np.ndarray  # of the integers from minus half its length on

CONFIDENCE = 1e-6
RUNS = 6000


def small(kind: Any, **changes: Any) -> Any:
    """Three honest clients of three, in 10 bits."""
    return encoding(kind, **({"bits": 10, "clients": 3, "honest": 3, "corrupt": 0, "k_stddevs": 12.0} | changes))


@lru_cache
def noise(kind: type, sigma: float) -> Pmf:
    reach = math.ceil(14 * sigma) + 20
    if kind is DistributedGaussian:
        return np.array(twin.gaussian_pmf(sigma, reach))
    return np.array(twin.skellam_pmf(sigma**2, reach))


def term(code: Any, one: Pmf, value: int) -> Pmf:
    """What one client sends, less half the modulus, for the rounded value: clamped, as the code does."""
    half = 1 << (code.bits - 1)
    sent = np.zeros(2 * half)
    for at, probability in enumerate(one):
        v = at - len(one) // 2 + value
        sent[min(max(v, 1 - half), half - 1) + half] += probability
    return sent


def reduced_term(code: Any, one: Pmf, value: int) -> Pmf:
    """The same as it must not be: reduced to 0 to 2^bits - 1 before it is sent."""
    modulus = 1 << code.bits
    sent = np.zeros(modulus)
    for at, probability in enumerate(one):
        sent[(at - len(one) // 2 + value) % modulus] += probability
    return sent


def summed(terms: list[Pmf], modulus: int | None) -> Pmf:
    total = terms[0]
    for other in terms[1:]:
        total = np.convolve(total, other)
    if modulus is None:
        return total
    return np.bincount(np.arange(total.size) % modulus, total, modulus)


def hockey_stick(p: Pmf, q: Pmf, epsilon: float) -> float:
    """The δ that ε needs, in the worse direction."""
    return max(float(np.maximum(0, a - math.exp(epsilon) * b).sum()) for a, b in ((p, q), (q, p)))


def exact_delta(
    code: Any,
    epsilon: float,
    *,
    sigma: float = 1.0,
    value: float = 1.0,
    honest: int = 3,
    send: Callable[[Any, Pmf, int], Pmf] = term,
    reduce: bool = False,
) -> float:
    """δ of a sum over ``honest``, with ``sigma`` times the noise and ``value`` times the largest value."""
    grid = code.grid(1)
    one = noise(type(code), grid.sigma * sigma)
    largest = round(value * min(math.isqrt(grid.squares), grid.limit))
    others = [send(code, one, 0)] * (honest - 1)
    modulus = 1 << code.bits if reduce else None
    with_it, without = (summed([*others, send(code, one, at)], modulus) for at in (largest, 0))
    return hockey_stick(with_it, without, epsilon)


@kinds
@pytest.mark.parametrize("reduce", [False, True], ids=["over the integers", "modulo 2^bits"])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 2.0])
def test_exact_delta_of_one_coordinate(kind: Any, reduce: bool, delta: float, multiplier: float) -> None:
    code = small(kind, bits=11, delta=delta, noise_multiplier=multiplier)
    exact = exact_delta(code, code.epsilon(1), reduce=reduce)
    assert 0.001 * delta < exact <= delta


@kinds
def test_exact_delta_of_two_coordinates(kind: Any) -> None:
    """Noise is drawn for each, so distributions multiply; the shift is any integer point of the largest norm."""
    code = small(kind, bits=9, k_stddevs=9.0)
    grid = code.grid(2)
    one = noise(type(code), grid.sigma)
    zero = summed([term(code, one, 0)] * 3, None)
    worst = 0.0
    for x in range(math.isqrt(grid.squares) + 1):
        y = math.isqrt(grid.squares - x * x)
        moved = [summed([term(code, one, 0)] * 2 + [term(code, one, at)], None) for at in (x, y)]
        p, q = np.multiply.outer(*moved), np.multiply.outer(zero, zero)
        worst = max(worst, hockey_stick(p, q, code.epsilon(2)))
    assert 0.01 * code.delta < worst <= code.delta


@kinds
def test_control_half_the_noise(kind: Any) -> None:
    code = small(kind)
    assert exact_delta(code, code.epsilon(1), sigma=0.5) > 100 * code.delta


@kinds
def test_control_a_weight_that_the_sensitivity_ignores(kind: Any) -> None:
    code = small(kind)
    assert exact_delta(code, code.epsilon(1), value=2.0) > 100 * code.delta


@kinds
def test_control_noise_for_everyone_where_fewer_are_honest(kind: Any) -> None:
    code = small(kind, noise_multiplier=2.0)
    assert exact_delta(code, code.epsilon(1), honest=3) <= code.delta
    assert exact_delta(code, code.epsilon(1), honest=1) > 10 * code.delta
    assert exact_delta(code, code.epsilon(1, honest=1), honest=1) <= code.delta


@kinds
def test_control_a_term_reduced_before_a_sum_over_the_integers(kind: Any) -> None:
    """The sum then shows how many terms were negative; reduced again after it, it shows nothing more."""
    code = small(kind)
    assert exact_delta(code, code.epsilon(1), send=reduced_term, reduce=True) <= code.delta
    assert exact_delta(code, code.epsilon(1), send=reduced_term) > 5 * code.delta


def test_control_the_norm_of_the_update_in_place_of_that_of_its_integers() -> None:
    """On a coarse grid, what is rounded up is longer than the clip."""
    code = small(DistributedGaussian, bits=6, noise_multiplier=2.0, beta=0.0)
    event, clip = code.event(1), 1 / code.grid(1).step
    assert exact_delta(code, code.epsilon(1)) <= code.delta
    claimed = RDPAccountant(code.delta).compose(replace(event, l2=clip, l1=clip)).get_epsilon()
    assert exact_delta(code, claimed) > code.delta


def upper(hits: int, runs: int) -> float:
    """Clopper and Pearson's upper bound on a probability, by bisection on the binomial tail."""
    low, high = hits / runs, 1.0
    if hits == runs:
        return 1.0
    logs = [math.lgamma(runs + 1) - math.lgamma(k + 1) - math.lgamma(runs - k + 1) for k in range(hits + 1)]
    for _ in range(60):
        p = (low + high) / 2
        tail = math.fsum(math.exp(logs[k] + k * math.log(p) + (runs - k) * math.log1p(-p)) for k in range(hits + 1))
        low, high = (p, high) if tail > CONFIDENCE / 2 else (low, p)
    return high


def epsilon_at_least(hits_with: int, hits_without: int, runs: int, delta: float) -> float:
    """The ε that was seen, but for one case in 10^6, from how often an event came in ``runs`` of each."""
    least = 1 - upper(runs - hits_with, runs)
    return math.log((least - delta) / upper(hits_without, runs)) if least > delta else -math.inf


def pair(kind: Any, **changes: Any) -> Any:
    """One honest client, so that a run is one update."""
    return small(kind, clients=1, honest=1, bits=12, k_stddevs=20.0, delta=1e-2, **changes)


def beyond(code: Any, update: float, first: int) -> int:
    """How many of the runs end two standard deviations of the noise or more towards the update."""
    towards = np.ones(1)
    _distributed.rotate(towards, code.seed)
    edge, middle, hits = 2 * code.grid(1).sigma, 1 << (code.bits - 1), 0
    for run in range(first, first + RUNS):
        vector = np.array([update])
        (sent,) = code.encode(vector, layout=Flat(1), weight=None, max_weight=None, rng=seeded(run))
        hits += towards[0] * (int(sent[0]) - middle) > edge
    return hits


def seen(code: Any, claimed: Any, update: float = 1.0) -> float:
    return epsilon_at_least(beyond(code, update, 0), beyond(code, 0.0, RUNS), RUNS, claimed.delta)


@kinds
def test_runs_of_the_code_show_less_than_is_claimed(kind: Any) -> None:
    code = pair(kind, noise_multiplier=2.0)
    assert 0.05 < seen(code, code) <= code.epsilon(1)


@kinds
def test_control_runs_with_half_the_noise_show_more(kind: Any) -> None:
    claimed = pair(kind, noise_multiplier=2.0)
    assert seen(pair(kind, noise_multiplier=1.0), claimed) > claimed.epsilon(1)


def test_control_runs_with_a_weight_show_more() -> None:
    """A weight of 2 behind the clip is a clip of 2 under the same noise."""
    claimed = pair(DistributedGaussian, noise_multiplier=2.0)
    weighted = replace(claimed, l2_clip=2.0, noise_multiplier=1.0)
    deviations = [code.grid(1).sigma * code.grid(1).step for code in (claimed, weighted)]
    assert deviations[0] == pytest.approx(deviations[1])
    assert seen(weighted, claimed, 2.0) > claimed.epsilon(1)


def test_control_laplace_in_floats() -> None:
    """numpy's Laplace noise of scale 1 claims ε = 1; the floats that it can't reach tell 0 from 1."""
    rng = np.random.default_rng(0)
    off = [int(np.count_nonzero((at + rng.laplace(size=RUNS)) * 2.0**53 % 1 != 0)) for at in (0.0, 1.0)]
    assert epsilon_at_least(*off, RUNS, 0.0) > 4


def test_lower_bounds_are_clopper_and_pearsons() -> None:
    beta = pytest.importorskip("scipy.stats").beta
    for hits, runs in ((0, 100), (3, 100), (50, 1000), (999, 1000)):
        assert upper(hits, runs) == pytest.approx(beta.ppf(1 - CONFIDENCE / 2, hits + 1, runs - hits), rel=1e-9)
    assert upper(100, 100) == 1.0
    assert epsilon_at_least(500, 500, 1000, 0.0) < 0
