"""One session as the event loop knows it: what the parties can see of it, and when its rounds end.

Only the event loop's thread touches this. The worker hands it whole results, so no handler sees half a step.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from secagg.errors import Aborted, Fault, SecAggError
from secagg.roles import Outcome
from secagg.service.files import TAG_BYTES
from secagg.service.inbox import Inboxes
from secagg.service.patience import passes, pause
from secagg.service.schedule import Schedule
from secagg.service.worker import Arrived, Drained, Ended, Opened, Taken, Worker
from secagg.table import contribution_round
from secagg.task import Task

log = logging.getLogger("secagg.service")

_AT_ONCE = 32  # messages that share one write to the disk
_AT_ONCE_BYTES = 64 << 20
_MOST_REFUSED = 16  # messages of one party in one round that were refused; then no more of them are read
_MOST_UNPLACED = 64  # messages of one party in one round that found no room: each is in the spool
_RECOVERIES = 8  # failures in a row after which the session is given up; a full disk may last longer
_BROKEN = "the service can't go on with this session; its log says why"


@dataclass
class RoundView:
    """What is known of the open round, or of one that was closed."""

    name: str
    number: int
    parties: frozenset[str]  # that were asked
    pending: frozenset[str]
    deadline: float  # on the loop's clock
    began: float = field(default_factory=time.monotonic)
    bytes: int = 0
    seconds: float = 0.0
    dropped: int = 0

    @property
    def answered(self) -> int:
        """How many parties have answered."""
        return len(self.parties) - len(self.pending)


@dataclass(frozen=True)
class Attempt:
    """A session that was begun: its address, its name, which attempt at which round it is, and its clients."""

    key: str
    name: bytes
    number: int
    attempt: int
    cohort: frozenset[str]


class Running:
    """A session from its opening to its outcome."""

    def __init__(
        self,
        task: Task,
        about: Attempt,
        worker: Worker,
        schedule: Schedule,
        listeners: frozenset[str],
        wake: Callable[[Iterable[str]], None],
    ) -> None:
        self.task, self.about, self.schedule, self.listeners = task, about, schedule, listeners
        self.key, self.cohort = about.key, about.cohort
        self.state, self.reason = "running", ""
        self.outcome: Outcome | None = None
        self.inboxes = Inboxes(about.key, worker.files.relays, listeners)
        self.view: RoundView | None = None  # None while the worker restores the session, and at the end
        self.past: list[RoundView] = []
        self.faults: tuple[Fault, ...] = ()
        self._worker, self._wake = worker, wake
        self._arrived: deque[Arrived] = deque()
        self._draining = False
        self._changed = asyncio.Event()
        self._last: int | None = None  # how many of those that arrived are taken before the round closes
        self._refused: dict[str, int] = {}
        self._unplaced: dict[str, int] = {}
        self._taken: dict[str, set[bytes]] = {}  # what the server took, by sender: the worker may hold its lock
        self._broken: Exception | None = None
        self._left = False
        self._began, self._ended = time.monotonic(), 0.0
        self._loop = asyncio.get_running_loop()

    async def run(self) -> Outcome:
        """Play the session to its end; ``Aborted`` if it has no outcome.

        Whatever goes wrong here is met as a kill of the process is: the session is restored from its files.
        """
        try:
            return await self._until_it_ends()
        finally:
            self._leave()

    async def _until_it_ends(self) -> Outcome:
        failures = 0
        while True:
            closed = len(self.past)
            try:
                return await self._play()
            except Aborted as aborted:
                await self._fail(aborted.reason, aborted.outbox)
                raise
            except Exception as error:
                failures = 1 if len(self.past) > closed else failures + 1
                log.exception("session %s stopped: %s", self.key[:12], type(error).__name__)
                self.view = None
                lasting = failures >= _RECOVERIES or isinstance(error, SecAggError)
                if lasting and not passes(error):
                    reason = str(error) if isinstance(error, SecAggError) else _BROKEN
                    await self._fail(reason, {})
                    raise Aborted(reason) from error
                await pause(failures)

    async def _play(self) -> Outcome:
        self._broken = None
        step: Opened | Ended = await self._worker.call(self._worker.restore)
        while isinstance(step, Opened):
            self._show(step)
            view = await self._until_due()
            step = await self._worker.call(self._worker.close, view.name)
            view.seconds, view.dropped = time.monotonic() - view.began, len(view.pending)
            self.past.append(view)
        self.outcome = step.outcome
        self.faults = step.outcome.faults
        self._end("done", "", step.outbox)
        return step.outcome

    async def _fail(self, reason: str, outbox: Mapping[str, bytes]) -> None:
        failures = 0
        while True:
            try:
                await self._worker.call(self._worker.fail, reason)
                break
            except OSError as error:
                failures += 1
                log.warning("session %s ended, which can't be written yet: %s", self.key[:12], error)
                await pause(failures)
        self._end("failed", reason, outbox)

    async def _until_due(self) -> RoundView:
        """Wait until the open round can be closed, or has to be; returns it."""
        while self._broken is None:
            view = self.view
            assert view is not None
            left = view.deadline - self._loop.time()
            if left <= 0 and self._last is None:  # else a stream of messages could keep the round open
                self._last = len(self._arrived)
            idle = not self._draining and not (len(self._arrived) if self._last is None else self._last)
            if idle and (not view.pending or left <= 0):
                return view
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(left, 0.0) if idle else None)
        raise self._broken

    def _show(self, opened: Opened) -> None:
        """Let the parties see a round that is open."""
        seconds = self.schedule.seconds(self.task, opened.name)
        if opened.remaining is not None:
            seconds = max(self.schedule.grace, opened.remaining)
        deadline = self._loop.time() + seconds
        self.view = RoundView(opened.name, opened.number, opened.asked, opened.pending, deadline)
        self._last = None
        self._refused.clear()
        self._unplaced.clear()
        for party, tags in opened.taken.items():
            self._taken.setdefault(party, set()).update(tags)
        self.inboxes.open(opened.number, opened.outbox)
        self._hand_on(opened.number, opened.forwards)
        self._hurry_at_goal(self.view)
        self._wake(opened.outbox)
        self._drain_soon()

    def _hand_on(self, number: int, forwards: Mapping[str, list[bytes]]) -> None:
        for party, messages in forwards.items():
            for data in messages:
                self.inboxes.add(number, {party: data})
        self._wake(forwards)

    def _end(self, state: str, reason: str, outbox: Mapping[str, bytes]) -> None:
        self.state, self.reason, self._ended = state, reason, time.monotonic()
        number = len(self.task.protocol.phases) - 1 if self.view is None else self.view.number  # of no older cursor
        self.view = None
        self.inboxes.close(number, outbox)
        self._wake(outbox)
        for one in self._arrived:
            if not one.answer.done():
                one.answer.set_result(self._too_late(one.sender, one.digest))
        self._arrived.clear()

    def _leave(self) -> None:
        """Nobody takes what still arrives. If the session has not ended, the process or another one goes on."""
        self._left, self.view = True, None
        for one in self._arrived:
            if not one.answer.done():
                one.answer.set_exception(OSError(errno.EAGAIN, "the session has stopped"))
        self._arrived.clear()

    def _too_late(self, sender: str, digest: bytes) -> Taken:
        """What became of a message that arrives after the end."""
        kept = self.took(sender, digest)
        return Taken(kept, late=not kept)

    @property
    def seconds(self) -> float:
        """How long the session has run, in this life of the process."""
        return (self._ended or time.monotonic()) - self._began

    @property
    def spool_bytes(self) -> int:
        """The bytes in the spool of the open round."""
        return self._worker.files.spool_bytes

    @property
    def remaining(self) -> float | None:
        """Seconds until the open round ends; None if none is open."""
        return None if self.view is None else max(0.0, self.view.deadline - self._loop.time())

    def may_send(self, party: str) -> bool:
        """Whether the open round may take a message of ``party``."""
        return self.view is not None and (party in self.view.pending or party in self.listeners)

    def answered(self, party: str) -> bool:
        """Whether a message of ``party`` was taken in the open round."""
        return self.view is not None and party in self.view.parties and party not in self.view.pending

    def refused_too_often(self, party: str) -> bool:
        """Whether so many messages of ``party`` were refused in this round that no further one is read."""
        unplaced = _MOST_UNPLACED * (len(self.cohort) if party in self.listeners else 1)
        return self._refused.get(party, 0) >= _MOST_REFUSED or self._unplaced.get(party, 0) >= unplaced

    def took(self, party: str, digest: bytes) -> bool:
        """Whether the message with this digest was taken from ``party``, in this round or an earlier one."""
        return digest[:TAG_BYTES] in self._taken.get(party, ())

    async def submit(self, sender: str, number: int, digest: bytes, data: bytes | memoryview) -> Taken:
        """Take a message of ``sender`` for the round ``number``; if ``kept``, it is on the disk and in the session.

        ``OSError`` if it can't be written; then nothing was taken. The caller must not change or release ``data``
        before this returns, also not when it is cancelled: use :func:`asyncio.shield`.
        """
        if self.state != "running":  # it ended while the body was read
            return self._too_late(sender, digest)
        if self._left:
            raise OSError(errno.EAGAIN, "the session has stopped")
        answer: asyncio.Future[Taken] = self._loop.create_future()
        self._arrived.append(Arrived(sender, number, digest, data, answer))
        self._drain_soon()
        return await answer

    def _drain_soon(self) -> None:
        """Hand the worker what has arrived, unless it has a batch, or restores the session, or is to close."""
        # A server that failed in a batch takes no other: its files would not tell in which order it handed on.
        if self._draining or self.view is None or self._broken is not None:
            return
        most = len(self._arrived) if self._last is None else self._last
        batch: list[Arrived] = []
        size = 0
        while len(batch) < min(most, _AT_ONCE) and size < _AT_ONCE_BYTES:
            batch.append(self._arrived.popleft())
            size += len(batch[-1].data)
        if not batch:
            return
        if self._last is not None:
            self._last -= len(batch)
        self._draining = True
        self._worker.call(self._worker.take, batch).add_done_callback(lambda done: self._drained(batch, done))

    def _drained(self, batch: list[Arrived], done: asyncio.Future[Drained]) -> None:
        self._draining = False
        error = done.exception()
        if error is None:
            self._publish(batch, done.result())
        else:
            failed = error if isinstance(error, OSError) else OSError(str(error))
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(failed)
            # What was written may be half taken: the files say what counts.
            self._broken = error if isinstance(error, Exception) else failed
        self._changed.set()
        self._drain_soon()

    def _publish(self, batch: list[Arrived], drained: Drained) -> None:
        view = self.view
        if view is not None and view.number == drained.number:
            view.pending = drained.pending
            kept = (one for one, taken in zip(batch, drained.results, strict=True) if taken.kept)
            view.bytes += sum(len(one.data) for one in kept)
            self.faults = drained.faults
            self._hand_on(drained.number, drained.forwards)
            self._hurry_at_goal(view)
        for one, taken in zip(batch, drained.results, strict=True):
            if taken.kept:
                self._taken.setdefault(one.sender, set()).add(one.digest[:TAG_BYTES])
            elif not taken.late:
                counts = self._refused if taken.damaged or taken.refused is not None else self._unplaced
                counts[one.sender] = counts.get(one.sender, 0) + 1
            if not one.answer.done():
                one.answer.set_result(taken)

    def _hurry_at_goal(self, view: RoundView) -> None:
        goal = self.schedule.goal
        if goal is not None and view.name == contribution_round(self.task.protocol) and view.answered >= goal:
            view.deadline = min(view.deadline, self._loop.time() + self.schedule.grace)

    async def save_remaining(self) -> None:
        """Write how long the open round has left, so that a restart doesn't begin it anew."""
        if self.view is not None and (seconds := self.remaining) is not None:
            await self._worker.call(self._worker.write_remaining, self.view.number, seconds)
