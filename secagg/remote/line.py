"""What clients and other members share: who they are, what they ask first, and how requests follow each other.

Nothing here has sockets, threads or a clock. A driver asks :meth:`Line.next` what to do, does it, and tells
:meth:`Line.got` or :meth:`Line.lost`, each with the time in seconds since 1970.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.api.documents import Joined, Rosters, read_document
from secagg.api.problems import Kind, Problem
from secagg.api.routes import LARGEST_ROSTER
from secagg.errors import ConfigError, Refused
from secagg.identity import check_party_id
from secagg.kit import Kit
from secagg.remote.requests import Backoff, Call, Meaning, Request, Response, SkewedClock, Sleep, meaning
from secagg.remote.state import State, check_token
from secagg.remote.uploads import Upload
from secagg.task import Task

if TYPE_CHECKING:
    from secagg.identity import Roster
    from secagg.remote.settings import Settings
    from secagg.roles.environment import Lent

log = logging.getLogger("secagg")
_LONGEST_TASK = 1 << 26
_MOST_TRIES_ONCE = 8  # about a minute
_FAILURES_TO_WARN = 3  # some seconds
_FRESH = 5.0  # seconds in which a roster is not asked for again
INSTALL = "pip install 'secagg[client]', or pip install httpx2 pyjwt"
_RENEWED = 180.0  # seconds after which a token is signed anew; it is valid for two minutes more


class Caller:
    """Signs what a party sends with its token; it corrects the clock if the service says that it is wrong."""

    def __init__(self, kit: Kit, state: State) -> None:
        self._kit, self._state = kit, state
        self.party = kit.party or ""
        self.identity: Ed25519PrivateKey | None = state.identity if kit.auth == "roster" else None
        self._token, self._until = "", 0.0
        self._clock = SkewedClock()
        if kit.auth == "tokens":
            self._token = state.token
        elif state.joined is not None:
            self.join(state.joined)

    def join(self, joined: Joined) -> None:
        """Take the id and the token that the service gave."""
        self.party, self._token = check_party_id(joined.party), joined.token

    def headers(self, now: float) -> dict[str, str]:
        """The header that says who calls."""
        if self.identity is not None and not 0 <= now - self._until + _RENEWED <= _RENEWED:
            task = bytes.fromhex(self._kit.task)
            self._token = _tokens().sign_token(self.party, self.identity, self._kit.url, task, self._clock.now(now))
            self._until = now + _RENEWED
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    def worked(self) -> None:
        """The service took the token."""
        self._clock.worked()

    def correct(self, date: str | None, now: float) -> bool:
        """Correct the clock by a ``Date`` header; whether another token may help."""
        if self.identity is None or not self._clock.correct(date, now):
            return False
        log.warning(
            "the service's clock differs from this machine's by %.0f s; its time is used", self._clock.offset
        )
        self._until = 0.0
        return True

    def time(self, now: float) -> float:
        """The time, corrected."""
        return self._clock.now(now)


def _tokens() -> ModuleType:
    """What signs tokens; ``ConfigError`` that says what to install."""
    try:
        from secagg.api import tokens
    except ImportError as error:
        raise ConfigError(f"got no {error.name}, which a client of a service needs: {INSTALL}") from error
    return tokens


class Exchange(ABC):
    """One call after the other, each until it has an answer: retries, tokens, and what problems mean.

    In all methods, ``now`` is this machine's time in seconds since 1970, and ``reason`` says in words what failed.
    """

    def __init__(self, caller: Caller, settings: Settings, jitter: Callable[[], float] = random.random) -> None:
        self.caller, self.settings = caller, settings
        self._call: Call | None = None
        self._backoff = Backoff(jitter)
        self._not_before = 0.0
        self.ended = False  # the run is over

    @abstractmethod
    def choose(self, now: float) -> Call | Sleep | None:
        """The next call; a ``Sleep`` if there is none now, None if there will be none."""

    def next(self, now: float) -> Request | Sleep | None:
        """What to do now; None at the end. Asking again changes nothing until the answer is there."""
        if self.ended:
            return None
        if now < self._not_before:
            return Sleep(self._not_before - now)
        if self._call is None:
            chosen = self.choose(now)
            if not isinstance(chosen, Call):
                return chosen
            self._call = chosen
        return self._call.request(self.caller.headers(now))

    def got(self, response: Response, now: float) -> None:
        """Take the answer to the request of :meth:`next`. Raises ``Refused`` where nothing would help."""
        call = self._call
        if call is None:
            raise ConfigError("got an answer to no request; call next() first")
        if len(response.body) > call.most and response.status < 300:
            raise Refused(f"got an answer of {len(response.body)} bytes; expected at most {call.most}")
        if 200 <= response.status < 300 or (response.status == 304 and call.unchanged):
            self._call = None
            self._backoff.clear()
            self.caller.worked()
            call.taken(response, now)
        elif response.status < 400:
            self.moved(response, now)
        else:
            self._refused(call, Problem.of(response.status, response.headers, response.body), response, now)

    def lost(self, reason: str, now: float) -> None:
        """The connection failed before the whole answer was there: try again later."""
        self._later(reason, now, None)

    def failed(self, now: float, reason: str) -> bool:
        """Whether to give the call up after one more failure; raises ``Refused`` to give up altogether."""
        if self.settings.once and self._backoff.failures > _MOST_TRIES_ONCE:
            raise Refused(f"the service did not answer after {self._backoff.failures} attempts: {reason}")
        return False

    def moved(self, response: Response, now: float) -> None:
        """The service points elsewhere."""
        raise Refused(f"got a redirect ({response.status}) from the service; none is followed here")

    def run_over(self, problem: Problem) -> None:  # noqa: B027 - may be left out
        """The service says that the run is over: no request follows."""

    def pause(self, seconds: float, now: float) -> None:
        """Send nothing for so many ``seconds``."""
        self._not_before = now + seconds

    def _refused(self, call: Call, problem: Problem, response: Response, now: float) -> None:
        if problem.kind is Kind.UNAUTHORIZED and self.caller.correct(response.headers.get("date"), now):
            return
        what = meaning(problem)
        if what is Meaning.AGAIN and (problem.kind is not Kind.DIGEST_MISMATCH or self._backoff.damaged()):
            self._later(str(problem), now, problem.retry_after)
        elif what is Meaning.ENDED:
            self._call, self.ended = None, True
            self.run_over(problem)
        elif call.over is not None and (what in (Meaning.OVER, Meaning.RESUME) or not call.explained):
            self._call = None
            call.over(problem)
        else:
            raise Refused(f"the service refused this party: {problem}") from problem

    def _later(self, reason: str, now: float, asked: float | None) -> None:
        call, seconds = self._call, self._backoff.delay(asked)
        if self.failed(now, reason):
            self._call = None
            return
        self.pause(seconds, now)
        self.settings.tell("retry", reason=reason, seconds=seconds)
        # One line that a program without any logging shows too, or a wrong address looks like a long wait.
        level = logging.WARNING if self._backoff.failures == _FAILURES_TO_WARN else logging.INFO
        log.log(level, "the service did not answer, so the request is sent again in %.1f s: %s", seconds, reason)
        if call is not None:
            if call.lost is not None:
                self._call = None
                call.lost()
            elif call.most_tries and self._backoff.failures >= call.most_tries and call.over is not None:
                self._call = None
                self._backoff.clear()
                call.over(Problem(Kind.NOT_FOUND))


class Line(Exchange):
    """A party's conversation with the service: join, fetch the task and the roster, then poll and answer."""

    def __init__(
        self, kit: Kit, state: State, settings: Settings, jitter: Callable[[], float] = random.random
    ) -> None:
        super().__init__(Caller(kit, state), settings, jitter)
        self.kit, self.state = kit, state
        self.task: Task | None = None
        self.roster: Roster | None = None
        self.uploads: deque[Upload] = deque()
        self._rosters: Rosters | None = None
        self._roster_at = 0.0
        self._roster_current = kit.auth != "roster"

    @property
    def party(self) -> str:
        """This party's id."""
        return self.caller.party

    def path(self, **values: str) -> dict[str, str]:
        """The values of a path of this party: its task, its id, and ``values``."""
        return {"task": self.kit.task, "party": self.party, **values}

    def lent(self) -> Lent:
        """What each role is lent."""
        settings = self.settings
        lent: dict[str, Any] = {
            "identity": self.caller.identity,
            "roster": self.roster,
            "key": self.state.key,
            "executor": settings.executor,
            "beacon": settings.beacon,
            "budget": settings.budget,
        }
        return {name: value for name, value in lent.items() if value is not None}  # type: ignore[return-value]

    def choose(self, now: float) -> Call | Sleep | None:
        """See :meth:`Exchange.choose`."""
        if not self.party:
            return Call("join", self.path(), self._joined)
        if self.task is None:
            return Call("task", self.path(), self._take_task, most=_LONGEST_TASK)
        if not self._roster_current:
            return self._ask_roster()
        while self.uploads and self.uploads[0].done:
            self.uploads.popleft()
        if self.uploads:
            return self.uploads[0].call(self.path())
        return self.go_on(now)

    @abstractmethod
    def go_on(self, now: float) -> Call | Sleep | None:
        """The next call once everything is set up and all messages are sent."""

    def renew_roster(self, now: float) -> None:
        """Ask for the roster again before the next call, unless it came just now."""
        self._roster_current = self.kit.auth != "roster" or now < self._roster_at + _FRESH

    def _ask_roster(self) -> Call:
        known = {} if self.roster is None else {"if-none-match": f'"{self.roster.digest.hex()}"'}
        return Call(
            "roster", self.path(), self._take_roster, headers=known, most=LARGEST_ROSTER, unchanged=bool(known)
        )

    def _joined(self, response: Response, now: float) -> None:
        joined = read(response.body, Joined)
        try:
            check_token(joined.token)
            self.caller.join(joined)
        except ConfigError as error:
            raise Refused(f"the service gave an id or a token that can't be used: {error}") from error
        self.state.write_joined(joined)

    def _take_task(self, response: Response, now: float) -> None:
        try:
            task = Task.from_bytes(response.body, known=self.settings.known)
            self.kit.check_task(task)
        except ConfigError as error:
            raise Refused(f"the service serves another task than the pinned one: {error}") from error
        self.task = task

    def _take_roster(self, response: Response, now: float) -> None:
        self._roster_current, self._roster_at = True, now
        if response.status != 304:
            self._rosters = read(response.body, Rosters, LARGEST_ROSTER)
        assert self._rosters is not None
        try:
            # The roster at hand is checked again, because it may have expired. A service that sets the clock back
            # by its Date must not prolong it.
            roster = self.kit.check_roster(
                self._rosters.roster,
                self._rosters.signature,
                ledger=self.state.ledger,
                now=max(now, self.caller.time(now)),
            )
        except ConfigError as error:
            raise Refused(f"the service serves a roster that nothing vouches for: {error}") from error
        if self.roster is None or self.roster.digest != roster.digest:
            self.settings.tell("roster", digest=roster.digest.hex(), parties=len(roster))
        self.roster = roster


def read(body: bytes, kind: Any, most: int = 1 << 16) -> Any:
    """A document of the service; ``Refused`` for anything else."""
    try:
        return read_document(body, kind, most)
    except ConfigError as error:
        raise Refused(str(error)) from error
