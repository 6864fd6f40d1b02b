"""A server lies from the start: it could choose the graph if it knew the value that the graph is drawn from."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc import graph
from secagg import FixedPoint, Layout, SecAggPlus, Task
from secagg.beacon import SLACK_BITS, SignedBeacon
from secagg.bitmap import to_bitmap
from secagg.errors import FaultKind
from secagg.merkle import merkle_levels, merkle_path
from secagg.protocols.pairwise.messages import DealtShares, DrawnAdverts, Frozen, NextRound
from secagg.protocols.pairwise.sparse_client import SparseClient
from secagg.protocols.pairwise.sparse_server import SparseServer
from secagg.roles import Environment
from secagg.session import session_id
from secagg.wire import stand_in_ids
from tests.secagg.adversary.driver import SESSION, World, has, lend, remove
from tests.secagg.adversary.registry import attack, refusal
from tests.secagg.adversary.test_graph import SIZE, RingServer, make_updates_of, wanted

OPERATOR = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BEACON = SignedBeacon(OPERATOR.public_key().public_bytes_raw(), genesis=1_700_000_000, period=30)
NOW = BEACON.genesis + 100_000 * BEACON.period + 7.0
NEXT = 100_002  # the first round after NOW

Choice = Callable[["GrindingServer"], tuple[int, bytes]]


class GrindingServer(RingServer):
    """Thirty clients, six of them the server's; it freezes the keys and then names a round of the beacon."""

    @classmethod
    def over_all(cls, choose: Choice) -> "GrindingServer":
        task = Task(
            protocol=SecAggPlus(corruption=0.2, threat_model="malicious", beacon=BEACON),
            layout=Layout.of(np.zeros(SIZE)),
            encoding=FixedPoint(clip=1.0, bits=16, rounding="nearest"),
            max_clients=30,
            min_survivors=30,
            context=b"adversary",
        )
        ids = stand_in_ids(30)
        world = World(task, ids, colluders=ids[-6:])
        clients = world.join(updates=make_updates_of(ids))
        for client in clients.values():
            lend(client, clock=lambda: NOW)
        server = cls(world, clients)
        server.propose()
        server.choose = choose
        server.deal()
        return server

    choose: Choice

    @property
    def victim(self) -> str:
        return self.cohort[0]

    def deal(self, parties: Iterable[str] | None = None, adverts: Any = None) -> None:
        self.u1 = self.cohort
        raw = [self.adverts[party] for party in self.cohort]
        levels, present = merkle_levels(raw), to_bitmap(self.u1, self.cohort)
        self.next_rounds = {}
        for party in self.u1:
            answer = self.ask(party, Frozen(present, levels[-1][0]))
            assert answer is not None
            self.next_rounds[party] = answer.open(NextRound)[0].number
        output = self.choose(self)
        session = self.story(beacon_output=output)
        self.graph = self.graph_of(session)
        for party in self.u1:
            shown = sorted([party, *self.graph.neighbours(party)])
            paths = [merkle_path(levels, self.u1.index(other)) for other in shown]
            dealt = self.ask(party, DrawnAdverts(present, [self.adverts[other] for other in shown], paths, *output))
            self.ids[party] = session
            if dealt is not None:
                self.dealt[party], _ = dealt.open(DealtShares)

    def surrounded(self, session: bytes) -> bool:
        """Whether the colluders around the victim rebuild its secrets on their own."""
        ring = self.graph_of(session)
        near = set(ring.neighbours(self.victim)) & set(self.world.colluders)
        return len(near) >= ring.shape.threshold


