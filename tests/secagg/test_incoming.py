"""A server's two halves of ``receive``, ``read`` and ``take``, and what else a transport asks it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import secagg
from secagg import wire
from secagg.errors import Aborted, FaultKind, LocalProtocolError
from secagg.roles import Incoming
from secagg.testing import Session, parties_for


def begun(protocol: Any = None, **arguments: Any) -> Session:
    session = Session(parties_for(protocol or secagg.SecAgg(), 4), **arguments)
    session.outbox = session.server.start()
    return session


def test_what_is_read_is_frozen_and_names_its_sender_and_its_digest() -> None:
    session = begun()
    answer = session.ask("c1")
    read = session.server.read("c1", answer)
    assert (read.sender, read.refused) == ("c1", None)
    assert read.digest == wire.Envelope.parse(answer, len(answer)).digest
    for change in (lambda: setattr(read, "sender", "c2"), lambda: delattr(read, "_read"), lambda: vars(read)):
        with pytest.raises((AttributeError, TypeError)):
            change()
    assert read.sender == "c1"


def test_nothing_but_a_server_makes_what_is_read() -> None:
    read = begun().server.read("c1", b"")
    forgers: list[Callable[[], object]] = [Incoming, lambda: copy.copy(read), lambda: copy.deepcopy(read)]
    for forge in (*forgers, lambda: pickle.dumps(read)):
        with pytest.raises(LocalProtocolError, match=r"read"):
            forge()
    assert [name for name in dir(read) if not name.startswith("_")] == ["digest", "refused", "sender"]


def test_reading_changes_nothing_and_taking_does_what_receive_does() -> None:
    ours, theirs = begun(seed=b"1"), begun(seed=b"1")
    for party in ("c1", "c2", "c3"):
        answer = ours.ask(party)
        before = ours.server.to_bytes()
        read = ours.server.read(party, answer)
        assert (ours.server.to_bytes(), ours.server.pending) == (before, theirs.server.pending)
        assert ours.server.take(read) == theirs.server.receive(party, answer)
        assert ours.server.to_bytes() == theirs.server.to_bytes()


def test_many_messages_are_read_on_threads_as_one_by_one() -> None:
    session = begun()
    answers = {party: session.ask(party) for party in ("c1", "c2", "c3", "c4")}
    good = 5 * list(answers.items())  # three tasks, the last one a short one
    wrong = {party: bytes([*answer[:-1], answer[-1] ^ 1]) for party, answer in answers.items()}

    def shown(read: list[Incoming]) -> list[Any]:
        return [(one.sender, one.digest, one.refused) for one in read]

    for places in ([], *([place] for place in range(len(good))), [3, 4, 19]):
        messages = [(party, wrong[party] if at in places else data) for at, (party, data) in enumerate(good)]
        read = session.server.read_all(messages)
        assert shown(read) == shown([session.server.read(*one) for one in messages])
        kinds = [None if one.refused is None else one.refused[0] for one in read]
        assert [at for at, kind in enumerate(kinds) if kind is FaultKind.UNAUTHENTIC] == places
        assert kinds.count(None) == len(good) - len(places)
    assert session.server.read_all([]) == []


@pytest.mark.parametrize(
    ("sender", "data", "kind"),
    [
        ("c1", b"", FaultKind.MALFORMED),
        ("c1", 3, FaultKind.MALFORMED),
        ("c1", bytes(1 << 22), FaultKind.OVERSIZED),
        ("stranger", b"", FaultKind.UNKNOWN_SENDER),
        ("c2", "c1's", FaultKind.UNAUTHENTIC),
        ("c1", "broken", FaultKind.UNAUTHENTIC),
        ("c1", "foreign", FaultKind.FOREIGN_TASK),
    ],
)
def test_what_is_wrong_is_read_without_a_fault_and_taken_with_one(sender: str, data: Any, kind: FaultKind) -> None:
    session = begun()
    answer = session.ask("c1")
    data = {
        "c1's": answer,
        "broken": answer[:-1] + bytes([answer[-1] ^ 1]),
        "foreign": answer[:10] + bytes(32) + answer[42:],
    }.get(data, data)
    read = session.server.read(sender, data)
    assert (read.refused or ("",))[0] is kind
    assert read.digest is None
    assert not session.server.took(read.sender, read.digest)
    assert not session.server.faults
    assert session.server.take(read) == {}
    (fault,) = session.server.faults
    assert (fault.sender, (fault.kind, fault.detail)) == (sender, read.refused)


@pytest.mark.parametrize("sender", [None, 3, b"c1", ["c1"], "x" * 10_000, "c1\n"])
def test_no_sender_makes_reading_raise(sender: Any) -> None:
    session = begun()
    read = session.server.read(sender, session.ask("c1"))
    assert read.refused is not None
    assert read.refused[0] is FaultKind.UNKNOWN_SENDER
    session.server.take(read)
    assert len(session.server.faults) == 1


def test_what_another_server_read_is_not_taken() -> None:
    """Its roster, and so its keys, may be another: it may have checked no signature at all."""
    session, other = begun(), begun()
    read = other.server.read("c1", session.ask("c1"))
    for wrong in (read, None, session.ask("c1"), wire.Envelope.parse(session.ask("c1"), 1 << 20)):
        with pytest.raises(LocalProtocolError, match="which this server has not read"):
            session.server.take(wrong)
    session.restore_server(session.server.to_bytes())
    assert session.server.pending == set(session.parties.cohort)


def test_reading_waits_for_no_call_and_taking_waits_for_all() -> None:
    session = begun()
    server, answers = session.server, {party: session.ask(party) for party in session.parties.cohort}
    inside, go_on = threading.Event(), threading.Event()

    def save(number: int, state: bytes) -> None:
        inside.set()
        assert go_on.wait(60)

    object.__setattr__(server.context.environment, "save", save)
    with ThreadPoolExecutor(4) as pool:
        for party in ("c1", "c2", "c3"):
            server.receive(party, answers[party])
        closing = pool.submit(server.close_round)
        assert inside.wait(60)
        read = pool.submit(server.read, "c4", answers["c4"]).result(60)
        late = pool.submit(server.take, read)
        assert not late.done()
        go_on.set()
        closing.result(60)
        assert late.result(60) == {}
    assert server.faults[-1].kind is FaultKind.OUT_OF_TURN


def test_a_server_knows_what_it_took_in_every_round_and_after_a_restore() -> None:
    session = begun()
    server, answer = session.server, session.ask("c1")
    digest = server.read("c1", answer).digest
    assert digest is not None
    assert not server.took("c1", digest)
    server.receive("c1", answer)
    assert server.took("c1", digest)
    assert not server.took("c2", digest)
    assert not server.took("c1", bytes(32))
    session.exchange({party: data for party, data in session.outbox.items() if party != "c1"})  # type: ignore[union-attr]
    session.close()
    assert session.server.took("c1", digest)
    session.restore_server(session.stores[wire.SERVER].state)
    assert session.server.took("c1", digest)
    session.run()
    assert session.server.took("c1", digest)
    rounds = len(session.task.protocol.phases)
    counts = {party: len(tags) for party, tags in session.server.taken.items()}
    assert counts == dict.fromkeys(session.parties.cohort, rounds)
    assert session.server.taken["c1"][0] == digest[:16]


@pytest.mark.parametrize("digest", [b"", bytes(16), bytes(33), "x" * 32, 3, bytearray(32)])
def test_what_is_no_digest_is_refused(digest: Any) -> None:
    with pytest.raises(LocalProtocolError, match="as a digest"):
        begun().server.took("c1", digest)


def test_the_position_rises_from_before_the_start_to_past_the_last_round() -> None:
    session = Session(parties_for(secagg.SecAgg(), 4))
    server, rounds = session.server, [phase.round for phase in session.task.protocol.phases]
    assert (server.position, server.round) == (-1, None)
    outbox = server.start()
    for place, name in enumerate(rounds):
        assert (server.position, server.round) == (place, name)
        session.exchange(outbox)
        outbox = session.close()
    assert (server.position, server.round) == (len(rounds), None)
    session.restore_server(session.stores[wire.SERVER].state)
    assert session.server.position == len(rounds)


def test_the_position_is_past_the_last_round_once_the_session_was_given_up() -> None:
    session = begun()
    with pytest.raises(Aborted):
        session.close()
    assert session.server.position == len(session.task.protocol.phases)
    session.restore_server(session.stores[wire.SERVER].state)
    assert session.server.position == len(session.task.protocol.phases)
