"""A hosted party, which needs no Flower: its ledger, and what may take the place of a role that is at work."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

import secagg
from secagg import wire
from secagg.errors import Aborted, ConfigError
from secagg.integrations._shared.hosted import hosted
from secagg.session import MAX_SESSION_BYTES, NONCE_BYTES
from secagg.table import Proposal
from secagg.testing import MemoryStore, Session
from tests.secagg.test_shares import AGGREGATORS, IDS, begin, make_task

Host = Callable[[Callable[[bytes], Any]], Callable[[bytes], bytes | None]]


class Behind:
    """A role that is reached by bytes only."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.receive = answer


def with_hosted(host: Host = hosted) -> Session:
    """A session whose aggregators are hosted; each has one ledger for all sessions."""
    session = begin()
    for party in AGGREGATORS:
        session.members[party] = Behind(host(lambda name, party=party: make_role(session, party, name)))
    return session


def make_role(session: Session, party: str, name: bytes) -> Any:
    return session.make(party, session=name, save=MemoryStore(session.stores[party].ledger))


def hasty(make: Callable[[bytes], Any]) -> Callable[[bytes], bytes | None]:
    """The control: whatever looks like a proposal makes a role and ends the one before."""
    role: Any = None

    def answer(data: bytes) -> bytes | None:
        nonlocal role
        if wire.Envelope.parse(data, len(data)).kind == Proposal.TYPE:
            role = make(b"round 1")
        reply: bytes | None = role.receive(data)
        return reply

    return answer


def proposal(task: secagg.Task, **changes: Any) -> bytes:
    fields: dict[str, Any] = {"cohort": list(IDS), "session": b"another", "nonce": bytes(NONCE_BYTES)}
    return wire.seal_envelope(
        Proposal(**fields | changes), protocol=task.protocol.ID, task=task.digest, session=b"", sender=wire.SERVER
    )


BOGUS: dict[str, Callable[[secagg.Task], bytes]] = {
    "another task's": lambda task: proposal(replace(task, context=b"other")),
    "of strangers": lambda task: proposal(task, cohort=[f"x{number}" for number in range(1, 9)]),
    "of too few": lambda task: proposal(task, cohort=["c1", "c2"]),
    "of a short nonce": lambda task: proposal(task, nonce=b"n"),
    "of too long a name": lambda task: proposal(task, session=bytes(MAX_SESSION_BYTES + 1)),
    "with a checksum that is wrong": lambda task: proposal(task)[:-1] + bytes([proposal(task)[-1] ^ 1]),
}


def test_two_sessions_through_the_same_functions() -> None:
    first = with_hosted()
    first.require_sum_of(first.run(), IDS)
    second = begin(session=b"round 2", ledgers=first.ledgers)
    second.members |= {party: first.members[party] for party in AGGREGATORS}
    second.require_sum_of(second.run(), IDS)


@pytest.mark.parametrize("what", BOGUS)
def test_what_only_looks_like_a_proposal_ends_no_session(what: str) -> None:
    session = with_hosted()
    session.until("Report")
    for party in AGGREGATORS:
        assert session.members[party].receive(BOGUS[what](session.task)) is None
    session.require_sum_of(session.run(), IDS)


def test_control_it_ends_one_where_nobody_looks_first() -> None:
    session = with_hosted(hasty)
    session.until("Report")
    for party in AGGREGATORS:
        session.members[party].receive(BOGUS["of strangers"](session.task))
    with pytest.raises(Aborted):
        session.run()


@pytest.mark.parametrize("saves", [False, True], ids=["no store", "a store without a ledger"])
def test_a_role_without_a_ledger_answers_nothing(saves: bool) -> None:
    session = with_hosted()
    party = AGGREGATORS[0]
    bare = MemoryStore() if saves else None
    if bare is not None:
        bare.ledger = None
    answer = hosted(lambda name: session.make(party, session=name, save=bare))
    request = session.server.start()[party]
    with pytest.raises(ConfigError, match=f"a role for {party} without a ledger"):
        answer(request)
    assert bare is None or not bare.states
    assert session.members[party].receive(request), "the control: with a ledger it answers"


def test_one_without_a_ledger_does_not_take_the_place_of_one_with_it() -> None:
    session = with_hosted()
    party = AGGREGATORS[0]
    saves = [session.stores[party], None]
    session.members[party] = Behind(hosted(lambda name: session.make(party, session=name, save=saves.pop(0))))
    session.until("Report")
    with pytest.raises(ConfigError, match="without a ledger"):
        session.members[party].receive(proposal(session.task))
    session.require_sum_of(session.run(), IDS)


def test_what_is_no_proposal_makes_no_role() -> None:
    names: list[bytes] = []
    party = hosted(lambda session: names.append(session))  # type: ignore[arg-type, return-value]
    task = make_task()
    abort = wire.seal_envelope(
        wire.Abort(), protocol=task.protocol.ID, task=task.digest, session=b"", sender=wire.SERVER
    )
    assert [party(data) for data in (b"", bytes(100), abort, BOGUS["of too long a name"](task))] == [None] * 4
    assert not names


def test_one_proposal_from_two_threads_makes_one_role() -> None:
    session = with_hosted()
    party = AGGREGATORS[0]
    started, roles = Event(), []

    def make(name: bytes) -> Any:
        started.wait(10)
        time.sleep(0.05)  # the other thread is in by now, if there is no lock
        roles.append(make_role(session, party, name))
        return roles[-1]

    answer, request = hosted(make), session.server.start()[party]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(answer, request), pool.submit(answer, request)
        started.set()
        assert first.result() == second.result()
    assert len(roles) == 1
