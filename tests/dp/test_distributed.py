"""The distributed encodings: figures, what is sent, what comes back, and what is refused."""

import math
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dp import _distributed
from dp._grid import norms
from dp.accounting import DEFAULT_ORDERS, RDPAccountant, epsilon_of
from dp.central import CentralGaussian
from dp.distributed import (
    DistributedGaussian,
    DistributedSkellam,
    distributed_gaussian_epsilon,
    distributed_skellam_epsilon,
)
from dp.errors import DPError
from dp.events import DistributedGaussianEvent, SkellamEvent
from tests.reference import dp_distributed as twin

HALF = math.exp(-0.5)
KINDS = [DistributedGaussian, DistributedSkellam]
kinds = pytest.mark.parametrize("kind", KINDS)

# n = 100, z = 1, k = 4, δ = 1e-5, D = 2^17, one round, as published: β = 0 and β = e^(-1/2).
TABLE = {
    10: ("25.6", "9.44"),
    12: ("9.10", "5.10"),
    14: ("5.75", "4.78"),
    16: ("4.99", "4.75"),
    18: ("4.81", "4.75"),
    20: ("4.77", "4.75"),
}


@dataclass
class Flat:
    """A layout of so many coordinates."""

    size: int


def seeded(seed: int = 0) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def encoding(kind: Any = DistributedGaussian, **changes: Any) -> Any:
    plain = {"l2_clip": 1.0, "noise_multiplier": 1.0, "bits": 18, "clients": 10, "honest": 8, "corrupt": 1}
    return kind(**(plain | changes))


def send(code: Any, vector: np.ndarray, seed: int = 0) -> np.ndarray:
    (terms,) = code.encode(vector, layout=Flat(vector.size), weight=None, max_weight=None, rng=seeded(seed))
    return terms


def receive(code: Any, sums: np.ndarray, size: int, survivors: int) -> Any:
    return code.decode([sums], layout=Flat(size), survivors=survivors, max_weight=None)


def renyi(code: Any, dimension: int, orders: tuple[int, ...] = DEFAULT_ORDERS) -> float:
    """ε by the published bounds on divergences alone."""
    book = RDPAccountant(orders=orders).compose(code.event(dimension))
    return epsilon_of(book.orders, book.rdp, code.delta)


@pytest.mark.parametrize("bits", TABLE)
def test_the_oracle_table(bits: int) -> None:
    plan: dict[str, Any] = {"bits": bits, "clients": 100, "dimension": 2**17, "noise_multiplier": 1.0}
    for beta, printed in zip((0.0, HALF), TABLE[bits], strict=True):
        code = DistributedGaussian(1.0, 1.0, bits, clients=100, honest=100, corrupt=0, beta=beta)
        epsilon = renyi(code, 2**17)
        decimals = len(printed.partition(".")[2])
        assert abs(epsilon - float(printed)) <= 0.5000001 * 10**-decimals
        skellam = distributed_skellam_epsilon(**plan, k_stddevs=4.0, delta=1e-5, beta=beta)
        assert abs(skellam - epsilon) < 0.02
        nearly = distributed_gaussian_epsilon(**plan, k_stddevs=4.0, delta=1e-5, beta=beta)
        assert 0.91 < nearly / epsilon < 0.95, "as Gaussian noise, which it nearly is, it costs less"


def test_published_figures_of_the_nearly_gaussian() -> None:
    """Worked out apart from this code: n = 100 and 2^20, z = 1, δ = 1e-5."""
    plan: dict[str, Any] = {"clients": 100, "dimension": 2**17, "bits": 20}
    assert f"{distributed_gaussian_epsilon(**plan, noise_multiplier=1.0):.2f}" == "4.38"
    assert distributed_gaussian_epsilon(**plan, noise_multiplier=0.932) == pytest.approx(4.75, abs=0.005)


