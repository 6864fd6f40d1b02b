"""What every protocol has: its rounds as a table, its cost, and the makers of its roles."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from secagg import wire
from secagg._numbers import real
from secagg.errors import ConfigError, FaultKind, shown
from secagg.identity import PartyRole, Roster
from secagg.session import MAX_SESSION_BYTES, NONCE_BYTES
from secagg.wire import Envelope, Reject

if TYPE_CHECKING:
    from secagg._machine import Client, Member
    from secagg._server import Server
    from secagg.task import Task


class Round(StrEnum):
    """The rounds of this library's protocols, by the papers' names."""

    INPUT = "Input"
    COMMIT = "Commit"
    ADVERTISE_KEYS = "AdvertiseKeys"
    SESSION_KEY = "SessionKey"
    OPENING = "Opening"
    FREEZE_KEYS = "FreezeKeys"
    SHARE_KEYS = "ShareKeys"
    MASKED_INPUT = "MaskedInput"
    CONSISTENCY_CHECK = "ConsistencyCheck"
    UNMASKING = "Unmasking"
    PREPARATION = "Preparation"
    REPORT = "Report"
    RECOUNT = "Recount"
    AGREEMENT = "Agreement"
    AGGREGATE_SHARE = "AggregateShare"


class Proposal(wire.Message, frozen=True):
    """The server opens a session: who takes part, what it is called, 32 fresh random bytes.

    It is what each party is sent first; a protocol that has more to say then extends it.
    """

    TYPE: ClassVar[int] = 1
    cohort: list[str]
    session: bytes
    nonce: bytes


@dataclass(frozen=True)
class Phase:
    """A row of a protocol's table: the server asks parties of one role, and each answers once."""

    round: str
    role: PartyRole
    request: type[wire.Message]
    reply: type[wire.Message]
    takes_input: bool = False  # the answer carries the client's contribution
    commits_input: bool = False  # the answer fixes the contribution, which a later one carries
    relay: PartyRole | None = None  # answers are handed on, as they are and at once, to all of this role


@dataclass(frozen=True)
class Cost:
    """What one client sends and receives, and whom it has to trust.

    ``up`` and ``down`` are bytes by round, with nobody dropping out. ``collusion`` says who would
    have to collude to learn one client's update; ``post_quantum`` whether recorded traffic stays
    confidential against a quantum computer: at 128 bits for ``CKKS`` and ``BFV`` (the tables are in
    :mod:`he.params`), in NIST's category 3 for shares sealed by ML-KEM-768.
    """

    up: Mapping[str, int]
    down: Mapping[str, int]
    collusion: str
    post_quantum: bool


@runtime_checkable
class AggregationProtocol(Protocol):
    """A protocol: a frozen dataclass of parameters that makes its roles.

    ``ID`` goes into every envelope (below 0x8000 is this library's); ``name`` is what people read. A
    protocol may also have ``key_pair`` (see :func:`key_pairs`), and ``unseeded``: the rounds whose messages
    depend on randomness that a primitive draws for itself, so that two sessions from the same seeds differ there.
    One with a ``corruption`` hides terms from a server that so many clients help, unless ``shows_terms`` is true.
    """

    ID: ClassVar[int]

    @property
    def name(self) -> str:
        """The protocol's name, as its paper writes it."""
        ...

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The table: who is asked what, in which order."""
        ...

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` for a task that this protocol can't carry."""
        ...

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        """Raise ``ConfigError`` for a roster with which no cohort would do; run when a role is made."""
        ...

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        """Raise ``ConfigError`` for a cohort or a roster with which it would be unsafe or can't end."""
        ...

    def cost(self, task: Task, cohort: Sequence[str] | None = None) -> Cost:
        """Bytes by round and who must collude, for ``cohort`` (by default ``max_clients`` strangers)."""
        ...

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes; a ``receiver`` (None: the server) reads nothing longer, and nothing honest is."""
        ...

    @property
    def others(self) -> Mapping[PartyRole, int]:
        """How many parties beside server and clients a session has, by role."""
        ...

    @property
    def members(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """The class of each role that answers the server."""
        ...

    @property
    def server(self) -> type[Server[Any]]:
        """The class of the server."""
        ...


def largest_proposal(task: Task, *more: int) -> int:
    """Bytes of the largest proposal under ``task``; ``more`` are the lengths of what a protocol adds to it."""
    return wire.largest((task.max_clients, wire.LONGEST_ID), MAX_SESSION_BYTES, NONCE_BYTES, *more, signed=False)


def bitmap_bytes(clients: int) -> int:
    """Bytes of a set of some of ``clients``."""
    return (clients + 7) // 8


def rounds(protocol: AggregationProtocol) -> tuple[str, ...]:
    """The rounds of ``protocol`` in which a client is asked for something, in order."""
    return tuple(phase.round for phase in protocol.phases if phase.role is PartyRole.CLIENT)


def input_round(protocol: AggregationProtocol) -> str:
    """The round whose message carries a client's contribution: who sends it is in the sum."""
    return next(phase.round for phase in protocol.phases if phase.takes_input)


