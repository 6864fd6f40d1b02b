"""A server's rounds over any channel on which it asks a site and gets an answer."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from secagg.errors import Aborted, ConfigError
from secagg.identity import Roster
from secagg.integrations._shared.rounds import SECONDS, SILENT, Channel, Rounds
from secagg.integrations._shared.sessions import INTRODUCTION
from secagg.integrations._shared.statements import Statement, as_refusal, read, write
from secagg.roles.outcome import Outcome
from secagg.roles.server import Server
from secagg.task import Task

Message = dict[str, Any]
Answer = Mapping[str, Any] | Exception
Ask = Callable[[str, Message, float], Mapping[str, Any]]

_MOST_FAILED = 2  # rounds over one model
_WORD = 5.0  # seconds in which a site may take a last word that needs no answer
_LOOK = 0.2  # seconds between two looks at whether the run goes on


class SiteRounds(Rounds):
    """Plays a session for each round of a training, with the sites that have trained.

    - ``parties``: the task's aggregators or decryptors, as id → the site that hosts the role.
    - ``deadlines``: as in :class:`~secagg.integrations._shared.rounds.Rounds`. In the round ``"Introduction"`` the
      sites say which roster they have. Sites that are late are left out of the sum.
    - ``ask(site, message, seconds)``: sends a message to a site, and returns its answer; any exception if there is
      none within the seconds. It is called from threads, once at a time for each party.
    - ``check_running``: raises ``Aborted`` when the run ends.

    The other arguments are those of the base class.
    """

    def __init__(
        self,
        stack: str,
        task: Task,
        *,
        roster: Roster | None,
        parties: Mapping[str, str],
        deadlines: float | Mapping[str, float] = SECONDS,
        ask: Ask,
        check_running: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(stack, task, roster=roster, parties=parties, deadlines=deadlines)
        self.parties = dict(parties)
        self._questions = _Questions(ask, check_running)
        self._failed: dict[bytes, int] = {}  # model's digest → rounds that failed

    def play(
        self, number: int, *, model: bytes, request: bytes, sites: list[str], left_out: Mapping[str, str]
    ) -> Outcome | None:
        """Play round ``number`` with ``sites``; None, after an ERROR line, if it fails.

        ``model`` and ``request`` are the digests of what the sites were sent, and ``left_out`` says who has not
        trained and why, for the log. ``Aborted`` after two failed rounds over one model.
        """
        outcome = self.noted(number, left_out, lambda: self._attempt(number, model, request, sites))
        if outcome is None:
            self._failed[model] = self._failed.get(model, 0) + 1
            if self._failed[model] >= _MOST_FAILED:
                raise Aborted(f"{_MOST_FAILED} rounds over one model failed; the last: {self.failures[-1]}")
        return outcome

    def _attempt(self, number: int, model: bytes, request: bytes, sites: list[str]) -> Outcome:
        session, attempt = self._sessions.open(number, model=model, request=request)
        channel = _Calls(self, self._questions, {"number": number, "attempt": attempt, "session": session})
        return self._play(self._introduce(sites, channel), session, model, channel)

    def ask_each(self, sites: list[str], message: Message, seconds: float) -> Iterator[tuple[str, Answer]]:
        """Send a message to each site, and yield its answer, or the exception that took its place.

        Ends when all have answered or the time is up. For a stack that sends the model in such a message.
        """
        end = time.monotonic() + seconds
        self._questions.clear()
        for site in sites:
            self._questions.put(site, site, message, seconds)
        while (answer := self._questions.take(end)) is not None:
            yield answer

    def _introduce(self, sites: list[str], channel: _Calls) -> list[str]:
        """The sites that can play this session: those with the same task, request and roster.

        The sites that host parties are asked too, so that their kernels are compiled before the rounds.
        """
        cohort, silent = [], {*sites, *self.parties}
        channel.open(dict.fromkeys([*sites, *self.parties], b""), INTRODUCTION)
        while (answer := channel.take()) is not None:
            party, statement = answer
            silent.discard(party)
            try:
                if isinstance(statement, Exception):
                    raise statement
                self._check_introduction(statement, None if party in self.parties else party)
            except Exception as error:
                self._left_out[party] = as_refusal(error)
            else:
                cohort += [] if party in self.parties else [party]
        self._left_out |= dict.fromkeys(silent, SILENT)
        if len(cohort) < self.task.min_survivors:
            few = len({*sites, *self._left_out} - self.parties.keys()) <= self.task.min_survivors
            advice = ": start more sites than that, so that a round goes on when one is lost" if few else ""
            raise Aborted(
                f"got {len(cohort)} sites for a sum; the task's min_survivors is {self.task.min_survivors}{advice}"
            )
        return cohort


class _Calls(Channel):
    """The calls of one session."""

    def __init__(self, rounds: SiteRounds, questions: _Questions, fields: Mapping[str, Any]) -> None:
        self._rounds, self._questions, self._fields = rounds, questions, fields
        self._seconds = self._end = 0.0  # of the open round

    def open(self, outbox: Mapping[str, bytes], name: str, *, takes_inputs: bool = False) -> None:
        self._seconds = self._rounds.seconds(name)
        self._end = time.monotonic() + self._seconds
        self._questions.clear()
        self.send(outbox)

    def send(self, outbox: Mapping[str, bytes]) -> None:
        for party, data in outbox.items():
            site = self._rounds.parties.get(party)
            message = write(self._rounds.task, **self._fields, data=data, party="" if site is None else party)
            self._questions.put(party, site or party, message, self._seconds)

    def answers(self, server: Server[Any]) -> Iterator[tuple[str, bytes | Exception]]:
        while server.pending and (answer := self.take()) is not None:
            party, statement = answer
            if isinstance(statement, Exception):
                yield party, statement
            elif statement.session != self._fields["session"]:
                yield party, ConfigError("got an answer of another session")
            elif statement.data:  # otherwise the message needed no answer
                yield party, statement.data

    def take(self) -> tuple[str, Statement | Exception] | None:
        """The next party's answer, or what took its place; None when none is awaited, or the time is up."""
        answer = self._questions.take(self._end)
        if answer is None:
            return None
        party, message = answer
        try:
            return party, message if isinstance(message, Exception) else read(message, self._rounds.task)
        except Exception as error:
            return party, error

    def dismiss(self, outbox: Mapping[str, bytes]) -> None:
        self._seconds = _WORD
        self.send(outbox)


class _Questions:
    """Messages to parties that are on their way, and their answers."""

    def __init__(self, ask: Ask, check_running: Callable[[], None]) -> None:
        self._ask, self._check_running = ask, check_running
        self._lanes: dict[str, _Lane] = {}  # party → its messages, which arrive in their order
        self._answers: queue.Queue[tuple[int, str, Answer]] = queue.Queue()
        self._asked = 0
        self._waiting: set[int] = set()  # the numbers of the questions without an answer

    def clear(self) -> None:
        """Await no more answers to what was asked until now."""
        self._waiting.clear()

    def put(self, party: str, site: str, message: Message, seconds: float) -> None:
        """Send a message for ``party`` to its site, after those before it, within ``seconds``."""
        self._asked += 1
        number = self._asked
        self._waiting.add(number)
        if party not in self._lanes:
            self._lanes[party] = _Lane(site, self._ask)
        self._lanes[party].put(message, seconds, lambda answer: self._answers.put((number, party, answer)))

    def take(self, end: float) -> tuple[str, Answer] | None:
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
