"""Decryptors and aggregators."""

from __future__ import annotations

from secagg.errors import Aborted, Fault, FaultKind, RemoteProtocolError
from secagg.identity import PartyRole
from secagg.roles.faults import FaultRecord
from secagg.roles.member import AnyState, Member
from secagg.roles.turn import atomic


class Watchful(Member[AnyState]):
    """A party other than a client: it never raises on bytes but records faults and goes on."""

    def prepare(self) -> None:
        """See :meth:`Member.prepare`."""
        self._faults = FaultRecord(lambda party: party == "server" or party in (self.context.roster or ()))

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