def contribution_round(protocol: AggregationProtocol) -> str:
    """The first round whose message depends on a client's contribution: by then it must have been given one.

    It is the input round, or an earlier one in which clients commit to their inputs.
    """
    return next(phase.round for phase in protocol.phases if phase.commits_input or phase.takes_input)


def client_class(protocol: AggregationProtocol) -> type[Client[Any]]:
    """The class of the protocol's clients."""
    from secagg._machine import Client

    found = protocol.members[PartyRole.CLIENT]
    if not issubclass(found, Client):
        raise ConfigError(f"got {found.__name__} as the client of {protocol.name}; it must be a Client")
    return found


def key_pairs(
    protocol: AggregationProtocol,
    roles: Mapping[str, PartyRole],
    rng: Callable[[str], Callable[[int], bytes]] = lambda party: os.urandom,
) -> dict[str, tuple[bytes, bytes]]:
    """The long-lived keys that parties need beside their identities: private half, then what the roster lists.

    By id; parties that need none are left out. ``rng`` gives each its generator. A protocol whose parties have
    such keys has a method ``key_pair(role, rng)`` that makes one, or returns None; and where its attribute
    ``shared_key`` is true, one pair is made for all.
    """
    make = getattr(protocol, "key_pair", None)
    if make is None:
        return {}
    if getattr(protocol, "shared_key", False):
        first = min(roles)
        return dict.fromkeys(roles, make(roles[first], rng(first)))
    pairs = {party: make(role, rng(party)) for party, role in roles.items()}
    return {party: pair for party, pair in pairs.items() if pair is not None}


class Collusive(Protocol):
    """What the number of corrupt clients follows from."""

    @property
    def corruption(self) -> float:
        """The fraction of clients that may collude with the server."""
        ...

    @property
    def threat_model(self) -> str:
        """``"malicious"``, ``"semi-malicious"`` or ``"semi-honest"``."""
        ...


def corrupt_count(corruption: float, among: int) -> int:
    """c, the number of clients that may collude with the server: at least one."""
    return max(1, int(Fraction(str(corruption)) * among))


def corrupt_among(protocol: Collusive, cohort: int, roster: Roster | None) -> int:
    """c of a session: counted over all enrolled clients against a malicious server, else over the cohort."""
    enrolled = cohort if roster is None else len(roster.ids(PartyRole.CLIENT))
    return corrupt_count(protocol.corruption, enrolled if protocol.threat_model == "malicious" else cohort)


def check_floor(task: Task, corrupt: int) -> None:
    """``ConfigError`` unless every opened sum holds two honest updates, when ``corrupt`` clients may collude."""
    if task.min_survivors < corrupt + 2:
        raise ConfigError(
            f"got min_survivors={task.min_survivors} with {corrupt} clients possibly corrupt; expected "
            f"at least {corrupt + 2}, so that no sum opens for one honest client: raise min_survivors, or "
            "lower corruption if fewer can collude"
        )


def check_corruption(corruption: object) -> float:
    """``corruption`` as a float; ``ConfigError`` unless it is a number from 0 to below 1."""
    fraction = real(corruption)
    if not 0 <= fraction < 1:
        raise ConfigError(f"got corruption={shown(corruption)}; expected a number of at least 0, below 1")
    return fraction


def relayed(data: bytes, task: Task, session: bytes, kind: type[wire.Message], limit: int) -> Envelope:
    """A party's message that came through the server; ``Reject`` unless it is a ``kind`` of this session.

    Its signature is for the caller to check.
    """
    envelope = Envelope.parse(data, limit)
    if envelope.protocol != task.protocol.ID or envelope.task != task.digest:
        raise Reject(FaultKind.FOREIGN_TASK, "got a relayed message of another protocol or task")
    if envelope.session != session:
        raise Reject(FaultKind.FOREIGN_SESSION, "got a relayed message of another session")
    if envelope.kind != kind.TYPE:
        raise Reject(FaultKind.INVALID, f"got message type {envelope.kind} where a {kind.__name__} is relayed")
    return envelope
