"""One task on the service: its rounds one after the other, each with its offer and its sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from secagg.api.documents import Acceptance, Offer, Result, session_key, session_name
from secagg.api.problems import Kind, Problem
from secagg.beacon import Fetch
from secagg.errors import Aborted, ConfigError
from secagg.identity import PartyRole, Roster
from secagg.roles import Outcome, Server
from secagg.service.database import Database
from secagg.service.files import SessionFiles, took
from secagg.service.gathering import Gathering
from secagg.service.inbox import Batch
from secagg.service.patience import until_written
from secagg.service.running import Attempt, Running
from secagg.service.schedule import Schedule
from secagg.service.waiting import Polls
from secagg.service.worker import Worker
from secagg.table import contribution_round
from secagg.task import Task

log = logging.getLogger("secagg.service")

_LONGEST_REASON = 200  # characters of why a client declined
_MODELS_KEPT = 2  # the newest, which a client may still download
_SAVE_EVERY = 5.0  # seconds between two notes of how long the open round has left


@dataclass(frozen=True)
class Hosted:
    """A task that the service runs: who may call (``auth``), and when its rounds begin.

    ``roster`` and ``signature`` are the JSON texts that parties get; the service needs the roster itself too.
    """

    task: Task
    auth: str
    schedule: Schedule
    roster: Roster | None = None
    roster_text: str | None = None
    signature: str | None = None
    executor: Executor | None = None
    beacon: Fetch | None = None


class Run:
    """The rounds of one task; only the event loop's thread calls it."""

    def __init__(self, hosted: Hosted, database: Database, ended: Callable[[Run, Running], None]) -> None:
        self.hosted, self.task, self.schedule = hosted, hosted.task, hosted.schedule
        self.key = self.task.digest.hex()
        self.polls = Polls()
        self._took_part = frozenset[str]()  # in the newest session that ended, also before a restart, and answered
        self._know_of_the_end: set[str] = set()
        self.settled = asyncio.Event()  # the offer or the session of an open round is known
        self.gathering: Gathering | None = None
        self.running: Running | None = None
        self.last: Running | None = None  # the session before, whose last messages may not have been fetched
        self.over = False
        self.number = self.done = self.failed = 0
        self.epsilon_realised: float | None = None
        self.largest_upload = self.task.largest_message(None)
        self._database, self._ended_session = database, ended
        self._turn = asyncio.Lock()
        roster = hosted.roster
        self.clients = () if roster is None else roster.ids(PartyRole.CLIENT)
        others = () if roster is None else tuple(self.task.protocol.party_counts)
        self.listeners = (
            frozenset(party for role in others for party in roster.ids(role)) if roster else frozenset()
        )

    def role(self, party: str) -> str:
        """The role of ``party``."""
        return "client" if self.hosted.roster is None else str(self.hosted.roster[party].role)

    # What handlers ask.

    def step(self, party: str, after: str) -> Running | Gathering | None:
        """The session whose messages ``party`` gets next, or the offer; ``Problem`` if the task is over."""
        for one in self._sessions(party, after):
            if one.inboxes.waits(party, after):
                return one
        gathering = self.gathering
        if gathering is not None and party not in self.listeners and gathering.offers(party):
            return gathering
        if self.over and not self._takes_part(party):
            self._know_of_the_end.add(party)
            raise Problem(Kind.TASK_OVER)
        return None

    def _takes_part(self, party: str) -> bool:
        """Whether the open session still needs ``party``, which a call of ``finish`` must not send away."""
        running = self.running
        return running is not None and (party in running.cohort or party in self.listeners)

    async def read(self, running: Running, party: str, after: str) -> Batch:
        """The messages of ``running`` for ``party``; a listener's are in a file, which is read in a thread."""
        if party not in self.listeners:
            return running.inboxes.read(party, after)
        try:
            return await asyncio.to_thread(running.inboxes.read, party, after)
        except (OSError, ConfigError):  # the session has ended in the meantime, and its files are gone
            return Batch([], after)

    def _sessions(self, party: str, after: str) -> Iterable[Running]:
        """The sessions that may have messages for ``party``, the older one first.

        A party with a cursor of the running session has left the one before. It would otherwise get the last
        message of the one and the first of the other in turn, because a cursor is of one session.
        """
        running = self.running
        left = running is not None and running.inboxes.is_of(after)
        known = [one for one in (None if left else self.last, running) if one is not None]
        return [one for one in known if party in one.cohort or party in self.listeners]

    def answer(self, party: str, key: str, answer: Acceptance) -> None:
        """Note that ``party`` takes part in the offered session ``key``, or why it does not."""
        running = self.running
        if running is not None and running.key == key and party in running.cohort and answer.accept:
            return  # the answer to its first attempt was lost
        gathering = self.gathering
        if gathering is None or gathering.key != key or not gathering.includes(party):
            raise Problem(Kind.OFFER_CLOSED)
        if not gathering.answer(party, answer.accept):
            raise Problem(Kind.OFFER_CLOSED)
        if not answer.accept:
            about = {"session": key, "party": party, "reason": answer.reason[:_LONGEST_REASON]}
            log.info("session %s: a client declined", key[:12], extra=about)

    def session(self, key: str) -> Running | None:
        """The session ``key``, if it runs or ran last."""
        return next((one for one in (self.running, self.last) if one is not None and one.key == key), None)

    async def result(self, party: str, key: str) -> Result:
        """What became of a session; ``Problem`` for an unknown one."""
        if self.gathering is not None and self.gathering.key == key:
            return Result("gathering", party in self.gathering.accepted, False)
        one = self.session(key)
        if one is not None and one.state == "running":
            return Result("running", party in one.cohort, False)
        return await asyncio.to_thread(self._ended, party, key)

    def _ended(self, party: str, key: str) -> Result:
        try:
            row = self._database.session(key)
        except ConfigError as error:
            raise Problem(Kind.UNKNOWN_SESSION) from error
        if row.task != self.task.digest:
            raise Problem(Kind.UNKNOWN_SESSION)
        document = self._database.outcome_document(key) or {}
        return Result(row.state, party in row.cohort, party in document.get("survivors", ()))

    async def took(self, key: str, party: str, digest: bytes) -> bool:
        """Whether the session ``key``, which runs or has ended, took this message of ``party``."""
        one = self.session(key)
        if one is not None and one.took(party, digest):
            return True
        try:
            row = await asyncio.to_thread(self._database.session, key)
        except ConfigError:
            return False
        return row.task == self.task.digest and took(row.taken, party, digest)

    # What the training loop asks.

    async def play(self, number: int, model: bytes, config: str) -> Outcome:
        """Run the round ``number`` over ``model``, or go on with it; ``Aborted`` if no attempt has an outcome.

        A round that ended before, in another life of the process, has the same outcome again. ``ConfigError`` if
        it had another model or config.
        """
        async with self._turn:
            self.number = max(self.number, number)
            digest = await until_written(self._database.add_model, model)
            return await self._known(number, digest, config) or await self._attempts(number, model, digest, config)

    async def _known(self, number: int, digest: bytes, config: str) -> Outcome | None:
        row = await asyncio.to_thread(self._database.round, self.task.digest, number)
        if row is None:
            await until_written(self._database.open_round, self.task.digest, number, digest, config)
            return None
        if (row.model, row.config) != (digest, config):
            raise ConfigError(
                f"got another model or config for round {number} than it began with; a loop that is started again "
                "must repeat itself, or go on with number=service.next_number(task) from a model of its own; a "
                "second run needs a task with another context"
            )
        return await asyncio.to_thread(self._ended_round, number, row.state)

    def _ended_round(self, number: int, state: str) -> Outcome | None:
        reason = ""
        for session in self._database.sessions(self.task.digest, number):
            reason = session.reason or reason
            if session.state == "done":
                if state == "open":
                    self._database.finish_round(self.task.digest, number, "done")
                outcome = self._database.outcome(session.key, self.task.layout)
                self._note_parties(session.cohort, outcome)
                return outcome
        if state == "failed":
            raise Aborted(reason or "too few clients took part")
        return None

    async def _attempts(self, number: int, model: bytes, digest: bytes, config: str) -> Outcome:
        reason = ""
        rows = await asyncio.to_thread(self._database.sessions, self.task.digest, number)
        before = {row.attempt: row for row in rows}
        for attempt in range(1, self.schedule.attempts + 1):
            name = session_name(number, attempt, digest, config)
            key = session_key(self.task.digest, name)
            row = before.get(attempt)
            if row is not None and row.state == "failed":
                reason = row.reason
                continue
            try:
                if row is None:
                    cohort = await self._gather(key, number, attempt, model, digest, config)
                    await until_written(
                        self._database.begin_session, key, self.task.digest, number, attempt, name, cohort
                    )
                else:
                    cohort = list(row.cohort)
                outcome = await self._play(Attempt(key, name, number, attempt, frozenset(cohort)))
            except Aborted as aborted:
                reason = aborted.reason
                log.warning("round %d, attempt %d: %s", number, attempt, reason)
                continue
            await until_written(self._finish_round, number, "done")
            return outcome
        await until_written(self._finish_round, number, "failed")
        raise Aborted(reason)

    def _finish_round(self, number: int, state: str) -> None:
        self._database.finish_round(self.task.digest, number, state)
        with contextlib.suppress(OSError):  # the next round deletes what is left
            self._database.forget_models(self.task.digest, _MODELS_KEPT)

    async def _gather(
        self, key: str, number: int, attempt: int, model: bytes, digest: bytes, config: str
    ) -> list[str]:
        hosted, schedule = self.hosted, self.schedule
        eligible = schedule.eligible(self.task, self.clients, number) if hosted.roster is not None else None
        input_seconds = schedule.seconds(self.task, contribution_round(self.task.protocol))
        offer = Offer(number, attempt, digest.hex(), len(model), config, schedule.gather, input_seconds)
        self.gathering = Gathering(key, offer, eligible)
        self.settled.set()
        self.polls.wake(self.polls.parties)
        refused = 0
        try:
            while True:
                await self.gathering.ready(self.task, schedule)
                cohort = schedule.select(self.task, self.gathering.accepted)
                try:
                    self.task.check_cohort(cohort, hosted.roster)
                except ConfigError as error:
                    if len(cohort) != refused:
                        log.warning("%d clients are ready, which is not enough: %s", len(cohort), error)
                    refused = len(cohort)
                    await asyncio.sleep(1.0)
                    continue
                self.gathering.closed = True  # and stays, for answers that come again, until the session runs
                return cohort
        except BaseException:
            self.gathering = None
            raise

    async def _play(self, about: Attempt) -> Outcome:
        files = await until_written(SessionFiles, self._database, self.task, about.key, self.listeners)

        def make(saved: bytes | None, save: Any) -> Server[Any]:
            lent = {"executor": self.hosted.executor, "beacon": self.hosted.beacon, "save": save}
            if saved is None:
                return self.task.server(about.cohort, roster=self.hosted.roster, session=about.name, **lent)
            return self.task.restore_server(saved, roster=self.hosted.roster, **lent)

        worker = Worker(files, make, self.listeners)
        running = Running(self.task, about, worker, self.schedule, self.listeners, self.polls.wake)
        self.running, self.gathering = running, None
        self.settled.set()
        saving = asyncio.create_task(_keep_saving(running))
        try:
            return await running.run()
        finally:
            saving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saving
            await worker.stop()
            self.last, self.running = running, None
            if running.state != "running":
                self._note_parties(running.cohort, running.outcome)
                self._count(running)
            self.polls.wake(self.polls.parties)

    def _count(self, running: Running) -> None:
        self.done += running.state == "done"
        self.failed += running.state == "failed"
        if running.outcome is not None:
            self.epsilon_realised = running.outcome.epsilon_realised
        self._ended_session(self, running)

    @property
    def everyone_knows(self) -> bool:
        """Whether all parties of the last session that did not fall silent have heard that the run is over."""
        return self._know_of_the_end >= self._took_part

    def _note_parties(self, cohort: Iterable[str], outcome: Outcome | None) -> None:
        self._took_part = (frozenset(cohort) | self.listeners) - frozenset(
            () if outcome is None else outcome.dropped
        )

    def finish(self) -> None:
        """The run has ended: every poll says so from now on."""
        self.over = True
        self.polls.wake_all()


async def _keep_saving(running: Running) -> None:
    while True:
        await asyncio.sleep(_SAVE_EVERY)
        try:
            await running.save_remaining()
        except OSError as error:
            log.warning("the time that is left could not be saved: %s", error)
