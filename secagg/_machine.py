"""Runs a protocol's table on the side that answers: clients, decryptors, aggregators.

Two rules. A role answers the rows of the table that address it, in their order and each once. And
``receive`` is a transaction: it works on a draft of the state, which replaces the state only after
the draft was saved; bytes that are refused leave no trace.

The same bytes again get the same answer again: all randomness comes from one seed, and the last
answer is part of the state. An older request again gets nothing and is no fault. Other bytes in the
same place are refused, by the state and, for a role that was restored, by the ledger.

Every public call is atomic, by :mod:`secagg._turn`; methods that protocols call or replace run inside of
one and take no turn of their own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from mpc.keys import derive, encode_parts, seeded_rng
from secagg import wire
from secagg._faults import FaultRecord
from secagg._state import pack_segments, pack_state, unpack_segments, unpack_state
from secagg._turn import Turn, atomic
from secagg.errors import (
    Aborted,
    ConfigError,
    EncodingError,
    Fault,
    FaultKind,
    LocalProtocolError,
    RemoteProtocolError,
    SecAggError,
    kind_of,
    shown,
)
from secagg.identity import PartyRole, Roster, check_enrolled, check_party_id
from secagg.protocols.base import Proposal
from secagg.session import (
    MAX_SESSION_BYTES,
    NONCE_BYTES,
    check_cohort,
    check_session,
    draw,
    roster_digest,
    session_id,
)
from secagg.store import Ledger, Store
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from secagg.task import Task

log = logging.getLogger("secagg")

SEED_BYTES = 32
_GIVE_LEDGER = "give it save= a store that has one, such as secagg.store.FileStore(path, ledger=FileLedger(other))"
FOREIGN_TASK = (
    "got a message of another protocol or task; give both sides the same task.to_bytes(), or ask for the other "
    "side's: task.diff(Task.from_bytes(theirs)) says which field differs"
)


class MemberState(msgspec.Struct, forbid_unknown_fields=True):
    """All that a role remembers; what :meth:`Member.to_bytes` writes."""

    id: str
    seed: bytes  # erased when the role is done
    number: int = 0  # of states saved
    step: int = 0  # requests answered
    session: bytes | None = None  # what the caller named it, or what the server proposed
    session_id: bytes = b""  # in force; empty until a proposal was accepted
    opening_id: bytes = b""  # the one that follows from the proposal alone
    cohort: list[str] = []
    nonce: bytes = b""
    requests: list[bytes] = []  # digests of those answered
    last_reply: bytes = b""
    finished: bool = False
    aborted: str = ""


class ClientState(MemberState):
    """A client's state: its encoded update too, until it has left."""

    budgeted: bool = False  # a budget pays for the input, and has to be given again with a saved state
    contribution: list[bytes] = []  # a segment's integers, little-endian; never the update itself
    contributed: bytes = b""  # SHA-256 of them


class Budget(Protocol):
    """What a client's privacy may cost in all: a :class:`dp.PrivacyLedger`, in a file where it has to last."""

    def charge(self, release: Any, count: int = 1, *, once: bytes | None = None) -> float:
        """Charge one release durably, or raise a ``ValueError`` and charge nothing.

        The same release is not charged again under a name ``once`` (32 bytes) that it was charged under before.
        """
        ...


AnyState = TypeVar("AnyState", bound=MemberState)
AnyClientState = TypeVar("AnyClientState", bound=ClientState)
Reply = tuple[wire.Message, bytes]
Handler = Callable[[Any, Any, Any, memoryview], Reply]
Listener = Callable[[Any, Any, Envelope, Any, memoryview], None]


