"""The envelope that carries every message.

::

    magic "SECAGG" | version 1 | protocol 2 | type 1 | task digest 32
    | length 1, session id 0 or 32 | length 1, sender | length 4, body | trailer

Numbers are big-endian. A body is a small structured part (its length, then MessagePack of a typed schema) and, for
messages that carry vectors, their bit-packed bytes. With an identity, the trailer is an Ed25519 signature over a
label and the SHA-256 of everything before it. Without one, it is the first 16 bytes of that digest, which detects
accidents only. The server's messages have no sender and are not signed, because parties do not trust the server.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secagg._numbers import is_a
from secagg.errors import ConfigError, FaultKind, kind_of
from secagg.identity import check_party_id

#: The version of the wire format.
VERSION = 2
#: What an envelope begins with.
MAGIC = b"SECAGG"
#: What an envelope's signature begins with.
SIGNATURE_LABEL = b"secagg/v1/envelope"
#: Bytes of a signature.
SIGNATURE_BYTES = 64
#: Bytes of a checksum, where parties have no keys.
CHECKSUM_BYTES = 16
#: Bytes of a digest.
DIGEST_BYTES = 32
#: The most bytes of a body: an envelope states its length in 4 bytes.
LARGEST_BODY = (1 << 32) - 1
#: The most bytes of the id of a party.
LONGEST_ID = 64
#: The sender in the server's messages; no party can have this id.
SERVER = ""

_FIXED = struct.Struct(">6sBHB32s")
_BODY_LENGTH = struct.Struct(">I")
_FIELD_HEADER = 5  # the most bytes that MessagePack writes before an array, a text or a byte string


class Reject(Exception):  # noqa: N818 - never leaves the library
    """Why a message was refused. A server turns it into a Fault, a client into an error.

    ``kind`` and ``detail`` are those of :class:`secagg.Fault`. ``blame`` is the party that did wrong, if it is not
    the sender.
    """

    def __init__(self, kind: FaultKind, detail: str, *, blame: str | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.blame = kind, detail, blame


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The structured part of a message. A subclass states its ``TYPE``, unique in its protocol."""

    TYPE: ClassVar[int]


class Abort(Message, frozen=True):
    """The server ends the session without an outcome; it doesn't say why."""

    TYPE: ClassVar[int] = 255


