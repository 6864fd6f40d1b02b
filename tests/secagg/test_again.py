"""The same bytes again are no fault: every message, in every round, after the end and after restores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import secagg
from secagg import wire
from secagg.errors import Aborted, FaultKind
from secagg.roles.handing_on import WaitingAnswers
from secagg.table import Refusal
from secagg.testing import Session, parties_for
from tests.secagg.parts import Splits, Vetting
from tests.secagg.stress import PROTOCOLS

SMALL = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")
LEADER, HELPER = "aggregator-1", "aggregator-2"
KINDS: dict[str, Any] = {
    **{name: kind() for name, kind in PROTOCOLS.items() if name != "OneShot"},
    "OneShot": SMALL,
    "OneShot with a recount": replace(SMALL, recount=True),
    "splits": Splits(),
    "vetting": Vetting(),
}


def to_server(session: Session) -> Iterator[tuple[str, bytes]]:
    """Each answer and each word that the server got, with its sender."""
    for (party, _), answer in session.answers.items():
        yield party, answer
    for (party, _), handed in session.handed.items():
        yield from ((party, word) for _, word in handed if word is not None)


def to_members(session: Session) -> Iterator[tuple[str, bytes]]:
    """Each request and each message handed on that a party got, with its receiver."""
    for (party, _), request in session.requests.items():
        yield party, request
    for (party, _), handed in session.handed.items():
        yield from ((party, message) for message, _ in handed)


def say_it_all_again(session: Session) -> None:
    """Deliver every message again: it was taken, nobody is at fault for it, and nothing changes."""
    server = session.server
    before, faults = server.to_bytes(), server.faults
    for sender, data in to_server(session):
        incoming = server.read(sender, data)
        assert server.took(sender, incoming.digest)
        assert server.take(incoming) == {}
    assert (server.faults, server.to_bytes()) == (faults, before)
    for party, data in to_members(session):
        member = session.members[party]
        before, faults = member.to_bytes(), getattr(member, "faults", ())
        member.receive(data)
        assert member.to_bytes() == before
        assert getattr(member, "faults", ()) == faults


def restore_all(session: Session) -> None:
    """Restore every role from what it saved last, and take up the open round again."""
    session.restore_server(session.stores[wire.SERVER].state)
    for party in session.members:
        if session.stores[party].states:
            session.restore(party, session.stores[party].state)
    for sender, data in to_server(session):  # words too, though the answers that they are about are lost
        session.pass_on(session.server.receive(sender, data))
    if session.server.outcome is None:
        session.exchange(session.server.start())
    say_it_all_again(session)


@pytest.mark.parametrize("name", KINDS)
def test_every_message_again_changes_nothing_in_every_round_and_after_the_end(name: str) -> None:
    session = Session(parties_for(KINDS[name], 12 if name == "SecAggPlus" else 4))
    outbox = session.server.start()
    while session.server.outcome is None:
        session.exchange(outbox)
        say_it_all_again(session)
        restore_all(session)
        outbox = session.close()
        say_it_all_again(session)
    restore_all(session)
    assert not session.faults
    session.require_exact(session.server.outcome, "with every message twice and more")


@pytest.mark.parametrize("name", KINDS)
def test_every_message_again_changes_nothing_after_the_session_was_given_up(name: str) -> None:
    session = Session(parties_for(KINDS[name], 12 if name == "SecAggPlus" else 4))
    outbox = session.until(next(phase.round for phase in session.task.protocol.phases if phase.takes_input))
    first = next(iter(outbox))
    session.exchange({first: outbox[first]})
    with pytest.raises(Aborted):
        session.close()
    say_it_all_again(session)
    session.restore_server(session.stores[wire.SERVER].state)
    say_it_all_again(session)


# --- what came while it could not be taken, in a protocol whose answers await words


@pytest.fixture(params=[True, False], ids=["noted", "control: not noted"])
def noted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the server notes what came in a round and was not taken."""
    if not request.param:
        monkeypatch.setattr(WaitingAnswers, "untaken", lambda _: iter(()))
    return bool(request.param)


def without_words(client: str) -> Session:
    """A session in whose input round one client's answer waits, because the leader says nothing about it."""
    session = Session(parties_for(Vetting(), 4))
    outbox = session.until("Input")
    session.before_word = lambda party, data: [] if party == LEADER and session.deaf else None  # type: ignore[attr-defined]
    for party in outbox:
        session.deaf = party == client  # type: ignore[attr-defined]
        session.exchange({party: outbox[party]})
    return session


