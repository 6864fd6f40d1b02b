"""Checks of what the server hands on to listeners, and of their words about it. Other protocols pass at once."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

import msgspec

from secagg import wire
from secagg.errors import Aborted
from secagg.roles.server import Outbox
from secagg.table import Phase, Word
from secagg.testing._material import RequirementError, require
from secagg.testing._parties import Parties
from secagg.testing._session import Session


def _repeated_parts(parties: Parties) -> None:
    """All that is handed on and every word, again: at once, after each answer, after the end."""
    if not any(phase.relayed or phase.word for phase in parties.protocol.phases):
        return
    session = Session(parties)
    session.before_relay = session.before_word = lambda party, data: [data, data]
    session.after_answer = lambda party, answer: _hand_on_again(session)
    session.require_completes("with everything handed on twice")
    _hand_on_again(session)
    require(not session.faults, "no fault for what comes twice", session.faults)


def _hand_on_again(session: Session) -> None:
    for (party, name), handed in session.handed.items():
        member = session.members[party]
        before = member.to_bytes()
        for data, word in dict.fromkeys(handed):
            again = member.receive(data)
            require(again == word, f"{party} to say the same to the same message of {name}", "another word")
            if word is not None:
                session.ignored_by_server(party, word, f"a word of {name}, repeated,")
        require(member.to_bytes() == before, f"{party} unchanged by a repeated message of {name}", "another state")
        faults = getattr(member, "faults", ())
        require(not faults, f"no fault of {party} for a repeated message of {name}", faults)


class _Misdirected(Session):
    """Gives each client's part to the other listeners too, before anyone gets its own.

    A part that an equal session hands on to both of two listeners is for both.
    """

    parts: dict[tuple[str, str], set[bytes]]  # by client and receiver, in an equal session

    def pass_on(self, outbox: Outbox) -> None:
        for receiver, part in outbox.items():
            client = wire.Envelope.parse(part, len(part)).sender
            for other in self.parties.ids(self.parties.roles[receiver]):
                if client in self.parties.cohort and not self.parts[client, receiver] & self.parts[client, other]:
                    self.refused_by(other, part, f"a part of {client} for {receiver}")
        super().pass_on(outbox)


def _misdirected_parts(parties: Parties) -> None:
    """A part that a client made for one listener, in the hands of another."""
    if not any(phase.relayed for phase in parties.protocol.phases):
        return
    steady, session = Session(parties), _Misdirected(parties)
    steady.run()
    session.parts = defaultdict(set)
    for (party, _), handed in steady.handed.items():
        for data, _ in handed:
            session.parts[wire.Envelope.parse(data, len(data)).sender, party].add(data)
    session.require_completes("with parts in other listeners' hands")


def _word(phase: Phase, data: bytes) -> Word | None:
    envelope = wire.Envelope.parse(data, len(data))
    if phase.word is None or envelope.kind != phase.word.TYPE:
        return None
    return envelope.open(phase.word)[0]


def _misplaced_words(parties: Parties) -> None:
    """Before each word, the same about a message that its listener never got: nothing changes."""
    for phase in parties.protocol.phases:
        if phase.word is None:
            continue
        session = Session(parties)

        def before_word(party: str, data: bytes, session: Session = session, phase: Phase = phase) -> None:
            digests: dict[str, list[bytes]] = defaultdict(list)
            for (receiver, _), handed in session.handed.items():
                digests[receiver] += (wire.Envelope.parse(one, len(one)).digest for one, _ in handed)
            others = [d for receiver in digests for d in digests[receiver] if d not in digests[party]]
            word = _word(phase, data)
            if word is None:
                return
            for about in (bytes(32), *others[-1:]):
                misplaced = session.seal(msgspec.structs.replace(word, about=about), sender=party)
                session.ignored_by_server(party, misplaced, "a word about another message")

        session.before_word = before_word
        session.require_completes("after words about other messages")


def _late_words(parties: Parties) -> None:
    """One listener's first word comes after its round was closed: too late for the client that it is about."""
    for phase in parties.protocol.phases:
        for listener in parties.ids(phase.relay) if phase.word is not None and phase.relay is not None else ():
            session, late = Session(parties), list[bytes]()

            def before_word(
                party: str, data: bytes, listener: str = listener, late: list[bytes] = late
            ) -> list[bytes] | None:
                if party != listener or late:
                    return None
                late.append(data)
                return []

            session.before_word = before_word
            session.exchange(session.until(phase.round))
            word = _word(phase, late[0]) if late else None
            if word is None:
                raise RequirementError(f"a word of {listener} in {phase.round}", "none")
            _close_before(session, listener, late[0], word.client)


def _close_before(session: Session, listener: str, data: bytes, client: str) -> None:
    """Close the round before a word comes; it is refused, and its client is in no sum."""
    with suppress(Aborted):
        session.close()
    session.refused_by_server(listener, data, "a late word")
    with suppress(Aborted):
        if session.round:
            session.run()
    outcome = session.server.outcome
    if outcome is not None:
        require(client not in outcome.survivors, f"no {client} in the sum, of whom a word was late", "its input")
        session.require_sum(outcome, "after a late word")
