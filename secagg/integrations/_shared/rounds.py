"""A server's rounds, over any channel on which it asks a site and gets an answer."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from secagg.errors import Aborted, ConfigError, EncodingError, LocalProtocolError
from secagg.identity import PartyRole, Roster
from secagg.integrations._shared.sessions import (
    INTRODUCTION,
    Sessions,
    checked_deadlines,
    clipping,
    note_faults,
    without,
)
from secagg.integrations._shared.statements import as_refusal, read, write
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.session import roster_digest
from secagg.table import contribution_round
from secagg.task import Task

Message = dict[str, Any]
Answer = Mapping[str, Any] | Exception
Ask = Callable[[str, Message, float], Mapping[str, Any]]

_SECONDS = 60.0
_MOST_FAILED = 2  # rounds over one model
_WORD = 5.0  # seconds in which a site may take a last word that needs no answer
_LOOK = 0.2  # seconds between two looks at whether the run goes on


class Rounds:
    """Plays a session for each round of a training, with the sites that have trained.

    - ``task``: the task with its metrics; ``roster``: the server's.
    - ``parties``: the task's aggregators or decryptors, as id → the site that hosts the role.
    - ``deadlines``: the seconds that a round of the protocol may take, one number or by name. In the round
      ``"Introduction"`` the sites say which roster they have. Sites that are late are left out of the sum.
    - ``ask(site, message, seconds)``: sends a message to a site, and returns its answer; any exception if there is
      none within the seconds. It is called from threads, once at a time for each party.
    - ``check_running``: raises ``Aborted`` when the run ends.

    A round that fails is one ERROR line. ``outcomes`` has the outcomes of the others, of which the newest alone
    keeps its mean and sum; ``failures`` has the lines.
    """

    def __init__(
        self,
        stack: str,
        task: Task,
        *,
        roster: Roster | None,
        parties: Mapping[str, str],
        deadlines: float | Mapping[str, float],
        ask: Ask,
        check_running: Callable[[], None] = lambda: None,
    ) -> None:
        protocol = task.protocol
        protocol.validate_roster(task, roster)
        others = [] if roster is None else [roster.ids(role) for role in protocol.party_counts]
        if missing := sorted({party for ids in others for party in ids} - set(parties)):
            raise ConfigError(f"got no parties= for {', '.join(missing)}, which {protocol.name} needs")
        if extra := sorted(set(parties) - {party for ids in others for party in ids}):
            raise ConfigError(f"got parties= for {', '.join(extra):.200}, which {protocol.name} does not have")
        self.task, self.roster, self.parties = task, roster, dict(parties)
        self.outcomes: list[Outcome] = []
        self.failures: list[str] = []
        self._log = logging.getLogger(f"secagg.{stack}")
        self._deadlines = checked_deadlines(deadlines, task)
        self._ask, self._check_running = ask, check_running
        self._sessions = Sessions(stack)
        self._failed: dict[bytes, int] = {}  # model's digest → rounds that failed
        self._left_out: dict[str, str] = {}  # party → why the running round goes on without it
        self._lanes: dict[str, _Lane] = {}  # party → its messages, which arrive in their order
        self._answers: queue.Queue[tuple[int, str, Answer]] = queue.Queue()
        self._asked = 0
        self._waiting: set[int] = set()  # the numbers of the questions without an answer

    def play(
        self, number: int, *, model: bytes, request: bytes, sites: list[str], left_out: Mapping[str, str]
    ) -> Outcome | None:
        """Play round ``number`` with ``sites``; None, after an ERROR line, if it fails.

        ``model`` and ``request`` are the digests of what the sites were sent, and ``left_out`` says who has not
        trained and why, for the log. ``Aborted`` after two failed rounds over one model.
        """
        self._left_out = dict(left_out)
        try:
            outcome = self._play(number, model, request, sites)
        except (Aborted, ConfigError, EncodingError) as error:
            self.failures.append(f"round {number} aborted: {error}{without(self._left_out)}")
            self._log.error("secagg: %s", self.failures[-1])
            self._failed[model] = self._failed.get(model, 0) + 1
            if self._failed[model] >= _MOST_FAILED:
                raise Aborted(f"{_MOST_FAILED} rounds over one model failed; the last: {error}") from error
            return None
        if self._left_out:
            self._log.warning("secagg: round %d went on%s", number, without(self._left_out))
        level, clipped = clipping(outcome, self.task)
        self._log.log(level, "secagg: round %d: %d updates in the sum%s", number, len(outcome.survivors), clipped)
        if self.outcomes:  # otherwise a long job fills the server's memory with models
            self.outcomes[-1] = replace(self.outcomes[-1], mean=None, sum=None)
        self.outcomes.append(outcome)
        return outcome

    def ask_each(self, sites: list[str], message: Message, seconds: float) -> Iterator[tuple[str, Answer]]:
        """Send a message to each site, and yield its answer, or the exception that took its place.

        Ends when all have answered or the time is up. For a stack that sends the model in such a message.
        """
        end = time.monotonic() + seconds
        self._waiting.clear()
        for site in sites:
            self._question(site, site, message, seconds)
        while (answer := self._take(end)) is not None:
            yield answer

    def _play(self, number: int, model: bytes, request: bytes, sites: list[str]) -> Outcome:
        session, attempt = self._sessions.open(number, model=model, request=request)
        fields = {"number": number, "attempt": attempt, "session": session}
        cohort = self._introduce(sites, fields)
        if len(cohort) < self.task.min_survivors:
            few = len({*sites, *self._left_out} - self.parties.keys()) <= self.task.min_survivors
            advice = ": start more sites than that, so that a round goes on when one is lost" if few else ""
            raise Aborted(
                f"got {len(cohort)} sites for a sum; the task's min_survivors is {self.task.min_survivors}{advice}"
            )
        server = self.task.server(cohort, roster=self.roster, session=session)
        try:
            outbox = server.start()
            while server.outcome is None:
                if server.round == contribution_round(self.task.protocol):
                    self._sessions.asks_for_inputs(model)
                self._round(server, outbox, fields)
                outbox = _close(server)
        except Aborted as aborted:
            self._send(aborted.outbox, fields, _WORD)
            raise
        finally:
            note_faults(server.faults, self._left_out)
        return server.outcome

    def _introduce(self, sites: list[str], fields: Mapping[str, Any]) -> list[str]:
        """The sites that can play this session: those with the same task, request and roster.

        The sites that host parties are asked too, so that their kernels are compiled before the rounds.
        """
        seconds, cohort = self._seconds(INTRODUCTION), []
        everyone, end = [*sites, *self.parties], time.monotonic() + self._seconds(INTRODUCTION)
        silent = set(everyone)
        self._waiting.clear()
        self._send(dict.fromkeys(everyone, b""), fields, seconds)
        while (answer := self._take(end)) is not None:
            site, message = answer
            silent.discard(site)
            try:
                statement = read(_checked(message), self.task)
                if statement.roster != roster_digest(self.roster):
                    raise ConfigError("got another roster; give the server and all sites the same")
                if site in self.parties:
                    continue
                if self.roster is not None and site not in self.roster.ids(PartyRole.CLIENT):
                    raise ConfigError("the roster doesn't list this site as a client")
                cohort.append(site)
            except Exception as error:
                self._left_out[site] = as_refusal(error)
        self._left_out |= dict.fromkeys(silent, "no answer to the introduction")
        return sorted(cohort)

    def _round(self, server: Server[Any], outbox: Outbox, fields: Mapping[str, Any]) -> None:
        """Play one round, until no party is pending, none can answer any more, or the time is up."""
        seconds = self._seconds(str(server.round))
        end, pending = time.monotonic() + seconds, server.pending
        self._waiting.clear()
        # A party that was dropped does not wait, so it gets no message.
        self._send({party: data for party, data in outbox.items() if party in pending}, fields, seconds)
        while server.pending and (answer := self._take(end)) is not None:
            party, message = answer
            try:
                statement = read(_checked(message), self.task)
                if statement.session != fields["session"]:
                    raise ConfigError("got an answer of another session")
            except Exception as error:
                self._left_out[party] = as_refusal(error)
                continue
            if statement.data:  # otherwise the message needed no answer
                self._send(server.receive(party, statement.data), fields, seconds)

    def _send(self, outbox: Mapping[str, bytes], fields: Mapping[str, Any], seconds: float) -> None:
        for party, data in outbox.items():
            hosted = party in self.parties
            message = write(self.task, **fields, data=data, party=party if hosted else "")
            self._question(party, self.parties.get(party, party), message, seconds)

    def _question(self, party: str, site: str, message: Message, seconds: float) -> None:
        self._asked += 1
        number = self._asked
        self._waiting.add(number)
        if party not in self._lanes:
            self._lanes[party] = _Lane(site, self._ask)
        self._lanes[party].put(message, seconds, lambda answer: self._answers.put((number, party, answer)))

    def _take(self, end: float) -> tuple[str, Answer] | None:
        """The next party's answer; None when none is awaited, or after the time ``end``."""
        while self._waiting and (left := end - time.monotonic()) > 0:
            self._check_running()
            try:
                number, party, answer = self._answers.get(timeout=min(left, _LOOK))
            except queue.Empty:
                continue
            if number in self._waiting:  # not of an earlier round
                self._waiting.remove(number)
                return party, answer
        return None

    def _seconds(self, name: str) -> float:
        if isinstance(self._deadlines, Mapping):
            return self._deadlines.get(name, _SECONDS)
        return self._deadlines


class _Lane:
    """The messages to one party. Each is sent when the one before it was answered or given up.

    Some messages need no answer, but must arrive before the next, such as the shares that a member gets one by one.
    """

    def __init__(self, site: str, ask: Ask) -> None:
        self._site, self._ask = site, ask
        self._queue: deque[tuple[Message, float, Callable[[Answer], None]]] = deque()
        self._lock = threading.Lock()
        self._running = False

    def put(self, message: Message, seconds: float, answered: Callable[[Answer], None]) -> None:
        """Send a message within the next ``seconds``; ``answered`` gets the answer, or what took its place."""
        with self._lock:
            self._queue.append((message, time.monotonic() + seconds, answered))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._running = False
                    return
                message, end, answered = self._queue.popleft()
            try:
                if (left := end - time.monotonic()) <= 0:
                    raise TimeoutError("no answer to an earlier message")
                answered(self._ask(self._site, message, left))
            except Exception as error:
                answered(error)


def _checked(answer: Answer) -> Mapping[str, Any]:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _close(server: Server[Any]) -> Outbox:
    try:
        return server.close_round()
    except LocalProtocolError as error:  # a beacon, which this stack does not fetch
        raise Aborted(str(error)) from error