#: Any message.
AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message whose frame has been parsed. Nothing in it has been verified yet.

    ``protocol`` is the protocol's id, and ``kind`` the message's ``TYPE``. ``task`` is the task's digest (32
    bytes), and ``session`` the session's id (32 bytes, or empty in a proposal). ``sender`` is the id of the party
    that says it sent the message. ``trailer`` is a signature, or without identities a checksum. ``digest`` is
    SHA-256 of header and body: what is signed. ``received`` is the whole message.

    ``received`` and ``body`` may lie in a buffer of the caller's, such as a mapped file, which must not change
    while the envelope is in use. What outlives the call keeps ``raw``, or a copy of a part.
    """

    protocol: int
    kind: int  # the message's TYPE
    task: bytes
    session: bytes
    sender: str
    body: memoryview
    trailer: bytes
    digest: bytes  # SHA-256 of header and body: what is signed
    received: bytes | memoryview  # the whole message

    @property
    def raw(self) -> bytes:
        """The message as received, to be kept, or relayed as it is."""
        return bytes(self.received)  # of bytes, the same object

    def owned(self) -> Self:
        """The same, in bytes of its own."""
        if type(self.received) is bytes:
            return self
        raw = self.raw
        end = len(raw) - len(self.trailer)
        return replace(self, received=raw, body=memoryview(raw)[end - len(self.body) : end])

    @classmethod
    def parse(cls, data: bytes | memoryview, limit: int) -> Self:
        """Read the frame in ``data``, of at most ``limit`` bytes; ``Reject`` for what no honest party sends.

        A read-only view is not copied. Bytes that anyone can change are.
        """
        if not is_a(data, bytes | bytearray | memoryview):
            raise Reject(FaultKind.MALFORMED, f"got a {kind_of(data)}; expected bytes")
        try:
            view = memoryview(data)  # a subclass may answer len() and bytes() as it likes
        except Exception as error:
            raise Reject(FaultKind.MALFORMED, "got bytes that can no longer be read") from error
        if view.nbytes > limit:
            raise Reject(FaultKind.OVERSIZED, f"got {view.nbytes} bytes; expected at most {limit}")
        raw = data if type(data) is bytes else _unchanging(view)
        if len(raw) < _FIXED.size or raw[:6] != MAGIC:
            raise Reject(FaultKind.MALFORMED, "got bytes that don't begin as an envelope does")
        _, version, protocol, kind, task = _FIXED.unpack_from(raw)
        if version != VERSION:
            raise Reject(FaultKind.VERSION, f"got wire version {version}; this library speaks {VERSION}")
        session, at = _short_field(raw, _FIXED.size)
        sender, at = _short_field(raw, at)
        if len(session) not in (0, DIGEST_BYTES) or at + _BODY_LENGTH.size > len(raw):
            raise Reject(FaultKind.MALFORMED, "got a message cut short in its header")
        end = at + _BODY_LENGTH.size + _BODY_LENGTH.unpack_from(raw, at)[0]
        trailer = bytes(raw[end : end + SIGNATURE_BYTES + 1])
        if end > len(raw) or len(trailer) not in (SIGNATURE_BYTES, CHECKSUM_BYTES):
            raise Reject(FaultKind.MALFORMED, "got a body or a trailer of the wrong length")
        view = memoryview(raw)
        return cls(
            protocol=protocol,
            kind=kind,
            task=task,
            session=session,
            sender=_sender(sender),
            body=view[at + _BODY_LENGTH.size : end],
            trailer=trailer,
            digest=hashlib.sha256(view[:end]).digest(),
            received=raw,
        )

    def verify(self, key: bytes | None) -> None:
        """Check the trailer: the signature under the Ed25519 public ``key``, or the checksum if there is no key."""
        if key is None:
            if self.trailer != self.digest[:CHECKSUM_BYTES]:
                raise Reject(FaultKind.UNAUTHENTIC, "got a checksum that doesn't match the message")
            return
        if not signature_holds(key, self.trailer, self.digest):
            raise Reject(FaultKind.UNAUTHENTIC, "got a signature that isn't valid under the sender's key")

    def open(self, kind: type[AnyMessage]) -> tuple[AnyMessage, memoryview]:
        """Decode the structured part as a ``kind``; returns it and the bytes after it."""
        if len(self.body) < _BODY_LENGTH.size:
            raise Reject(FaultKind.MALFORMED, "got a body cut short")
        end = _BODY_LENGTH.size + _BODY_LENGTH.unpack_from(self.body)[0]
        if end > len(self.body):
            raise Reject(FaultKind.MALFORMED, "got a body shorter than it says")
        try:
            message = _decoder(kind).decode(self.body[_BODY_LENGTH.size : end])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Reject(FaultKind.MALFORMED, f"the body is not a {kind.__name__}: {error}") from error
        return message, self.body[end:]


def signature_holds(key: bytes, signature: bytes, digest: bytes) -> bool:
    """Whether the Ed25519 public ``key`` signed, by ``signature``, an envelope with this ``digest``.

    OpenSSL runs outside of Python's lock, so threads check as many signatures at once as there are processors.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, SIGNATURE_LABEL + digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def envelope_digest(message: Message, *, protocol: int, task: bytes, session: bytes, sender: str) -> bytes:
    """What ``sender`` signs when it sends a ``message`` without vectors: SHA-256 of header and body.

    The other arguments are those of :func:`seal_envelope`.
    """
    return hashlib.sha256(_head(message, protocol, task, session, sender, 0)).digest()


def seal_envelope(
    message: Message,
    *,
    protocol: int,
    task: bytes,
    session: bytes,
    sender: str,
    payload: bytes = b"",
    identity: Ed25519PrivateKey | None = None,
) -> bytes:
    """The envelope of ``message`` and the vectors in ``payload``, signed where there is an identity.

    ``protocol`` is the protocol's id, ``task`` the task's digest (32 bytes), ``session`` the session's id (32
    bytes, or empty in a proposal), ``sender`` the id of the party that sends it, and ``identity`` that party's
    private key.
    """
    head = _head(message, protocol, task, session, sender, len(payload))
    hashed = hashlib.sha256(head)
    hashed.update(payload)
    digest = hashed.digest()
    trailer = digest[:CHECKSUM_BYTES] if identity is None else identity.sign(SIGNATURE_LABEL + digest)
    return b"".join((head, payload, trailer))


