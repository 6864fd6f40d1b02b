"""Decryptors and aggregators."""

from __future__ import annotations

from collections.abc import Iterable

from mpc.errors import MPCError
from secagg import wire
from secagg._numbers import is_a
from secagg.errors import Aborted, Fault, FaultKind, LocalProtocolError, RemoteProtocolError
from secagg.identity import PartyRole
from secagg.roles.faults import FaultRecord
from secagg.roles.member import AnyState, Member
from secagg.roles.turn import atomic
from secagg.table import Phase, Refusal
from secagg.wire import Envelope, Reject


class FaultRecorder(Member[AnyState]):
    """A party other than a client. It never raises on bytes: it records a fault and goes on.

    Its constructor is that of :class:`secagg.roles.Member`.
    """

    def prepare(self) -> None:
        """See :meth:`Member.prepare`."""
        self._faults = FaultRecord(lambda party: party == "server" or party in (self.context.roster or ()))

    def check_restored(self) -> None:
        """See :meth:`Member.check_restored`."""
        speaks = any(phase.word is not None for phase in self._relayed)
        if speaks and self._state.step and not self._ended and self.context.environment.ledger is None:
            raise LocalProtocolError(
                f"got the state of {self.id}, which gives words on answers, without a ledger, so nothing keeps it "
                "from other words than it gave; pass save= a store that has a ledger, or leave this session out"
            )

    @property
    @atomic
    def faults(self) -> tuple[Fault, ...]:
        """The faults of the messages that were refused, oldest first."""
        return tuple(self._faults.kept)

    def receive_all(self, messages: Iterable[bytes | memoryview]) -> list[bytes | None]:
        """Take ``messages`` as ``receive`` does, one after the other; returns the answer to each, or None.

        The state is saved once, after the last message and before any answer is returned. Many reports in one call
        so cost one save. An exception means that none of the messages was taken: the role is what it was before,
        and the call may be made again. ``LocalProtocolError`` if the caller must do something first.
        """
        if is_a(messages, bytes | bytearray | memoryview):
            raise LocalProtocolError("got one message; receive_all takes several: pass [message], or call receive")
        return self._receive_all(list(messages))

    @atomic
    def _receive_all(self, messages: list[bytes | memoryview]) -> list[bytes | None]:
        state, faults, self._batch = self._state, len(self._faults.kept), []
        try:
            answers = [self._receive(data) for data in messages]
            if self._batch:
                self._state.number += 1
                self._save(self._state, self._batch)
        except BaseException:
            self._take_back()
            self._faults.forget(faults)
            self._state = state
            raise
        finally:
            self._batch = None
        self._added.clear()
        return answers

    def _receive(self, data: bytes | memoryview) -> bytes | None:
        """Turn wrong bytes into a fault."""
        try:
            return super()._receive(data)
        except RemoteProtocolError as error:
            self.note(error.fault)
        except Aborted as aborted:
            self.note(Fault("server", self._phases[-1].round, FaultKind.INVALID, aborted.reason))
        return None

    def _listen(self, envelope: Envelope, phase: Phase, kind: type[wire.Message]) -> bytes | None:
        """Turn wrong content into a fault and, where the server waits for a word, into a refusal."""
        before = len(self._added)
        try:
            return super()._listen(envelope, phase, kind)
        except (Reject, MPCError) as error:
            if phase.word is None or kind is phase.word:
                raise
            self._take_back(before)
            refused = error if isinstance(error, Reject) else Reject(FaultKind.INVALID, str(error))
        self.note(self._fault(refused))
        return self.context.seal(self._state, Refusal(envelope.digest))

    def note(self, fault: Fault) -> None:
        """Keep a fault, unless there are too many: a flood of bad messages must not fill the memory."""
        self._faults.add(fault)


class Decryptor(FaultRecorder[AnyState]):
    """A party that holds a homomorphic key, or a share of one, apart from the server. It sees only sums.

    Its constructor is that of :class:`secagg.roles.Member`.
    """

    role = PartyRole.DECRYPTOR


class Aggregator(FaultRecorder[AnyState]):
    """One of several servers that each hold a share of the sum.

    Its constructor is that of :class:`secagg.roles.Member`.
    """

    role = PartyRole.AGGREGATOR