def ground(server: GrindingServer) -> tuple[int, bytes]:
    """Of all rounds published so far, one that surrounds the victim."""
    for number in range(1, NEXT):
        output = number, BEACON.publish(OPERATOR, number)
        if server.surrounded(server.story(beacon_output=output)):
            return output
    raise AssertionError("no round of 100,000 surrounds the victim")


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs for 2^-1 instead of 2^-46: a thousandth of them then is bad, and grinding takes seconds."""
    monkeypatch.setattr(graph, "SECURITY", 1 - SLACK_BITS)


@attack(
    title=(
        "Grinding: among the beacon's rounds whose values it knows, the server names one in which its "
        "colluders surround the victim"
    ),
    attacker="lying server and c colluding clients",
    defence=(
        "a client accepts no round that was published before it saw the frozen keys (`SparseClient._check_unknown`)"
    ),
    control=("without that check, and with graphs so weak that 10^5 rounds are enough: the victim's update"),
    source="Bell et al. 2020 let the server be honest until the graph stands",
)
@pytest.mark.usefixtures("weak")
class TestGrinding:
    def test_refused(self) -> None:
        server = GrindingServer.over_all(ground)
        assert set(server.refusals) == set(server.cohort)
        assert all("the first one after this client" in str(reason) for reason in server.refusals.values())
        assert not server.dealt

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(SparseClient, "_check_unknown", lambda *_: None)
        server = GrindingServer.over_all(ground)
        recovered = server.read(server.victim)
        assert not server.refusals
        assert has(recovered, wanted(server, [server.victim]), server.task)

    def test_a_fair_draw_leaves_the_victim_unread(self) -> None:
        server = GrindingServer.over_all(lambda _: (NEXT, BEACON.publish(OPERATOR, NEXT)))
        recovered = server.read(server.victim)
        assert not server.refusals
        assert set(server.next_rounds.values()) == {NEXT}
        if not server.surrounded(server.ids[server.victim]):  # once in thousands it is, with graphs so weak
            assert recovered is None


@attack(
    title=(
        "An invented value: the server names a future round, and tries values that it claims were published in it"
    ),
    attacker="lying server and c colluding clients",
    defence="the value must be the beacon's own (`SignedBeacon.verify`)",
    control="with a beacon that accepts every value: the victim's update",
    source="this library",
)
@pytest.mark.usefixtures("weak")
class TestInventedValue:
    @staticmethod
    def invent(server: GrindingServer) -> tuple[int, bytes]:
        for number in range(100_000):
            output = NEXT, number.to_bytes(64, "big")
            if server.surrounded(server.story(beacon_output=output)):
                return output
        raise AssertionError("no value of 100,000 surrounds the victim")

    def test_refused(self) -> None:
        server = GrindingServer.over_all(self.invent)
        assert dict(server.refusals) == dict.fromkeys(server.cohort, FaultKind.INVALID)
        assert not server.dealt

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(SignedBeacon, "verify", lambda *_: True)
        server = GrindingServer.over_all(self.invent)
        assert has(server.read(server.victim), wanted(server, [server.victim]), server.task)


MOST_TRIES = 12_500
"""Ten times the mean: of 40,000 graphs like these, drawn at random, 32 surrounded a client."""


class RedrawingServer(RingServer):
    """Forty clients, ten of whom collude. The last of these to advertise sees all other adverts first."""

    surrounded: str

    def propose(self, parties: Iterable[str] | None = None, *, session: bytes | None = None) -> None:
        super().propose(parties, session=session)
        last = self.world.colluders[-1]
        for _ in range(MOST_TRIES):
            self.clients[last] = self.world.role(last)
            self.clients[last].contribute(make_updates_of([last])[last])
            super().propose([last])
            # All that the colluder can know: the id without what the server has not drawn yet.
            if near := self.closed_in(self.story()):
                self.surrounded = near[0]
                return
        raise AssertionError(f"no graph of {MOST_TRIES} surrounds a client")

    def closed_in(self, session: bytes) -> list[str]:
        """The clients whose secrets the colluders around them rebuild, in the graph that an id gives."""
        ring, colluders = self.graph_of(session), set(self.world.colluders)
        return [
            party
            for party in self.cohort
            if party not in colluders
            and len(colluders.intersection(ring.neighbours(party))) >= ring.shape.threshold
        ]


@attack(
    title=(
        "Redrawn keys: the last colluder to advertise draws keys again and again, until colluders "
        "surround one client in the graph that follows"
    ),
    attacker="server that only listens and c colluding clients",
    defence="the graph also depends on 32 bytes that the server draws when U1 stands (`session_id`)",
    control=(
        "with an id that leaves these bytes out, and graphs for a risk of 2^-8: one try in about 1,250 suits it, "
        f"and within {MOST_TRIES:,} tries it has that client's update"
    ),
    source="this library; Bell et al. 2020 take the graph to be random",
)
class TestRedrawnKeys:
    def attack(self, monkeypatch: pytest.MonkeyPatch) -> RedrawingServer:
        monkeypatch.setattr(graph, "SECURITY", 8)
        return RedrawingServer.over("semi-honest", 40, 2, corruption=0.25, colluders=10)

    def test_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = self.attack(monkeypatch)
        recovered = server.read(server.surrounded)
        assert not server.refusals
        assert server.surrounded in server.closed_in(server.story())
        if server.surrounded not in server.closed_in(server.ids[server.surrounded]):  # 1 in 10,000 is
            assert recovered is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def old(**parts: Any) -> bytes:
            if parts.get("advertised") is not None:
                parts["advertised"] = replace(parts["advertised"], graph_nonce=b"")
            return session_id(**parts)

        remove(monkeypatch, session_id, old)
        server = self.attack(monkeypatch)
        recovered = server.read(server.surrounded)
        assert not server.refusals
        assert has(recovered, wanted(server, [server.surrounded]), server.task)


class LateServer(SparseServer):
    """Of the rounds told it takes the latest that is less than 32 after the median."""

    def _drawn_from(self) -> int:
        numbers = sorted(self.context.state.next_rounds.values())
        return max(number for number in numbers if number <= numbers[(len(numbers) - 1) // 2] + 32)


@attack(
    title=(
        "A fast clock: one client claims to know the beacon's values of the next 32 rounds, so every "
        "session waits for a round that is so much later"
    ),
    attacker="one client, which only delays",
    defence=(
        "the server takes the latest round that is at most 2 after the (n - c)-th smallest "
        "(`SparseServer._drawn_from`)"
    ),
    control=(
        "with a limit of 32 after the median: the graph depends on a round that is published 16 minutes later"
    ),
    source="this library",
)
class TestClockAhead:
    def attack(self, server_class: type[SparseServer]) -> int:
        task = Task(
            protocol=SecAggPlus(threat_model="malicious", beacon=BEACON),
            layout=Layout.of(np.zeros(SIZE)),
            encoding=FixedPoint(clip=1.0, bits=16, rounding="nearest"),
            max_clients=8,
            min_survivors=6,
            context=b"adversary",
        )
        ids = stand_in_ids(8)
        world = World(task, ids, colluders=ids[-1:])
        clients = world.join(updates=make_updates_of(ids))
        for party, client in clients.items():
            ahead = 32 * BEACON.period if party in world.colluders else 0
            lend(client, clock=lambda ahead=ahead: NOW + ahead)
        server = server_class(
            task,
            clients,
            Environment(roster=world.roster, beacon=lambda number: BEACON.publish(OPERATOR, number)),
            session=SESSION,
        )
        outbox = server.start()
        while server.round != "ShareKeys":
            for party, request in outbox.items():
                server.receive(party, clients[party].receive(request) or b"")
            outbox = server.close_round()
        assert server.context.state.beacon_output is not None
        return server.context.state.beacon_output[0]

    def test_refused(self) -> None:
        assert self.attack(SparseServer) == NEXT

    def test_control_succeeds(self) -> None:
        assert self.attack(LateServer) == NEXT + 32


@refusal(
    title=(
        "A graph that is drawn from the round before the first unknown one, from the 64th after it, or "
        "from one round with the value of the next"
    ),
    why=("the server may have known the value of any other round, or may wait for a value that suits it"),
)
@pytest.mark.parametrize(("number", "value"), [(NEXT - 1, 0), (NEXT + 64, 0), (NEXT, 1)])
def test_wrong_rounds(number: int, value: int) -> None:
    server = GrindingServer.over_all(lambda _: (number, BEACON.publish(OPERATOR, number + value)))
    assert set(server.refusals) == set(server.cohort)
    assert not server.dealt


@refusal(
    title="Adverts under another root than the frozen one",
    why="a server that may change U1 after it knows the value can try variants of U1 instead",
)
def test_thawed() -> None:
    class Thawing(GrindingServer):
        def ask(self, party: str, message: Any) -> Any:
            return super().ask(
                party, Frozen(message.present, bytes(32)) if isinstance(message, Frozen) else message
            )

    server = Thawing.over_all(lambda _: (NEXT, BEACON.publish(OPERATOR, NEXT)))
    assert dict(server.refusals) == dict.fromkeys(server.cohort, FaultKind.INVALID)
    assert not server.dealt