def _head(message: Message, protocol: int, task: bytes, session: bytes, sender: str, payload: int) -> bytes:
    """An envelope up to its vectors, of which there are ``payload`` bytes."""
    structure, name = _ENCODER.encode(message), sender.encode()
    return b"".join(
        (
            _FIXED.pack(MAGIC, VERSION, protocol, message.TYPE, task),
            bytes([len(session)]),
            session,
            bytes([len(name)]),
            name,
            _BODY_LENGTH.pack(_BODY_LENGTH.size + len(structure) + payload),
            _BODY_LENGTH.pack(len(structure)),
            structure,
        )
    )


def overhead(sender: str, *, session: bool = True, signed: bool) -> int:
    """The bytes of an envelope of ``sender`` without its structured part and its vectors.

    ``session`` says whether the envelope has a session id, and ``signed`` whether it has a signature or a checksum.
    """
    lengths = _FIXED.size + 2 + 2 * _BODY_LENGTH.size + DIGEST_BYTES * session + len(sender.encode())
    return lengths + (SIGNATURE_BYTES if signed else CHECKSUM_BYTES)


def largest(*fields: int | tuple[int, int], signed: bool) -> int:
    """The bytes of the largest envelope of a message with these ``fields``, without its vectors.

    A field is the length of a number, a text or a byte string, or (count, length) for a list of them. ``signed``
    says whether the envelope has a signature or a checksum. The sender's id is assumed to be as long as ids can be.
    """
    sizes = (_FIELD_HEADER + field if isinstance(field, int) else _size_of_list(*field) for field in fields)
    return overhead("x" * LONGEST_ID, signed=signed) + _FIELD_HEADER + sum(sizes)


def _size_of_list(count: int, length: int) -> int:
    return _FIELD_HEADER + count * (_FIELD_HEADER + length)


def structure_size(message: Message, *lists: Mapping[bytes | str, int]) -> int:
    """The bytes of a message's structured part.

    Each of ``lists`` replaces one empty list in ``message``, and maps an item to its number of copies. So even a
    list that is too long for memory can be counted.
    """
    return len(_ENCODER.encode(message)) + sum(_list_bytes(items) - 1 for items in lists)


def _list_bytes(items: Mapping[bytes | str, int]) -> int:
    count = sum(items.values())
    header = 1 if count < 1 << 4 else 3 if count < 1 << 16 else 5
    return header + sum(times * len(_ENCODER.encode(item)) for item, times in items.items())


def string_size(length: int) -> int:
    """The bytes that a byte string of ``length`` bytes takes in a message's structured part."""
    return (2 if length < 1 << 8 else 3 if length < 1 << 16 else 5) + length


def no_vectors(payload: memoryview) -> None:
    """``Reject`` if ``payload``, the bytes after the structured part of a message, is not empty."""
    if len(payload):
        raise Reject(FaultKind.MALFORMED, f"got {len(payload)} bytes after the end of a message")


def stand_in_ids(count: int) -> list[str]:
    """Example ids of ``count`` clients, to compute sizes with: c1, c2, …, sorted."""
    return sorted(f"c{number}" for number in range(1, count + 1))


def stand_in_lengths(count: int) -> dict[int, int]:
    """Length → how many of ``stand_in_ids(count)`` have it, computed without building the ids."""
    digits = range(1, len(str(count)) + 1)
    return {1 + many: min(count, 10**many - 1) - 10 ** (many - 1) + 1 for many in digits}


_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type[Message], msgspec.msgpack.Decoder[Any]] = {}


def _decoder(kind: type[AnyMessage]) -> "msgspec.msgpack.Decoder[AnyMessage]":
    if kind not in _DECODERS:
        _DECODERS[kind] = msgspec.msgpack.Decoder(kind)
    return _DECODERS[kind]


def _unchanging(view: memoryview) -> bytes | memoryview:
    """The bytes of a view: the view itself, if nobody can write through it, else a copy."""
    if view.readonly and view.c_contiguous and view.nbytes:
        return view.cast("B")
    return bytes(view)


def _short_field(raw: bytes | memoryview, at: int) -> tuple[bytes, int]:
    end = at + 1 + (raw[at] if at < len(raw) else len(raw))
    if end > len(raw):
        raise Reject(FaultKind.MALFORMED, "got a message cut short in its header")
    return bytes(raw[at + 1 : end]), end


def _sender(name: bytes) -> str:
    if not name:
        return SERVER
    try:
        return check_party_id(name.decode("ascii"))
    except (UnicodeDecodeError, ConfigError) as error:
        raise Reject(FaultKind.MALFORMED, "the sender is not a party id") from error
