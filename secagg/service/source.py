"""The status document of a running service: what the operators' page shows."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import msgspec
from prometheus_client import CollectorRegistry

from secagg.registrar import read_signature
from secagg.service.gathering import Gathering
from secagg.service.run import Run
from secagg.service.running import RoundView, Running
from secagg.service.serving import Serving
from secagg.service.spending import Spending
from secagg.service.status import (
    MOST_PARTIES,
    MOST_PENDING,
    Auth,
    Listener,
    PartyStatus,
    RoundStatus,
    ScheduleStatus,
    ServiceStatus,
    SessionStatus,
    Status,
    TaskStatus,
    Totals,
    count_faults,
    first,
    task_status,
)

_OPEN_WARNING = {
    "tokens": "Clients show a token and no identity: a server that lies is not withstood.",
    "open": "Anyone may join: a server that lies is not withstood, and one person may be many clients.",
}
_RATE_SECONDS = 5.0


class StatusSource:
    """Builds the document from what the event loop knows; only the loop's thread calls it."""

    def __init__(self, serving: Serving, url: str, listens: str) -> None:
        self._serving, self._url = serving, url
        self.listeners: tuple[Listener, ...] = (
            Listener(purpose="parties", url=listens, tls=listens.startswith("https")),
        )
        self._started = datetime.now(UTC)
        self._about = {key: _about(run) for key, run in serving.runs.items()}
        self._spending = {key: Spending(run.task) for key, run in serving.runs.items()}
        self._sizes: deque[tuple[float, int, int]] = deque()
        serving.metrics.watch(
            pending=lambda: sum(len(view.pending) for view in self._views()),
            waiting_polls=lambda: serving.waiting,
            spool_bytes=lambda: sum(one.spool_bytes for one in self._running()),
        )
        for key, run in serving.runs.items():
            if self._spending[key].after(0) is not None:
                serving.metrics.watch_epsilon(key, partial(self._spent, run))

    @property
    def registry(self) -> CollectorRegistry:
        """The metrics."""
        return self._serving.metrics.registry

    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._serving.doors is not None and not self._serving.stopping

    def stopping(self) -> bool:
        """Whether the service ends."""
        return self._serving.stopping

    def document(self) -> Status:
        """The status as of now."""
        now = datetime.now(UTC)
        parties, more = self._parties(now)
        return Status(
            at=now,
            service=ServiceStatus(
                version=_version(),
                started=self._started,
                url=self._url,
                ready=self.ready(),
                listeners=self.listeners,
            ),
            tasks=tuple(self._task(key, run) for key, run in self._serving.runs.items()),
            sessions=tuple(one for run in self._serving.runs.values() for one in _sessions(run, now)),
            history=tuple(self._serving.history),
            totals=self._totals(),
            parties=parties,
            more_parties=more,
        )

    def _spent(self, run: Run) -> float:
        spent = self._spending[run.key].after(run.done + run.failed)
        return math.inf if spent is None else spent

    def _running(self) -> list[Running]:
        return [run.running for run in self._serving.runs.values() if run.running is not None]

    def _views(self) -> list[RoundView]:
        return [one.view for one in self._running() if one.view is not None]

    def _task(self, key: str, run: Run) -> TaskStatus:
        return msgspec.structs.replace(
            self._about[key],
            number=run.number,
            done=run.done,
            failed=run.failed,
            privacy=self._spending[key].status(run.done + run.failed, run.epsilon_realised),
            schedule=_schedule(run),
        )

    def _parties(self, now: datetime) -> tuple[tuple[PartyStatus, ...], int]:
        seen, at = self._serving.seen, time.monotonic()
        waiting = {(key, party) for key, run in self._serving.runs.items() for party in run.polls.parties}
        newest = sorted(seen, key=seen.__getitem__, reverse=True)
        listed, more = first(newest, MOST_PARTIES)
        return tuple(
            PartyStatus(
                party=party,
                role=self._serving.runs[key].role(party),
                seen=now - timedelta(seconds=at - seen[key, party]),
                waiting=(key, party) in waiting,
            )
            for key, party in listed
        ), more

    def _totals(self) -> Totals:
        serving, now = self._serving, time.monotonic()
        self._sizes.append((now, serving.bytes_in, serving.bytes_out))
        while len(self._sizes) > 1 and now - self._sizes[1][0] > _RATE_SECONDS:  # one older entry stays
            self._sizes.popleft()
        then, was_in, was_out = self._sizes[0]
        seconds = max(now - then, 1.0)
        return Totals(
            bytes_in=serving.bytes_in,
            bytes_out=serving.bytes_out,
            rate_in=(serving.bytes_in - was_in) / seconds,
            rate_out=(serving.bytes_out - was_out) / seconds,
            spool_bytes=sum(one.spool_bytes for one in self._running()),
            waiting_polls=serving.waiting,
            most_waiting_polls=serving.most_waiting,
            ingest_used=serving.guard.budget.total - serving.guard.budget.free,
            ingest_budget=serving.guard.budget.total,
        )


