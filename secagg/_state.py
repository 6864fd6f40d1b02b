"""A role's state as bytes: whose it is, a checksum, and the fields."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mpc.keys import TAG_BYTES, encode_parts
from secagg import wire
from secagg._canonical import plain_bytes
from secagg.errors import ConfigError
from secagg.identity import Roster
from secagg.session import roster_digest

if TYPE_CHECKING:
    from secagg.task import Task

_STATE_MAGIC = b"secagg/v1/state"
_NONCE = bytes(12)
_AT_ONCE = 1 << 30  # OpenSSL takes no 2 GiB in a call

AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)


def pack_state(state: msgspec.Struct, task: Task, role: str, roster: Roster | None) -> bytes:
    """What a role saves: whose state it is, a checksum, the fields."""
    header, fields = _state_header(task, role, roster), msgspec.msgpack.encode(state)
    return b"".join((header, _state_checksum(header, fields), fields))


def unpack_state(data: bytes, kind: type[AnyStruct], task: Task, role: str, roster: Roster | None) -> AnyStruct:
    """The state in ``data``; ``ConfigError`` if it is damaged, or of another task, role or roster."""
    data = plain_bytes(data, "a saved state")
    header = _state_header(task, role, roster)
    if not data.startswith(header):
        raise ConfigError(
            "got a saved state of another task, role, roster or version; restore it with what it was made with"
        )
    start = len(header) + TAG_BYTES
    fields = memoryview(data)[start:]
    if data[len(header) : start] != _state_checksum(header, fields):
        raise ConfigError("got a damaged state; leave this session out")
    try:
        return msgspec.msgpack.decode(fields, type=kind)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"got a state that this version can't read: {error}; leave this session out") from error


def pack_segments(vectors: Iterable[NDArray[Any]]) -> list[bytes]:
    """Arrays of uint32 or uint64 as little-endian bytes, one after the other."""
    return [np.ascontiguousarray(v, v.dtype.newbyteorder("<")).tobytes() for v in vectors]


def unpack_segments(written: Sequence[bytes], task: Task) -> list[NDArray[Any]]:
    """The arrays that :func:`pack_segments` wrote, one for each segment of ``task``; read-only."""
    return [
        np.frombuffer(data, np.dtype("<u4") if len(data) == 4 * segment.length else np.dtype("<u8"))
        for data, segment in zip(written, task.segments, strict=True)
    ]


def _state_header(task: Task, role: str, roster: Roster | None) -> bytes:
    # Restored without its roster, a client would take unsigned messages for signed ones.
    return encode_parts(
        _STATE_MAGIC, str(wire.VERSION), task.protocol.name, task.digest, role, roster_digest(roster)
    )


def _state_checksum(header: bytes, fields: bytes | memoryview) -> bytes:
    """AES-GMAC under a key that anyone can tell: against damage and mix-ups, and ten times as fast as a hash.

    Against a forger neither would do, for whoever can write a state can write its checksum.
    """
    mac = Cipher(algorithms.AES(hashlib.sha256(header).digest()), modes.GCM(_NONCE)).encryptor()
    for at in range(0, len(fields), _AT_ONCE):
        mac.authenticate_additional_data(memoryview(fields)[at : at + _AT_ONCE])
    mac.finalize()
    return mac.tag
