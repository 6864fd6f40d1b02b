"""Aggregators, decryptors and committee members at a service: they poll and answer, and need no open port."""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from secagg import wire
from secagg.api.documents import Framed, Result, session_key
from secagg.api.problems import Kind, Problem
from secagg.errors import ConfigError, LocalProtocolError, Refused
from secagg.identity import PartyRole
from secagg.kit import Kit
from secagg.remote.line import read
from secagg.remote.polling import Polling
from secagg.remote.requests import Call, Response, Sleep
from secagg.remote.settings import Options, Settings
from secagg.remote.state import State
from secagg.remote.transport import Driver
from secagg.remote.uploads import Upload
from secagg.roles.listener import FaultRecorder
from secagg.table import Proposal
from secagg.wire import Envelope, Reject

#: The log of the package.
log = logging.getLogger("secagg")

#: Sessions that a member has open at a time; the oldest is left for another.
MOST_SESSIONS = 8
_LOOK = 30.0  # seconds between two looks at what became of the sessions that are open
_AGAIN = 2.0  # seconds until a role that waits for something, such as a beacon, gets its messages again


@dataclass(eq=False)
class Hosted:
    """A session in which this member has a role.

    ``name`` is the session's name and ``key`` the service's own name for it. ``role`` is the member's role.
    ``frames`` are the messages that wait for the role, and ``open_uploads`` counts the answers that are not sent
    yet.
    """

    name: bytes
    key: str
    role: FaultRecorder[Any]
    frames: deque[Framed] = field(default_factory=deque)
    open_uploads: int = 0


class MemberCore(Polling):
    """A member's conversation with a service; see :class:`secagg.remote.line.Line` for how a driver uses it.

    The first message of a session is the server's proposal, which names the session. The role is made for that
    name, and one ledger is behind the roles of all sessions: a server that plays a session again gets no second
    answer. Messages that come together are taken with one save of the role's state. The constructor takes, as
    ``line``, what :class:`secagg.remote.line.Line` takes.
    """

    def __init__(self, *line: Any) -> None:
        super().__init__(*line)
        self.sessions: dict[str, Hosted] = {}
        self._look_at = 0.0
        self._new: tuple[str, list[Framed]] | None = None  # messages of a session that has no role here yet

    def go_on(self, now: float) -> Call | Sleep | None:
        """See :meth:`Line.go_on`."""
        if self._new is not None:
            (key, frames), self._new = self._new, None
            opened = self._open(key, frames[0].data)
            if opened is not None:
                opened.frames.extend(frames)
        for session in list(self.sessions.values()):
            if session.frames:
                if self._handle(session):
                    return self.choose(now)
                return self._look(session, now) if now >= self._look_at else Sleep(_AGAIN)
        if self.idle and self.sessions and now >= self._look_at:
            return self._look(next(iter(self.sessions.values())), now)
        return self.poll(now, live=bool(self.sessions))

    def _look(self, session: Hosted, now: float) -> Call:
        """Ask what became of a session."""
        self._look_at = now + _LOOK
        return Call(
            "result",
            self.path(session=session.key),
            lambda response, now: self._looked(session, response),
            lambda problem: self._end(session),
        )

    def offered(self, response: Response, now: float) -> None:
        """Refuse an offer: a member trains nothing."""
        raise Refused(f"got an offer to train as a {self.kit.role}; only clients train")

    def take_messages(self, key: str, frames: list[Framed], now: float) -> bool:
        """See :meth:`Polling.take_messages`."""
        if key in self.sessions:
            self.sessions[key].frames.extend(frames)
        elif self.state.is_over(key):
            return False
        else:
            self._new = key, frames
            self.renew_roster(now)  # the session may be of a newer one
        return True

    def _open(self, key: str, first: bytes) -> Hosted | None:
        """The session at the address ``key``, which ``first`` must propose; None if it is over."""
        assert self.task is not None
        name = proposed(first)
        if name is None or session_key(self.task.digest, name) != key:
            raise Refused(f"got messages of session {key!r:.20} that don't begin with its proposal")
        if self.state.folder.is_over(self.task, self.party, name):
            return None
        while len(self.sessions) >= MOST_SESSIONS:
            self._end(next(iter(self.sessions.values())))
        folder, aggregates = self.state.folder, self.kit.role is PartyRole.AGGREGATOR
        make: Any = partial(folder.aggregator if aggregates else folder.decryptor, self.task, self.party)
        anew = self.task.aggregator if aggregates else self.task.decryptor
        role = self.restored(key, partial(make, session=name, **self.lent()), anew, name)
        if role is None:
            return None
        self.sessions[key] = Hosted(name, key, role)
        self.settings.tell("accepted", key)
        return self.sessions[key]

    def _handle(self, session: Hosted) -> bool:
        """Hand all messages at hand to the role, with one save; False if it can't take them yet."""
        frames = list(session.frames)
        try:
            replies = session.role.receive_all([frame.data for frame in frames])
        except LocalProtocolError as error:
            log.warning("%s can't answer in session %s yet: %s", self.party, session.key[:12], error)
            return False
        session.frames.clear()
        for frame, reply in zip(frames, replies, strict=True):
            if reply is not None:
                self._send(session, frame.round, reply)
        if session.role.finished and not session.open_uploads:
            self._end(session)
        return True

    def _send(self, session: Hosted, number: int, reply: bytes) -> None:
        def taken(again: bool) -> None:
            session.open_uploads -= 1
            self.settings.tell("sent", session.key, round=number, bytes=len(reply))
            if session.role.finished and not session.open_uploads and not session.frames:
                self._end(session)

        def over(problem: Problem) -> None:
            session.open_uploads -= 1
            if problem.kind is not Kind.ROUND_CLOSED:  # then only this answer comes too late
                self._end(session)

        session.open_uploads += 1
        self.uploads.append(Upload(session.key, number, reply, taken, over))

    def _looked(self, session: Hosted, response: Response) -> None:
        if read(response.body, Result).state in ("done", "failed"):
            self._end(session)
        elif session.key in self.sessions:  # look at the others first, the next time
            self.sessions[session.key] = self.sessions.pop(session.key)

    def _end(self, session: Hosted) -> None:
        """The session is over for this member: delete its secrets."""
        if self.sessions.pop(session.key, None) is None:
            return
        self.state.note_over(session.key)
        self.state.folder.forget(session.role)
        self.settings.tell("ended", session.key, faults=len(session.role.faults))


