"""Decryptors and aggregators."""

from __future__ import annotations

from secagg.errors import Aborted, Fault, FaultKind, RemoteProtocolError
from secagg.identity import PartyRole
from secagg.roles.faults import FaultRecord
from secagg.roles.member import AnyState, Member
from secagg.roles.turn import atomic


class Watchful(Member[AnyState]):
    """A party other than a client. It never raises on bytes: it records a fault and goes on."""

    def prepare(self) -> None:
        """See :meth:`Member.prepare`."""
        self._faults = FaultRecord(lambda party: party == "server" or party in (self.context.roster or ()))

    @property
    @atomic
    def faults(self) -> tuple[Fault, ...]:
        """The faults of the messages that were refused, oldest first."""
        return tuple(self._faults.kept)

    def _receive(self, data: bytes) -> bytes | None:
        """Turn wrong bytes into a fault."""
        try:
            return super()._receive(data)
        except RemoteProtocolError as error:
            self.note(error.fault)
        except Aborted as aborted:
            self.note(Fault("server", self._phases[-1].round, FaultKind.INVALID, aborted.reason))
        return None

    def note(self, fault: Fault) -> None:
        """Keep a fault, unless there are too many: a flood of bad messages must not fill the memory."""
        self._faults.add(fault)


class Decryptor(Watchful[AnyState]):
    """A party that holds a homomorphic key, or a share of one, apart from the server. It sees only sums."""

    role = PartyRole.DECRYPTOR


class Aggregator(Watchful[AnyState]):
    """One of several servers that each hold a share of the sum."""

    role = PartyRole.AGGREGATOR
