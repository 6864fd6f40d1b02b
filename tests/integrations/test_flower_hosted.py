"""Parties that :func:`hosted` hosts: durable ones, and a server that plays a session twice to get two sums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import secagg
from secagg.errors import Aborted, LocalProtocolError

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from secagg.session import roster_digest, session_id
from secagg.store import FileLedger, FileStore
from secagg.table import Proposal
from secagg.wire import Envelope
from tests.integrations.apps import (
    CLIENTS,
    OnlyLedger,
    enrol,
    lasting_party,
    make_grid,
    make_task,
    secure,
    start,
)

TASK = make_task(secagg.AdditiveShares())
VICTIM = f"c{CLIENTS}"
Parties = dict[str, Callable[[bytes], bytes | None]]
Make = Callable[[str, Callable[..., Any]], Callable[[bytes], Any]]


def hosts(folder: Path, make: Make) -> tuple[Any, Any, Parties]:
    """Roster, nodes, and parties whose roles ``make(party, role)`` makes; ``role`` takes session and store."""
    roster, configs, parties = enrol(TASK, folder, make)
    return roster, make_grid(TASK, configs), parties


def durable(folder: Path, opened: ExitStack) -> Make:
    """Parties as docs/flower.md has them."""

    def make(party: str, role: Callable[..., Any]) -> Callable[[bytes], Any]:
        ledger = opened.enter_context(FileLedger(folder / f"{party}.ledger"))

        def make_role(session: bytes) -> Any:
            path = folder / f"{party}-{hashlib.sha256(session).hexdigest()}.state"
            return role(session, FileStore(path, ledger=ledger))

        return make_role

    return make


def forgetful(party: str, role: Callable[..., Any]) -> Callable[[bytes], Any]:
    """The control: a ledger for each role."""
    return lambda session: role(session, OnlyLedger())


def record_messages(parties: Parties, messages: dict[str, list[bytes]]) -> Parties:
    def of(party: str) -> Callable[[bytes], bytes | None]:
        def ask(data: bytes) -> bytes | None:
            messages.setdefault(party, []).append(data)
            return parties[party](data)

        return ask

    return {party: of(party) for party in parties}


class Replay:
    """A server that plays a finished session again with the old messages, but without one report."""

    def __init__(self, roster: Any, parties: Parties, messages: Mapping[str, list[bytes]]) -> None:
        self.parties = parties
        leader = min(messages)
        envelopes = [(Envelope.parse(data, len(data)), data) for data in messages[leader]]
        self.first = messages[leader][0]
        self.reports = {envelope.sender: data for envelope, data in envelopes if envelope.sender.startswith("c")}
        proposal, _ = envelopes[0][0].open(Proposal)
        self.server: Any = TASK.server(proposal.cohort, roster=roster, session=proposal.session)
        state = self.server.context.state
        state.nonce = proposal.nonce
        state.session_id = state.asked_under = session_id(
            task=TASK.digest,
            roster=roster_digest(roster),
            session=proposal.session,
            nonce=proposal.nonce,
            cohort=proposal.cohort,
        )

    def interpose(self, roster: Any) -> None:
        """Propose another session, so that a node that hosts one role drops it for the new one."""
        cohort = sorted(self.reports)
        for party, data in TASK.server(cohort, roster=roster, session=b"between").start().items():
            if party in self.parties:
                self.parties[party](data)

    def hand_over(self, outbox: Mapping[str, bytes]) -> None:
        for party, data in outbox.items():
            try:
                answer = self.parties[party](data) if party in self.parties else None
            except LocalProtocolError:  # it has a state of this session
                answer = None
            if answer is not None:
                self.hand_over(self.server.receive(party, answer))

    def play(self) -> Any:
        outbox = self.server.start()
        while self.server.outcome is None:
            self.hand_over(outbox)
            if VICTIM in outbox:
                for client in sorted(self.reports.keys() - {VICTIM}):
                    self.hand_over(self.server.receive(client, self.reports[client]))
            outbox = self.server.close_round()
        return self.server.outcome


def two_sums(folder: Path, make: Make, interposed: bool) -> Iterator[Any]:
    roster, grid, parties = hosts(folder, make)
    messages: dict[str, list[bytes]] = {}
    start(secure_grid := secure(grid, TASK, roster=roster, parties=record_messages(parties, messages)))
    yield secure_grid.outcomes[0]
    replay = Replay(roster, parties, messages)
    if interposed:
        replay.interpose(roster)
    yield replay.play()


@pytest.mark.parametrize("make", [lasting_party, forgetful], ids=["both", "role"])
def test_a_session_played_again_opens_no_second_sum(make: Make, tmp_path: Path) -> None:
    """The kept role stops it. If another session came in between, the ledger does: see the attacks."""
    sums = two_sums(tmp_path, make, False)
    assert len(next(sums).survivors) == CLIENTS
    with pytest.raises(Aborted):
        next(sums)


def test_the_durable_party_of_the_docs_opens_none_either(tmp_path: Path) -> None:
    with ExitStack() as opened:
        sums = two_sums(tmp_path, durable(tmp_path, opened), True)
        assert len(next(sums).survivors) == CLIENTS
        with pytest.raises(Aborted):
            next(sums)
