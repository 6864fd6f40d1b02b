"""The server of Paillier, CKKS and BFV: adds up what it can't read, and has the sum opened once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from he.scheme import Adder, PublicKey, Scheme
from secagg.bitmap import to_bitmap
from secagg.errors import ConfigError, FaultKind
from secagg.identity import PartyRole
from secagg.lanes import fold_lanes, zero_lanes
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import (
    HASH_BYTES,
    Ciphertexts,
    Commitment,
    Committed,
    EncryptedSum,
    KeyedProposal,
    OpenedSum,
    SessionKey,
    commitment,
)
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.roles.member import Reply, method
from secagg.roles.server import Server, Step
from secagg.roles.state import ServerState
from secagg.table import Round
from secagg.wire import Envelope, Reject


class EncryptedServerState(ServerState):
    """What a server keeps between rounds."""

    signed_key: bytes = b""  # the decryptor's SessionKey, as received
    commitments: dict[str, bytes] = {}  # by client: 32 bytes each
    total: bytes = b""  # the encrypted sum so far; filled when written


class EncryptedServer(Server[EncryptedServerState]):
    """The server of :class:`secagg.Paillier`, :class:`secagg.CKKS` or :class:`secagg.BFV`.

    1. SessionKey: the decryptor answers the proposal with its signed public key, or with the digest of the
       key that it shares with the clients. A key that cannot be used, or that differs from the one that the
       roster pins, is a fault. ``Aborted`` if no key was taken.
    2. Commit (not with ``commit=False``): each client receives that signed message and answers with a hash of
       its ciphertexts. ``Aborted`` if fewer than ``min_survivors`` commit; then no ciphertext was sent.
    3. Input: the clients that committed send their ciphertexts, which are added to one running sum.
       Ciphertexts that differ from the commitment are a fault and are not added. The clients whose
       ciphertexts were added are the survivors. ``Aborted`` if they are fewer than ``min_survivors``.
    4. Opening: the decryptor receives the encrypted sum and the set of survivors, and answers with the
       sum. ``Aborted`` if it does not answer, because it refused the sum or is gone. Otherwise the session
       ends with an ``Outcome``.
    """

    state_type = EncryptedServerState
    steps: ClassVar[Mapping[str, Step]] = {
        Round.SESSION_KEY: Step(method("_propose"), method("_take_key"), method("_settle_key")),
        Round.COMMIT: Step(
            method("_ask_keyed"), method("_take_commitment"), method("_settle_commit"), merge=("commitments",)
        ),
        Round.INPUT: Step(method("_ask_input"), method("_take_ciphertexts"), method("_settle_input"), merge=()),
        Round.OPENING: Step(method("_ask_opening"), method("_take_opened"), method("_settle_opened")),
    }

    def prepare(self) -> None:
        """See :meth:`secagg.roles.Server.prepare`."""
        state = self.context.state
        self._adder: Adder | None = None
        waiting, keyed = not state.finished and not state.aborted, bool(state.signed_key)
        if waiting and (keyed != bool(state.total) or (not keyed and (state.position > 0 or state.answered))):
            raise ConfigError("got a state without its session key or its sum; leave this session out")
        if state.total:
            try:
                public = self._public(state.signed_key)
                self._adder = self._scheme.load_adder(state.total, Digits(self.context.task).length, public)
            except (Reject, ValueError) as damaged:
                raise ConfigError(
                    f"got a state with a damaged session key or sum: {damaged}; leave this session out"
                ) from damaged
            state.total = b""

    @property
    def _protocol(self) -> Encrypted:
        protocol = self.context.task.protocol
        assert isinstance(protocol, Encrypted)
        return protocol

    @property
    def _scheme(self) -> Scheme:
        return self._protocol.scheme(self.context.task)

    def _public(self, signed_key: bytes) -> PublicKey | None:
        """The public key in the decryptor's signed message; None where sums are added up without one."""
        shown, _ = Envelope.parse(signed_key, self.context.limit).open(SessionKey)
        return None if self._protocol.shared_key else self._scheme.load_public(shown.key)

    # SessionKey

    def _propose(self) -> Mapping[str, Reply]:
        return {party: (self.context.proposal(), b"") for party in self._decryptors}

    @property
    def _decryptors(self) -> tuple[str, ...]:
        assert self.context.roster is not None
        return tuple(self.context.roster.ids(PartyRole.DECRYPTOR))

    def _take_key(self, envelope: Envelope, message: SessionKey, payload: memoryview) -> None:
        assert self.context.roster is not None
        self._protocol.check_pinned(message.key, self.context.roster[envelope.sender])
        try:
            public = self._public(envelope.raw)
        except ValueError as error:
            raise Reject(FaultKind.INVALID, f"got a session key that can't be used: {error}") from error
        self._adder = self._scheme.adder(Digits(self.context.task).length, public)
        self.context.state.signed_key = envelope.raw

    def _settle_key(self) -> None:
        self.context.need(len(self.context.state.answered), 1, "session keys of the decryptor")

    # Commit

    def _ask_keyed(self) -> Mapping[str, Reply]:
        p = self.context.proposal()
        keyed = KeyedProposal(p.cohort, p.session, p.nonce, self.context.state.signed_key)
        return dict.fromkeys(self.context.state.cohort, (keyed, b""))

    def _take_commitment(self, envelope: Envelope, message: Commitment, payload: memoryview) -> None:
        if len(message.digest) != HASH_BYTES:
            raise Reject(
                FaultKind.MALFORMED, f"got a commitment of {len(message.digest)} bytes; expected {HASH_BYTES}"
            )
        self.context.state.commitments[envelope.sender] = message.digest

    def _settle_commit(self) -> None:
        self.context.need(
            len(self.context.state.commitments), self.context.task.min_survivors, "commitments to encrypted inputs"
        )

    # Input

    def _ask_input(self) -> Mapping[str, Reply]:
        if not self._protocol.commit:
            return self._ask_keyed()
        return dict.fromkeys(self.context.state.commitments, (Committed(), b""))

    def _take_ciphertexts(self, envelope: Envelope, message: Ciphertexts, payload: memoryview) -> None:
        """Fold one client's ciphertexts in; nothing of them is touched before all of them were checked.

        Only those count that the client committed to when it could not know the others'.
        """
        if self._protocol.commit:
            self._check_commitment(envelope.sender, payload)
        assert self._adder is not None
        try:
            self._adder.fold(bytes(payload))
        except ValueError as error:
            raise Reject(FaultKind.MALFORMED, f"got ciphertexts that can't be added up: {error}") from error

    def _check_commitment(self, sender: str, ciphertexts: memoryview) -> None:
        if commitment(self.context.state.session_id, sender, ciphertexts) != self.context.state.commitments[sender]:
            raise Reject(
                FaultKind.INVALID,
                "got ciphertexts that differ from this client's commitment; they are not added to the sum, because "
                "they may depend on the ciphertexts of others",
            )

    def check_shared(self) -> None:
        """``ConfigError`` for inputs without commitments.

        Without commitments a client may send a copy of another's ciphertexts. A server refuses the copy, and would
        not notice it if the original went to another server.
        """
        if self.context.round == Round.INPUT and not self._protocol.commit:
            raise ConfigError(
                f"got a part of Input of {self._protocol.name} with commit=False, in which only one server notices "
                "copies of ciphertexts; give all inputs to one server, or take commit=True"
            )

    def unite(self, shard: Self) -> None:
        """Add up the encrypted sums of two servers, each of other clients."""
        if self.context.round != Round.INPUT:
            return
        assert self._adder is not None
        assert shard._adder is not None
        try:
            self._adder.merge(shard._adder)
        except ValueError as error:
            raise ConfigError(f"got a part whose encrypted sum doesn't fit: {error}") from error

    def _settle_input(self) -> None:
        self.context.need(len(self.context.state.survivors), self.context.task.min_survivors, "encrypted inputs")

    # Opening

    def _ask_opening(self) -> Mapping[str, Reply]:
        assert self._adder is not None
        survivors = to_bitmap(self.context.state.survivors, self.context.state.cohort)
        return dict.fromkeys(self._decryptors, (EncryptedSum(survivors), self._adder.total()))

    def _take_opened(self, envelope: Envelope, message: OpenedSum, payload: memoryview) -> None:
        sums = zero_lanes(self.context.task)
        fold_lanes(self.context.task, payload, sums)
        self.context.sums = sums

    def _settle_opened(self) -> None:
        self.context.need(
            len(self.context.state.answered), 1, "answers of the decryptor, which may have refused the sum"
        )
        self._adder = None

    def written(self) -> EncryptedServerState:
        """See :meth:`Server.written`."""
        written = super().written()
        written.total = b"" if self._adder is None else self._adder.to_bytes()
        return written
