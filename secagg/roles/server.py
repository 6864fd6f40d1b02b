"""Runs a protocol's table on the side that asks: the server.

Each row of the table is a step of three parts: what to ask whom, how to take one answer, and
how to settle the round when the caller closes it. Asking changes nothing, so a restored server
asks again in the same bytes. Taking validates an answer whole before it folds anything in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import msgspec

from secagg import wire
from secagg._numbers import is_a
from secagg.errors import Aborted, ConfigError, Fault, FaultKind, LocalProtocolError, shown
from secagg.identity import check_party_ids
from secagg.roles.context import ServerContext
from secagg.roles.environment import Environment
from secagg.roles.member import FOREIGN_TASK, Reply
from secagg.roles.outcome import Outcome, open_outcome
from secagg.roles.state import ServerState, check_server, pack_segments, pack_state, unpack_segments, unpack_state
from secagg.roles.turn import Turn, atomic
from secagg.session import NONCE_BYTES, check_session, draw, roster_digest, session_id
from secagg.table import Phase
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from secagg.task import Task

log = logging.getLogger("secagg")

Outbox = dict[str, bytes]

KEY_BYTES = 32
_TAG = 16  # bytes of a message's digest by which it is known again


AnyState = TypeVar("AnyState", bound=ServerState)


@dataclass(frozen=True)
class Step:
    """How the server goes through one row of the table."""

    ask: Callable[[Any], Mapping[str, Reply]]  # who is asked what; changes nothing
    take: Callable[[Any, Envelope, Any, memoryview], None]  # Reject, or fold it in
    settle: Callable[[Any], None]  # Aborted if too few answered


class Server(Generic[AnyState]):
    """The server of one session: sums what it can't read. Made by ``task.server``.

    ``start()`` opens the first round; ``receive`` takes what arrives and never raises on bytes;
    ``close_round`` ends a round when nobody is ``pending`` or the caller's clock says so, until there
    is an ``outcome``. Any thread may call anything at any time: each call, and each look at a property, has the
    server to itself, and waits for the one before.

    A step changes the state in place, since a copy for each answer would make a round quadratic in the cohort. So
    ``take`` checks everything before it changes anything, and ``settle`` changes nothing before the last thing
    that the caller's executor may fail.
    """

    state_type: ClassVar[type[ServerState]]
    steps: ClassVar[Mapping[str, Step]]

    def __init__(
        self, task: Task, cohort: Iterable[str], environment: Environment | None = None, *, session: bytes
    ) -> None:
        lent = environment or Environment()
        members = sorted(check_party_ids(cohort))
        session = check_session(session)
        task.check_cohort(members, lent.roster)
        nonce = draw(lent.rng, NONCE_BYTES)
        opening = session_id(
            task=task.digest, roster=roster_digest(lent.roster), session=session, nonce=nonce, cohort=members
        )
        state = self.state_type(
            cohort=members,
            session=session,
            nonce=nonce,
            session_id=opening,
            asked_under=opening,
            noise_key=draw(lent.rng, KEY_BYTES) if task.encoder.server_noise else b"",
        )
        self._take_up(task, state, lent)

    def _take_up(self, task: Task, state: ServerState, environment: Environment) -> None:
        """Take up ``state``, be it new or restored."""
        self._turn = Turn()
        self.context: ServerContext[AnyState] = ServerContext(task, environment, state)  # type: ignore[arg-type]
        self._phases = task.protocol.phases
        written = unpack_segments(state.sums, task) if state.sums else []
        self.context.sums = [total.copy() for total in written]
        state.sums, state.faults = [], []
        self._asked = frozenset(state.asked)
        self._pending = set(state.asked) - set(state.answered)
        self._received, self._opened = 0, time.monotonic()  # of the open round, for the log
        self.prepare()
        self._outcome = self._decode() if state.finished else None

    def prepare(self) -> None:
        """Make what no saved state holds; ``ConfigError`` for a state from which it can't be made."""

    @property
    def session(self) -> bytes:
        """What the caller named this aggregation."""
        return self.context.state.session

    @property
    @atomic
    def outcome(self) -> Outcome | None:
        """The result, once the last round was closed."""
        return self._outcome

    @property
    @atomic
    def pending(self) -> frozenset[str]:
        """The ids whose answer is still awaited in the open round; none after the end."""
        return frozenset(self._pending) if self.context.open else frozenset()

    @property
    @atomic
    def faults(self) -> tuple[Fault, ...]:
        """Who did what wrong so far."""
        return tuple(self.context.faults.kept)

    @property
    @atomic
    def round(self) -> str | None:
        """The open round's name; None before start and after the end."""
        return self.context.round

    @atomic
    def start(self) -> Outbox:
        """Open the session: what to send to whom. On a restored server: what to send again."""
        state = self.context.state
        if state.aborted:
            raise LocalProtocolError("got start() after the session was aborted; make a new server")
        if state.position < 0:
            self._next_round()
            self._store()
        outbox = self._dismissal(state.parted)
        if not state.finished:
            asked = self.context.seal_all(self._requests())
            outbox |= {party: asked[party] for party in sorted(self._pending)}
        return outbox

    def receive(self, sender: str, data: bytes) -> Outbox:
        """Take what ``sender`` sent; returns what to pass on at once, mostly nothing.

        Bytes that are wrong change nothing but ``faults``. The very bytes that were taken before change nothing at
        all, so that a transport may try again whenever it likes. While ``close_round`` runs, this waits; a message
        that was not taken by then is too late.
        """
        sender = str.__str__(sender) if is_a(sender, str) else shown(sender)  # NumPy's text is a subclass
        return self._take(sender, self._read(sender, data))

    def _read(self, sender: str, data: bytes) -> Envelope | Reject:
        """The frame of a message and its signature, checked outside the lock: none of this ever changes."""
        if not self.context.knows(sender):
            return Reject(FaultKind.UNKNOWN_SENDER, f"got a message of {sender!s:.64}, who is not of this session")
        try:
            envelope = Envelope.parse(data, self.context.limit)
            if envelope.sender != sender:
                detail = f"got a message of {envelope.sender or 'the server'} from {sender}"
                raise Reject(FaultKind.UNAUTHENTIC, detail)
            if envelope.protocol != self.context.task.protocol.ID or envelope.task != self.context.task.digest:
                raise Reject(FaultKind.FOREIGN_TASK, FOREIGN_TASK)
            envelope.verify(None if self.context.roster is None else self.context.roster[sender].signing_key)
        except Reject as refused:
            return refused
        return envelope

    @atomic
    def _take(self, sender: str, read: Envelope | Reject) -> Outbox:
        """Take a message that was read, or record why not."""
        state = self.context.state
        if state.position < 0:
            raise LocalProtocolError("got a message before start()")
        try:
            refusal = self._refusal(sender, read)
            if isinstance(read, Reject):
                raise refusal or read
            if refusal is not None:
                if self._took(read):
                    return {}
                raise refusal
            phase = self._phases[state.position]
            message, payload = read.open(phase.reply)
            if not phase.reply_vectors:
                wire.no_vectors(payload)
            self.steps[phase.round].take(self, read, message, payload)
        except Reject as refused:
            self.context.blame(refused.blame or sender, refused.kind, refused.detail)
            return {}
        self._pending.discard(sender)
        self._received += len(read.raw)
        state.answered.append(sender)
        state.taken[sender] = state.taken.get(sender, b"") + read.digest[:_TAG]
        if phase.relay is None or self.context.roster is None:
            return {}
        return dict.fromkeys(self.context.roster.ids(phase.relay), read.raw)

    def _refusal(self, sender: str, read: Envelope | Reject) -> Reject | None:
        """Why nothing of this kind is taken from ``sender`` now, if so."""
        if isinstance(read, Reject) and read.kind is FaultKind.UNKNOWN_SENDER:
            return read
        if not self.context.open:
            return Reject(FaultKind.OUT_OF_TURN, "got a message after the session's end")
        phase = self._phases[self.context.state.position]
        if sender not in self._asked:
            return Reject(FaultKind.OUT_OF_TURN, f"got a message of {sender}, who was not asked in {phase.round}")
        if isinstance(read, Reject):
            return read
        if read.session != self.context.state.session_id:
            detail = "got a message of another session; its sender answered another server, or an earlier session"
            return Reject(FaultKind.FOREIGN_SESSION, detail)
        if read.kind != phase.reply.TYPE:
            return Reject(FaultKind.OUT_OF_TURN, f"got message type {read.kind}; this is {phase.round}")
        if sender not in self._pending:
            return Reject(FaultKind.DUPLICATE, "got another message than the one taken in this round")
        return None

    def _took(self, envelope: Envelope) -> bool:
        """Whether these bytes were taken before. What could be taken now is never asked: two rounds' answers
        may be alike.
        """
        tags, tag = self.context.state.taken.get(envelope.sender, b""), envelope.digest[:_TAG]
        return any(tags[at : at + _TAG] == tag for at in range(0, len(tags), _TAG))

    @atomic
    def close_round(self, name: str | None = None) -> Outbox:
        """End the open round: who is still pending is dropped. Returns what to send next.

        That is the next round's requests, and to each who was dropped one message that the session goes on without
        it, so that it need not wait. A timer passes the ``name`` of the round that it was set for: where another
        round is open by now, nothing changes and nothing is returned.

        Raises ``Aborted`` if too few remain, and its ``outbox`` tells the others; no outcome is given then.
        After the last round there is an ``outcome``. What the ``executor`` raises comes
        out, with nothing changed: call it again. What ``save`` raises comes out with the round closed: ``start()``
        gives the requests.
        """
        if name is not None and name not in (known := [phase.round for phase in self._phases]):
            raise ConfigError(f"got round {name!r}; {self.context.task.protocol.name} has {', '.join(known)}")
        if name is not None and self.context.round != name:
            return {}
        if not self.context.open:
            raise LocalProtocolError("got close_round() while no round is open; start() opens the first")
        state = self.context.state
        phase = self._phases[state.position]
        self.before_close(phase)
        silent = sorted(self._pending)
        try:
            self._drop_and_settle(phase, silent)
            self._log_round(phase)
            if state.position + 1 < len(self._phases):
                requests = self._next_round()
                state.parted = [party for party in silent if party not in requests]
                self._store()
                return {**self._dismissal(state.parted), **self.context.seal_all(requests)}
            self._outcome = self._decode()
        except Aborted as aborted:
            raise self._abort(aborted.reason, silent) from aborted
        state.finished, state.parted = True, silent
        self._store()
        return self._dismissal(silent)

    def _drop_and_settle(self, phase: Phase, silent: Sequence[str]) -> None:
        """Drop who is silent, and go through with the round."""
        state, faults = self.context.state, len(self.context.faults.kept)
        fresh = [party for party in silent if party not in state.dropped]
        state.dropped.update(dict.fromkeys(fresh, phase.round))
        for party in silent:
            self.context.blame(party, FaultKind.SILENT, "")
        asked_under, state.asked_under = state.asked_under, state.session_id
        try:
            self.steps[phase.round].settle(self)
        except Aborted:
            raise
        except Exception:  # of the caller's executor: the round is as open as it was
            for party in fresh:
                del state.dropped[party]
            self.context.faults.forget(faults)
            state.asked_under = asked_under
            raise

    def before_close(self, phase: Phase) -> None:
        """Raise ``LocalProtocolError`` while the caller has something to wait for first; changes nothing."""

    def _log_round(self, phase: Phase) -> None:
        state = self.context.state
        log.info(
            "session %s %s: %d of %d answered, %d bytes in %.3f s",
            state.session_id.hex()[:12],
            phase.round,
            len(state.answered),
            len(state.asked),
            self._received,
            time.monotonic() - self._opened,
        )

    def _next_round(self) -> Mapping[str, Reply]:
        state = self.context.state
        self._received, self._opened = 0, time.monotonic()
        state.position += 1
        state.answered = []
        requests = self._requests()
        state.asked = sorted(requests)
        self._asked, self._pending = frozenset(requests), set(requests)
        return requests

    def _requests(self) -> Mapping[str, Reply]:
        return self.steps[self._phases[self.context.state.position].round].ask(self)

    def _dismissal(self, parties: Iterable[str]) -> Outbox:
        """What tells ``parties`` not to wait any more, under the id that everyone knows since the proposal.

        It says neither why nor who else. It carries no more weight than silence: who believes it erases its
        secrets and answers nothing more, and a server that lies could have had that by not writing.
        """
        state = self.context.state
        opening = session_id(
            task=self.context.task.digest,
            roster=roster_digest(self.context.roster),
            session=state.session,
            nonce=state.nonce,
            cohort=state.cohort,
        )
        return dict.fromkeys(parties, self.context.seal(wire.Abort(), session=opening))

    def _abort(self, reason: str, silent: Sequence[str]) -> Aborted:
        """Give up; everyone is told who was not told before, when it was dropped."""
        state = self.context.state
        everyone = [*state.cohort]
        if self.context.roster is not None:
            everyone += [
                party for role in self.context.task.protocol.others for party in self.context.roster.ids(role)
            ]
        told = state.dropped.keys() - set(silent)
        outbox = self._dismissal(party for party in everyone if party not in told)
        log.warning("session %s aborted: %s", state.session_id.hex()[:12], reason)
        state.aborted = reason
        self.context.sums = []
        self._store()
        return Aborted(reason, outbox)

    def _decode(self) -> Outcome:
        """The outcome of the sums; ``Aborted`` for sums that no honest inputs have."""
        return open_outcome(self.context)

    def _store(self) -> None:
        self.context.state.number += 1
        if self.context.environment.save is not None:
            self.context.environment.save(self.context.state.number, self._pack())

    @atomic
    def to_bytes(self) -> bytes:
        """The state, inputs accepted so far included: it never leaves the server."""
        return self._pack()

    def _pack(self) -> bytes:
        return pack_state(self.written(), self.context.task, "server", self.context.roster)

    def written(self) -> AnyState:
        """The state as it is saved: a copy, with what the server keeps elsewhere filled in."""
        return msgspec.structs.replace(
            self.context.state, sums=pack_segments(self.context.sums), faults=self.context.faults.kept
        )

    @classmethod
    def from_bytes(cls, data: bytes, task: Task, environment: Environment | None = None) -> Self:
        """The server that was saved as ``data``; see :meth:`secagg.Task.restore_server`."""
        lent = environment or Environment()
        if not hasattr(cls, "state_type"):
            raise ConfigError(f"got {cls.__name__}.from_bytes(); call task.restore_server(data)")
        state = unpack_state(data, cls.state_type, task, "server", lent.roster)
        check_server(state, len(task.protocol.phases), task, lent.roster)
        server = cls.__new__(cls)
        try:
            server._take_up(task, state, lent)
            asked = server._requests() if server.context.open else {}
        except ConfigError:
            raise
        except (Aborted, Reject, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
            raise ConfigError(
                f"got a state whose parts contradict each other: {error!s:.200}; leave this session out"
            ) from error
        if server.context.open and sorted(asked) != state.asked:
            raise ConfigError("got a state that asks other parties than its round does; leave this session out")
        return server
