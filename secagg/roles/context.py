"""The object that the author of a protocol works with inside a role: ``self.context``."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from numpy.typing import NDArray

from mpc.keys import derive, encode_parts, seeded_rng
from secagg import wire
from secagg.errors import Aborted, Fault, FaultKind, LocalProtocolError
from secagg.identity import PartyRole, Roster
from secagg.relay import relayed
from secagg.roles.environment import Environment
from secagg.roles.faults import FaultRecord
from secagg.roles.state import ClientState, MemberState, ServerState, unpack_segments
from secagg.session import draw
from secagg.signatures import first_invalid
from secagg.table import Proposal
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from secagg.task import Task

log = logging.getLogger("secagg")

AnyServerState = TypeVar("AnyServerState", bound=ServerState)


class Context:
    """The task, what the caller lent, and the largest message that this role reads (``limit``, bytes)."""

    def __init__(self, task: Task, environment: Environment, receiver: PartyRole | None) -> None:
        self.task, self.environment = task, environment
        self.limit = task.largest_message(receiver)

    @property
    def roster(self) -> Roster | None:
        """Everyone enrolled; None where nobody is."""
        return self.environment.roster

    @property
    def executor(self) -> Executor | None:
        """The executor on which the caller wants heavy work to run; None for threads of this process."""
        return self.environment.executor

    def relayed(self, data: bytes, kind: type[wire.Message], session: bytes, sender: PartyRole) -> Envelope:
        """Read ``data``, another party's message that came through the server, and check it.

        ``Reject`` unless it is a ``kind`` of the session ``session``, signed by a party that is enrolled as
        ``sender``.
        """
        envelope = relayed(data, self.task, session, kind, self.limit)
        self.check_signature(envelope, sender)
        return envelope

    def check_signature(self, envelope: Envelope, role: PartyRole) -> None:
        """``Reject`` a relayed envelope unless its sender is enrolled as ``role`` and signed it."""
        if self.roster is None:
            envelope.verify(None)
            return
        party = self.roster.get(envelope.sender)
        if party is None or party.role is not role:
            raise Reject(FaultKind.UNKNOWN_SENDER, f"got a message of {envelope.sender}, who is not enrolled")
        envelope.verify(party.signing_key)

    def check_signatures(
        self, message: wire.Message, session: bytes, role: PartyRole, signatures: Mapping[str, bytes]
    ) -> None:
        """``Reject`` unless each of ``signatures``, by sender, is that sender's under ``message``.

        They are the signatures of the envelopes in which parties enrolled as ``role`` sent ``message``, without
        vectors, in the session ``session``. So a server relays what many parties say alike: as bare signatures, to
        a party that knows the message. Many are checked on the executor.
        """
        signed = []
        for sender, signature in signatures.items():
            party = None if self.roster is None else self.roster.get(sender)
            if party is None or party.role is not role:
                raise Reject(FaultKind.UNKNOWN_SENDER, f"got a signature of {sender}, who is not enrolled")
            digest = wire.envelope_digest(
                message,
                protocol=self.task.protocol.ID,
                task=self.task.digest,
                session=session,
                sender=sender,
            )
            signed.append((party.signing_key, signature, digest))
        place = first_invalid(signed, self.executor)
        if place is not None:
            sender = list(signatures)[place]
            kind = type(message).__name__
            raise Reject(FaultKind.UNAUTHENTIC, f"got a signature that is not {sender}'s under this {kind}")

    def bare_signature(self, envelope: Envelope, message: wire.Message) -> bytes:
        """The signature of an envelope that was read as ``message``, to be relayed without the message.

        ``Reject`` for an envelope that :meth:`check_signatures` would not rebuild: MessagePack writes the same
        fields in several ways, and the receivers know the fields only.
        """
        digest = wire.envelope_digest(
            message,
            protocol=envelope.protocol,
            task=envelope.task,
            session=envelope.session,
            sender=envelope.sender,
        )
        if envelope.digest != digest:
            kind = type(message).__name__
            raise Reject(FaultKind.MALFORMED, f"got a {kind} in other bytes than those that its fields have here")
        return envelope.trailer


class MemberContext(Context):
    """The context of a client, a decryptor or an aggregator: of the party with the id ``party`` in its ``role``.

    Its methods take the ``draft`` of the step that runs: the role's state, as it will be if the step succeeds.
    """

    def __init__(self, task: Task, environment: Environment, role: PartyRole, party: str) -> None:
        super().__init__(task, environment, role)
        self._party = party

    @property
    def key(self) -> bytes | None:
        """The private half of the key that the roster lists besides the identity, if the role has such a key."""
        return self.environment.key

    def seal(self, draft: MemberState, message: wire.Message, payload: bytes = b"") -> bytes:
        """A signed ``message`` of this role and session: its answer, or a part of it for another party.

        ``payload`` are the vectors that follow it, empty if it has none.
        """
        return wire.seal_envelope(
            message,
            protocol=self.task.protocol.ID,
            task=self.task.digest,
            session=draft.session_id,
            sender=draft.id,
            payload=payload,
            identity=self.environment.identity,
        )

    def claim(self, value: bytes, *entry: bytes | str) -> None:
        """Write ``value`` under ``entry`` in the ledger, once ever; ``Aborted`` if it holds another value there."""
        ledger = self.environment.ledger
        if ledger is None:
            return
        name = hashlib.sha256(encode_parts(b"secagg/v1/ledger", self._party, *entry)).digest()
        if ledger.claim(name, value) != value:
            raise Aborted(f"the ledger of {self._party} holds another {entry[0]!s} under this session")

    def derive(self, draft: MemberState, what: str) -> bytes:
        """32 secret bytes of this role and session, for the one purpose that ``what`` names."""
        return derive(draft.seed, salt=draft.session_id, info=encode_parts("secagg/v1/role", what))

    def rng(self, draft: MemberState, what: str, *bound: bytes) -> Callable[[int], bytes]:
        """A generator of secret bytes of this role and session, for the one purpose that ``what`` names.

        ``bound`` is what the bytes are used on, if they must never be used on anything else: a role that was rolled
        back gets other bytes for other values of it.
        """
        return seeded_rng(draft.seed, salt=draft.session_id, info=encode_parts("secagg/v1/role", what, *bound))

    def contribution(self, draft: ClientState) -> list[NDArray[Any]]:
        """The encoded update, one read-only array for each segment; ``LocalProtocolError`` if there is none."""
        if not draft.contributed:
            raise LocalProtocolError("the input is asked for: contribute(update) first, then receive this again")
        return unpack_segments(draft.contribution, self.task)


class ServerContext(Context, Generic[AnyServerState]):
    """The context of a server: its ``state``, which steps change in place, and the sums so far.

    ``sums`` has one array for each segment. It is empty until the protocol's steps fill it.
    """

    def __init__(self, task: Task, environment: Environment, state: AnyServerState) -> None:
        super().__init__(task, environment, None)
        self.state = state
        self.sums: list[NDArray[Any]] = []
        self._cohort = frozenset(state.cohort)
        self._rounds = [phase.round for phase in task.protocol.phases]
        self.faults = FaultRecord(self.knows, state.faults)

    @property
    def open(self) -> bool:
        """Whether a round is open."""
        return self.state.position >= 0 and not self.state.finished and not self.state.aborted

    @property
    def round(self) -> str | None:
        """The open round's name; None before start and after the end."""
        return self._rounds[self.state.position] if self.open else None

    def knows(self, party: str) -> bool:
        """Whether ``party`` is in the cohort or enrolled; anyone can invent other names."""
        return party in self._cohort or (self.roster is not None and party in self.roster)

    def limit_of(self, party: str) -> int:
        """The largest message that ``party`` reads, in bytes."""
        role = PartyRole.CLIENT if party in self._cohort or self.roster is None else self.roster[party].role
        return self.task.largest_message(role)

    def draw(self, count: int) -> bytes:
        """``count`` fresh random bytes. Keep them in the state: a restored server gets different ones."""
        return draw(self.environment.rng, count)

    def proposal(self) -> Proposal:
        """The first message of this session to any party."""
        state = self.state
        return Proposal(cohort=state.cohort, session=state.session, nonce=state.nonce)

    def seal_all(self, requests: Mapping[str, tuple[wire.Message, bytes]]) -> dict[str, bytes]:
        """The sealed message for each party; a message that goes to many parties is sealed once.

        ``requests`` has a message and its vectors (empty bytes if it has none) for each party.
        """
        sealed: dict[tuple[int, int], bytes] = {}
        for message, payload in requests.values():
            if (id(message), id(payload)) not in sealed:
                sealed[id(message), id(payload)] = self.seal(message, payload)
        return {party: sealed[id(message), id(payload)] for party, (message, payload) in requests.items()}

    def seal(self, message: wire.Message, payload: bytes = b"", *, session: bytes | None = None) -> bytes:
        """The server's ``message``, with the vectors in ``payload``, as bytes.

        ``session`` is the id that it carries, by default the open round's.
        """
        # The session id is computed from the proposal, so a proposal can't carry it.
        stated = b"" if isinstance(message, Proposal) else self.state.asked_under
        return wire.seal_envelope(
            message,
            protocol=self.task.protocol.ID,
            task=self.task.digest,
            session=stated if session is None else session,
            sender=wire.SERVER,
            payload=payload,
        )

    def need(self, present: int, floor: int, what: str) -> None:
        """``Aborted`` unless at least ``floor`` are ``present``; ``what`` names them in the reason."""
        if present < floor:
            raise Aborted(f"got {present} {what}; {floor} are needed, so nothing is opened")

    def blame(self, party: str, kind: FaultKind, detail: str) -> None:
        """Record that ``party`` did something wrong in the open round: a fault of this ``kind``.

        ``detail`` says in words what it was, for the local log; it holds no secret.
        """
        fault = Fault(str(party)[:64], self.round or "after the end", kind, detail)
        if self.faults.add(fault):
            session = self.state.session_id.hex()[:12]
            about = {"session": session, "party": fault.sender, "round": fault.round, "kind": str(kind)}
            log.warning("session %s: %s", session, fault, extra=about)
