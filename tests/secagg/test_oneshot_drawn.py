"""DrawnOneShot: who is drawn, how likely a bad draw is, and what happens before the draw and to those left out."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from math import log2
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.errors import Aborted, ConfigError, LocalProtocolError
from secagg.identity import PartyRole, Roster
from secagg.protocols.oneshot import DrawnOneShot
from secagg.protocols.oneshot.drawn import bad_draws, too_likely
from secagg.table import Round
from secagg.testing import Session, check_protocol, parties_for
from tests.secagg.adversary.test_oneshot_drawn import BEACON, ROUND, published

IDS = ("c1", "c2", "c3", "c4", "c5")
MANY: dict[str, Any] = {"enrolled": 10_000, "beacon": BEACON, "draw_round": ROUND}
#: Two of ten may be corrupt, so no draw has more than two of them.
SMALL = DrawnOneShot(7, 2, kem="X25519", **(MANY | {"enrolled": 10, "member_corruption": 0.2}))


def roster_of(protocol: DrawnOneShot, seed: bytes = b"") -> Roster:
    roster = parties_for(protocol, len(IDS), published).enrolled(seed).roster
    assert roster is not None
    return roster


def test_check_protocol() -> None:
    four = DrawnOneShot(4, 1, kem="X25519", **(MANY | {"enrolled": 5, "member_corruption": 0.2}))
    check_protocol(four, beacon=published)


# --- how likely


def test_bad_draws_are_counted_one_by_one() -> None:
    for corrupt in range(8):
        for most in range(5):
            sets = list(combinations(range(8), 4))
            bad = [chosen for chosen in sets if sum(one < corrupt for one in chosen) > most]
            assert bad_draws(8, corrupt, 4, most) == (len(bad), len(sets))


@pytest.mark.parametrize(
    ("corrupt", "members", "most", "power"),
    [
        (500, 61, 20, -40.6), (500, 100, 26, -41.9), (100, 31, 9, -41.9),
        (100, 64, 12, -44.6), (1000, 121, 40, -40.6),
    ],
)  # fmt: skip
def test_committees_from_ten_thousand_have_nobody_to_spare(
    corrupt: int, members: int, most: int, power: float
) -> None:
    bad, draws = bad_draws(10_000, corrupt, members, most)
    assert round(log2(bad) - log2(draws), 1) == power
    assert not too_likely(bad, draws)
    assert too_likely(*bad_draws(10_000, corrupt, members, most - 1))


def test_exactly_the_limit_is_too_likely() -> None:
    assert too_likely(1, 1 << 40)
    assert not too_likely(1, (1 << 40) + 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"members": 61, "corrupt_members": 19},
            r"with probability 2\^-37.3; .* use members=61, corrupt_members=20",
        ),
        ({"members": 7, "corrupt_members": 2}, r"expected below 2\^-40: use members=61, corrupt_members=20"),
        ({"member_corruption": 0.01, "members": 31, "corrupt_members": 8}, "use members=31, corrupt_members=9"),
        ({"member_corruption": 0.3}, "no committee of up to 128 members does"),
        ({"enrolled": 100}, "got enrolled=100 with members=100; expected more members enrolled than drawn"),
        ({"enrolled": None}, "got enrolled=None"),
        ({"enrolled": 1 << 21}, "at most 1048576"),
        ({"draw_round": 0}, "got draw_round=0; expected a round, from 1"),
        ({"beacon": None}, r"got beacon=None; expected one such as secagg.beacon.SignedBeacon"),
        ({"member_corruption": 1}, "expected a number of at least 0, below 1"),
    ],
)
def test_draws_that_may_help_the_server_are_refused_with_the_least_that_would_do(
    arguments: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        DrawnOneShot(**(MANY | arguments))


# --- who


def test_the_committee_follows_from_roster_and_value_alone() -> None:
    roster = roster_of(SMALL)
    drawn = SMALL.committee_ids(roster, published)
    assert len(set(drawn)) == SMALL.members
    assert list(drawn) == sorted(drawn)
    assert set(drawn) < set(roster.ids(PartyRole.DECRYPTOR))
    assert drawn == SMALL.committee_ids(Roster(reversed(list(roster.values()))), published)
    others = [roster_of(SMALL, bytes([seed])) for seed in range(8)]
    assert len({SMALL.committee_ids(other, published) for other in others}) > 1


def test_every_member_is_drawn_as_often_as_every_other() -> None:
    ids = roster_of(SMALL).ids(PartyRole.DECRYPTOR)
    protocols = [DrawnOneShot(7, 2, **(MANY | {"enrolled": 10, "member_corruption": 0.2, "draw_round": number}))
                 for number in range(1, 401)]  # fmt: skip
    roster = roster_of(SMALL)
    often = Counter(one for protocol in protocols for one in protocol.committee_ids(roster, published))
    assert set(often) == set(ids)
    assert all(240 <= count <= 320 for count in often.values())  # 280 ± 9.2, and the values are fixed


def session_of(**how: Any) -> Session:
    parties = parties_for(SMALL, len(IDS), published)
    return Session(parties, session=b"round 1", **how)


def test_only_those_drawn_are_asked_and_told_of_the_end() -> None:
    session = session_of()
    drawn = set(SMALL.committee_ids(session.parties.roster, published))  # type: ignore[arg-type]
    session.require_completes("with a committee that was drawn")
    assert {party for party, name in session.requests if name == Round.SESSION_KEY} == drawn
    ended = session_of(silent=dict.fromkeys(IDS, Round.INPUT))
    with pytest.raises(Aborted) as aborted:
        ended.run()
    assert set(aborted.value.outbox) == {*IDS, *drawn}


def test_another_session_has_the_same_committee() -> None:
    asked = []
    for name in (b"round 1", b"round 2"):
        session = Session(parties_for(SMALL, len(IDS), published), session=name)
        asked.append(set(session.server.start()))
    assert asked[0] == asked[1]


# --- before the draw


@pytest.mark.parametrize(
    ("beacon", "words"),
    [
        (None, "got no beacon="),
        (lambda number: None, "round 1000 of the beacon, which draws the committee, is not published"),
        (lambda number: published(number + 1), "got a value for round 1000 that is not the beacon's"),
        (lambda number: "1000", "got a value for round 1000 that is not the beacon's"),
    ],
)
def test_without_the_value_nobody_begins_and_nothing_changes(beacon: Any, words: str) -> None:
    session = session_of()
    with pytest.raises(LocalProtocolError, match=words):
        session.task.server(IDS, roster=session.parties.roster, session=b"", beacon=beacon)
    member = SMALL.committee_ids(session.parties.roster, published)[0]  # type: ignore[arg-type]
    requests = {member: session.server.start()[member], "c1": session.until(Round.INPUT)["c1"]}
    for party, request in requests.items():
        early = session.make(party, beacon=beacon, save=None)
        if party == "c1":
            early.contribute(session.updates[party], session.weight(party))
        before = early.to_bytes()
        with pytest.raises(LocalProtocolError, match=words):
            early.receive(request)
        assert early.to_bytes() == before


# --- what it costs


def test_a_task_says_what_the_draw_costs_and_achieves() -> None:
    task = secagg.Task(
        protocol=DrawnOneShot(**MANY),
        layout=secagg.Layout.of(np.zeros(100_000)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=100,
        min_survivors=60,
    )
    assert secagg.Task.from_bytes(task.to_bytes()) == task
    odds = (
        "100 of 10000 enrolled members are drawn, and more than 26 of up to 500 corrupt ones with probability "
        "2^-41.9"
    )
    described = task.describe()
    assert f"round 1000 of the beacon draws the committee, once for all sessions: {odds}" in described
    protocol = task.protocol
    shares = sum(protocol.sealed_bytes(task, place) for place in range(100))  # type: ignore[attr-defined]
    assert f"a client's key shares for it have {shares:,} bytes" in described
    cost = protocol.cost(task)
    assert cost.collusion.startswith("the server and 27 of 100 committee members, or ")
    assert cost.collusion.endswith(odds)
    assert cost.up[Round.INPUT] > shares + protocol.scheme(task).size  # type: ignore[attr-defined]


def test_a_simulation_draws_too() -> None:
    task = secagg.Task(
        protocol=SMALL,
        layout=secagg.Layout.of(np.zeros(3)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=5,
        min_survivors=3,
    )
    outcome = secagg.simulate(task, [np.full(3, 0.5)] * 5, beacon=published)
    assert np.allclose(outcome.sum, 2.5, atol=1e-3)
