"""What the replays of recorded sessions share, with none of this project's code: envelopes, keys, masks, vectors.

Written from docs/protocols.md and the papers: hashlib, Python's integers, and the primitives of ``cryptography``.
"""

import hashlib
import struct
from collections.abc import Collection
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Segments = list[tuple[int, int]]
"""Length and bits a coordinate of each segment."""


def parts(*items: bytes | str | int) -> bytes:
    out = b""
    for item in items:
        data = (
            item.to_bytes(8, "big") if isinstance(item, int) else item.encode() if isinstance(item, str) else item
        )
        out += struct.pack(">I", len(data)) + data
    return out


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hkdf(secret: bytes, salt: bytes, *info: bytes | str | int, length: int = 32) -> bytes:
    return HKDF(SHA256(), length, salt, parts(*info)).derive(secret)


def stream(key: bytes, length: int) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(length))


def exchange(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def structure(data: bytes) -> Any:
    """The MessagePack value in ``data``: arrays, texts and byte strings, to the last byte."""
    lengths = {0xC4: (1, bytes), 0xC5: (2, bytes), 0xC6: (4, bytes), 0xD9: (1, str), 0xDA: (2, str)}
    lengths |= {0xDB: (4, str), 0xDC: (2, list), 0xDD: (4, list)}

    def value(at: int) -> tuple[Any, int]:
        tag, at = data[at], at + 1
        if 0x90 <= tag < 0xA0:
            kind, count = list, tag & 15
        elif 0xA0 <= tag < 0xC0:
            kind, count = str, tag & 31
        else:
            size, kind = lengths[tag]
            count, at = int.from_bytes(data[at : at + size], "big"), at + size
        if kind is list:
            items = []
            for _ in range(count):
                item, at = value(at)
                items.append(item)
            return items, at
        content = data[at : at + count]
        return (content if kind is bytes else content.decode()), at + count

    whole, end = value(0)
    assert end == len(data)
    return whole


def read(data: bytes, protocol: int, signing_key: bytes | None) -> dict[str, Any]:
    """The fields of an envelope, its trailer checked."""
    magic, version, protocol_id, kind, task = struct.unpack_from(">6sBHB32s", data)
    assert (magic, version, protocol_id) == (b"SECAGG", 2, protocol)
    at = 42
    session = data[at + 1 : at + 1 + data[at]]
    at += 1 + data[at]
    sender = data[at + 1 : at + 1 + data[at]].decode()
    at += 1 + data[at]
    (length,) = struct.unpack_from(">I", data, at)
    end = at + 4 + length
    body, trailer, digest = data[at + 4 : end], data[end:], sha(data[:end])
    if signing_key is None:
        assert trailer == digest[:16]
    else:
        Ed25519PublicKey.from_public_bytes(signing_key).verify(trailer, b"secagg/v1/envelope" + digest)
    (inner,) = struct.unpack_from(">I", body)
    return {
        "kind": kind, "task": task, "session": session, "sender": sender, "fields": structure(body[4 : 4 + inner]),
        "payload": body[4 + inner :], "digest": digest, "raw": data,
    }  # fmt: skip


def roster_digest(
    signing_keys: dict[str, bytes], encryption_keys: dict[str, bytes], decryptors: Collection[str] = ()
) -> bytes:
    """Of the parties that have a signing key; those that have an encryption key too are aggregators."""

    def value(tag: bytes, body: bytes) -> bytes:
        return tag + struct.pack(">I", len(body)) + body

    rows = b""
    for party in sorted(signing_keys):
        other = encryption_keys.get(party)
        role = b"decryptor" if party in decryptors else b"client" if other is None else b"aggregator"
        fields = value(b"s", b"Party") + value(b"s", party.encode()) + value(b"s", role)
        fields += value(b"y", signing_keys[party])
        rows += value(b"d", fields + (value(b"N", b"") if other is None else value(b"y", other)))
    return sha(b"secagg/v1/roster" + value(b"t", rows))


def signing_keys(record: dict[str, Any]) -> dict[str, bytes]:
    private = {p: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v)) for p, v in record["identities"].items()}
    return {party: key.public_key().public_bytes_raw() for party, key in private.items()}


def mask(key: bytes, segments: Segments) -> list[list[int]]:
    """The mask of each segment, lanes of 4 bytes up to 32 bits a coordinate, else 8."""
    out, start = [], 0
    for length, bits in segments:
        width = 4 if bits <= 32 else 8
        lanes = stream(key, start + length * width)[start:]
        out.append([int.from_bytes(lanes[i : i + width], "little") for i in range(0, len(lanes), width)])
        start += -(-length * width // 16) * 16
    return out


def unpack(payload: bytes, segments: Segments) -> list[list[int]]:
    out, at = [], 0
    for length, bits in segments:
        size = (length * bits + 7) // 8
        number = int.from_bytes(payload[at : at + size], "little")
        out.append([number >> i * bits & (1 << bits) - 1 for i in range(length)])
        at += size
    assert at == len(payload)
    return out


def combine(totals: list[list[int]], more: list[list[int]], sign: int, segments: Segments) -> None:
    for total, extra, (_, bits) in zip(totals, more, segments, strict=True):
        for i, number in enumerate(extra):
            total[i] = (total[i] + sign * number) % (1 << bits)


def members(bitmap: bytes, everyone: list[str]) -> list[str]:
    assert len(bitmap) == (len(everyone) + 7) // 8
    return [party for i, party in enumerate(everyone) if bitmap[i // 8] >> i % 8 & 1]


def pieces(joined: bytes, size: int) -> list[bytes]:
    assert len(joined) % size == 0
    return [joined[i : i + size] for i in range(0, len(joined), size)]
