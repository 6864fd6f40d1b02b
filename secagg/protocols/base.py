"""The base class of protocols: a table of rounds, the classes of the roles, the cost."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mpc.hpke import Kem
from secagg import wire
from secagg.errors import ConfigError
from secagg.identity import PartyRole, Roster
from secagg.session import MAX_SESSION_BYTES, NONCE_BYTES
from secagg.table import Phase

if TYPE_CHECKING:
    from secagg.roles.member import Member
    from secagg.roles.server import Server
    from secagg.task import Task


@dataclass(frozen=True)
class Cost:
    """The bytes that one client sends and receives, and the parties that it has to trust.

    ``up`` and ``down`` are bytes by round if nobody drops out. ``collusion`` names the parties that must collude to
    learn one client's update. ``post_quantum`` says whether recorded traffic stays confidential against a quantum
    computer: with 128 bits of security for ``CKKS`` and ``BFV`` (the tables are in :mod:`he.security`), in NIST's
    category 3 for shares sealed by ML-KEM-768.
    """

    up: Mapping[str, int]
    down: Mapping[str, int]
    collusion: str
    post_quantum: bool


class AggregationProtocol(ABC):
    """A protocol: subclasses are frozen dataclasses of parameters, and make the protocol's roles.

    ``ID`` goes into every envelope (below 0x8000 is this library's); ``name`` is what people read.
    """

    ID: ClassVar[int]

    #: The fraction of clients that may collude with the server; None if the server reads each term anyway.
    corruption: float | None = None
    #: ``"malicious"``, ``"semi-malicious"`` or ``"semi-honest"``: what the server may do.
    threat_model: str = "semi-honest"

    @property
    @abstractmethod
    def name(self) -> str:
        """The protocol's name, as its paper writes it."""

    @property
    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The table: the rounds in order, each with the role that is asked."""

    @property
    @abstractmethod
    def role_classes(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """The class of each role that answers the server."""

    @property
    @abstractmethod
    def server(self) -> type[Server[Any]]:
        """The class of the server."""

    @abstractmethod
    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` for a task that does not fit this protocol."""

    @abstractmethod
    def cost(self, task: Task, cohort: Sequence[str] | None = None) -> Cost:
        """Bytes by round, and who must collude, for ``cohort`` (by default ``max_clients`` clients c1, c2, …).

        If a protocol also takes ``signed``, it says whether messages carry signatures; by default they do where the
        threat model needs them.
        """

    @abstractmethod
    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """The most bytes that ``receiver`` (None: the server) reads; no honest message to it is longer."""

    @property
    def party_counts(self) -> Mapping[PartyRole, int]:
        """The number of parties besides the server and the clients, by role."""
        return {}

    @property
    def shows_terms(self) -> bool:
        """Whether the server reads each client's term by itself, alone or with the help of any one client."""
        return self.corruption is None

    @property
    def unseeded(self) -> tuple[str, ...]:
        """Rounds whose messages depend on randomness that no role's seed determines.

        Two sessions from the same seeds differ there.
        """
        return ()

    @property
    def shared_key(self) -> bool:
        """Whether all parties hold one and the same long-lived key."""
        return False

    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """The long-lived key of ``role`` besides its identity: the private half, then what the roster lists of it.

        None if the role has no such key. ``rng`` returns random bytes.
        """
        return None

    def validate_roster(self, task: Task, roster: Roster | None) -> None:  # noqa: B027 - may be left out
        """Raise ``ConfigError`` for a ``roster`` under which no cohort is safe. It runs when any role is made."""

    def validate_cohort(  # noqa: B027 - may be left out
        self, task: Task, cohort: Sequence[str], roster: Roster | None
    ) -> None:
        """Raise ``ConfigError`` for a ``cohort`` under which a session is unsafe or can't end.

        ``roster`` has passed :meth:`validate_roster`.
        """

    def describe(self, task: Task) -> list[str]:
        """Threat model, thresholds and floor, in lines for :meth:`secagg.Task.describe`."""
        return []


def check_kem(kem: Kem) -> None:
    """Raise ``ConfigError`` if the installed ``cryptography`` does not have ``kem``."""
    if not kem.available:
        raise ConfigError(
            f"got kem={str(kem)!r}, which the installed cryptography doesn't have; install 47 or later as "
            "a wheel, or pass kem='X25519', whose confidentiality is not post-quantum"
        ) from ImportError(f"cryptography has no {kem}")


def largest_proposal(task: Task, *more: int) -> int:
    """Bytes of the largest proposal under ``task``; ``more`` are the lengths of the fields that a protocol adds."""
    return wire.largest((task.max_clients, wire.LONGEST_ID), MAX_SESSION_BYTES, NONCE_BYTES, *more, signed=False)


def key_pairs(
    protocol: AggregationProtocol,
    roles: Mapping[str, PartyRole],
    rng: Callable[[str], Callable[[int], bytes]] = lambda party: os.urandom,
) -> dict[str, tuple[bytes, bytes]]:
    """The long-lived keys that parties need besides their identities: private half, then what the roster lists.

    ``roles`` has the role of each party of ``protocol``, by id. The result is by id, without the parties that need
    no key. ``rng`` returns the generator of each party. If the protocol has a ``shared_key``, all parties get the
    same pair.
    """
    if protocol.shared_key:
        first = min(roles)
        pair = protocol.key_pair(roles[first], rng(first))
        return {} if pair is None else dict.fromkeys(roles, pair)
    pairs = {party: protocol.key_pair(role, rng(party)) for party, role in roles.items()}
    return {party: pair for party, pair in pairs.items() if pair is not None}
