"""The decryptor of Paillier, CKKS and BFV."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

from he.errors import HEError, OpenError
from he.scheme import SecretKey
from mpc.keys import encode_parts
from secagg.bitmap import from_bitmap
from secagg.errors import Aborted, ConfigError, EncodingError, FaultKind, LocalProtocolError
from secagg.lanes import pack_lanes
from secagg.protocols.encrypted.client import check_key, session_secret
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import EncryptedSum, OpenedSum, SessionKey, pin
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.roles.listener import Decryptor
from secagg.roles.member import Handler, Reply, method
from secagg.roles.state import MemberState
from secagg.table import Proposal, Round
from secagg.wire import Reject
from secagg.workers import threads


class DecryptorState(MemberState):
    """A decryptor's state: the secret key of this session, until the session ends.

    If the scheme is ``deterministic``, the key follows from the seed, and is kept because it takes time to make.
    """

    secret: bytes = b""


class EncryptedDecryptor(Decryptor[DecryptorState]):
    """The decryptor of :class:`secagg.Paillier`, :class:`secagg.CKKS` or :class:`secagg.BFV`.

    1. SessionKey: it makes a key pair for the session, or takes the run's, and sends the public half, signed. Where
       clients share its key, it sends the key's digest.
    2. Opening: it gets the encrypted sum and the set of clients in it, opens the sum, and returns it to the server.

    It opens one sum of a session. It leaves, and opens nothing, when the sum is of fewer than ``min_survivors``
    clients, when a slot holds a number that honest clients can't add up to, or when the ledger has another sum
    of this session. Bytes that break the protocol become a fault and change nothing.
    """

    state_type = DecryptorState
    answers: ClassVar[Mapping[str, Handler]] = {
        Round.SESSION_KEY: method("_show_key"),
        Round.OPENING: method("_open"),
    }

    @property
    def _protocol(self) -> Encrypted:
        protocol = self.context.task.protocol
        assert isinstance(protocol, Encrypted)
        return protocol

    def prepare(self) -> None:
        """See :meth:`secagg.roles.Member.prepare`."""
        super().prepare()
        roster = self.context.roster
        assert roster is not None
        check_key(self._protocol, self.context.key, self.id)
        if self.context.key is not None and not self._protocol.pinned:
            raise ConfigError(
                f"got key= for {self.id}; a decryptor of {self._protocol.name} makes a key for every session: "
                "leave it out, or take Paillier(key='run') where one key is to serve all sessions"
            )
        if self._protocol.pinned and pin(self._public_half()) != roster[self.id].encryption_key:
            raise ConfigError(
                f"got a key whose digest is not the one that the roster pins for {self.id}; load the one that was "
                "made with this roster's entry, or enrol the new one and give everyone the new roster"
            )

    def check_restored(self) -> None:
        """See :meth:`secagg.roles.Member.check_restored`."""
        if self._state.step and not self._ended and self.context.environment.ledger is None:
            raise LocalProtocolError(
                "got a decryptor past its first answer without a ledger, which alone holds it to one sum; pass "
                "save= a store that has one, or leave this session out"
            )

    def _public_half(self) -> bytes:
        """The key, or its public half, whose digest the roster lists."""
        if self.context.key is None:
            raise ConfigError(f"got no key for {self.id}; a decryptor of {self._protocol.name} needs key=")
        if self._protocol.shared_key:
            return self.context.key
        try:
            return _public_bytes(self._run_secret)
        except ValueError as error:
            raise ConfigError(f"got a key of {self.id} that can't be used: {error}") from error

    @cached_property
    def _run_secret(self) -> SecretKey:
        """The key that serves a whole run."""
        assert self.context.key is not None
        return self._protocol.scheme(self.context.task).load_secret(self.context.key)

    def _show_key(self, draft: DecryptorState, message: Proposal, payload: memoryview) -> Reply:
        """SessionKey: make this session's key, or show the run's."""
        if self._protocol.shared_key:
            return SessionKey(pin(self._public_half())), b""
        if self._protocol.pinned:
            return SessionKey(self._public_half()), b""
        secret = self._protocol.scheme(self.context.task).generate(self.context.rng(draft, "session-key"))
        draft.secret = secret.to_bytes()
        return SessionKey(_public_bytes(secret)), b""

    def _open(self, draft: DecryptorState, message: EncryptedSum, payload: memoryview) -> Reply:
        """Opening: open one sum, once, if enough clients are in it and every slot is a possible sum."""
        count, digits = len(from_bitmap(message.survivors, draft.cohort)), Digits(self.context.task)
        if count < self.context.task.min_survivors:
            raise Aborted(f"got a sum over {count} clients; {self.context.task.min_survivors} are needed")
        total, expected = bytes(payload), self._protocol.scheme(self.context.task).total_size(digits.length)
        if len(total) != expected:
            raise Reject(FaultKind.MALFORMED, f"got an encrypted sum of {len(total)} bytes; expected {expected}")
        asked = _digest(message.survivors, total)
        secret = self._secret(draft)
        try:
            sums = secret.open(total, digits.length, count, self.context.executor or threads())
            segments = digits.join(sums, count)
        except (OpenError, EncodingError) as error:
            # An attacker would next ask for a sum that differs slightly from this one.
            self.context.claim(asked, "opening", self.context.task.digest, draft.session or b"")
            raise Aborted(f"honest clients cannot have this sum: {error}") from error
        except HEError as error:
            raise Reject(FaultKind.MALFORMED, f"got bytes that are not an encrypted sum: {error}") from error
        # Claim before the sum leaves: whatever happens to the session, no second sum of it is opened.
        self.context.claim(asked, "opening", self.context.task.digest, draft.session or b"")
        return OpenedSum(), pack_lanes(self.context.task, segments)

    def _secret(self, draft: DecryptorState) -> SecretKey:
        scheme = self._protocol.scheme(self.context.task)
        if self._protocol.shared_key:
            assert self.context.key is not None
            return session_secret(scheme, self.context.key, draft.session_id)
        if self._protocol.pinned:
            return self._run_secret
        try:
            return scheme.load_secret(draft.secret)
        except HEError as damaged:
            raise LocalProtocolError(
                f"got a state of {self.id} with a damaged session key: {damaged}; leave this session out"
            ) from damaged

    def erase(self, draft: DecryptorState) -> None:
        """Forget the session's key."""
        super().erase(draft)
        draft.secret = b""


def _public_bytes(secret: SecretKey) -> bytes:
    assert secret.public is not None
    return secret.public.to_bytes()


def _digest(survivors: bytes, total: bytes) -> bytes:
    """SHA-256 over the survivors and the sum, each after its length (32 bytes)."""
    hashed = hashlib.sha256(encode_parts(survivors))
    hashed.update(len(total).to_bytes(4, "big"))  # as encode_parts does, without a copy of a long sum
    hashed.update(total)
    return hashed.digest()
