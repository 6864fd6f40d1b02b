"""The beacon: which round comes next, whose values hold, and how a server waits for one."""

from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

import secagg
from secagg import wire
from secagg.beacon import SignedBeacon
from secagg.errors import FaultKind, LocalProtocolError
from secagg.protocols.pairwise.messages import NextRound
from secagg.wire import Envelope

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


class Session:
    """Eight clients with clocks of their own, up to the end of FreezeKeys."""

    def __init__(self, fetch: Any, ahead: dict[str, float] | None = None) -> None:
        self.task = secagg.Task(
            protocol=secagg.SecAggPlus(threat_model="malicious", beacon=BEACON),
            layout=secagg.Layout.of(np.zeros(3)),
            encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
            max_clients=8,
            min_survivors=7,
        )
        ids = [f"c{i}" for i in range(8)]
        keys, self.roster = secagg.identity.enrol(ids)
        self.server = self.task.server(ids, roster=self.roster, session=b"s", beacon=fetch)
        self.clients: dict[str, Any] = {
            c: self.task.client(
                c,
                identity=keys[c],
                roster=self.roster,
                session=b"s",
                clock=lambda c=c: 1_700_000_000.0 + (ahead or {}).get(c, 0.0),
            )
            for c in ids
        }
        for client in self.clients.values():
            client.contribute(np.full(3, 0.25))
        self.exchange(self.server.start())
        self.exchange(self.server.close_round())
        assert self.server.round == secagg.Round.FREEZE_KEYS

    def exchange(self, outbox: dict[str, bytes]) -> None:
        for party, request in outbox.items():
            if not self.clients[party].finished:
                self.server.receive(party, self.clients[party].receive(request))

    def finish(self, outbox: dict[str, bytes]) -> secagg.Outcome:
        while self.server.outcome is None:
            self.exchange(outbox)
            outbox = self.server.close_round()
        return self.server.outcome


def test_the_server_waits_until_the_value_is_published() -> None:
    published: dict[int, bytes] = {}
    asked: list[int] = []

    def fetch(number: int) -> bytes | None:
        asked.append(number)
        return published.get(number)

    session = Session(fetch)
    before = session.server.to_bytes()
    with pytest.raises(LocalProtocolError, match="round 2 of the beacon is not published"):
        session.server.close_round()
    assert session.server.to_bytes() == before
    published[2] = bytes(64)
    with pytest.raises(LocalProtocolError, match="is not the beacon's"):
        session.server.close_round()
    assert session.server.to_bytes() == before
    published[2] = BEACON.publish(OPERATOR, 2)
    outcome = session.finish(session.server.close_round())
    assert set(asked) == {2}
    np.testing.assert_allclose(outcome.mean, np.full(3, 0.25), atol=1e-4)


@pytest.mark.parametrize(("late", "drawn"), [(0, 2), (1, 3), (2, 4)])
def test_the_latest_round_counts_but_not_that_of_a_clock_far_ahead(late: int, drawn: int) -> None:
    session = Session(lambda number: BEACON.publish(OPERATOR, number), {"c3": late * 30.0, "c5": 1e6})
    outbox = session.server.close_round()
    assert session.server.context.state.drawn[0] == drawn
    with pytest.raises(secagg.Aborted, match=f"draws the graph from round {drawn} of the beacon"):
        session.clients["c5"].receive(outbox.pop("c5"))
    outcome = session.finish(outbox)
    assert outcome.survivors == ("c0", "c1", "c2", "c3", "c4", "c6", "c7")


def test_clocks_that_tell_many_rounds_lose_at_most_c_clients() -> None:
    """Of eight clients one may be corrupt: the latest of the others counts, however far it is from most."""
    session = Session(lambda number: BEACON.publish(OPERATOR, number), {"c3": 20 * 30.0, "c5": 40 * 30.0})
    outbox = session.server.close_round()
    assert session.server.context.state.drawn[0] == 22
    with pytest.raises(secagg.Aborted, match="draws the graph from round 22 of the beacon"):
        session.clients["c5"].receive(outbox.pop("c5"))
    assert len(session.finish(outbox).survivors) == 7


def test_a_server_without_the_beacons_values_says_so() -> None:
    session = Session(None)
    with pytest.raises(LocalProtocolError, match="got no beacon="):
        session.server.close_round()


@pytest.mark.parametrize("number", [0, -1, 1 << 63])
def test_rounds_that_no_beacon_has_are_faults(number: int) -> None:
    session = Session(lambda number: BEACON.publish(OPERATOR, number))
    server: Any = session.server
    server._pending.add("c0")
    server.context.state.answered = [party for party in server.context.state.answered if party != "c0"]
    data = wire.seal_envelope(
        NextRound(number),
        protocol=session.task.protocol.ID,
        task=session.task.digest,
        session=server.context.state.session_id,
        sender="c0",
        identity=session.clients["c0"].context.environment.identity,
    )
    assert Envelope.parse(data, 4096).sender == "c0"
    server.receive("c0", data)
    assert [(fault.sender, fault.kind) for fault in server.faults] == [("c0", FaultKind.INVALID)]


def test_pinned_by_the_task() -> None:
    session = Session(lambda number: None)
    assert secagg.Task.from_bytes(session.task.to_bytes()) == session.task