class Member(Generic[AnyState]):
    """A role that answers the server. Made by the task; bytes in, bytes out; no I/O and no clock.

    Any thread may call anything at any time: each call, and each look at a property, has the role to itself, and
    waits for the one before.

    ``answers`` maps each round that addresses the role to the method that answers it;
    ``overhears`` each round whose messages are relayed to it to the method that takes them. Both
    get a draft of the state, whose fields they replace and never change in place.
    """

    role: ClassVar[PartyRole]
    state_type: ClassVar[type[MemberState]]
    answers: ClassVar[Mapping[str, Handler]]
    overhears: ClassVar[Mapping[str, Listener]] = {}

    def __init__(
        self,
        task: Task,
        member_id: str,
        *,
        identity: Ed25519PrivateKey | None = None,
        roster: Roster | None = None,
        session: bytes | None = None,
        save: Store | None = None,
        key: bytes | None = None,
        rng: Callable[[int], bytes] = os.urandom,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.time,
        budget: Budget | None = None,
    ) -> None:
        name = None if session is None else check_session(session)
        state = self.state_type(id=check_party_id(member_id), seed=draw(rng, SEED_BYTES), session=name)
        self._setup(task, state, identity, roster, save, key, executor, clock, budget)

    def _setup(
        self,
        task: Task,
        state: MemberState,
        identity: Ed25519PrivateKey | None,
        roster: Roster | None,
        save: Store | None,
        key: bytes | None,
        executor: Executor | None,
        clock: Callable[[], float],
        budget: Budget | None,
    ) -> None:
        self._turn = Turn()
        check_enrolled(state.id, self.role, identity, roster)
        task.protocol.validate_roster(task, roster)
        if save is not None and not callable(save):
            raise ConfigError(f"got save={shown(save)}; expected a store, such as secagg.store.FileStore(path)")
        self._task, self._identity, self._roster, self._save = task, identity, roster, save
        self._key = key  # long-lived, like the identity: given each time, and never a part of the state
        self._executor = executor
        if budget is not None and getattr(task.encoder, "release", None) is None:
            raise ConfigError(
                "got a budget for an encoding without noise, whose inputs no budget can pay for; take one such as "
                "dp.DistributedGaussian, or pass no budget"
            )
        self._clock, self._budget = clock, budget
        self._ledger: Ledger | None = None if save is None else getattr(save, "ledger", None)
        if save is not None and self._ledger is None and getattr(task.protocol, "threat_model", "") == "malicious":
            log.warning(
                "%s has a store without a ledger under a malicious server: who rolls the state back, or has it "
                "made anew, makes it tell two stories; %s",
                state.id,
                _GIVE_LEDGER,
            )
        self._state: AnyState = state  # type: ignore[assignment]
        self._phases = tuple(phase for phase in task.protocol.phases if phase.role is self.role)
        self._limit = task.protocol.largest_message(task, self.role)
        self._proposed: bytes | None = None  # by a proposal that was found good but not answered yet

    @property
    def id(self) -> str:
        """The party's id."""
        return self._state.id

    @property
    @atomic
    def session(self) -> bytes | None:
        """What this aggregation is called: the caller's word, else what the server proposed."""
        return self._session

    @property
    def _session(self) -> bytes | None:
        return self._proposed if self._state.session is None else self._state.session

    @property
    def ledger(self) -> Ledger | None:
        """What holds this role to one story when it is restored or made anew, if it was given one."""
        return self._ledger

    @property
    @atomic
    def finished(self) -> bool:
        """Whether nothing more is expected of this role, be it done or aborted."""
        return self._ended

    @property
    def _ended(self) -> bool:
        return self._state.finished or bool(self._state.aborted)

    @atomic
    def receive(self, data: bytes) -> bytes | None:
        """Take a message from the server; returns the answer to send, if there is one.

        The last request again gets the same answer again; an older one changes nothing and gets None. Raises
        ``RemoteProtocolError`` for bytes that break the protocol (nothing changed),
        ``Aborted`` when the session is given up or goes on without this party, ``LocalProtocolError`` when the
        caller has something to do first (nothing changed).
        """
        return self._receive(data)

    def _receive(self, data: bytes) -> bytes | None:
        try:
            envelope = Envelope.parse(data, self._limit)
            self._check_address(envelope)
            if envelope.digest in self._state.requests:
                return self._state.last_reply if envelope.digest == self._state.requests[-1] else None
            if envelope.sender != wire.SERVER:
                self._overhear(envelope)
                return None
            return self._answer(envelope)
        except Reject as refused:
            raise RemoteProtocolError(self._fault(refused)) from refused
        except Aborted as aborted:
            self._give_up(aborted)
            raise

    def _check_address(self, envelope: Envelope) -> None:
        task = self._task
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
        draft = msgspec.structs.replace(state)
        if isinstance(message, Proposal):
            self._accept_proposal(draft, message)
            self._warn_of_no_ledger(draft)
            self._proposed = message.session
        asked_under = draft.session_id  # an answer may move the session on to the next id
        reply, vectors = self.answers[phase.round](self, draft, message, payload)
        draft.step += 1
        draft.finished = draft.step == len(self._phases)
        self.claim(envelope.digest, "round", asked_under, phase.round)
        if phase.takes_input:
            self.claim(draft.session_id, "upload", self._task.digest, draft.session or b"")
            if isinstance(draft, ClientState):
                self._spend(draft, envelope.digest)
                draft.contribution = []  # the answer holds it, and is kept
        draft.requests = [*draft.requests, envelope.digest]
        draft.last_reply = wire.seal_envelope(
            reply,
            protocol=self._task.protocol.ID,
            task=self._task.digest,
            session=draft.session_id,
            sender=draft.id,
            payload=vectors,
            identity=self._identity,
        )
        if draft.finished:
            self.erase(draft)
        self._commit(draft)
        return draft.last_reply

    def _end(self, envelope: Envelope) -> None:
        """The server gives the session up, or goes on without this party. After the end it changes nothing."""
        state = self._state
        if not state.opening_id:
            detail = (
                "got word that a session is over that this party never joined; leave it, or wait for a proposal"
            )
            raise Reject(FaultKind.OUT_OF_TURN, detail)
        if envelope.session not in (state.opening_id, state.session_id):
            raise Reject(FaultKind.FOREIGN_SESSION, "got word that another session is over")
        _, rest = envelope.open(wire.Abort)
        wire.no_vectors(rest)
        if not self._ended:
            raise Aborted("the server gave the session up, or goes on without this party")

    def _spend(self, draft: ClientState, request: bytes) -> None:
        """Charge what this input costs before it leaves; past the budget, ``LocalProtocolError``.

        This vector as the answer to this request is charged once: a client that died after the charge and is
        restored repeats it. Any other answer is another release.
        """
        if self._budget is None:
            return
        encoder: Any = self._task.encoder  # of noise: no budget was taken beside another
        answer = encode_parts("secagg/v1/charge", draft.id, draft.session_id, request, draft.contributed)
        try:
            self._budget.charge(encoder.release(self._task.layout.size), once=hashlib.sha256(answer).digest())
        except ValueError as error:  # dp's own errors are
            raise LocalProtocolError(f"this input does not leave: {error}") from error

    def _overhear(self, envelope: Envelope) -> None:
        """Take another party's message that the server relayed."""
        for phase in self._task.protocol.phases:
            if phase.relay is self.role and envelope.kind == phase.reply.TYPE:
                break
        else:
            raise Reject(FaultKind.OUT_OF_TURN, "got another party's message where none is relayed")
        if not self._state.session_id or envelope.session != self._state.session_id:
            raise Reject(FaultKind.FOREIGN_SESSION, "got a relayed message of another session")
        self.check_signature(envelope, phase.role)
        if self.heard(envelope):
            return
        if self._ended:
            raise Reject(FaultKind.OUT_OF_TURN, "got another party's message after the end of the session")
        message, payload = envelope.open(phase.reply)
        draft = msgspec.structs.replace(self._state)
        self.overhears[phase.round](self, draft, envelope, message, payload)
        self._commit(draft)

    def _warn_of_no_ledger(self, draft: AnyState) -> None:
        # Where the server reads each input by itself, a second one of the same client tells it nothing new.
        if self._ledger is None and not (self.role is PartyRole.CLIENT and self._task.shows_terms):
            log.warning(
                "%s has no ledger: made anew, it would %s session %s; %s",
                self.id,
                "upload again in" if self.role is PartyRole.CLIENT else "take part in a second sum of",
                draft.session_id.hex()[:12],
                _GIVE_LEDGER,
            )

    def heard(self, envelope: Envelope) -> bool:
        """Whether this very message of another party was taken before; it then changes nothing."""
        return False

    def _accept_proposal(self, draft: AnyState, proposal: Proposal) -> None:
        if draft.session is not None and proposal.session != draft.session:
            raise Reject(
                FaultKind.FOREIGN_SESSION,
                f"got a proposal for session {proposal.session!r:.80}, and this role was made for "
                f"{draft.session!r:.80}; if the server is right, make one with session= what it proposes",
            )
        if len(proposal.nonce) != NONCE_BYTES or len(proposal.session) > MAX_SESSION_BYTES:
            raise Reject(FaultKind.INVALID, "got a nonce or a session of the wrong length")
        try:
            check_cohort(self._task, proposal.cohort, self._roster)
        except ConfigError as error:
            raise Reject(FaultKind.INVALID, str(error)) from error
        if self.role is PartyRole.CLIENT and draft.id not in proposal.cohort:
            raise Reject(FaultKind.INVALID, "got a cohort without this client")
        draft.session = proposal.session
        draft.cohort = proposal.cohort
        draft.nonce = proposal.nonce
        draft.opening_id = draft.session_id = session_id(
            task=self._task.digest,
            roster=roster_digest(self._roster),
            session=proposal.session,
            nonce=proposal.nonce,
            cohort=proposal.cohort,
        )

    def claim(self, value: bytes, *entry: bytes | str) -> None:
        """Write ``value`` under ``entry`` in the ledger, once ever; ``Aborted`` if another stands there."""
        if self._ledger is None:
            return
        name = hashlib.sha256(encode_parts(b"secagg/v1/ledger", self._state.id, *entry)).digest()
        if self._ledger.claim(name, value) != value:
            raise Aborted(f"the ledger of {self._state.id} holds another {entry[0]!s} under this session")

    def derive(self, draft: MemberState, what: str) -> bytes:
        """32 secret bytes of this role, of this session and for this one use."""
        return derive(draft.seed, salt=draft.session_id, info=encode_parts("secagg/v1/role", what))

    def rng(self, draft: MemberState, what: str) -> Callable[[int], bytes]:
        """A generator of secret bytes of this role, of this session and for this one use."""
        return seeded_rng(draft.seed, salt=draft.session_id, info=encode_parts("secagg/v1/role", what))

    def erase(self, draft: AnyState) -> None:
        """Forget every secret; a role that is done keeps only what it signed."""
        draft.seed = b""

    def check_signature(self, envelope: Envelope, role: PartyRole) -> None:
        """Check a relayed envelope as its sender's own, enrolled in ``role``."""
        if self._roster is None:
            envelope.verify(None)
            return
        party = self._roster.get(envelope.sender)
        if party is None or party.role is not role:
            raise Reject(FaultKind.UNKNOWN_SENDER, f"got a message of {envelope.sender}, who is not enrolled")
        envelope.verify(party.signing_key)

    def _give_up(self, aborted: Aborted) -> None:
        log.warning("%s leaves session %s: %s", self.id, self._state.session_id.hex()[:12], aborted)
        draft = msgspec.structs.replace(self._state, aborted=aborted.reason or "aborted")
        self.erase(draft)
        self._commit(draft)

    def _commit(self, draft: AnyState) -> None:
        draft.number += 1
        if self._save is not None:
            self._save(draft.number, self._encode(draft))
        self._state = draft

    def _fault(self, refused: Reject) -> Fault:
        current = self._phases[min(self._state.step, len(self._phases) - 1)].round
        fault = Fault(refused.blame or "server", current, refused.kind, refused.detail)
        log.warning("%s refused a message: %s", self.id, fault)
        return fault

    @atomic
    def to_bytes(self) -> bytes:
        """The state, secrets included: it never leaves its node."""
        return self._encode(self._state)

    def _encode(self, state: MemberState) -> bytes:
        return pack_state(state, self._task, self.role, self._roster)

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        task: Task,
        *,
        identity: Ed25519PrivateKey | None = None,
        roster: Roster | None = None,
        save: Store | None = None,
        key: bytes | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.time,
        budget: Budget | None = None,
    ) -> Self:
        """The role that was saved as ``data``, with the same arguments as when it was made.

        ``ConfigError`` if the bytes are of another task, role or roster, are damaged, or are of a client that had
        a ``budget`` and is given none. A client that has answered anything needs a ``save`` with a ledger:
        without one nothing holds it to one story.
        """
        found = task.protocol.members.get(cls.role, cls)
        state = unpack_state(data, found.state_type, task, cls.role, roster)
        role = found.__new__(found)
        role._setup(task, state, identity, roster, save, key, executor, clock, budget)
        role._check_restored()
        return role  # type: ignore[return-value]

    def _check_restored(self) -> None:
        """Refuse a state that can't be resumed safely."""


