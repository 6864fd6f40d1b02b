"""The messages of Paillier, CKKS and BFV, and the commitment of a client."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from mpc.keys import encode_parts
from secagg import wire
from secagg.table import Proposal

KEY_BYTES = 32
HASH_BYTES = 32


class SessionKey(wire.Message, frozen=True):
    """SessionKey, decryptor to server: the public key to encrypt under, or the digest of the shared one."""

    TYPE: ClassVar[int] = 2
    key: bytes


class KeyedProposal(Proposal, frozen=True):
    """Commit, server to clients: the proposal, with the decryptor's signed session key as received.

    Without the round Commit, it is the request of Input.
    """

    TYPE: ClassVar[int] = 3
    key: bytes


class Ciphertexts(wire.Message, frozen=True):
    """Input, client to server: its encrypted vector follows."""

    TYPE: ClassVar[int] = 4


class EncryptedSum(wire.Message, frozen=True):
    """Opening, server to decryptor: the clients in the encrypted sum; the sum follows."""

    TYPE: ClassVar[int] = 5
    survivors: bytes


class OpenedSum(wire.Message, frozen=True):
    """Opening, decryptor to server: the sum follows, in the clear."""

    TYPE: ClassVar[int] = 6


class Commitment(wire.Message, frozen=True):
    """Commit, client to server: the digest of the ciphertexts that it will send; see :func:`commitment`."""

    TYPE: ClassVar[int] = 7
    digest: bytes


class Committed(wire.Message, frozen=True):
    """Input, server to clients: no more commitments are accepted, so the ciphertexts may be sent."""

    TYPE: ClassVar[int] = 8


def commitment(session: bytes, client: str, ciphertexts: bytes | memoryview) -> bytes:
    """SHA-256 over label, session id, client id and ciphertexts, each after its length (32 bytes).

    It binds the client to its ciphertexts. It also hides them, because each is encrypted with at least
    128 bits of randomness that only the client knows. It contains the client's id, so that a copied
    commitment fits no other client's message.
    """
    hashed = hashlib.sha256(encode_parts("secagg/v1/he-commitment", session, client))
    hashed.update(len(ciphertexts).to_bytes(4, "big"))  # as encode_parts does, without a copy of a long vector
    hashed.update(ciphertexts)
    return hashed.digest()


def pin(key: bytes) -> bytes:
    """The digest by which the roster lists a key that outlives a session."""
    return hashlib.sha256(encode_parts("secagg/v1/he-key", key)).digest()