def proposed(data: bytes) -> bytes | None:
    """The name of the session that the server proposes in ``data``; None for any other message."""
    try:
        envelope = Envelope.parse(data, len(data))
        if envelope.sender != wire.SERVER or envelope.kind != Proposal.TYPE:
            return None
        return envelope.open(Proposal)[0].session
    except Reject:
        return None


class RemoteMember:
    """A connected aggregator, decryptor or committee member. :meth:`run` answers until the run is over.

    ``kit`` is its kit, or the kit's path; ``state`` is the folder of its keys and its state; ``options`` are the
    keywords of :func:`secagg.connect`.
    """

    def __init__(
        self, kit: Kit | str | os.PathLike[str], state: str | os.PathLike[str], **options: Unpack[Options]
    ) -> None:
        settings = Settings.of(**options)
        loaded = kit if isinstance(kit, Kit) else Kit.load(kit)
        if loaded.role is PartyRole.CLIENT:
            raise ConfigError(f"got the kit of {loaded.party}, a client; connect it with secagg.connect")
        self._driver = Driver(loaded, settings)
        self._state = State(state, loaded, settings)
        self.core = MemberCore(loaded, self._state, settings)
        self._running = False

    def run(self) -> None:
        """Answer until the run is over, or :meth:`close` is called, or with ``once=True`` there is nothing to do.

        Raises ``Refused`` if the service refuses this member, or sends what it doesn't accept.
        """
        self._running = True
        try:
            while self._driver.step(self.core, self._driver.wake):
                pass
        finally:
            self._running = False
            if self._driver.closed:  # by another thread
                self._driver.hang_up()

    def close(self) -> None:
        """Stop, and release the folder. Open sessions go on when the member connects again."""
        self._driver.close()
        if not self._running:
            self._driver.hang_up()
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
