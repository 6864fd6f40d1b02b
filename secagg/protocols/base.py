"""What every protocol has: its rounds as a table, its cost, and the makers of its roles."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from secagg import wire
from secagg.errors import ConfigError
from secagg.identity import PartyRole, Roster
from secagg.session import MAX_SESSION_BYTES, NONCE_BYTES
from secagg.table import Phase

if TYPE_CHECKING:
    from secagg.roles.client import Client
    from secagg.roles.member import Member
    from secagg.roles.server import Server
    from secagg.task import Task


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


def client_class(protocol: AggregationProtocol) -> type[Client[Any]]:
    """The class of the protocol's clients."""
    from secagg.roles.client import Client

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
