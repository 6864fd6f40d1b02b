"""The beacon: which round comes next, whose values hold, and how a server waits for one."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, strategies as st

import secagg
from secagg.beacon import SignedBeacon
from secagg.errors import FaultKind, LocalProtocolError
from secagg.protocols.pairwise.messages import NextRound
from secagg.testing import Session, parties_for

OPERATOR = Ed25519PrivateKey.generate()
BEACON = SignedBeacon(OPERATOR.public_key().public_bytes_raw(), genesis=1_700_000_000, period=30)


@given(now=st.floats(0, 4e9))
def test_the_next_round_is_the_first_one_after_now(now: float) -> None:
    number = BEACON.next_round(now)
    assert number >= 1
    assert BEACON.genesis + (number - 1) * BEACON.period > now
    assert number == 1 or BEACON.genesis + (number - 2) * BEACON.period <= now


def test_only_the_operators_own_values_hold() -> None:
    value = BEACON.publish(OPERATOR, 7)
    assert BEACON.verify(7, value)
    assert not BEACON.verify(8, value)
    assert not SignedBeacon(BEACON.public_key, BEACON.genesis, 31).verify(7, value)
    assert not BEACON.verify(7, BEACON.publish(Ed25519PrivateKey.generate(), 7))
    for hostile in (b"", value[:-1], value + b"\0", bytes(64)):
        assert not BEACON.verify(7, hostile)
    assert not BEACON.verify(1 << 64, value)
    assert not BEACON.verify(-1, value)


PARTIES = replace(parties_for(secagg.SecAggPlus(threat_model="malicious", beacon=BEACON), 8), min_survivors=7)


def frozen(fetch: Any, ahead: dict[str, float] | None = None) -> Session:
    """A session at the end of FreezeKeys, of clients some of whose clocks are so many seconds ahead."""
    session = Session(replace(PARTIES, beacon=fetch))
    for party in PARTIES.cohort:
        now = BEACON.genesis + (ahead or {}).get(party, 0.0)
        session.members[party] = session.make(party, save=None, clock=lambda now=now: now)
        session.contribute(party)
    session.exchange(session.until(secagg.Round.FREEZE_KEYS))
    return session


def test_the_server_waits_until_the_value_is_published() -> None:
    published: dict[int, bytes] = {}
    asked: list[int] = []

    def fetch(number: int) -> bytes | None:
        asked.append(number)
        return published.get(number)

    session = frozen(fetch)
    before = session.server.to_bytes()
    with pytest.raises(LocalProtocolError, match="round 2 of the beacon is not published"):
        session.close()
    assert session.server.to_bytes() == before
    published[2] = bytes(64)
    with pytest.raises(LocalProtocolError, match="is not the beacon's"):
        session.close()
    assert session.server.to_bytes() == before
    published[2] = BEACON.publish(OPERATOR, 2)
    session.close()
    session.require_exact(session.run(), "once the value was published")
    assert set(asked) == {2}


@pytest.mark.parametrize(("late", "furthest", "number"), [(0, 1e6, 2), (30, 1e6, 3), (60, 1e6, 4), (600, 1200, 22)])
def test_the_latest_round_counts_but_not_that_of_a_clock_far_ahead(
    late: float, furthest: float, number: int
) -> None:
    """Of eight clients one may be corrupt: the latest of the others counts, however far it is from most."""
    session = frozen(lambda number: BEACON.publish(OPERATOR, number), {"c3": late, "c5": furthest})
    session.close()
    assert session.server.context.state.beacon_output[0] == number
    with pytest.raises(secagg.Aborted, match=f"draws the graph from round {number} of the beacon"):
        session.ask("c5")
    session.silent = {"c5": session.round}
    session.require_sum_of(session.run(), set(PARTIES.cohort) - {"c5"})


def test_a_server_without_the_beacons_values_says_so() -> None:
    session = frozen(None)
    with pytest.raises(LocalProtocolError, match="got no beacon="):
        session.close()


@pytest.mark.parametrize("number", [0, -1, 1 << 63])
def test_rounds_that_no_beacon_has_are_faults(number: int) -> None:
    session = frozen(lambda number: BEACON.publish(OPERATOR, number))
    server: Any = session.server
    server._pending.add("c1")
    server.context.state.answered = [party for party in server.context.state.answered if party != "c1"]
    data = session.seal(NextRound(number), b"", "c1")
    server.receive("c1", data)
    assert [(fault.sender, fault.kind) for fault in server.faults] == [("c1", FaultKind.INVALID)]
