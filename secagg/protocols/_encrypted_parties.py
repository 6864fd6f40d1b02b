"""The client and the decryptor of Paillier, CKKS and BFV: two answers of each."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from mpc.keys import derive, encode_parts
from secagg import wire
from secagg._machine import Client, ClientState, Decryptor, Handler, MemberState, Reply
from secagg.errors import Aborted, ConfigError, EncodingError, FaultKind, LocalProtocolError
from secagg.identity import PartyRole
from secagg.protocols._encrypted_base import Encrypted
from secagg.protocols._encrypted_messages import (
    KEY_BYTES,
    Ciphertexts,
    Commitment,
    Committed,
    EncryptedSum,
    KeyedProposal,
    OpenedSum,
    SessionKey,
    commitment,
    pin,
)
from secagg.protocols._pairwise_messages import from_bitmap
from secagg.protocols.base import Proposal, Round, relayed
from secagg.protocols.digits import Digits
from secagg.protocols.lanes import pack_lanes
from secagg.wire import Reject


def session_secret(scheme: Any, shared: bytes, session: bytes) -> Any:
    """The secret key of one session, from the key that clients and decryptor share for the run."""
    seed = derive(shared, salt=session, info=encode_parts("secagg/v1/he-session-key"))
    return scheme.secret_from_seed(seed)


@lru_cache(maxsize=4)
def _run_key(scheme: Any, shown: bytes) -> Any:
    """A public key that serves a whole run, with what was computed for it."""
    return scheme.load_public(shown)


class EncryptedClientState(ClientState):
    """What a client keeps between Commit and Input: what it committed to, and no longer its update."""

    ciphertexts: bytes = b""


class EncryptedClient(Client[EncryptedClientState]):
    """A client; see :class:`secagg.Paillier`, :class:`secagg.CKKS` and :class:`secagg.BFV`."""

    state_type = EncryptedClientState

    @property
    def _protocol(self) -> Encrypted:
        protocol = self._task.protocol
        assert isinstance(protocol, Encrypted)
        return protocol

    def _setup(self, *arguments: Any) -> None:
        super()._setup(*arguments)
        _check_key(self._protocol, self._key, self.id)
        if self._key is not None and not self._protocol.shared_key:
            raise ConfigError(
                f"got key= for client {self.id}; only clients that share a key have one: leave it out, or take a "
                "protocol with holder='clients'"
            )

    def _commit_to(self, draft: EncryptedClientState, message: KeyedProposal, payload: memoryview) -> Reply:
        """Commit: encrypt, keep the ciphertexts, and say which they will be.

        The update is not needed any more. Its hash stays, for the ledger and for what a budget is charged.
        """
        wire.no_vectors(payload)
        draft.ciphertexts = self._encrypted(draft, message.key)
        draft.contribution = []
        return Commitment(commitment(draft.session_id, draft.id, draft.ciphertexts)), b""

    def _reveal(self, draft: EncryptedClientState, message: Committed, payload: memoryview) -> Reply:
        """Input: send what was committed to."""
        wire.no_vectors(payload)
        return Ciphertexts(), draft.ciphertexts

    def _send_at_once(self, draft: EncryptedClientState, message: KeyedProposal, payload: memoryview) -> Reply:
        """Input without Commit: encrypt, and send it."""
        wire.no_vectors(payload)
        return Ciphertexts(), self._encrypted(draft, message.key)

    def _encrypted(self, draft: EncryptedClientState, signed: bytes) -> bytes:
        """The contribution under the key that the decryptor signed for this session.

        The ciphertexts' randomness is governed by no seed; they are part of the saved state before anything that
        depends on them leaves.
        """
        slots = Digits(self._task).split(self.contribution(draft))
        key, workers = self._encryption_key(draft, signed), self._protocol.workers(self._executor)
        encrypted: bytes = key.encrypt(slots, workers)
        return encrypted

    def _encryption_key(self, draft: EncryptedClientState, signed: bytes) -> Any:
        scheme, shown = self._protocol.scheme(self._task), self._shown_key(draft, signed)
        if self._key is not None:
            if not hmac.compare_digest(shown, pin(self._key)):
                raise LocalProtocolError("got another key= than the decryptor's; all must be given the same one")
            return session_secret(scheme, self._key, draft.session_id)
        try:
            return _run_key(scheme, shown) if self._protocol.pinned else scheme.load_public(shown)
        except ValueError as error:
            raise Reject(FaultKind.INVALID, f"got a session key that can't be used: {error}") from error

    def _shown_key(self, draft: EncryptedClientState, signed: bytes) -> bytes:
        """What the decryptor says of its key, its signature checked, and held to the roster."""
        envelope, roster = relayed(signed, self._task, draft.session_id, SessionKey, self._limit), self._roster
        assert roster is not None
        self.check_signature(envelope, PartyRole.DECRYPTOR)
        shown, rest = envelope.open(SessionKey)
        wire.no_vectors(rest)
        self._protocol.check_pinned(shown.key, roster[envelope.sender])
        return shown.key

    def _input(self, draft: EncryptedClientState, message: Any, payload: memoryview) -> Reply:
        answer = self._reveal if self._protocol.commit else self._send_at_once
        return answer(draft, message, payload)

    answers: ClassVar[Mapping[str, Handler]] = {Round.COMMIT: _commit_to, Round.INPUT: _input}

    def erase(self, draft: EncryptedClientState) -> None:
        """Forget the ciphertexts too: the answer that holds them is kept by itself."""
        super().erase(draft)
        draft.ciphertexts = b""


class DecryptorState(MemberState):
    """What a decryptor keeps: the secret key of this session, until it is done."""

    secret: bytes = b""


class EncryptedDecryptor(Decryptor[DecryptorState]):
    """Holds the key and opens one sum a session; see :class:`secagg.Paillier`."""

    state_type = DecryptorState

    @property
    def _protocol(self) -> Encrypted:
        protocol = self._task.protocol
        assert isinstance(protocol, Encrypted)
        return protocol

    def _setup(self, *arguments: Any) -> None:
        super()._setup(*arguments)
        roster = self._roster
        assert roster is not None
        _check_key(self._protocol, self._key, self.id)
        if self._key is not None and not self._protocol.pinned:
            raise ConfigError(
                f"got key= for {self.id}; a decryptor of {self._protocol.name} makes a key for every session: "
                "leave it out, or take Paillier(key='run') where one key is to serve all sessions"
            )
        if self._protocol.pinned and pin(self._public_half()) != roster[self.id].encryption_key:
            raise ConfigError(
                f"got a key whose digest is not the one that the roster pins for {self.id}; load the one that was "
                "made with this roster's entry, or enrol the new one and give everyone the new roster"
            )

    def _check_restored(self) -> None:
        if self._state.step and not self._ended and self._ledger is None:
            raise LocalProtocolError(
                "got a decryptor past its first answer without a ledger, which alone holds it to one sum; pass "
                "save= a store that has one, or leave this session out"
            )

    def _public_half(self) -> bytes:
        """What the roster pins of a key that outlives the session."""
        if self._key is None:
            raise ConfigError(f"got no key for {self.id}; a decryptor of {self._protocol.name} needs key=")
        if self._protocol.shared_key:
            return self._key
        try:
            public: bytes = self._run_secret.public.to_bytes()
        except ValueError as error:
            raise ConfigError(f"got a key of {self.id} that can't be used: {error}") from error
        return public

    @cached_property
    def _run_secret(self) -> Any:
        """The key that serves a whole run."""
        return self._protocol.scheme(self._task).load_secret(self._key)

    def _show_key(self, draft: DecryptorState, message: Proposal, payload: memoryview) -> Reply:
        """SessionKey: make this session's key, or show which one the run has."""
        wire.no_vectors(payload)
        if self._protocol.shared_key:
            return SessionKey(pin(self._public_half())), b""
        if self._protocol.pinned:
            return SessionKey(self._public_half()), b""
        made = self._protocol.scheme(self._task).generate()
        draft.secret = made.to_bytes()
        return SessionKey(made.public.to_bytes()), b""

    def _open(self, draft: DecryptorState, message: EncryptedSum, payload: memoryview) -> Reply:
        """Opening: open one sum, once, if it is stated to hold enough and every slot is a possible sum."""
        from he.errors import HEError, OpenError

        count, digits = len(from_bitmap(message.survivors, draft.cohort)), Digits(self._task)
        if count < self._task.min_survivors:
            raise Aborted(f"got a sum over {count} clients; {self._task.min_survivors} are needed")
        total, expected = bytes(payload), self._protocol.scheme(self._task).total_size(digits.length)
        if len(total) != expected:
            raise Reject(FaultKind.MALFORMED, f"got an encrypted sum of {len(total)} bytes; expected {expected}")
        asked = hashlib.sha256(encode_parts(message.survivors, total)).digest()
        try:
            secret = self._secret(draft)
            sums = self._protocol.open_sum(secret, total, digits.length, count, self._executor)
            segments = digits.join(sums, count)
        except (OpenError, EncodingError) as error:
            # A sum that differs from this one by a little is what an attack would come with next.
            self.claim(asked, "opening", self._task.digest, draft.session or b"")
            raise Aborted(f"the sum is none that honest clients have: {error}") from error
        except HEError as error:
            raise Reject(FaultKind.MALFORMED, f"got bytes that are no encrypted sum: {error}") from error
        # Before the sum leaves; and whatever becomes of the session, there is no second one of this name.
        self.claim(asked, "opening", self._task.digest, draft.session or b"")
        return OpenedSum(), pack_lanes(self._task, segments)

    def _secret(self, draft: DecryptorState) -> Any:
        scheme = self._protocol.scheme(self._task)
        if self._protocol.shared_key:
            assert self._key is not None
            return session_secret(scheme, self._key, draft.session_id)
        return scheme.load_secret(draft.secret) if draft.secret else self._run_secret

    answers: ClassVar[Mapping[str, Handler]] = {Round.SESSION_KEY: _show_key, Round.OPENING: _open}

    def erase(self, draft: DecryptorState) -> None:
        """Forget the session's key."""
        super().erase(draft)
        draft.secret = b""


def _check_key(protocol: Encrypted, key: bytes | None, party: str) -> None:
    if protocol.shared_key and (key is None or len(key) != KEY_BYTES):
        found = "no key" if key is None else f"a key of {len(key)} bytes"
        raise ConfigError(
            f"got {found} for {party}; with holder='clients' every client and the decryptor are given the same "
            f"{KEY_BYTES} bytes as key=: write them with secagg keygen --shared-he"
        )