class Client(Member[AnyClientState]):
    """A client: contributes one update and learns nothing but when to stop.

    ``receive`` until ``finished``, ``contribute`` at any time before the input is asked for.
    """

    role = PartyRole.CLIENT

    def _setup(self, *arguments: Any) -> None:
        super()._setup(*arguments)
        if self._budget is not None:
            self._state = msgspec.structs.replace(self._state, budgeted=True)

    def contribute(self, update: Any, weight: int | None = None) -> None:
        """Encode ``update`` (a structure of the task's layout) and keep its integers only.

        ``weight`` is an integer from 1 to the task's ``max_weight``, where it has one. The vector is
        entered in the ledger: under the same task and session no other will be taken. Raises
        ``EncodingError`` for an update that doesn't fit, ``LocalProtocolError`` out of order.

        May run in a thread of its own: ``receive`` and all else go on while the update is encoded. What was
        encoded is then taken as if this call had begun only now: after a round that was answered meanwhile; not
        at all, with ``LocalProtocolError``, if the session has ended, its input has left, the server has
        proposed another session, or another thread's different update was faster. The same update again changes
        nothing.
        """
        seed, session = self._open_for_input()
        vectors = pack_segments(self._encoded(update, weight, seed, session))
        hashed = hashlib.sha256()
        for segment in vectors:
            hashed.update(segment)
        self._keep(vectors, hashed.digest(), session)

    @atomic
    def _open_for_input(self) -> tuple[bytes, bytes]:
        """This role's seed and what the session is called, if an update may come now."""
        return self._state.seed, self._check_open_for_input()

    def _check_open_for_input(self, expected: bytes | None = None) -> bytes:
        if self._ended or self._state.step > self._input_step:
            how = "was given up" if self._state.aborted else "has this client's input, or a commitment to it"
            raise LocalProtocolError(f"got an update after the session {how}; the next one needs a new session")
        session = self._session
        if session is None:
            raise LocalProtocolError(
                "got an update before the session is known: pass session= when the client is made, or "
                "contribute after its first receive() and a look at client.session"
            )
        if expected is not None and session != expected:
            raise LocalProtocolError(
                f"got an update for session {expected!r:.80}, and the server has proposed {session!r:.80} "
                "meanwhile; look at client.session, then contribute again"
            )
        return session

    def _encoded(self, update: Any, weight: int | None, seed: bytes, session: bytes) -> list[NDArray[Any]]:
        """The update's segments; runs without the lock, so it reads nothing that changes."""
        task = self._task
        flat = task.layout.flatten(update)
        try:
            return task.encoder_for(session).encode(
                flat,
                layout=task.layout,
                weight=weight,
                max_weight=task.max_weight,
                # The session id may not stand yet, so the session's name separates what is drawn here.
                rng=seeded_rng(seed, salt=task.digest, info=encode_parts("secagg/v1/rounding", session)),
            )
        except SecAggError:
            raise
        except Exception as error:  # another package's encoding says it in its own error
            raise EncodingError(str(error) or kind_of(error)) from error

    @atomic
    def _keep(self, vectors: list[bytes], hashed: bytes, session: bytes) -> None:
        """Take the encoded update onto the newest state."""
        self._check_open_for_input(session)
        state = self._state
        if state.contributed == hashed:
            return
        if state.contributed:
            raise LocalProtocolError("got a second update for one session; the first one stands")
        try:
            self.claim(hashed, "contribution", self._task.digest, session)
        except Aborted as clash:
            raise LocalProtocolError(
                f"got another update than the ledger has for session {session!r}; "
                "restore the state saved after contribute, or leave this session out"
            ) from clash
        self._commit(msgspec.structs.replace(state, session=session, contribution=vectors, contributed=hashed))

    @property
    @atomic
    def contributed(self) -> bool:
        """Whether an update was given for this session and is still in use."""
        return bool(self._state.contributed)

    def contribution(self, draft: ClientState) -> list[NDArray[Any]]:
        """The encoded update, one read-only array a segment; ``LocalProtocolError`` if there is none."""
        if not draft.contributed:
            raise LocalProtocolError("the input is asked for: contribute(update) first, then receive this again")
        return unpack_segments(draft.contribution, self._task)

    @property
    def _input_step(self) -> int:
        return next(i for i, phase in enumerate(self._phases) if phase.commits_input or phase.takes_input)

    def erase(self, draft: AnyClientState) -> None:
        """Forget the seed and the update."""
        super().erase(draft)
        draft.contribution, draft.contributed = [], b""

    def _check_restored(self) -> None:
        if self._state.budgeted and self._budget is None:
            raise ConfigError(
                "got the state of a client whose input a budget pays for, and no budget; pass budget= the ledger "
                "that it was made with, such as dp.PrivacyLedger.open(path, ...)"
            )
        if self._ended or self._ledger is not None:
            return
        if self._state.step:
            raise LocalProtocolError(
                "got a client past its first answer without a ledger, which alone holds it to one story; "
                "pass save= a store that has one, or leave this session out"
            )
        # The state may be older than what the client has said since. With other keys it is another party.
        self._state = msgspec.structs.replace(self._state, seed=os.urandom(SEED_BYTES))


class Watchful(Member[AnyState]):
    """A party other than a client: it never raises on bytes but records faults and goes on."""

    def _setup(self, *arguments: Any) -> None:
        super()._setup(*arguments)
        self._faults = FaultRecord(lambda party: party == "server" or party in (self._roster or ()))

    @property
    @atomic
    def faults(self) -> tuple[Fault, ...]:
        """What was wrong with the messages that were not taken."""
        return tuple(self._faults.kept)

    def _receive(self, data: bytes) -> bytes | None:
        """Bytes that are wrong become a fault."""
        try:
            return super()._receive(data)
        except RemoteProtocolError as error:
            self.note(error.fault)
        except Aborted as aborted:
            self.note(Fault("server", self._phases[-1].round, FaultKind.INVALID, aborted.reason))
        return None

    def note(self, fault: Fault) -> None:
        """Keep a fault, unless there are too many: a flood of bad messages must not become one of memory."""
        self._faults.add(fault)


class Decryptor(Watchful[AnyState]):
    """Holds a homomorphic key, or a share of one, apart from the server; sees only sums."""

    role = PartyRole.DECRYPTOR


class Aggregator(Watchful[AnyState]):
    """One of several servers that each hold a share of the sum."""

    role = PartyRole.AGGREGATOR
