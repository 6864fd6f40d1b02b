"""Runs a protocol's table on the side that answers: clients, decryptors, aggregators.

There are two rules. A role answers the rows of the table that address it, each row once and in order. And
``receive`` is a transaction: it works on a draft of the state, which replaces the state only after the draft was
saved. Bytes that are refused change nothing.

The same bytes again get the same answer again, because all randomness comes from one seed and the last answer is
part of the state. An older request again gets no answer, and is not a fault. Different bytes in the place of a
request are refused: by the state or, if the role was restored from an older state, by the ledger.

Every public call is atomic (:mod:`secagg.roles.turn`). The methods that a protocol calls or replaces run inside
such a call, and take no lock of their own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import msgspec

from mpc.errors import MPCError
from mpc.keys import encode_parts
from secagg import wire
from secagg._canonical import plain_bytes
from secagg._rows import JOINED
from secagg.errors import Aborted, ConfigError, Fault, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.identity import PartyRole, check_enrolled, check_party_id
from secagg.roles.context import MemberContext
from secagg.roles.environment import Environment
from secagg.roles.hearing import Hearing
from secagg.roles.hooks import AnyState, Handler, Listener, Reply, method
from secagg.roles.state import ClientState, ListenerState, MemberState, check_member, pack_state, unpack_state
from secagg.roles.turn import Turn, atomic
from secagg.session import (
    MAX_SESSION_BYTES,
    NONCE_BYTES,
    check_session,
    draw,
    one_list,
    roster_digest,
    session_id,
)
from secagg.store import Ledger, join_rows, split_rows
from secagg.table import Proposal
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from secagg.task import Task

__all__ = ["SEED_BYTES", "AnyState", "Handler", "Listener", "Member", "Reply", "method"]

log = logging.getLogger("secagg")
#: Bytes of the seed of a role's randomness.
SEED_BYTES = 32
_GIVE_LEDGER = "give it save= a store that has one, such as secagg.store.FileStore(path, ledger=FileLedger(other))"
FOREIGN_TASK = (
    "got a message of another protocol or task; give both sides the same task.to_bytes(), or ask for the other "
    "side's: task.diff(Task.from_bytes(theirs)) says which field differs"
)


class Member(Hearing[AnyState]):
    """A role that answers the server. The task makes it. It takes bytes and returns bytes, without I/O or a clock.

    Any thread may call any method or property at any time. Each call has the role to itself, and waits until the
    one before has ended. :class:`secagg.roles.MemberHooks` describes what a protocol fills in. ``member_id`` is the
    party's id, which a roster must list. ``environment`` is what the caller lends the role (None: an empty one).
    ``session`` is the name of the one session that it takes part in; None means that it takes part in the first
    that the server proposes.
    """

    def __init__(
        self, task: Task, member_id: str, environment: Environment | None = None, *, session: bytes | None = None
    ) -> None:
        lent = Environment.of(environment)
        name = None if session is None else check_session(session)
        seed = draw(lent.rng, SEED_BYTES)
        self._take_up(task, self.state_type(id=check_party_id(member_id), seed=seed, session=name), lent)

    def _take_up(self, task: Task, state: MemberState, environment: Environment) -> None:
        """Start from ``state``, new or restored."""
        self._turn = Turn()
        check_enrolled(state.id, self.role, environment.identity, environment.roster)
        task.protocol.validate_roster(task, environment.roster)
        if environment.budget is not None and task.encoder.release(task.layout.size) is None:
            raise ConfigError(
                "got a budget for an encoding without noise, for which there is nothing to charge; use an encoding "
                "such as dp.DistributedGaussian, or pass no budget"
            )
        if (
            environment.save is not None
            and environment.ledger is None
            and task.protocol.threat_model == "malicious"
        ):
            log.warning(
                "%s has a store without a ledger under a malicious server: anyone who rolls its state back, or has "
                "it made anew, can get a second and different answer; %s",
                state.id,
                _GIVE_LEDGER,
            )
        self.context = MemberContext(task, environment, self.role, state.id)
        self._state = state  # type: ignore[assignment]
        table = task.protocol.phases
        self._phases = tuple(phase for phase in table if phase.role is self.role)
        self._relayed = tuple(phase for phase in table if phase.relay is self.role)
        self._check_table()
        self._proposed: bytes | None = None  # by a proposal that was accepted but not answered yet
        self._added = []
        self._batch: list[bytes | None] | None = None  # the rows of what was taken and is not saved yet
        words = state.words if isinstance(state, ListenerState) else {}
        self._spoken = dict(words.values())
        self.prepare()

    @property
    @atomic
    def session(self) -> bytes | None:
        """The name of this aggregation: the one that the caller gave, else the one that the server proposed."""
        return self._session

    @property
    def _session(self) -> bytes | None:
        return self._proposed if self._state.session is None else self._state.session

    @property
    def ledger(self) -> Ledger | None:
        """The ledger, if there is one: it keeps a role that is restored or made anew from a different answer."""
        return self.context.environment.ledger

    @property
    @atomic
    def finished(self) -> bool:
        """Whether the session is over for this role: it gave its last answer, or it aborted."""
        return self._ended

    @property
    @atomic
    def aborted(self) -> str:
        """Why this role left the session before its last answer; empty if it did not."""
        return self._state.aborted

    @property
    def _ended(self) -> bool:
        return self._state.finished or bool(self._state.aborted)

    @atomic
    def receive(self, data: bytes | memoryview) -> bytes | None:
        """Take the message ``data`` that came from the server; returns the answer to send, or None.

        The message may be a request, or another party's that the server handed on. The last request again gets the
        same answer again; an older request changes nothing and gets None. Raises ``RemoteProtocolError`` for bytes
        that break the protocol (nothing has changed), ``Aborted`` if the session is given up or goes on without
        this party, and ``LocalProtocolError`` if the caller must do something first (nothing has changed).
        """
        return self._receive(data)

    def _receive(self, data: bytes | memoryview) -> bytes | None:
        before = len(self._added)
        try:
            try:
                return self._respond(data)
            except BaseException:
                self._take_back(before)
                raise
        except Reject as refused:
            raise RemoteProtocolError(self._fault(refused)) from refused
        except MPCError as error:  # of a key or a share in the message, unless the method saw to it
            raise RemoteProtocolError(self._fault(Reject(FaultKind.INVALID, str(error)))) from error
        except Aborted as aborted:
            self._give_up(aborted)
            raise

    def _take_back(self, before: int = 0) -> None:
        """Undo :meth:`add` in the drafts that did not become the state."""
        while len(self._added) > before:
            field, key = self._added.pop()
            del field[key]

    def _respond(self, data: bytes | memoryview) -> bytes | None:
        envelope = Envelope.parse(data, self.context.limit)
        self._check_address(envelope)
        if envelope.digest in self._state.requests:
            return self._state.last_reply if envelope.digest == self._state.requests[-1] else None
        phase = self._listens_in(envelope)
        if phase is not None:
            return self._overhear(envelope, phase)
        if envelope.sender != wire.SERVER:
            raise Reject(FaultKind.OUT_OF_TURN, "got another party's message where none is relayed")
        return self._answer(envelope)

    def _check_address(self, envelope: Envelope) -> None:
        task = self.context.task
        if envelope.protocol != task.protocol.ID or envelope.task != task.digest:
            raise Reject(FaultKind.FOREIGN_TASK, FOREIGN_TASK)
        if envelope.sender == wire.SERVER:
            envelope.verify(None)

    def _answer(self, envelope: Envelope) -> bytes | None:
        state = self._state
        if envelope.kind == wire.Abort.TYPE:
            self._end(envelope)
            return None
        if self._ended:
            raise Reject(FaultKind.OUT_OF_TURN, "got a request after the end of the session")
        phase = self._phases[state.step]
        if envelope.kind != phase.request.TYPE:
            raise Reject(FaultKind.OUT_OF_TURN, f"got message type {envelope.kind}; this is {phase.round}")
        if envelope.session != (b"" if issubclass(phase.request, Proposal) else state.session_id):
            raise Reject(FaultKind.FOREIGN_SESSION, "got a request of another session")
        message, payload = envelope.open(phase.request)
        if not phase.request_vectors:
            wire.no_vectors(payload)
        draft = msgspec.structs.replace(state)
        if isinstance(message, Proposal):
            self._accept_proposal(draft, message)
            self._warn_of_no_ledger(draft)
            self._proposed = message.session
        asked_under = draft.session_id  # an answer may move the session on to the next id
        reply, vectors = self.answers[phase.round](self, draft, message, payload)
        self._check_type(reply, phase.reply, phase.round)
        draft.step += 1
        draft.finished = draft.step == len(self._phases)
        self.context.claim(envelope.digest, "round", asked_under, phase.round)
        if phase.takes_input:
            self.context.claim(draft.session_id, "upload", self.context.task.digest, draft.session or b"")
            if isinstance(draft, ClientState):
                self._spend(draft, envelope.digest)
                draft.contribution = []  # the answer holds it, and is kept
        draft.requests = [*draft.requests, envelope.digest]
        draft.last_reply = self.context.seal(draft, reply, vectors)
        if draft.finished:
            self.erase(draft)
        self._commit(draft)
        return draft.last_reply

    def _end(self, envelope: Envelope) -> None:
        """Leave: the server gives the session up, or goes on without this party. After the end, change nothing."""
        state = self._state
        if not state.opening_id:
            detail = "got an abort of a session that this party has not joined; ignore it, and wait for a proposal"
            raise Reject(FaultKind.OUT_OF_TURN, detail)
        if envelope.session not in (state.opening_id, state.session_id):
            raise Reject(FaultKind.FOREIGN_SESSION, "got an abort of another session")
        _, rest = envelope.open(wire.Abort)
        wire.no_vectors(rest)
        if not self._ended:
            raise Aborted("the server gave the session up, or goes on without this party")

    def _spend(self, draft: ClientState, request: bytes) -> None:
        """Charge the cost of this input before it leaves; ``LocalProtocolError`` if the budget has no room.

        The same vector in answer to the same request is charged once, because a client that crashed after the
        charge and was restored repeats its answer. Any other answer is another release.
        """
        if self.context.environment.budget is None:
            return
        encoder = self.context.task.encoder  # it adds noise: without noise, a budget was refused
        answer = encode_parts("secagg/v1/charge", draft.id, draft.session_id, request, draft.contributed)
        try:
            self.context.environment.budget.charge(
                encoder.release(self.context.task.layout.size), once=hashlib.sha256(answer).digest()
            )
        except ValueError as error:  # dp's own errors are
            raise LocalProtocolError(f"this input does not leave: {error}") from error

    def _warn_of_no_ledger(self, draft: AnyState) -> None:
        # If the server reads each input anyway, a second upload of the same client reveals nothing new.
        if self.context.environment.ledger is None and not (
            self.role is PartyRole.CLIENT and self.context.task.shows_terms
        ):
            log.warning(
                "%s has no ledger: if it is made anew, it would %s session %s; %s",
                self.id,
                "upload again in" if self.role is PartyRole.CLIENT else "take part in a second sum of",
                draft.session_id.hex()[:12],
                _GIVE_LEDGER,
            )

    def _accept_proposal(self, draft: AnyState, proposal: Proposal) -> None:
        if draft.session is not None and proposal.session != draft.session:
            raise Reject(
                FaultKind.FOREIGN_SESSION,
                f"got a proposal for session {proposal.session!r:.80}, and this role was made for "
                f"{draft.session!r:.80}; if the server is right, make a role with session= what it proposes",
            )
        if len(proposal.nonce) != NONCE_BYTES or len(proposal.session) > MAX_SESSION_BYTES:
            raise Reject(FaultKind.INVALID, "got a nonce or a session of the wrong length")
        try:
            self.context.task.check_cohort(proposal.cohort, self.context.roster)
        except ConfigError as error:
            raise Reject(FaultKind.INVALID, str(error)) from error
        if self.role is PartyRole.CLIENT and draft.id not in proposal.cohort:
            raise Reject(FaultKind.INVALID, "got a cohort without this client")
        draft.session = proposal.session
        draft.cohort = one_list(proposal.cohort)
        draft.nonce = proposal.nonce
        draft.opening_id = draft.session_id = session_id(
            task=self.context.task.digest,
            roster=roster_digest(self.context.roster),
            session=proposal.session,
            nonce=proposal.nonce,
            cohort=proposal.cohort,
        )

    def _give_up(self, aborted: Aborted) -> None:
        log.warning("%s leaves session %s: %s", self.id, self._state.session_id.hex()[:12], aborted)
        draft = msgspec.structs.replace(self._state, aborted=aborted.reason or "aborted")
        self.erase(draft)
        self._commit(draft)

    def _commit(self, draft: AnyState, row: bytes | None = None) -> None:
        """Save a draft, and make it the state. ``row`` is all that is new in it, for a store that can append.

        In a batch the draft becomes the state at once, and is saved when the batch ends.
        """
        if self._batch is None:
            draft.number += 1
            self._save(draft, [row])
            self._added.clear()
        else:
            self._batch.append(row)
        self._state = draft

    def _save(self, draft: AnyState, rows: Sequence[bytes | None]) -> None:
        """Save a draft: by one row, if the store can append and each message that is new in it has a row."""
        save, new = self.context.environment.save, [row for row in rows if row and not row.startswith(JOINED)]
        append = getattr(save, "append", None)
        appended = len(new) == len(rows) and append and append(draft.number, join_rows(new[0], new[1:]))
        if save is not None and not appended:
            save(draft.number, self._encode(draft))

    def _fault(self, refused: Reject) -> Fault:
        current = self._phases[min(self._state.step, len(self._phases) - 1)].round
        fault = Fault(refused.blame or "server", current, refused.kind, refused.detail)
        log.warning("%s refused a message: %s", self.id, fault)
        return fault

    @atomic
    def to_bytes(self) -> bytes:
        """The state, with its secrets: store it on this node only."""
        return self._encode(self._state)

    def _encode(self, state: MemberState) -> bytes:
        return pack_state(state, self.context.task, self.role, self.context.roster)

    @classmethod
    def from_bytes(cls, data: bytes, task: Task, environment: Environment | None = None) -> Self:
        """The role that was saved as ``data``, with what the caller lends it in ``environment``.

        See :meth:`secagg.Task.restore_client`.
        """
        lent = Environment.of(environment)
        if not hasattr(cls, "state_type"):
            raise ConfigError(f"got {cls.__name__}.from_bytes(); call task.restore_client(data), or the like")
        written, rows = split_rows(plain_bytes(data, "a saved state"))
        state = unpack_state(written, cls.state_type, task, cls.role, lent.roster)
        check_party_id(state.id)
        phases = [phase for phase in task.protocol.phases if phase.role is cls.role]
        check_member(state, phases, task, lent.roster)
        role = cls.__new__(cls)
        role._take_up(task, state, lent)
        role.take_rows(role._state, [one for row in rows for one in _rows_in(row)])
        role._state.number += len(rows)
        role.check_restored()
        return role


def _rows_in(row: bytes) -> list[bytes]:
    """The rows of the messages that were taken in one call, which are saved as one row."""
    first, more = split_rows(row)
    return [first, *more]
