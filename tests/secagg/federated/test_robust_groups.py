"""Groups: who draws them, the floors they keep, and how likely liars are to be together."""

import hashlib
import itertools
import math
import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings, strategies as st

import dp
import secagg
from secagg.beacon import SignedBeacon
from secagg.corruption import corrupt_among
from secagg.errors import ConfigError
from secagg.federated import (
    CoordinateMedian,
    PublicMask,
    draw_groups,
    from_beacon,
    from_session,
    group_task,
    likelihood,
    simulate_groups,
)
from secagg.identity import enrol
from tests.reference.compression import parts

COHORT = [f"c{number}" for number in range(20)]
DRAWN = b"thirty-two bytes that are public"
TASK = secagg.Task(
    protocol=secagg.SecAgg(corruption=0.05),
    layout=secagg.Layout.of(np.zeros(6)),
    encoding=secagg.FixedPoint(clip=2.0, bits=24),
    max_clients=20,
    min_survivors=15,
)


def test_everyone_draws_the_same_groups_for_ever() -> None:
    """The vector: order and kind of the cohort change nothing."""
    groups = draw_groups(COHORT[:7], 3, DRAWN)
    assert groups == (("c2", "c4", "c5"), ("c1", "c6"), ("c0", "c3"))
    order = sorted(COHORT[:7], key=lambda one: hashlib.sha256(parts("secagg/v1/groups", DRAWN, one)).digest())
    assert groups == tuple(tuple(sorted(order[first::3])) for first in range(3))
    assert draw_groups(reversed(COHORT[:7]), 3, DRAWN) == groups


