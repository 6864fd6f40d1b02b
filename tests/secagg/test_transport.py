"""Roles that ``run_client`` and ``run_server`` drive over transports of two methods, in threads and in asyncio."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest

import secagg
from secagg import transport as transport_module, wire
from secagg.errors import Aborted, ConfigError, FaultKind, LocalProtocolError
from secagg.table import contribution_round, input_round, rounds
from secagg.testing import Session, parties_for
from tests.secagg.stress import PROTOCOLS
from tests.secagg.wires import Awaited, GoneError, Wire, Wires

HOW = ["threads", "asyncio"]


class Played(NamedTuple):
    """How a session ended for the server and for each other party: a result or an exception."""

    server: Any
    members: dict[str, Any]
    wires: Wires

    def ends(self, party: str) -> list[bytes]:
        """The messages that told a party to wait no longer, all else left out."""
        sent = [message for to, message in self.wires.sent if to == party]
        return [
            message
            for message in sent
            if not message or wire.Envelope.parse(message, 1 << 30).kind == wire.Abort.TYPE
        ]


def make_session(name: str, clients: int = 6, **how: Any) -> Session:
    return Session(parties_for(PROTOCOLS[name](), clients if name != "SecAggPlus" else 12), **how)


def play(
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    how: str = "threads",
    *,
    silent: dict[str, int] | None = None,
    times: int = 1,
    contribute: Callable[[str], Any] | None = None,
    deadlines: Any = 60,
) -> Played:
    """Run all parties of a session; ``silent`` maps a party to the answer before which it falls silent."""
    wires = Wires(list(session.members), times=times)
    monkeypatch.setattr(transport_module.time, "monotonic", wires.clock)

    def options(party: str) -> dict[str, Any]:
        return {"contribute": (lambda: contribute(party)) if contribute and party.startswith("c") else None}

    def run_member(party: str) -> None:
        try:
            secagg.run_client(
                session.members[party], Wire(wires, party, (silent or {}).get(party)), **options(party)
            )
        finally:
            wires.leave(party)

    async def arun_member(party: str) -> None:
        try:
            carried = Awaited(Wire(wires, party, (silent or {}).get(party)))
            await secagg.arun_client(session.members[party], carried, **options(party))
        finally:
            wires.leave(party)

    async def arun_all() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(pool)
        serving = secagg.arun_server(session.server, Awaited(wires), deadlines=deadlines)
        return await asyncio.gather(
            serving, *(arun_member(party) for party in session.members), return_exceptions=True
        )

    with ThreadPoolExecutor(4 * len(session.members)) as pool:
        if how == "asyncio":
            server, *members = asyncio.run(arun_all())
            return Played(server, dict(zip(session.members, members, strict=True)), wires)
        futures = {party: pool.submit(run_member, party) for party in session.members}
        serving = pool.submit(secagg.run_server, session.server, wires, deadlines=deadlines)
        return Played(ended(serving), {party: ended(future) for party, future in futures.items()}, wires)


def ended(future: "Future[Any]") -> Any:
    return future.exception() or future.result()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", sorted(PROTOCOLS.keys() - {"Paillier"}))  # which is slow, and has BFV's table
def test_the_outcome_is_that_of_a_session_by_hand(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a client that falls silent before its input."""
    session, silent = make_session(name), "c1"
    protocol = session.task.protocol
    by_hand = make_session(name, silent={silent: input_round(protocol)})
    by_hand.run()
    played = play(session, monkeypatch, how, silent={silent: rounds(protocol).index(input_round(protocol))})
    expected = by_hand.server.outcome
    assert expected is not None
    assert (played.server.survivors, played.server.dropped) == (expected.survivors, expected.dropped)
    assert silent in played.server.dropped
    assert np.array_equal(played.server.sum["w"], expected.sum["w"])
    assert played.server.faults == expected.faults
    assert isinstance(played.members.pop(silent), GoneError)
    assert set(played.members.values()) == {None}
    assert all(len(played.ends(party)) == 1 for party in session.members)