@pytest.mark.parametrize("kind", ["gaussian", "skellam"])
@pytest.mark.parametrize("n", [20, 100, 1000])
@pytest.mark.parametrize("levels", [8, 14, 20, 22])
@pytest.mark.parametrize("z", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("beta", [0.0, HALF])
def test_figures_at_sizes_not_in_the_table(kind: str, n: int, levels: int, z: float, beta: float) -> None:
    ask = {"gaussian": distributed_gaussian_epsilon, "skellam": distributed_skellam_epsilon}[kind]
    for bits in (12, 16, 20):
        if kind == "gaussian" and twin.local_sigma(bits=bits, n=n, d=1 << levels, z=z, k=4.0) < 0.5:
            with pytest.raises(DPError, match=r"no bound on sums is proved below 0\.5"):
                ask(bits=bits, clients=n, dimension=1 << levels, noise_multiplier=z, delta=1e-6, beta=beta)
            continue
        expected = twin.epsilon(kind, bits=bits, n=n, d=1 << levels, z=z, k=4.0, delta=1e-6, beta=beta)
        epsilon = ask(
            bits=bits,
            clients=n,
            dimension=(1 << levels) - 3,  # padded
            noise_multiplier=z,
            k_stddevs=4.0,
            delta=1e-6,
            beta=beta,
        )
        code = {"gaussian": DistributedGaussian, "skellam": DistributedSkellam}[kind](
            1.0, z, bits, clients=n, honest=n, corrupt=0, beta=beta, delta=1e-6
        )
        assert renyi(code, 1 << levels, twin.ORDERS) == pytest.approx(expected, rel=1e-6)
        least = 0.8 if kind == "gaussian" else 0.97
        if expected < 20:  # beyond that clamping, 2^-60 of δ, shows
            assert least * expected <= epsilon <= expected * (1 + 1e-6), "two more orders help where ε is small"


@kinds
def test_more_noise_clients_and_bits_and_fewer_rounds_cost_less(kind: Any) -> None:
    code = encoding(kind, bits=14, clients=50, honest=40)
    here = code.epsilon(1000)
    assert replace(code, noise_multiplier=1.1).epsilon(1000) < here < code.epsilon(1000, rounds=2)
    assert replace(code, bits=16).epsilon(1000) < here < replace(code, bits=12).epsilon(1000)
    assert code.epsilon(1000, honest=30) > here >= code.epsilon(1000, honest=49)
    assert code.epsilon(1000, honest=0) == math.inf
    assert code.epsilon(1000) == RDPAccountant(1e-5).compose(code.event(1000)).get_epsilon()
    assert replace(code, l2_clip=37.0).epsilon(1000) == pytest.approx(here, rel=1e-12)


def test_noise_follows_the_honest_and_the_grid_everyone() -> None:
    """The two meanings of n."""
    few, many = encoding(honest=2, k_stddevs=6.0), encoding(honest=8, k_stddevs=6.0)
    sigma = [code.grid(64).sigma * code.grid(64).step for code in (few, many)]
    assert sigma == pytest.approx([1 / math.sqrt(2), 1 / math.sqrt(8)])
    assert few.event(64).honest == 2
    # Half the modulus is k standard deviations of the sum of ten, whichever clients are honest.
    for code, s in zip((few, many), sigma, strict=True):
        grid = code.grid(64)
        spread = math.sqrt(10**2 / 64 + 10 * (s**2 + grid.step**2 / 4))
        assert 2**17 * grid.step == pytest.approx(6 * spread)
    # A calibration for everyone would promise this to the few.
    assert few.event(64, 10).honest == 10
    assert many.epsilon(64, honest=2) > 2 * many.epsilon(64)


@kinds
def test_what_is_sent_is_within_its_bound_and_comes_back(kind: Any) -> None:
    code, size = encoding(kind), 1000
    updates = np.random.default_rng(5).normal(0, 0.02, (9, size)).astype(np.float32)
    terms = [send(code, update, seed) for seed, update in enumerate(updates)]
    (segment,) = code.segments(Flat(size), None)
    assert (segment.length, segment.bound, segment.modulus) == (1024, 2**18 - 1, 2**18)
    assert all(term.dtype == np.uint32 and term.shape == (1024,) and term.max() <= segment.bound for term in terms)
    whole = sum(term.astype(np.uint64) for term in terms)
    outcome = receive(code, whole, size, 9)
    reduced = receive(code, (whole % 2**18).astype(np.uint32), size, 9)
    assert (outcome.sum == reduced.sum).all(), "reduced or not, the sum is one"
    assert (outcome.mean == outcome.sum / 9).all()
    assert (outcome.total_weight, outcome.clipped) == (9, None)
    grid = code.grid(size)
    expected = math.sqrt(9 * (grid.sigma**2 + 0.25)) * grid.step  # noise 1.06, the clip is 1
    error = outcome.sum - updates.astype(np.float64).sum(0)
    assert 0.9 * expected < error.std() < 1.1 * expected
    assert abs(error.mean()) < 5 * expected / math.sqrt(size)
    assert outcome.epsilon_guaranteed == code.epsilon(size)
    assert outcome.epsilon_realised == code.epsilon(size, honest=8)


@kinds
@pytest.mark.parametrize("survivors", [1, 2, 7, 10])
def test_sums_of_any_number_are_lifted(kind: Any, survivors: int) -> None:
    code = encoding(kind, noise_multiplier=1e-4, bits=24)
    update = np.linspace(-0.1, 0.1, 50)
    whole = sum(send(code, update, seed).astype(np.uint64) for seed in range(survivors))
    for sums in (whole, whole % 2**24):
        assert np.allclose(receive(code, sums, 50, survivors).mean, update, atol=1e-3)


def test_realised_epsilon_counts_survivors_less_the_corrupt() -> None:
    code = encoding(corrupt=2, honest=5)
    at = {
        survivors: receive(code, np.full(64, survivors << 17, np.uint64), 64, survivors)
        for survivors in (2, 6, 7, 10)
    }
    assert all(outcome.epsilon_guaranteed == code.epsilon(64) for outcome in at.values())
    assert at[7].epsilon_realised == at[7].epsilon_guaranteed
    assert at[10].epsilon_realised < at[7].epsilon_realised < at[6].epsilon_realised
    assert at[2].epsilon_realised == math.inf


@given(st.integers(1, 200), st.floats(1e-3, 1e3), st.integers(0, 2**32), st.sampled_from([0.0, HALF, 0.9]))
def test_the_norm_of_what_is_sent_is_bounded_on_the_integers(
    size: int, length: float, seed: int, beta: float
) -> None:
    code = encoding(beta=beta, bits=12)
    grid = code.grid(size)
    vector = np.zeros(grid.dimension)
    vector[:size] = np.random.default_rng(seed).normal(0, length, size)
    rounded = code._round(vector, grid, seeded(seed))
    assert int((rounded.astype(object) ** 2).sum()) <= grid.squares
    assert np.abs(rounded).max() <= grid.limit
    l2, l1 = norms(grid)
    assert np.abs(rounded).sum() <= l1 * (1 + 1e-12)
    assert l2**2 == pytest.approx(grid.squares, rel=1e-12)


def test_rounding_is_right_on_average() -> None:
    """At β = 0, where no rounding is turned down."""
    code = encoding(beta=0.0, bits=10, k_stddevs=6.0)
    grid = code.grid(4)
    update = np.array([0.3, -0.2, 0.1, 0.05])
    mean = np.mean([code._round(update.copy(), grid, seeded(seed)) for seed in range(4000)], axis=0)
    exact = update.copy()
    _distributed.rotate(exact, code.seed)
    assert np.abs(mean - exact / grid.step).max() < 5 * 0.5 / math.sqrt(4000)


def test_control_a_bound_without_the_redraw_is_broken() -> None:
    code = encoding(beta=0.9, bits=12, k_stddevs=8.0)
    grid = code.grid(1024)
    update = np.random.default_rng(1).normal(size=1024)
    from dp import _encoding, _rotation

    _distributed.rotate(update, code.seed)
    scale = 1 / np.linalg.norm(update) / grid.step
    out = np.empty(1024, np.int64)
    squares = []
    for seed in range(40):
        random = np.random.default_rng(seed).integers(0, 2**32, 1024, dtype=np.uint32)
        squares.append(_rotation.round_stochastic(update, scale, random, grid.limit, out))
    assert min(squares) <= grid.squares < max(squares)
    attempts = [_encoding._attempts(beta) for beta in (0.9, HALF, 0.0)]
    assert attempts == sorted(attempts, reverse=True)
    assert attempts[-1] > 0


@kinds
def test_the_same_bytes_give_the_same_integers(kind: Any) -> None:
    code, update = encoding(kind), np.ones(100) / 20
    assert (send(code, update, 3) == send(code, update, 3)).all()
    assert (send(code, update, 3) != send(code, update, 4)).any()


@kinds
def test_zero_is_sent_as_noise_alone(kind: Any) -> None:
    code = encoding(kind)
    terms = send(code, np.zeros(1 << 14)).astype(np.int64) - 2**17
    grid = code.grid(1 << 14)
    assert abs(terms.mean()) < 5 * grid.sigma / 128
    assert terms.std() == pytest.approx(grid.sigma, rel=0.05)


def test_updates_longer_than_the_clip_are_shortened_however_long() -> None:
    code = encoding(noise_multiplier=1e-4, bits=24)
    direction = np.random.default_rng(0).normal(size=256)
    direction /= np.linalg.norm(direction)
    for length in (0.5, 1.0, 3.0, 1e50, 1e200, 1e307):
        opened_sum = receive(code, send(code, direction * length).astype(np.uint64), 256, 1).sum
        assert np.allclose(opened_sum, direction * min(length, 1.0), atol=1e-3)


def test_terms_wrap_as_seldom_as_promised() -> None:
    """At k = 4, ten aligned updates: a coordinate in 16 000 wraps, and it is far off when it does."""
    code, size = encoding(bits=12), 1 << 12
    update = np.full(size, 1.0) / 64
    whole = sum(send(code, update, seed).astype(np.int64) - 2**11 for seed in range(10))
    assert np.count_nonzero((whole < -(2**11)) | (whole >= 2**11)) <= 3


@kinds
def test_no_term_is_ever_reduced(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With noise that fills the modulus, terms end at its edges instead of coming round."""
    code, update = encoding(kind, bits=12, k_stddevs=6.0), np.full(1 << 12, 1.0) / 64
    grid = code.grid(update.size)
    wide = grid._replace(sigma=1500.0)
    monkeypatch.setattr(_distributed, "find_grid", lambda *_: wide)
    terms = send(code, update).astype(np.int64) - 2**11
    assert np.count_nonzero(np.abs(terms) == 2**11 - 1) > 100
    assert np.abs(terms).max() == 2**11 - 1
    noise = code._noise(wide, lambda n: b"\1" * n)
    rounded = code._round(update.copy(), wide, lambda n: b"\1" * n)
    (sent,) = code.encode(update, layout=Flat(4096), weight=None, max_weight=None, rng=lambda n: b"\1" * n)
    assert (sent.astype(np.int64) - 2**11 == np.clip(rounded + noise, -(2**11) + 1, 2**11 - 1)).all()


@kinds
def test_noise_too_wide_for_the_modulus_is_refused_with_what_would_fit(kind: Any) -> None:
    code = encoding(kind, clients=3, honest=2, corrupt=1)
    with pytest.raises(DPError, match="too wide for the modulus") as refused:
        code.grid(1000)
    least = float(str(refused.value).partition("k_stddevs of at least ")[2].split()[0])
    assert replace(code, k_stddevs=least).grid(1000).clamped <= 1e-5 * 2**-20
    with pytest.raises(DPError, match="too wide"):
        replace(code, k_stddevs=least / 1.06).grid(1000)


def test_the_room_for_noise_is_what_the_tail_needs() -> None:
    for kind in KINDS:
        code = encoding(kind, bits=10, k_stddevs=5.0)
        grid = code.grid(64)
        gaussian = kind is DistributedGaussian
        one = twin.gaussian_pmf(grid.sigma, 600) if gaussian else twin.skellam_pmf(grid.sigma**2, 600)
        headroom = 512 - grid.limit
        beyond = 2 * math.fsum(one[600 + headroom :]) * 64 * 10
        assert 0 < beyond <= grid.clamped <= 1e-5 * 2**-20


@kinds
def test_with_epsilon_is_the_least_noise(kind: Any) -> None:
    code = encoding(kind, bits=16, clients=100, honest=80)
    for epsilon, rounds in ((8.0, 1), (2.0, 10), (0.5, 1)):
        least = code.with_epsilon(epsilon, 10_000, rounds=rounds)
        assert epsilon * (1 - 1e-6) < least.epsilon(10_000, rounds=rounds) <= epsilon
        less = replace(least, noise_multiplier=least.noise_multiplier * (1 - 1e-6))
        assert less.epsilon(10_000, rounds=rounds) > epsilon
        assert replace(least, noise_multiplier=1.0) == code


def test_the_figures_in_the_document() -> None:
    """docs/privacy.md: z by rounds and total ε, for 100 clients of which 80 are honest survivors; and ε by bits."""
    text = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
    plan: dict[str, Any] = {"clients": 100, "dimension": 2**17, "noise_multiplier": 1.0}
    coarse, fine = (
        [f"{distributed_gaussian_epsilon(bits=bits, beta=beta, **plan):.2f}" for beta in (HALF, 0.0)]
        for bits in (12, 20)
    )
    words = " ".join(text.split())
    assert f"{coarse[0]} at 12 bits and {fine[0]} at 20" in words
    assert f"from {coarse[0]} to {coarse[1]}; at 20 bits from {fine[0]} to {fine[1]}" in words
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [5, 10, 20, 40]
    code = encoding(clients=100, honest=80, corrupt=10, bits=20)
    for rounds, *multipliers in rows:
        for epsilon, printed in zip((1.0, 4.0, 8.0), multipliers, strict=True):
            least = code.with_epsilon(epsilon, 2**17, rounds=int(rounds))
            assert f"{least.noise_multiplier:.2f}" == printed


def test_noise_too_narrow_for_any_bound_is_refused_with_what_is_enough() -> None:
    """Of sums of discrete Gaussians below 1/2; one by itself, and Skellam noise, have bounds at any width."""
    code = encoding(noise_multiplier=0.001, bits=10)
    with pytest.raises(DPError, match=r"no bound on sums is proved below 0\.5") as refused:
        code.grid(1000)
    advice = re.search(
        r"expected about (\d) more bits, or a noise multiplier about (\S+) times", str(refused.value)
    )
    assert advice
    more, factor = int(advice[1]), float(advice[2])
    assert replace(code, bits=10 + more).grid(1000).sigma >= 0.5
    assert replace(code, noise_multiplier=0.001 * factor * 1.01).grid(1000).sigma >= 0.5
    assert replace(code, honest=1, corrupt=1, noise_multiplier=0.001).epsilon(1000) > 1000
    assert encoding(DistributedSkellam, noise_multiplier=0.001, bits=10).epsilon(1000) > 1000
    enough = code.with_epsilon(60.0, 1000)
    assert enough.grid(1000).sigma >= 0.5
    assert enough.epsilon(1000) <= 60.0


def test_an_epsilon_that_no_noise_reaches_is_refused() -> None:
    code = encoding(bits=8, clients=100, honest=80)
    with pytest.raises(DPError, match=r"got epsilon=0.1, but with any noise .* expected more than 8 bits"):
        code.with_epsilon(0.1, 2**17)
    for bad in (0.0, -1.0, math.inf, math.nan, "8"):
        with pytest.raises(DPError, match="epsilon"):
            code.with_epsilon(bad, 100)


def test_check_compares_with_the_task() -> None:
    code = encoding(clients=10, honest=7, corrupt=2)
    code.check(10, 7)
    code.check(10, 8, 2)
    for args, expected in [
        ((11, 7), "expected clients=11"),
        ((9, 7), "expected clients=9"),
        ((10, 6), "expected honest=6 or fewer"),
        ((10, 0), "raise min_survivors"),
        ((10, -1), "raise min_survivors"),
        ((10, 7, 3), "expected corrupt=3"),
    ]:
        with pytest.raises(DPError, match=expected):
            code.check(*args)


@kinds
@pytest.mark.parametrize(
    "change",
    [
        {"l2_clip": 0.0},
        {"l2_clip": -1.0},
        {"l2_clip": math.nan},
        {"l2_clip": math.inf},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"bits": 1},
        {"bits": 33},
        {"bits": 18.0},
        {"clients": 0},
        {"clients": True},
        {"honest": 0},
        {"honest": -2},
        {"honest": 10},
        {"corrupt": -1},
        {"corrupt": 10},
        {"k_stddevs": 0.0},
        {"k_stddevs": 1e9},
        {"beta": -0.1},
        {"beta": 1.0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": "1e-5"},
        {"seed": "text"},
        {"seed": bytes(65)},
        {"bits": 3, "clients": 100, "honest": 80},
    ],
)
def test_fields_outside_their_range_are_refused(kind: Any, change: dict[str, Any]) -> None:
    with pytest.raises(DPError, match="expected"):
        encoding(kind, **change)


both_trusts = pytest.mark.parametrize("code", [encoding(), CentralGaussian(1.0, 1.0)], ids=["clients", "server"])


@both_trusts
def test_weights_are_refused(code: Any) -> None:
    plain = {"layout": Flat(10), "max_weight": None}
    for call in (
        lambda: code.segments(Flat(10), 5),
        lambda: code.encode(np.zeros(10), weight=1, rng=seeded(), **plain),
        lambda: code.encode(np.zeros(10), weight=1, rng=seeded(), **(plain | {"max_weight": 5})),
        lambda: code.for_server(bytes(32)).decode([], survivors=1, **(plain | {"max_weight": 5})),
    ):
        with pytest.raises(DPError, match="count the same"):
            call()


@both_trusts
def test_what_no_client_encodes_is_refused(code: Any) -> None:
    good, nan = np.zeros(10), np.array([math.nan] + [0.0] * 9)
    for bad in (good[:9], good[:, None], good.astype(np.int64), nan, np.full(10, math.inf)):
        with pytest.raises(DPError, match=r"shape|finite"):
            code.encode(bad, layout=Flat(10), weight=None, max_weight=None, rng=seeded())
    for rng in (lambda n: bytes(n - 1), lambda n: None):
        with pytest.raises(DPError, match="32 bytes"):
            code.encode(good, layout=Flat(10), weight=None, max_weight=None, rng=rng)


@both_trusts
def test_sums_that_no_clients_have_are_refused(code: Any) -> None:
    (segment,) = code.segments(Flat(10), None)
    zero, most = np.zeros(segment.length, np.uint64), getattr(code, "clients", 2**62 // segment.bound)
    decode = code.for_server(bytes(32)).decode
    decode([zero + np.uint64(3 * segment.bound)], layout=Flat(10), survivors=3, max_weight=None)
    for sums, survivors in [
        *(([], 3), ([zero] * 2, 3), ([zero[:-1]], 3), ([zero.astype(float)], 3), ([zero.astype(np.int64)], 3)),
        *(([zero + np.uint64(3 * segment.bound + 1)], 3), ([zero - np.uint64(1)], 3)),
        *(([zero], 0), ([zero], most + 1), ([zero], True)),
    ]:
        with pytest.raises(DPError, match=r"sums|survivors"):
            decode(sums, layout=Flat(10), survivors=survivors, max_weight=None)


def test_dimensions_outside_are_refused() -> None:
    for bad in (0, -1, 1 << 31, 1.0):
        with pytest.raises(DPError, match="dimension"):
            encoding().grid(bad)
    with pytest.raises(DPError, match="expected fewer bits"):
        encoding(bits=32, noise_multiplier=1e-6, clients=1, honest=1, corrupt=0).grid(1 << 30)


def test_encodings_are_frozen_and_plain() -> None:
    code = encoding()
    with pytest.raises(FrozenInstanceError):
        code.bits = 3
    assert type(encoding(l2_clip=1).l2_clip) is float
    assert isinstance(code.event(10), DistributedGaussianEvent)
    assert isinstance(encoding(DistributedSkellam).event(10), SkellamEvent)
    release = code.release(10)
    assert (release.unit, release.trust, release.event) == ("client", "distributed", code.event(10))
    text = "\n".join(code.describe(Flat(10), None))
    assert f"{code.epsilon(10):.4g} at delta 1e-05" in text
    assert "8 honest" in text


@kinds
def test_a_modulus_that_rounding_alone_fills_is_refused_to_the_last_client(kind: Any) -> None:
    """4^bits = clients·k²: nothing is left for noise, nor for the sum."""
    for bits, clients, k in ((4, 16, 4.0), (6, 64, 8.0), (5, 4, 16.0)):
        assert 4**bits == clients * k**2
        with pytest.raises(DPError, match=rf"rounding alone exceeds; expected at least {bits + 1} bits$"):
            encoding(kind, bits=bits, clients=clients, honest=1, corrupt=0, k_stddevs=k)
        for change in ({"clients": clients - 1}, {"bits": bits + 1}, {"k_stddevs": k * (1 - 1e-9)}):
            fields = {"bits": bits, "clients": clients, "honest": 1, "corrupt": 0, "k_stddevs": k} | change
            assert encoding(kind, **fields).bits == fields["bits"]


@kinds
@pytest.mark.parametrize("honest", [4, 8])
def test_the_deviation_that_is_printed_is_that_of_the_mean(kind: Any, honest: int) -> None:
    code, size = encoding(kind, honest=honest, k_stddevs=6.0), 2**14
    printed = float(code.describe(Flat(size), None)[-1].rpartition(" ")[2])
    terms = [send(code, np.zeros(size), seed).astype(np.uint64) for seed in range(10)]
    mean = receive(code, np.sum(terms, axis=0), size, 10).mean
    assert printed == pytest.approx(np.std(mean), rel=5 / math.sqrt(2 * size))
    assert printed == pytest.approx(1 / math.sqrt(honest) / math.sqrt(10), rel=2e-3)
    coarse = encoding(kind, bits=8, clients=100, honest=80, noise_multiplier=9.0, k_stddevs=6.0)
    grid = coarse.grid(size)
    assert grid.sigma < 3, "rounding is seen beside the noise"
    printed = float(coarse.describe(Flat(size), None)[-1].rpartition(" ")[2])
    assert printed == pytest.approx(grid.step * math.sqrt((grid.sigma**2 + 0.25) / 100), rel=5e-3)
