"""Checks that restore roles from saved states, also so that several servers share a round."""

from __future__ import annotations

from secagg import wire
from secagg.errors import ConfigError
from secagg.table import input_round, rounds
from secagg.testing._material import require
from secagg.testing._parties import Parties
from secagg.testing._session import Session


def _restored_bit_for_bit(parties: Parties) -> None:
    """Every role restored before every message that it gets says the same bytes as one that never was.

    As many clients fall silent as may, in one round after the other.

    Left out are the rounds that a protocol names in ``unseeded``, whose messages depend on randomness that a
    primitive draws for itself; a role restored after its answer repeats that one too (the next check).
    """
    unseeded, names = parties.protocol.unseeded, rounds(parties.protocol)
    spare = parties.cohort[parties.min_survivors :]
    silent = {party: names[place % len(names)] for place, party in enumerate(spare)}
    steady, session = Session(parties, silent=silent), Session(parties, silent=silent)
    steady.require_completes("undisturbed")

    def before_request(party: str, request: bytes) -> None:
        session.restore(party, session.members[party].to_bytes())

    def before_answer(party: str, answer: bytes) -> None:
        session.restore_server(session.server.to_bytes())

    session.before_request = session.before_relay = before_request
    session.before_answer = before_answer
    session.require_completes("with every role restored before every message")
    for what, first, second in (
        ("request", steady.requests, session.requests),
        ("answer", steady.answers, session.answers),
    ):
        differing = [w for w in first if w[1] not in unseeded and first[w] != second.get(w)]
        require(not differing, f"the same bytes in every {what} after restoring", f"others at {differing}")


def _restored_after_crash(parties: Parties) -> None:
    """From the last saved state: a member repeats its answer, a server asks again, a round goes on."""
    session = Session(parties)

    def after_request(party: str, request: bytes) -> None:
        answer = session.answers.get((party, session.round))
        session.restore(party, session.stores[party].state)
        again = session.members[party].receive(request)
        require(again == answer, f"{party}, restored, to repeat its answer in {session.round}", "another answer")

    session.after_request = after_request
    outbox = session.server.start()
    while session.server.outcome is None:
        before_crash = dict(list(outbox.items())[: len(outbox) // 2])
        session.exchange(before_crash)
        session.restore_server(session.stores[wire.SERVER].state)
        again = session.server.start()
        require(
            again == outbox, f"a restored server to ask again in {session.round}", f"requests to {sorted(again)}"
        )
        session.exchange(again)
        outbox = session.server.close_round()
    session.require_exact(session.server.outcome, "after a crash of every role in every round")
    session.restore_server(session.stores[wire.SERVER].state)
    require(session.server.outcome is not None, "a server restored after the end to have its outcome", "none")


def _shared_rounds(parties: Parties) -> None:
    """Each round whose step states ``merge``, with every second answer taken by another server.

    A protocol may refuse it for some parameters, and then also where the other server took nothing.
    """
    session, spare = Session(parties), len(parties.cohort) - parties.min_survivors
    session.silent = dict.fromkeys(parties.cohort[:1] if spare else (), input_round(parties.protocol))
    outbox = session.server.start()
    while session.server.outcome is None:
        opened, others = session.stores[wire.SERVER].state, list(outbox)[1::2]
        ours = {party: request for party, request in outbox.items() if party not in others}
        if session.server.steps[session.round].merge is None or not _absorbs_nothing(session, opened):
            session.exchange(outbox)
        else:
            session.exchange(ours)
            first = session.server
            session.restore_server(opened)
            session.exchange({party: outbox[party] for party in others})
            part, session.server = session.server.to_bytes(), first
            try:
                session.server.absorb(part)
            except ConfigError as refused:
                require(False, f"a part of {session.round} to be absorbed", str(refused))
        outbox = session.close()
    session.require_exact(session.server.outcome, "with several servers in the rounds that they may share")


def _absorbs_nothing(session: Session, opened: bytes) -> bool:
    """Whether the server absorbs a part of the open round in which there is no answer."""
    try:
        session.server.absorb(opened)
    except ConfigError:
        return False
    return True
