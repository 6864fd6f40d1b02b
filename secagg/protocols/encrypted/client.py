"""The client of Paillier, CKKS and BFV."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from he.errors import HEError
from he.scheme import PublicKey, Random, Scheme, SecretKey, SeededScheme
from mpc.keys import derive, encode_parts
from secagg import wire
from secagg.errors import ConfigError, FaultKind, LocalProtocolError
from secagg.identity import PartyRole
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import (
    KEY_BYTES,
    Ciphertexts,
    Commitment,
    Committed,
    KeyedProposal,
    SessionKey,
    commitment,
    pin,
)
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.roles.client import Client
from secagg.roles.member import Handler, Reply, method
from secagg.roles.state import ClientState
from secagg.table import Round
from secagg.wire import Reject
from secagg.workers import threads


def session_secret(scheme: Scheme, shared: bytes, session: bytes) -> SecretKey:
    """The secret key of one session, from the key that clients and decryptor share for the run."""
    assert isinstance(scheme, SeededScheme)
    seed = derive(shared, salt=session, info=encode_parts("secagg/v1/he-session-key"))
    return scheme.secret_from_seed(seed)


@lru_cache(maxsize=4)
def _run_key(scheme: Scheme, shown: bytes) -> PublicKey:
    """A public key that serves a whole run, with the tables that were computed for it."""
    return scheme.load_public(shown)


class EncryptedClientState(ClientState):
    """A client's state. Between Commit and Input it holds ciphertexts, and no longer the update."""

    ciphertexts: bytes = b""


class EncryptedClient(Client[EncryptedClientState]):
    """A client of :class:`secagg.Paillier`, :class:`secagg.CKKS` or :class:`secagg.BFV`.

    1. Commit (not with ``commit=False``): it gets the decryptor's signed key, checks it, encrypts its update, and
       answers with a hash of the ciphertexts.
    2. Input: it sends these ciphertexts. With ``commit=False`` it gets the key only now, and encrypts.

    It refuses a key that the decryptor of its roster did not sign for this session, or that differs from the key
    that the roster pins. Bytes that break the protocol are refused and change nothing.
    """

    state_type = EncryptedClientState
    answers: ClassVar[Mapping[str, Handler]] = {Round.COMMIT: method("_commit_to"), Round.INPUT: method("_input")}

    @property
    def _protocol(self) -> Encrypted:
        protocol = self.context.task.protocol
        assert isinstance(protocol, Encrypted)
        return protocol

    def prepare(self) -> None:
        """See :meth:`secagg.roles.Member.prepare`."""
        super().prepare()
        check_key(self._protocol, self.context.key, self.id)
        if self.context.key is not None and not self._protocol.shared_key:
            raise ConfigError(
                f"got key= for client {self.id}; only clients that share a key have one: leave it out, or take a "
                "protocol with holder='clients'"
            )

    def _commit_to(self, draft: EncryptedClientState, message: KeyedProposal, payload: memoryview) -> Reply:
        """Commit: encrypt, keep the ciphertexts, and commit to them.

        The update is forgotten. Its hash stays, for the ledger and for the charge to a privacy budget.
        """
        draft.ciphertexts = self._encrypted(draft, message.key)
        draft.contribution, draft.seed = [], self._later_seed(draft)
        return Commitment(commitment(draft.session_id, draft.id, draft.ciphertexts)), b""

    def _later_seed(self, draft: EncryptedClientState) -> bytes:
        """A seed from which the seed before can't be computed, with which the kept ciphertexts could be opened."""
        return self.context.derive(draft, "seed-after-commit")

    def _reveal(self, draft: EncryptedClientState, message: Committed, payload: memoryview) -> Reply:
        """Input: send the ciphertexts of the commitment."""
        return Ciphertexts(), draft.ciphertexts

    def _send_at_once(self, draft: EncryptedClientState, message: KeyedProposal, payload: memoryview) -> Reply:
        """Input without Commit: encrypt, and send the ciphertexts."""
        return Ciphertexts(), self._encrypted(draft, message.key)

    def _encrypted(self, draft: EncryptedClientState, signed: bytes) -> bytes:
        """The contribution under the key that the decryptor signed for this session."""
        slots = Digits(self.context.task).split(self.context.contribution(draft))
        on_threads = self._protocol.scheme(self.context.task).encrypts_on_threads
        executor = self.context.executor or (threads() if on_threads else None)
        shown = self._shown_key(draft, signed)
        key = self._encryption_key(draft, shown)
        try:
            return key.encrypt(slots, executor, self._randomness(draft, shown))
        except HEError as error:  # the encoding's terms fit the scheme, so these come from no encoding
            raise LocalProtocolError(
                f"got a contribution of {draft.id} that {self._protocol.name} can't encrypt, from a damaged state; "
                "leave this session out"
            ) from error

    def _randomness(self, draft: EncryptedClientState, shown: bytes) -> Random:
        """The randomness of the ciphertexts: a stream that belongs to this key and this contribution.

        Two vectors under one stream, or one stream under two keys, would reveal the update. A client whose state
        and ledger were rolled back together can be brought to encrypt another vector, or under another key, in the
        same session. A scheme that is not ``deterministic`` ignores the stream: then a restored client repeats its
        ciphertexts only because they are in the saved state before the commitment to them leaves.
        """
        return self.context.rng(draft, "encryption", pin(shown), draft.contributed)

    def _encryption_key(self, draft: EncryptedClientState, shown: bytes) -> PublicKey | SecretKey:
        scheme = self._protocol.scheme(self.context.task)
        if self.context.key is not None:
            if not hmac.compare_digest(shown, pin(self.context.key)):
                raise LocalProtocolError(
                    "got a key= that differs from the decryptor's; pass the same bytes to all of them"
                )
            return session_secret(scheme, self.context.key, draft.session_id)
        try:
            return _run_key(scheme, shown) if self._protocol.pinned else scheme.load_public(shown)
        except ValueError as error:
            raise Reject(FaultKind.INVALID, f"got a session key that can't be used: {error}") from error

    def _shown_key(self, draft: EncryptedClientState, signed: bytes) -> bytes:
        """The decryptor's key or its digest, once the signature is checked and, if pinned, the roster."""
        roster = self.context.roster
        assert roster is not None
        envelope = self.context.relayed(signed, SessionKey, draft.session_id, PartyRole.DECRYPTOR)
        shown, rest = envelope.open(SessionKey)
        wire.no_vectors(rest)
        self._protocol.check_pinned(shown.key, roster[envelope.sender])
        return shown.key

    def _input(self, draft: EncryptedClientState, message: Any, payload: memoryview) -> Reply:
        answer = self._reveal if self._protocol.commit else self._send_at_once
        return answer(draft, message, payload)

    def erase(self, draft: EncryptedClientState) -> None:
        """Forget the ciphertexts too. The answer that holds them is kept separately."""
        super().erase(draft)
        draft.ciphertexts = b""


def check_key(protocol: Encrypted, key: bytes | None, party: str) -> None:
    """Raise ``ConfigError`` if clients and decryptor share a key and ``key`` is not one."""
    if protocol.shared_key and (key is None or len(key) != KEY_BYTES):
        passed = "no key" if key is None else f"a key of {len(key)} bytes"
        raise ConfigError(
            f"got {passed} for {party}; expected key= of {KEY_BYTES} bytes, the same for every client and the "
            "decryptor with holder='clients': secagg keygen --shared-he writes it in a file, and "
            "secagg.identity.load_he_key reads that file"
        )