def test_an_answer_that_still_waited_when_its_round_ended_is_no_fault_when_it_comes_again(noted: bool) -> None:
    session = without_words("c2")
    session.close()
    answer = session.answers["c2", "Input"]
    assert session.server.receive("c2", answer) == {}
    assert session.faults == ([] if noted else [("c2", "Agreement", FaultKind.OUT_OF_TURN)])
    session.require_sum_of(session.run(), {"c1", "c3", "c4"})


def test_an_answer_that_found_no_room_is_no_fault_when_it_comes_again_after_its_round(noted: bool) -> None:
    session = Session(parties_for(Vetting(), 4))
    outbox = session.until("Input")
    answers = {party: session.ask(party) for party in outbox}
    for party in ("c1", "c2", "c3"):  # two may wait
        first = session.server.receive(party, answers[party])
    assert first == {}
    session.gone["c3"] = "Input"  # asked again when there is room, it is gone
    session.exchange({party: outbox[party] for party in ("c1", "c2", "c4")})
    session.close()
    assert session.server.receive("c3", answers["c3"]) == {}
    assert session.faults == ([] if noted else [("c3", "Agreement", FaultKind.OUT_OF_TURN)])


def test_a_word_about_an_answer_that_was_lost_in_a_crash_is_no_fault_when_it_comes_again(noted: bool) -> None:
    session = Session(parties_for(Vetting(), 4))
    outbox = session.until("Input")
    session.exchange({"c1": outbox["c1"]})
    word = session.handed[HELPER, "Input"][0][1]
    assert word is not None
    session.restore_server(session.stores[wire.SERVER].state)
    assert session.server.receive(HELPER, word) == {}
    assert not session.server.took(HELPER, session.server.read(HELPER, word).digest), "it is needed again"
    session.exchange({party: outbox[party] for party in ("c2", "c3", "c4")})  # and c1 is gone
    session.close()
    assert session.server.receive(HELPER, word) == {}
    assert session.faults == ([] if noted else [(HELPER, "Agreement", FaultKind.OUT_OF_TURN)])


def test_no_listener_fills_the_memory_with_words_about_answers_that_do_not_wait() -> None:
    session = Session(parties_for(Vetting(), 4))
    session.until("Input")
    for number in range(50):
        refusal = session.seal(Refusal(number.to_bytes(32, "big")), sender=HELPER)
        assert session.server.receive(HELPER, refusal) == {}
    assert len(list(session.server._waiting.untaken())) == 4


def test_a_refusal_is_no_fault_when_it_comes_again_under_the_next_session_id() -> None:
    session = Session(parties_for(Vetting(), 4))
    outbox = session.until("Input")
    shown = session.server.receive("c1", session.ask("c1"))[HELPER]
    refusal = session.seal(Refusal(wire.Envelope.parse(shown, len(shown)).digest), sender=HELPER)
    assert session.server.receive(HELPER, refusal) == {}
    assert session.faults == [("c1", "Input", FaultKind.INVALID)]
    session.exchange({party: outbox[party] for party in ("c2", "c3", "c4")})
    session.close()
    session.server.context.state.session_id = bytes(32)  # as where it follows from who answered
    assert session.server.receive(HELPER, refusal) == {}
    assert len(session.faults) == 1
    session.server.context.state.taken.clear()  # the control
    assert session.server.receive(HELPER, refusal) == {}
    assert session.faults[1:] == [(HELPER, "Agreement", FaultKind.FOREIGN_SESSION)]


def test_a_listener_of_many_words_is_known_again_after_a_restore() -> None:
    session = Session(parties_for(Vetting(), 20))
    session.until("Agreement")
    words = [word for message, word in session.handed[HELPER, "Input"] if word is not None]
    assert len(words) == 20
    for _ in range(2):
        assert all(session.server.took(HELPER, session.server.read(HELPER, word).digest) for word in words)
        assert len(session.server.taken[HELPER]) == 21  # and its answer in Preparation
        before = session.server.to_bytes()
        session.restore_server(before)
        assert session.server.to_bytes() == before
    say_it_all_again(session)
