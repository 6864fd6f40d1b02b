"""The service: an event loop in a thread of its own, beside the training loop that calls it."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from secagg._numbers import is_a
from secagg.api.models import write_model
from secagg.beacon import Fetch
from secagg.errors import Aborted, ConfigError, LocalProtocolError, SecAggError, shown
from secagg.identity import PartyRole, Roster
from secagg.registrar import read_signature
from secagg.roles import Outcome
from secagg.service.application import operator_listener, public_listener
from secagg.service.callers import Doors
from secagg.service.database import Database
from secagg.service.guard import Guard
from secagg.service.limits import Limits
from secagg.service.listener import Listener, new_loop
from secagg.service.memory import keep_trimming
from secagg.service.metrics import Metrics
from secagg.service.past import past_session, recall
from secagg.service.run import Hosted, Run
from secagg.service.running import Running
from secagg.service.schedule import Schedule
from secagg.service.serving import Serving
from secagg.service.source import StatusSource
from secagg.service.status import Listener as Listening
from secagg.service.uploads import Uploads
from secagg.task import Task
from secagg.warming import warm

log = logging.getLogger("secagg.service")

_FLUSH_EVERY: Final = 10.0  # seconds between two writes of what only operators read
_LONGEST_CONFIG: Final = 1 << 14
Result = TypeVar("Result")


class _Stopped(Aborted):
    """The round goes on when the service is started again, so it keeps its number."""


class Service:
    """Sessions over HTTPS that survive the death of this process; run by the operator.

    ``folder`` holds everything that must not be lost. ``url`` is the address that clients use, which may be a
    proxy's; by default it is that of the listener. ``listen`` is the host and the port on which parties are served;
    port 0 means a free one. ``tls`` are the files of a certificate and its key, both PEM, or ``"proxy"`` if a proxy
    ends TLS; without it the service listens on loopback only. ``status`` is the host and the port of the operators'
    page, None for no page; ``pseudonyms`` hides the ids of parties there. ``limits`` are those of the parties'
    listener.

    Add the tasks, then use it as a context manager, and call :meth:`round` from the training loop. A service that
    was killed goes on where it stopped when it is made again with the same folder and tasks, and a loop that is
    started again gets the outcomes of the rounds that ended. A ``task`` that is None stands for the only one that
    was added.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        url: str | None = None,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        tls: tuple[str | Path, str | Path] | Literal["proxy"] | None = None,
        status: tuple[str, int] | None = ("127.0.0.1", 0),
        pseudonyms: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self._folder, self._url, self._listen, self._status = Path(folder), url, listen, status
        self._tls, self._pseudonyms, self._limits = tls, pseudonyms, limits or Limits()
        self._hosted: dict[bytes, Hosted] = {}
        self._numbers: dict[bytes, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._plays: set[asyncio.Task[Outcome]] = set()
        self._listening: Listener | None = None
        self._operator: Listener | None = None
        self._upkeep: list[asyncio.Task[None]] = []

    def add(
        self,
        task: Task,
        *,
        roster: Roster | None = None,
        signature: str | None = None,
        auth: str = "roster",
        schedule: Schedule | None = None,
        executor: Executor | None = None,
        beacon: Fetch | None = None,
    ) -> None:
        """Add a task before :meth:`start`.

        ``signature`` is the JSON text of the registrar's signature under the roster. ``auth`` says how parties show
        who they are: ``"roster"`` by the keys that it lists; without a roster ``"tokens"``, which the operator
        gives out, or ``"open"``, where anyone may join. ``schedule`` says how long a round waits, and for how many
        clients; by default as :class:`Schedule` does. ``executor`` and ``beacon`` are those of
        :meth:`secagg.Task.server`. ``ConfigError`` for what doesn't fit.
        """
        if self._loop is not None:
            raise LocalProtocolError("got a task after start(); add all tasks first")
        if not is_a(task, (Task,)):
            raise ConfigError(f"got {shown(task)} as task; expected a secagg.Task")
        schedule = schedule or Schedule()
        schedule.check(task)
        task.protocol.validate_roster(task, roster)
        if roster is None and task.protocol.threat_model != "semi-honest":
            raise ConfigError(
                f"got no roster for {task.protocol.name}, whose threat model is {task.protocol.threat_model}; pass "
                "roster=load_roster(path)"
            )
        if roster is not None:
            schedule.check_clients(task, len(roster.ids(PartyRole.CLIENT)))
        if roster is not None and signature is not None:
            read_signature(signature).check_roster(roster)
        if auth != "roster":
            log.warning(
                "task %s has auth=%s: a server that lies is not withstood, and %s",
                task.digest.hex()[:12],
                auth,
                "anyone may join" if auth == "open" else "anyone with a token is its client",
            )
        text = None if roster is None else roster.to_json()
        self._hosted[task.digest] = Hosted(task, auth, schedule, roster, text, signature, executor, beacon)

    def start(self) -> None:
        """Open the folder, go on with open sessions, and listen; returns when requests are answered.

        ``ConfigError`` if the folder or an address can't be used.
        """
        if self._loop is not None:
            raise LocalProtocolError("got start() of a service that runs")
        if not self._hosted:
            raise ConfigError("got a service without a task; call add(task, roster=...) first")
        self._database = Database.open(self._folder)
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="secagg service", daemon=True)
        self._thread.start()
        try:
            self._call(self._start())
        except BaseException:
            self.stop()
            raise

    def stop(self, grace: float = 20.0) -> None:
        """Answer the waiting polls, let requests under way end, and release the folder. Open sessions stay open.

        Requests that have not ended after ``grace`` seconds are cut off.
        """
        if self._loop is None or self._thread is None:
            return
        try:
            self._call(self._stop(grace))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None
            self._database.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address that clients use."""
        return self._url or self._public.url

    @property
    def _public(self) -> Listener:
        if self._listening is None:
            raise LocalProtocolError("got a question to a service that does not run; call start() first")
        return self._listening

    @property
    def status_url(self) -> str | None:
        """The address of the operators' page."""
        return None if self._operator is None else self._operator.url

    def round(
        self,
        model: Any,
        *,
        task: Task | None = None,
        config: Mapping[str, Any] | None = None,
        number: int | None = None,
    ) -> Outcome:
        """Run one round over ``model``, and return its outcome; run by the training loop, in any thread.

        ``model`` is a structure of arrays, which clients get as it is. ``config`` is a JSON object for them, such
        as a learning rate, the same for all. ``number`` is the round's number; by default the rounds of this
        process count from 1, also those that raised ``Aborted``. So a training loop that is started again after a
        crash gets the outcomes of the rounds that ended, at once, if it repeats itself. A loop that restarts from a
        checkpoint passes ``number``; see :meth:`next_number`. While the disk is full, this waits.

        Raises ``Aborted`` if no attempt has an outcome, with the reason; ``ConfigError`` for a model without a
        layout, or for another model than this round began with.
        """
        run = self._run(task)
        text = json.dumps(dict(config or {}), sort_keys=True, separators=(",", ":"), allow_nan=False)
        if len(text) > _LONGEST_CONFIG:
            raise ConfigError(f"got a config of {len(text)} characters; expected at most {_LONGEST_CONFIG}")
        if number is None:
            number = self._numbers.get(run.task.digest, 0) + 1
        try:
            outcome = self._call(self._play(run, number, write_model(model), text))
        except _Stopped:
            raise
        except Aborted:
            self._numbers[run.task.digest] = number  # the next call is about the next round
            raise
        self._numbers[run.task.digest] = number
        return outcome

    def next_number(self, task: Task | None = None) -> int:
        """The number of the first round that has not ended, from 1."""
        row = self._database.round(self._run(task).task.digest)
        if row is None:
            return 1
        return row.number if row.state == "open" else row.number + 1

    def finish(self, task: Task | None = None, *, wait: float = 30.0) -> None:
        """Tell the parties of a task that its run is over, and wait until those of its last session know.

        It waits at most ``wait`` seconds. A party that asks when the service has stopped tries again until its
        caller stops it.
        """
        run = self._run(task)
        self._loop_now().call_soon_threadsafe(run.finish)
        end = time.monotonic() + wait
        while time.monotonic() < end and not run.everyone_knows:
            time.sleep(0.05)

    def _run(self, task: Task | None) -> Run:
        runs = self._serving.runs
        if task is None and len(runs) != 1:
            raise ConfigError(f"got no task, and this service has {len(runs)}; say which: task=")
        key = next(iter(runs)) if task is None else task.digest.hex()
        if key not in runs:
            raise ConfigError("got a task that this service does not have; add it before start()")
        return runs[key]

    def _loop_now(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise LocalProtocolError("got a call of a service that does not run; call start() first")
        return self._loop

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            loop = self._loop_now()
        except LocalProtocolError:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    # On the event loop.

    async def _start(self) -> None:
        self._serving = Serving(
            self._database,
            Guard(self._limits),
            Uploads(self._folder / "incoming"),
            Metrics(),
        )
        for hosted in self._hosted.values():
            task = hosted.task
            await asyncio.to_thread(
                self._database.add_task,
                task.digest,
                task.to_bytes(),
                hosted.auth,
                hosted.roster_text,
                hosted.signature,
            )
            self._serving.runs[task.digest.hex()] = Run(hosted, self._database, self._ended)
        recalled = await asyncio.to_thread(recall, self._database, self._serving.runs)
        self._serving.history.extend(recalled.history)
        self._serving.seen.update(recalled.seen)
        open_sessions = {row.key for row in self._database.running()}
        await asyncio.to_thread(self._serving.uploads.forget_others, open_sessions)
        self._listening = public_listener(self._serving, self._listen, self._url, self._tls, self._limits)
        await self._listening.start()
        if self._status is not None:
            await self._start_status(self._status)
        doors = Doors(self._database, self.url)
        for run in self._serving.runs.values():
            doors.add(run)
            await asyncio.to_thread(warm, run.task)
        await self._resume()
        self._serving.doors = doors
        self._upkeep = [
            asyncio.create_task(self._keep_flushing()),
            asyncio.create_task(keep_trimming(lambda: self._serving.bytes_in + self._serving.bytes_out)),
        ]

    async def _start_status(self, address: tuple[str, int]) -> None:
        source = StatusSource(self._serving, self.url, self._public.url)
        key = secrets.token_bytes(32) if self._pseudonyms else None
        self._operator = operator_listener(source, address, key)
        await self._operator.start()
        source.listeners += (Listening(purpose="operators", url=self._operator.url, tls=False),)

    def _ended(self, run: Run, running: Running) -> None:
        """Note a session that has ended, for the operators."""
        self._serving.history.appendleft(past_session(run, running))
        self._serving.uploads.forget(running.key)
        metrics = self._serving.metrics
        metrics.session_ended("done" if running.state == "done" else "failed")
        for view in running.past:
            metrics.round_closed(view.name, view.seconds)
        for fault in running.faults:
            metrics.fault(fault.kind)

    async def _resume(self) -> None:
        """Go on with the rounds that are open, before the training loop asks for them.

        Nobody may ask about such a session before it is there: the answer would be that it is over.
        """
        for run in self._serving.runs.values():
            row = self._database.round(run.task.digest)
            if row is None or row.state != "open":
                continue
            model = self._database.model_path(row.model).read_bytes()
            play = asyncio.create_task(run.play(row.number, model, row.config))
            self._plays.add(play)
            play.add_done_callback(self._resumed)
            settled = asyncio.create_task(run.settled.wait())
            await asyncio.wait((play, settled), return_when=asyncio.FIRST_COMPLETED)
            settled.cancel()

    def _resumed(self, play: asyncio.Task[Outcome]) -> None:
        self._plays.discard(play)
        if not play.cancelled() and (error := play.exception()) is not None:
            level = logging.WARNING if isinstance(error, SecAggError) else logging.ERROR
            log.log(level, "a round that went on after a restart ended: %s", error)

    async def _play(self, run: Run, number: int, model: bytes, config: str) -> Outcome:
        play = asyncio.create_task(run.play(number, model, config))
        self._plays.add(play)
        play.add_done_callback(self._plays.discard)
        try:
            return await play
        except asyncio.CancelledError:
            raise _Stopped("the service was stopped; the round goes on when it starts again") from None

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_EVERY)
            try:
                await asyncio.to_thread(self._database.flush)
            except OSError as error:
                log.warning("events could not be written: %s", error)

    async def _stop(self, grace: float) -> None:
        serving: Serving | None = getattr(self, "_serving", None)
        if serving is None:
            return
        serving.stopping = True
        for run in serving.runs.values():
            run.polls.wake_all(False)
        for listener in (self._listening, self._operator):
            if listener is not None:
                await listener.stop(grace)
        others = [*self._plays, *self._upkeep]
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)
