"""A client's side of all that happens at a service: offers, sessions, uploads. It has no sockets, threads or clock.

What a client believes: its role, the pinned task, the roster that the registrar signed, and the session that it
computes from the offer and from the bytes of the model. Everything else from the service is a proposal, which is
checked or, where nothing depends on it, shown.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from secagg._rounds import SECOND_UPLOAD, count_upload, may_upload
from secagg.api.documents import Acceptance, Framed, Result
from secagg.api.problems import Problem
from secagg.api.routes import JSON_TYPE
from secagg.errors import Aborted, LocalProtocolError, Refused, RemoteProtocolError
from secagg.remote.download import Download, most_model_bytes
from secagg.remote.line import read
from secagg.remote.polling import Polling
from secagg.remote.requests import Call, Response, Sleep
from secagg.remote.session import Session, read_offer, session_of
from secagg.remote.uploads import Upload
from secagg.roles.client import Client

#: The log of the package.
log = logging.getLogger("secagg")

#: What the ledger calls an upload to a service.
LABEL = "secagg/v1/http-upload"
_ROUND_SECONDS = 60.0  # that are assumed for a round whose deadline the service doesn't state
_PATIENCE = 600.0  # seconds after a deadline in which the service may come back and take a message still
_FIRST_LOOK = 0.05  # seconds, doubled with each look at what became of an update once our part is over
_MOST_LOOKS = 8
_LOOK = 20.0  # seconds between two looks at what became of a session
_LONGEST_SLEEP = 30.0


class ClientCore(Polling):
    """A client's conversation with a service; see :class:`secagg.remote.line.Line` for how a driver uses it.

    ``state`` is what the client keeps in its folder. ``jitter`` returns a number from 0 to 1, by which waiting
    times are spread. ``session`` is the newest offer, or None. :meth:`accept`, :meth:`decline` and
    :meth:`contribute` may be called from another thread than the driver's; wake the driver afterwards.
    """

    session: Session | None = None
    _restored = False

    # What the caller says

    def accept(self, session: Session) -> None:
        """Take part in ``session``, whose model was downloaded. Its role is made, or restored."""
        if session.answer is not None or session.is_over():
            return
        self.state.write_offer(session.offer)
        role = self._make_role(session)
        if session.is_over():  # it ended in another thread meanwhile
            self.state.folder.forget(role)
            return
        session.role = role
        session.answer = Acceptance(True)
        self.settings.tell("accepted", session.key, number=session.offer.number)

    def decline(self, session: Session, reason: str = "") -> None:
        """Don't take part in ``session``; the service is told the ``reason``, in at most 200 characters."""
        if session.answer is None:
            session.answer = Acceptance(False, str(reason)[:200])
            session.over, session.closed = "this client declined", True
            self.settings.tell("declined", session.key, reason=session.answer.reason)

    def contribute(self, session: Session, update: Any, weight: int | None = None) -> None:
        """Give the session this client's update; it is counted in the ledger as an upload over the model.

        Raises ``ConfigError`` for one upload too many over this model, and what :meth:`secagg.Client.contribute`
        raises.
        """
        if session.over is not None and not session.contributed:
            return
        if session.role is None or self.task is None:
            raise LocalProtocolError("got an update for an offer that was not accepted; accept it first")
        number = count_upload(
            self.state.ledger,
            LABEL,
            self.party,
            self.task.digest,
            session=session.name,
            most=self.settings.max_uploads_per_model,
        )
        if number > 1:
            log.warning("session %s: %s", session.key[:12], SECOND_UPLOAD)
        try:
            session.role.contribute(update, weight)
        except LocalProtocolError as error:
            if session.over is not None:  # it ended in the meantime
                return
            if not isinstance(error.__cause__, Aborted):
                raise
            # A crash came between the ledger's claim of an update and the save of it. Training again gave another
            # one, which the session can't take, however often this client starts again.
            log.warning("session %s is left out: %s", session.key[:12], error)
            session.left = "an update from before a crash was lost, and only that one may be contributed"
            return
        session.contributed = True

    def leave(self, session: Session) -> None:
        """The caller goes on without ``session``: decline it or, if it was accepted, leave it out."""
        if session.answer is None:
            self.decline(session, "this client did not take the offer up")
        elif not session.contributed:
            session.left = "this client contributed nothing"

    def new_session(self, seen: Session | None, resumed: bool) -> Session | None:
        """The session that the caller is to train for, if it is another one than ``seen``.

        With ``resumed`` it may also be a session to which this client contributed before.
        """
        session = self.session
        if session is None or session is seen or session.over is not None:
            return None
        return None if session.contributed and not resumed else session

    def has_model(self, session: Session) -> bool:
        """Whether the session's model is in the folder."""
        return self.state.model_path(session.offer.model).exists()

    def download(self, session: Session) -> Download:
        """What fetches the session's model into the folder."""
        assert self.task is not None
        most = self.settings.most_model_bytes or most_model_bytes(self.task)
        until = session.since + max(0.0, session.offer.seconds) + _PATIENCE
        return Download(self, session.offer, most, until)

    # What comes next

    def go_on(self, now: float) -> Call | Sleep | None:
        """See :meth:`Line.go_on`."""
        if not self._restored:
            self._restored = True
            self.restore(now)
        session = self.session
        if session is not None:
            if session.over is not None and not session.closed:
                if now < session.look_at:
                    return Sleep(session.look_at - now)
                return Call(
                    "result",
                    self.path(session=session.key),
                    self._closed,
                    self._not_known,
                    most_tries=3,
                )
            if session.answer is not None and not session.answered:
                return self._answer(session)
            if session.left:
                self._end(session, session.left)
            if session.frames and not self._handle(session, now):
                return Sleep(min(max(1.0, (session.deadline or now) - now), _LONGEST_SLEEP))
            if self.uploads or (session.over is not None and not session.closed):
                return self.choose(now)
            if session.answer is None and session.over is None:
                return Sleep(_LONGEST_SLEEP)
            if not session.closed and self.idle and now >= session.look_at:
                session.look_at = now + _LOOK
                return Call("result", self.path(session=session.key), self._looked, self._not_known)
        return self.poll(now, live=session is not None and not session.closed)

    # Offers

    def offered(self, response: Response, now: float) -> None:
        """See :meth:`Polling.offered`."""
        session = read_offer(response, self.kit, now)
        current = self.session
        if current is not None and current.key == session.key:
            if current.answered:  # the service has forgotten the answer in a crash
                current.answered = False
                self.wait_a_little(None, now)
            return
        if current is not None and not current.closed:
            self._end(current, "the service went on to another session")
            current.closed = True
        self.renew_roster(now)
        self.session = session
        self.settings.tell("offered", session.key, number=session.offer.number, attempt=session.offer.attempt)
        why = self._objection(session)
        if why:
            self.decline(session, why)

    def _objection(self, session: Session) -> str:
        """Why this client may not take the offer up; empty if it may."""
        assert self.task is not None
        most = self.settings.max_uploads_per_model
        bound = (self.party, self.task.digest)
        if self.state.is_over(session.key):
            log.error(
                "round %d was offered again, and its session is over: declined; a second run needs a task with "
                "another context",
                session.offer.number,
            )
            return "the session is over for this client"
        if not may_upload(self.state.ledger, LABEL, *bound, session=session.name, most=most):
            log.error(
                "a session was offered over a model that got %d uploads: declined, because the sums of several "
                "sessions over one model reveal the difference between them",
                most,
            )
            return f"this client gives {most} uploads over one model"
        if self.settings.may_run is not None and not self.settings.may_run():
            return "this device can't run now"
        return ""

    def _answer(self, session: Session) -> Call:
        assert session.answer is not None
        return Call(
            "accept",
            self.path(session=session.key),
            lambda response, now: self._was_answered(session, now),
            lambda problem: self._closed_offer(session, problem),
            headers={"content-type": JSON_TYPE},
            body=msgspec.json.encode(session.answer),
        )

    def _was_answered(self, session: Session, now: float) -> None:
        session.answered, session.look_at = True, now + _LOOK

    def _closed_offer(self, session: Session, problem: Problem) -> None:
        session.answered = True
        self._end(session, f"the answer to the offer came too late ({problem.kind.word})")

    def _make_role(self, session: Session) -> Client[Any]:
        assert self.task is not None
        return self.state.folder.client(self.task, self.party, session=session.name, **self.lent())

    def restore(self, now: float) -> None:
        """Take up the session of an offer that was accepted before a restart."""
        offer = self.state.read_offer()
        if offer is None or self.task is None:
            return
        session = session_of(offer, self.task.digest, now)
        if self.state.is_over(session.key) or self.state.folder.is_over(self.task, self.party, session.name):
            self.state.forget_offer()
            return
        session.role = self.restored(session.key, lambda: self._make_role(session), self.task.client, session.name)
        if session.role is None:
            self.state.forget_offer()
            return
        session.answer, session.answered = Acceptance(True), True  # if the service doesn't know, it offers again
        session.contributed = session.resumed = session.role.contributed or session.role.finished
        self.session = session

    # Messages

    def take_messages(self, key: str, frames: list[Framed], now: float) -> bool:
        """See :meth:`Polling.take_messages`."""
        session = self.session
        if session is None or session.key != key or session.role is None:
            if self.state.is_over(key):
                return False
            raise Refused(f"got messages of session {key!r:.20}, in which this client does not take part")
        session.deadline = now + (_ROUND_SECONDS if self.deadline is None else self.deadline)
        session.heard = True
        session.bytes_down += sum(len(frame.data) for frame in frames)
        session.frames.extend(frames)
        return True

    def _handle(self, session: Session, now: float) -> bool:
        """Hand the messages at hand to the role, up to the first answer; False while the update is missing."""
        assert session.role is not None
        while session.frames and session.over is None:
            frame, ready = session.frames[0], session.contributed
            try:
                reply = session.role.receive(frame.data)
            except LocalProtocolError as error:
                if ready:  # the update is there, so it is the budget that has no room
                    session.error = error
                    self._end(session, str(error))
                    break
                if session.deadline is not None and now >= session.deadline:
                    session.frames.clear()  # does the service still wait? Poll with the old cursor
                    self.idle, session.look_at = True, 0.0
                    self.rewind(now)
                    break
                return False
            except RemoteProtocolError as error:
                session.error = Refused(f"the service sent what breaks the protocol: {error}")
                self._end(session, str(error))
                raise session.error from error
            except Aborted as error:
                self._end(session, str(error))
                break
            session.frames.popleft()
            if reply is not None:
                self._send(session, frame.round, reply, now)
                break
        return True

    def _send(self, session: Session, number: int, reply: bytes, now: float) -> None:
        def taken(again: bool) -> None:
            session.bytes_up += len(reply)
            self.settings.tell("sent", session.key, round=number, bytes=len(reply))
            if session.role is not None and session.role.finished and not again:
                self._end(session, "")

        def over(problem: Problem) -> None:
            self._end(session, f"a message came too late ({problem.kind.word})")

        self.uploads.append(Upload(session.key, number, reply, taken, over))

    # The end

    def run_over(self, problem: Problem) -> None:
        """See :meth:`Exchange.run_over`."""
        if self.session is not None:
            self._end(self.session, "the run is over")
            self.session.closed = True

    def failed(self, now: float, reason: str) -> bool:
        """See :meth:`Exchange.failed`: leave a session long after its deadline, if nothing answers."""
        session = self.session
        if session is None or session.closed or session.deadline is None or now < session.deadline + _PATIENCE:
            return super().failed(now, reason)
        self._end(session, f"the service did not answer for {_PATIENCE:.0f} s after the deadline: {reason}")
        session.closed = True
        return True

    def _end(self, session: Session, why: str) -> None:
        """The session is over for this client: delete its secrets."""
        if session.over is not None:
            return
        session.over, session.look_at = why, 0.0
        session.frames.clear()
        self.uploads.clear()
        if session.role is not None:  # else nothing was said in it, and offers alone don't make the ledger grow
            self.state.note_over(session.key)
            self.state.folder.forget(session.role)
        self.state.forget_offer()
        self.settings.tell("ended", session.key, reason=why)

    def _closed(self, response: Response, now: float) -> None:
        assert self.session is not None
        session, result = self.session, read(response.body, Result)
        ended = result.state in ("done", "failed")
        session.in_sum = result.in_sum if ended else (result.in_sum or None)
        session.looks += 1
        session.closed = ended or result.in_sum or session.looks > _MOST_LOOKS
        session.look_at = now + _FIRST_LOOK * 2**session.looks

    def _looked(self, response: Response, now: float) -> None:
        """What the service says of a session from which nothing comes."""
        session = self.session
        assert session is not None
        result = read(response.body, Result)
        if result.state == "running" and not result.selected and not session.heard:
            self._end(session, "this client was not selected")
        elif result.state in ("done", "failed"):
            session.in_sum = result.in_sum
            self._end(session, "" if result.in_sum else f"the session is {result.state}")

    def _not_known(self, problem: Problem) -> None:
        if self.session is not None:
            self._end(self.session, f"the service doesn't know the session ({problem.kind.word})")
            self.session.closed = True
