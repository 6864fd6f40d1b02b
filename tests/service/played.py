"""A service played in one process: a real session, one message at a step, and its status document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

import secagg
from secagg.identity import enrol
from secagg.roles import Server
from secagg.service.metrics import Metrics
from secagg.service.status import (
    MOST_PENDING,
    PartyStatus,
    PastSession,
    RoundState,
    RoundStatus,
    ServiceStatus,
    SessionStatus,
    Status,
    TaskStatus,
    Totals,
    count_faults,
    first,
    task_status,
)

ALLOWED = 120.0
STARTED = datetime(2030, 1, 1, 12, tzinfo=UTC)
CLIENTS = 6


class Played:
    """The source of the operators' listener, over a session of ``SecAgg`` with six clients.

    ``step()`` moves one message from one client to the server, or closes the round if nobody is pending. The last
    client falls silent before its masked input, and the server closes the round without it. ``change`` is applied
    to each document.
    """

    def __init__(
        self, context: bytes = b"played", change: Callable[[Status], Status] = lambda status: status
    ) -> None:
        update = {"weights": np.linspace(-1, 1, 50, dtype=np.float32)}
        self.task = secagg.Task(
            protocol=secagg.SecAgg(),
            layout=secagg.Layout.of(update),
            encoding=secagg.FixedPoint(clip=1.0, bits=16),
            max_clients=CLIENTS,
            min_survivors=CLIENTS - 1,
            context=context,
        )
        self._metrics = Metrics()
        self.registry: CollectorRegistry = self._metrics.registry
        self.change, self.is_ready, self.is_stopping = change, True, False
        self._keys, roster = enrol([f"c{i}" for i in range(1, CLIENTS + 1)])
        self._roster = roster
        self._update = update
        self._about: TaskStatus = task_status(
            self.task, auth="roster", enrolled=CLIENTS, roster=roster, roster_version=3
        )
        self._seconds, self._number = 0.0, 0
        self._past: list[PastSession] = []
        self._begin()

    def _begin(self) -> None:
        self._number += 1
        self._bytes: Counter[str] = Counter()
        self._opened = self._began = self._seconds
        self._closed: dict[str, RoundStatus] = {}
        name = b"%d" % self._number
        self.server: Server = self.task.server(self._keys, roster=self._roster, session=name)
        self._clients = {
            party: self.task.client(party, identity=key, roster=self._roster, session=name)
            for party, key in self._keys.items()
        }
        for client in self._clients.values():
            client.contribute(self._update)
        self._outbox = dict(self.server.start())

    @property
    def silent(self) -> bool:
        """Whether the clients that are still pending have fallen silent."""
        return self.server.round == "MaskedInput" and self.server.pending == {f"c{CLIENTS}"}

    def step(self) -> None:
        """One message, or the end of a round; a new session begins after the last."""
        self._seconds += 1.0
        if self.server.outcome is not None:
            self._begin()
        elif self.server.pending and not self.silent:
            party = min(self.server.pending)
            answer = self._clients[party].receive(self._outbox[party])
            assert answer is not None
            self._bytes[self.server.round or ""] += len(answer)
            self.server.receive(party, answer)
        else:
            self._close()

    def _close(self) -> None:
        done = self._open_round()
        self._closed[done.name] = msgspec.structs.replace(
            done, state="closed", pending=0, dropped=done.pending, deadline=None, allowed=None
        )
        self._metrics.round_closed(done.name, done.seconds)
        self._outbox |= self.server.close_round()
        self._opened = self._seconds
        if (outcome := self.server.outcome) is not None:
            self._metrics.session_ended("done")
            self._past.insert(0, self._ended("done", len(outcome.survivors)))

    def _ended(self, result: str, survivors: int) -> PastSession:
        return PastSession(
            session=self.server.context.state.session_id.hex(),
            task=self.task.digest.hex(),
            number=self._number,
            attempt=1,
            result="done" if result == "done" else "failed",
            ended=STARTED + timedelta(seconds=self._seconds),
            seconds=self._seconds - self._began,
            cohort=CLIENTS,
            survivors=survivors,
            bytes_in=self._bytes.total(),
        )

    def misbehave(self, party: str, data: bytes) -> None:
        """The server receives ``data`` in the name of ``party``."""
        self.server.receive(party, data)

    def _open_round(self) -> RoundStatus:
        state, name = self.server.context.state, self.server.round or ""
        return RoundStatus(
            name=name,
            state="open",
            asked=len(state.asked),
            answered=len(state.answered),
            pending=len(self.server.pending),
            bytes=self._bytes[name],
            seconds=self._seconds - self._opened,
            deadline=ALLOWED - (self._seconds - self._opened),
            allowed=ALLOWED,
        )

    def _round(self, name: str) -> RoundStatus:
        if name in self._closed:
            return self._closed[name]
        if name == self.server.round:
            return self._open_round()
        state: RoundState = "waiting"
        return RoundStatus(name=name, state=state)

    def _session(self) -> SessionStatus:
        pending, more = first(sorted(self.server.pending), MOST_PENDING)
        faults, more_faults = count_faults(
            (fault.sender, fault.round, fault.kind, fault.detail) for fault in self.server.faults
        )
        return SessionStatus(
            session=self.server.context.state.session_id.hex(),
            task=self.task.digest.hex(),
            number=self._number,
            attempt=1,
            state="running" if self.server.outcome is None else "done",
            started=STARTED + timedelta(seconds=self._began),
            seconds=self._seconds - self._began,
            offered=CLIENTS,
            accepted=CLIENTS,
            needed=CLIENTS,
            cohort=CLIENTS,
            rounds=tuple(self._round(name) for name in self._about.rounds),
            pending=pending,
            more_pending=more,
            faults=faults,
            more_faults=more_faults,
        )

    def document(self) -> Status:
        """The status as of now."""
        now = STARTED + timedelta(seconds=self._seconds)
        running = self.server.outcome is None
        return self.change(
            Status(
                at=now,
                service=ServiceStatus(
                    version="0.1.0", started=STARTED, url="https://aggregation.example:8443", ready=self.is_ready
                ),
                tasks=(msgspec.structs.replace(self._about, number=self._number, done=len(self._past)),),
                sessions=(self._session(),) if running else (),
                history=tuple(self._past),
                totals=Totals(bytes_in=self._bytes.total(), waiting_polls=len(self.server.pending)),
                parties=tuple(PartyStatus(party=party, role="client", seen=now) for party in self._keys),
            )
        )

    def ready(self) -> bool:
        """What a test set."""
        return self.is_ready

    def stopping(self) -> bool:
        """What a test set."""
        return self.is_stopping