@pytest.mark.parametrize("how", HOW)
def test_a_transport_may_deliver_every_message_twice(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SecAgg malicious", "AdditiveShares", "OneShot"):
        played = play(make_session(name), monkeypatch, how, times=2)
        by_hand = make_session(name)
        assert np.array_equal(played.server.sum["w"], by_hand.run().sum["w"])
        assert played.server.faults == ()
        assert set(played.members.values()) == {None}


@pytest.mark.parametrize("how", HOW)
def test_everyone_is_told_of_an_abort_and_raises_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("SecAgg malicious")
    played = play(session, monkeypatch, how, silent={"c1": 2, "c2": 2, "c3": 2, "c4": 2})
    assert isinstance(played.server, Aborted)
    assert "nothing is opened" in played.server.reason
    assert {party: type(error) for party, error in played.members.items()} == {
        party: GoneError if party in ("c1", "c2", "c3", "c4") else Aborted for party in session.members
    }
    assert all(len(played.ends(party)) == 1 for party in session.members)
    # A server that was killed after its last save tells everyone again.
    session.restore_server(session.stores[wire.SERVER].state)
    again = Wires([])
    with pytest.raises(Aborted, match="nothing is opened"):
        secagg.run_server(session.server, again, deadlines=60)
    assert again.sent == [(party, b"") for party in session.members]


def test_a_server_that_was_killed_after_its_outcome_gives_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("AdditiveShares")
    first = play(session, monkeypatch, silent={"c1": 0}).server
    session.restore_server(session.stores[wire.SERVER].state)
    again = Wires([])
    outcome = secagg.run_server(session.server, again, deadlines=60)
    assert np.array_equal(outcome.sum["w"], first.sum["w"])
    assert {party for party, _ in again.sent} == set(session.members)


@pytest.mark.parametrize("how", HOW)
def test_an_update_is_asked_for_when_the_input_is(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("SecAgg malicious", contribute=False)
    asked: dict[str, list[str]] = {party: [] for party in session.parties.cohort}

    def train(party: str) -> Any:
        asked[party].append(session.server.round or "")
        assert how != "asyncio" or threading.current_thread() is not threading.main_thread()
        session.contribute(party)
        return asyncio.sleep(0) if how == "asyncio" else None  # a coroutine is awaited

    played = play(session, monkeypatch, how, contribute=train)
    assert played.server.survivors == session.parties.cohort
    assert set(map(tuple, asked.values())) == {(contribution_round(session.task.protocol),)}


def test_without_an_update_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("SecAgg malicious", contribute=False)
    for party in session.parties.cohort[1:]:
        session.contribute(party)
    played = play(session, monkeypatch)
    assert isinstance(played.members["c1"], LocalProtocolError)
    assert "contribute(update) first" in str(played.members["c1"])
    assert played.server.dropped == {"c1": "MaskedInput"}


class Script:
    """A member's transport that gives fixed messages; then it fails as a connection does."""

    def __init__(self, *messages: bytes) -> None:
        self.messages, self.sent = list(messages), list[bytes]()

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def receive(self) -> bytes:
        if not self.messages:
            raise ConnectionError
        return self.messages.pop(0)


def test_wrong_bytes_are_passed_over_and_a_lost_connection_is_not_the_end() -> None:
    session = make_session("SecAgg malicious")
    request = session.server.start()["c1"]
    script = Script(b"noise", request[:-1], request)
    with pytest.raises(ConnectionError):
        secagg.run_client(session.members["c1"], script)
    (answer,) = script.sent
    again = Script(request)  # over the next connection
    with pytest.raises(ConnectionError):
        secagg.run_client(session.members["c1"], again)
    assert again.sent == [answer]
    session.server.receive("c1", answer)
    assert session.faults == []


def test_a_session_that_ends_too_early_is_aborted_with_what_was_refused() -> None:
    session = make_session("SecAgg malicious")
    with pytest.raises(Aborted, match="it refused a message: server in AdvertiseKeys: malformed"):
        secagg.run_client(session.members["c1"], Script(b"noise", b""))
    assert not session.members["c1"].finished


def test_a_dismissed_role_raises_at_once_when_it_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("SecAgg malicious")
    play(session, monkeypatch, silent={"c1": 2, "c2": 2, "c3": 2, "c4": 2})
    assert session.members["c5"].aborted
    with pytest.raises(Aborted, match="the server gave the session up"):
        secagg.run_client(session.members["c5"], Script())


def test_answers_that_came_in_time_are_taken_after_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers are there; taking the first one takes longer than the round may."""
    session = make_session("Clear")
    wires = Wires([])
    monkeypatch.setattr(transport_module.time, "monotonic", wires.clock)
    for party, request in session.server.start().items():
        answer = session.members[party].receive(request)
        assert answer is not None
        wires.put(party, answer)
    taking = type(session.server).receive

    def slow(server: Any, *arguments: Any) -> Any:
        wires.now += 100
        return taking(server, *arguments)

    monkeypatch.setattr(type(session.server), "receive", slow)
    assert secagg.run_server(session.server, wires, deadlines=60).survivors == session.parties.cohort


def test_a_flood_does_not_hold_a_round_open(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("Clear")
    wires, taken = Wires([]), list[float]()
    monkeypatch.setattr(transport_module.time, "monotonic", wires.clock)

    def flood(timeout: float) -> tuple[str, bytes]:
        wires.now += 1
        taken.append(timeout)
        return "c1", b"noise"

    monkeypatch.setattr(wires, "receive", flood)
    with pytest.raises(Aborted):
        secagg.run_server(session.server, wires, deadlines=60)
    assert len(taken) <= 60 + len(session.parties.cohort)
    assert {fault.kind for fault in session.server.faults} == {FaultKind.MALFORMED, FaultKind.SILENT}


def beacons(values: Iterator[bool]) -> Callable[..., None]:
    def before_close(*_: Any) -> None:
        if not next(values):
            raise LocalProtocolError("round 7 of the beacon is not published")

    return before_close


def test_a_server_waits_for_a_beacon_as_long_as_the_round_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("Clear")
    monkeypatch.setattr(type(session.server), "before_close", beacons(iter([False, False, True])))
    assert play(session, monkeypatch).server.survivors == session.parties.cohort
    session = make_session("Clear")
    monkeypatch.setattr(type(session.server), "before_close", beacons(iter([False] * 1000)))
    played = play(session, monkeypatch, silent=dict.fromkeys(session.parties.cohort, 0))
    assert isinstance(played.server, LocalProtocolError)
    assert session.server.round == "Input"  # the same call goes on when the beacon does


@pytest.mark.parametrize(
    ("deadlines", "text"),
    [
        (0, "a deadline of 0 for AdvertiseKeys"),
        (-1.0, "more than 0"),
        (math.nan, "more than 0"),
        (math.inf, "more than 0"),
        ("60", "more than 0"),
        (None, "more than 0"),
        (True, "more than 0"),
        ({}, "got deadlines for no round; expected seconds for AdvertiseKeys, ShareKeys"),
        ({"AdvertiseKeys": 60}, "expected seconds for AdvertiseKeys, ShareKeys"),
    ],
)
def test_deadlines_are_seconds_of_every_round(deadlines: Any, text: str) -> None:
    session = make_session("SecAgg malicious")
    with pytest.raises(ConfigError, match=text):
        secagg.run_server(session.server, Wires([]), deadlines=deadlines)
    assert session.server.round is None  # nothing was started


def test_deadlines_may_differ_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session("SecAgg malicious")
    deadlines = dict.fromkeys((phase.round for phase in session.task.protocol.phases), 10) | {"MaskedInput": 600}
    played = play(session, monkeypatch, silent={"c1": 2}, deadlines=deadlines)
    assert played.wires.now >= 600
    with pytest.raises(ConfigError, match="expected seconds for"):
        secagg.run_server(make_session("Clear").server, Wires([]), deadlines=deadlines)


def test_what_is_not_a_role_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a client, a decryptor or an aggregator"):
        secagg.run_client(None, Script())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a server"):
        secagg.run_server(None, Wires([]), deadlines=1)  # type: ignore[arg-type]