@settings(max_examples=50)
@given(st.integers(1, 40), st.data())
def test_groups_split_the_cohort_evenly(clients: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, clients))
    cohort = [f"c{number}" for number in range(clients)]
    groups = draw_groups(cohort, count, data.draw(st.binary(min_size=32, max_size=64)))
    assert sorted(itertools.chain(*groups)) == sorted(cohort)
    assert {len(group) for group in groups} <= {clients // count, -(-clients // count)}
    assert all(list(group) == sorted(group) for group in groups)


def test_no_pair_is_together_more_often_than_chance() -> None:
    together = Counter(
        frozenset(pair)
        for _ in range(2000)
        for group in draw_groups(COHORT[:10], 5, os.urandom(32))
        for pair in itertools.combinations(group, 2)
    )
    assert len(together) == 45
    assert max(abs(count - 2000 / 9) for count in together.values()) < 6 * math.sqrt(2000 / 9)


def test_draws_that_can_be_foreseen_and_odd_cohorts_are_refused() -> None:
    for randomness in (b"round 3", b"", b"x" * 31, b"x" * 1025, "x" * 32, None, 7):
        with pytest.raises(ConfigError, match="gather where they do most harm"):
            draw_groups(COHORT, 5, randomness)  # type: ignore[arg-type]
    for count in (0, 21, -1, 1.5, None):
        with pytest.raises(ConfigError, match="groups of 20 clients"):
            draw_groups(COHORT, count, DRAWN)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lists an id twice"):
        draw_groups([*COHORT, "c1"], 5, DRAWN)
    for cohort in (7, None, [7], [""], object()):
        with pytest.raises(ConfigError):
            draw_groups(cohort, 1, DRAWN)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected a secagg\.Task"):
        group_task(COHORT, 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected a secagg\.identity\.Roster"):
        group_task(TASK, 5, roster=COHORT)  # type: ignore[arg-type]


class Lying(bytes):
    """Bytes that say that they are 32."""

    def __len__(self) -> int:
        return 32


def test_bytes_that_lie_about_their_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="gather where they do most harm"):
        draw_groups(COHORT, 5, Lying(b"3"))
    with pytest.raises(ConfigError, match="expected 32 random bytes"):
        from_session(TASK, COHORT, roster=None, session=b"round 3", nonce=Lying(b"3"))


def test_a_session_draws_for_one_roster_cohort_and_round() -> None:
    _, roster = enrol(COHORT)
    nonce = os.urandom(32)
    randomness = from_session(TASK, COHORT, roster=roster, session=b"round 3", nonce=nonce)
    assert randomness == from_session(TASK, reversed(COHORT), roster=roster, session=b"round 3", nonce=nonce)
    assert sum(map(len, draw_groups(COHORT, 5, randomness))) == 20
    others = [
        from_session(replace(TASK, context=b"x"), COHORT, roster=roster, session=b"round 3", nonce=nonce),
        from_session(TASK, COHORT[1:], roster=roster, session=b"round 3", nonce=nonce),
        from_session(TASK, COHORT, roster=None, session=b"round 3", nonce=nonce),
        from_session(TASK, COHORT, roster=roster, session=b"round 4", nonce=nonce),
        from_session(TASK, COHORT, roster=roster, session=b"round 3", nonce=os.urandom(32)),
    ]
    assert len({randomness, *others}) == 6
    odd: Any
    for odd in (
        {"session": "r"},
        {"nonce": b"short"},
        {"nonce": None},
        {"cohort": ["c1", "c1"]},
        {"task": 7},
        {"roster": 7},
    ):
        parts_of = {"task": TASK, "cohort": COHORT, "roster": roster, "session": b"r", "nonce": nonce} | odd
        with pytest.raises(ConfigError):
            from_session(**parts_of)


def test_a_beacon_draws_what_no_server_chose() -> None:
    key = Ed25519PrivateKey.generate()
    beacon = SignedBeacon(key.public_key().public_bytes_raw(), genesis=0, period=30)
    number = beacon.next_round(1000.0)  # when the client learns the cohort
    value = beacon.publish(key, number)
    randomness = from_beacon(beacon, number, value)
    assert len(randomness) == 32
    assert randomness != from_beacon(beacon, number + 1, beacon.publish(key, number + 1))
    forged = beacon.publish(Ed25519PrivateKey.generate(), number)
    for other in ((number, forged), (number - 1, value), (number, b""), (number, None), (None, value), (0, value)):
        with pytest.raises(ConfigError, match="the beacon did not publish"):
            from_beacon(beacon, *other)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got a beacon that can't verify"):
        from_beacon("beacon", number, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["semi-honest", "malicious"])
@pytest.mark.parametrize("clients", [20, 22, 23])
@pytest.mark.parametrize("noised", [False, True])
def test_a_group_counts_every_colluder(model: Any, clients: int, noised: bool) -> None:
    task = replace(
        TASK,
        protocol=secagg.SecAgg(corruption=0.1, threat_model=model),
        max_clients=clients,
        min_survivors=clients - 2,
    )
    if noised:
        task = replace(task, encoding=dp.DistributedGaussian(1.0, 1.1, 20, k_stddevs=5.0))
    cohort = [f"c{number}" for number in range(clients)]
    _, roster = enrol(cohort)
    group = group_task(task, 4, roster=roster)
    assert (group.max_clients, group.min_survivors) == (-(-clients // 4), 5)
    for members in draw_groups(cohort, 4, DRAWN):
        group.check_cohort(list(members), roster)
        assert corrupt_among(group.protocol, len(members), roster) == 2
    if isinstance(group.encoder, dp.DistributedGaussian):
        assert (group.encoder.honest, group.encoder.corrupt) == (3, 2)


def test_a_term_that_is_seen_by_itself_has_noise_enough_in_groups_too() -> None:
    noise = dp.DistributedGaussian(1.0, 1.1, 20, k_stddevs=9.0)
    for protocol in (secagg.Clear(), secagg.BFV(commit=False)):
        encoder = group_task(replace(TASK, protocol=protocol, encoding=noise), 5).encoder
        assert isinstance(encoder, dp.DistributedGaussian)
        assert (encoder.clients, encoder.honest, encoder.trust) == (4, 1, "local")


@pytest.mark.parametrize("noised", [False, True])
def test_groups_are_refused_where_more_are_enrolled_than_was_allowed_for(noised: bool) -> None:
    """Who leaves the roster out under a malicious server hears of it before a client answers."""
    task = replace(TASK, encoding=dp.DistributedGaussian(1.0, 1.1, 20, k_stddevs=5.0)) if noised else TASK
    identities, roster = enrol([f"c{number}" for number in range(60)])
    group = group_task(task, 5)
    members = ["c0", "c1", "c2", "c3"]
    with pytest.raises(ConfigError):
        group.server(members, roster=roster, session=b"1")
    with pytest.raises(ConfigError):
        group.client("c0", identity=identities["c0"], roster=roster, session=b"1")


def test_c_is_counted_over_all_enrolled_where_the_server_is_malicious() -> None:
    _, roster = enrol([f"c{number}" for number in range(60)])
    with pytest.raises(ConfigError, match="3 clients possibly corrupt, all of them perhaps in one group"):
        group_task(TASK, 5, roster=roster)
    noised = replace(TASK, encoding=dp.DistributedGaussian(1.0, 1.1, 20, k_stddevs=5.0), min_survivors=20)
    encoder = group_task(noised, 4, roster=roster).encoder
    assert isinstance(encoder, dp.DistributedGaussian)
    assert (encoder.honest, encoder.corrupt) == (2, 3)
    honest = replace(TASK, protocol=secagg.SecAgg(corruption=0.05, threat_model="semi-honest"))
    assert group_task(honest, 5, roster=roster).honest == 2


def test_floors_below_c_plus_2_and_out_of_reach_are_refused() -> None:
    assert group_task(TASK, 5).min_survivors == 3
    assert group_task(TASK, 5, min_survivors=4).min_survivors == 4
    for floor in (2, 1, 0, -1, 2.5, "3"):
        with pytest.raises(ConfigError, match="expected at least 3, so that no group opens for one honest client"):
            group_task(TASK, 5, min_survivors=floor)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected at most 4"):
        group_task(TASK, 5, min_survivors=5)
    with pytest.raises(ConfigError, match="make fewer groups"):
        group_task(TASK, 10)
    with pytest.raises(ConfigError, match="6 clients possibly corrupt"):
        group_task(replace(TASK, protocol=secagg.SecAgg()), 5)  # a third of 20 may collude
    with pytest.raises(ConfigError, match="got 21 groups"):
        group_task(TASK, 21)
    assert group_task(replace(TASK, protocol=secagg.Clear()), 10).min_survivors == 2


@pytest.mark.parametrize(
    "protocol", [secagg.Clear(), secagg.SecAgg(corruption=0.05), secagg.SecAggPlus(), secagg.AdditiveShares()]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_groups_add_up_to_the_cohort(protocol: Any, weighted: bool) -> None:
    task = replace(TASK, protocol=protocol, max_weight=20 if weighted else None)
    updates = {party: np.full(6, number / 20) for number, party in enumerate(COHORT)}
    weights = {party: number + 1 for number, party in enumerate(COHORT)} if weighted else None
    results = simulate_groups(group_task(task, 4), updates, draw_groups(COHORT, 4, DRAWN), weights=weights)
    outcomes = [result for result in results if isinstance(result, secagg.Simulation)]
    assert sorted(itertools.chain(*(result.survivors for result in outcomes))) == sorted(COHORT)
    expected = sum((weights or dict.fromkeys(COHORT, 1))[party] * update for party, update in updates.items())
    assert sum(result.sum for result in outcomes) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("noised", [False, True])
def test_groups_of_compressed_updates_are_combined_and_then_expanded(noised: bool) -> None:
    layout = secagg.Layout.of(np.zeros(64))
    mask = PublicMask(layout, 16).after(np.arange(64.0))
    session = mask.session(b"round 2")
    encoding = dp.DistributedGaussian(8.0, 0.01, 24, k_stddevs=6.0) if noised else TASK.encoding
    task = group_task(replace(TASK, layout=mask.compressed, encoding=encoding), 5)
    updates = {party: np.ones(64) + 0.01 * number for number, party in enumerate(COHORT)} | {
        "c3": np.full(64, -2.0)
    }
    sent = {party: mask.compress(update, session) for party, update in updates.items()}
    results = simulate_groups(task, sent, draw_groups(COHORT, 5, DRAWN), session=session)
    means = [result.mean for result in results if isinstance(result, secagg.Simulation)]
    mean = mask.expand(CoordinateMedian(bad=1).combine(means), session)
    assert np.array_equal(np.flatnonzero(mean), mask.coordinates(session))
    assert mean[mean != 0] == pytest.approx(np.full(16, 1.1), abs=0.15)


def test_simulated_groups_are_those_of_the_updates() -> None:
    updates, task, groups = dict.fromkeys(COHORT, np.zeros(6)), group_task(TASK, 4), draw_groups(COHORT, 4, DRAWN)
    odd: Any
    for odd in (
        draw_groups(COHORT[1:], 4, DRAWN),
        (*groups, ("c1",)),
        groups[1:],
        7,
        [None],
        itertools.count(),  # these two would never end
        [itertools.cycle(COHORT)],
    ):
        with pytest.raises(ConfigError, match="expected"):
            simulate_groups(task, updates, odd)
    with pytest.raises(ConfigError, match="expected"):
        simulate_groups(task, itertools.cycle(COHORT), groups)  # type: ignore[arg-type]
    for more in ({"dropouts": {"c77": "MaskedInput"}}, {"weights": {"c1": 1}}, {"budgets": {"c77": None}}):
        with pytest.raises(ConfigError):
            simulate_groups(task, updates, groups, **more)  # type: ignore[arg-type]


def test_a_budget_is_charged_once_a_round_whatever_the_number_of_groups() -> None:
    """ε doesn't add up over groups, since a client is in one."""
    noise = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=2.0, bits=20, k_stddevs=5.0)
    task = group_task(replace(TASK, encoding=noise), 5)
    budgets = {party: dp.PrivacyLedger(20.0, 1e-5, unit="client", trust="distributed") for party in COHORT}
    updates = dict.fromkeys(COHORT, np.zeros(6))
    results = simulate_groups(task, updates, draw_groups(COHORT, 5, DRAWN), budgets=budgets)
    epsilons = {result.epsilon_guaranteed for result in results if isinstance(result, secagg.Simulation)}
    assert epsilons == {task.encoder.epsilon(6)}  # type: ignore[attr-defined]
    assert {budget.spent for budget in budgets.values()} == epsilons


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.data())
def test_the_likelihood_counts_every_draw(clients: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, clients))
    liars, bad = data.draw(st.integers(0, clients)), data.draw(st.integers(0, count))
    places = [seat % count for seat in range(clients)]  # the group of each seat; liars sit anywhere
    draws = [
        len({places[seat] for seat in seats}) <= bad for seats in itertools.combinations(range(clients), liars)
    ]
    assert likelihood(clients, count, liars, bad) == float(Fraction(sum(draws), len(draws)))


def test_likelihoods_of_large_cohorts_are_exact_and_quick() -> None:
    assert likelihood(20, 5, 2, 1) == float(Fraction(30, 190))
    assert likelihood(20, 5, 2, 2) == 1.0
    assert 0 < likelihood(1000, 101, 100, 50) < likelihood(1000, 101, 100, 60) < 1
    odd: Any
    for odd in ((20, 5, 21, 2), (20, 5, -1, 2), (20, 5, 2, -1), (20, 0, 2, 1), (20, 21, 2, 1), (20, 5, 2.0, "1")):
        with pytest.raises(ConfigError, match="no more liars, than clients"):
            likelihood(*odd)
    for odd in ((10_000, 3000, 2500, 2000), (1 << 24, 5, 1 << 23, 2)):  # minutes, and more than that
        with pytest.raises(ConfigError, match="would take too long"):
            likelihood(*odd)


def test_sums_of_ever_new_groups_show_what_lasts_in_a_clients_updates() -> None:
    """A limit that the documents state: here nothing is noised, and updates never change."""
    rng = np.random.default_rng(8)
    updates = rng.standard_normal(20)

    def error(draws: list[bytes]) -> float:
        groups = [group for randomness in draws for group in draw_groups(COHORT, 5, randomness)]
        member = np.array([[party in group for party in COHORT] for group in groups], np.float64)
        solved = np.linalg.lstsq(member, member @ updates, rcond=None)[0]
        return float(np.abs(solved - updates).max())

    anew = [rng.bytes(32) for _ in range(8)]
    assert error(anew) < 1e-9  # 40 sums for 20 clients
    assert error(anew[:1] * 8) > 0.5  # groups that stay show their sum alone