def _about(run: Run) -> TaskStatus:
    hosted = run.hosted
    auth: Auth = hosted.auth  # type: ignore[assignment]
    warnings = [_OPEN_WARNING[hosted.auth]] if hosted.auth in _OPEN_WARNING else []
    stated = None if hosted.signature is None else read_signature(hosted.signature)
    return task_status(
        run.task,
        auth=auth,
        enrolled=len(run.clients),
        warnings=warnings,
        roster=hosted.roster,
        roster_version=0 if stated is None else stated.version,
        roster_expires=None if stated is None else datetime.fromtimestamp(stated.expires, UTC),
    )


def _schedule(run: Run) -> ScheduleStatus:
    schedule, task = run.schedule, run.task
    size = schedule.size(task)
    return ScheduleStatus(
        cohort=size,
        goal=schedule.goal or size,
        min_ready=schedule.min_ready or task.min_survivors,
        batches=schedule.batches,
        attempts=schedule.attempts,
        deadlines={str(one.round): schedule.seconds(task, one.round) for one in task.protocol.phases},
    )


def _sessions(run: Run, now: datetime) -> Iterable[SessionStatus]:
    if run.gathering is not None:
        yield _gathering(run, run.gathering, now)
    one = run.running or run.last
    if one is not None:
        yield _session(run, one, now)


def _gathering(run: Run, gathering: Gathering, now: datetime) -> SessionStatus:
    return SessionStatus(
        session="",
        task=run.key,
        number=gathering.offer.number,
        attempt=gathering.offer.attempt,
        state="gathering",
        started=now - timedelta(seconds=gathering.seconds),
        seconds=gathering.seconds,
        offered=gathering.offered,
        accepted=len(gathering.accepted),
        needed=max(run.schedule.min_ready or 0, run.task.min_survivors),
        cohort=0,
        declined=len(gathering.declined),
    )


def _session(run: Run, one: Running, now: datetime) -> SessionStatus:
    listed, more = first(sorted(one.view.pending) if one.view is not None else [], MOST_PENDING)
    faults, more_faults = count_faults((f.sender, f.round, str(f.kind), f.detail) for f in one.faults)
    return SessionStatus(
        session=one.key,
        task=run.key,
        number=one.about.number,
        attempt=one.about.attempt,
        state=one.state,  # type: ignore[arg-type]
        started=now - timedelta(seconds=one.seconds),
        seconds=one.seconds,
        offered=len(one.cohort),
        accepted=len(one.cohort),
        needed=run.task.min_survivors,
        cohort=len(one.cohort),
        rounds=tuple(_rounds(run, one)),
        pending=listed,
        more_pending=more,
        faults=faults,
        more_faults=more_faults,
        reason=one.reason,
    )


def _rounds(run: Run, one: Running) -> Iterable[RoundStatus]:
    known = {view.name: view for view in one.past}
    for phase in run.task.protocol.phases:
        name, asks = str(phase.round), str(phase.role)
        view = known.get(name)
        if one.view is not None and one.view.name == name:
            open_now = one.view
            yield RoundStatus(
                name=name,
                state="open",
                asks=asks,
                asked=len(open_now.parties),
                answered=open_now.answered,
                pending=len(open_now.pending),
                bytes=open_now.bytes,
                seconds=time.monotonic() - open_now.began,
                deadline=one.remaining,
                allowed=run.schedule.seconds(run.task, name),
            )
        elif view is not None:
            yield RoundStatus(
                name=name,
                state="closed",
                asks=asks,
                asked=len(view.parties),
                answered=view.answered,
                dropped=view.dropped,
                bytes=view.bytes,
                seconds=view.seconds,
            )
        else:
            yield RoundStatus(name=name, state="waiting", asks=asks)


def _version() -> str:
    try:
        return version("secagg")
    except PackageNotFoundError:
        return "unknown"
