"""Bytes that were once a message: flipped, cut, spliced, or taken apart and sealed again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import wire

NUMBERS = (-1, 0, 1, 2, 127, 128, 255, 256, 65535, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1, -(1 << 63))
WORDS = (
    *("", "c1", "c2", "c3", "c4", "c5", "nobody", "c" * 64, "c" * 65, "c\n1", "ç1", "\x00", "client", "-c1"),
    *("aggregator-1", "aggregator-2"),
)


@dataclass(frozen=True)
class Frame:
    """A message taken apart, so that any part can be changed and the rest still fits."""

    version: int
    protocol: int
    kind: int
    task: bytes
    session: bytes
    sender: bytes
    structure: bytes
    payload: bytes

    def seal(self, identity: Ed25519PrivateKey | None) -> bytes:
        """The message, with a trailer that holds."""
        signed = b"".join(
            (
                wire.MAGIC,
                bytes([self.version & 255]),
                (self.protocol & 0xFFFF).to_bytes(2, "big"),
                bytes([self.kind & 255]),
                self.task[:32].ljust(32, b"\0"),
                bytes([len(self.session[:255])]) + self.session[:255],
                bytes([len(self.sender[:255])]) + self.sender[:255],
                (4 + len(self.structure) + len(self.payload)).to_bytes(4, "big"),
                len(self.structure).to_bytes(4, "big") + self.structure,
                self.payload,
            )
        )
        digest = hashlib.sha256(signed).digest()
        return signed + (
            identity.sign(wire.SIGNATURE_LABEL + digest) if identity else digest[: wire.CHECKSUM_BYTES]
        )


@lru_cache(4096)
def take_apart(message: bytes) -> Frame:
    """The parts of a message that is whole."""
    read = wire.Envelope.parse(message, len(message))
    end = 4 + int.from_bytes(read.body[:4], "big")
    return Frame(
        version=message[6],
        protocol=read.protocol,
        kind=read.kind,
        task=read.task,
        session=read.session,
        sender=read.sender.encode(),
        structure=bytes(read.body[4:end]),
        payload=bytes(read.body[end:]),
    )


class Mutator:
    """Changes bytes, trees and messages.

    ``pool`` holds whole messages to splice from; ``relayed`` seals what a changed message contains
    of other messages.
    """

    def __init__(self, rng: Random, pool: Sequence[bytes], relayed: Ed25519PrivateKey | None = None) -> None:
        self.rng, self.pool, self.relayed = rng, pool, relayed

    def octets(self, data: bytes) -> bytes:
        """``data`` with a fault or a few that know nothing of its structure."""
        for _ in range(self.rng.choice((1, 1, 1, 2, 4))):
            data = self.rng.choice(_OCTETS)(self, data)
        return data

    def tree(self, value: Any) -> Any:
        """A structure of bytes, text, numbers, lists and dicts with one node changed."""
        rng = self.rng
        if rng.random() < 0.03:
            return rng.choice((None, True, 1.5, b"", "", [], {}, rng.choice(NUMBERS), rng.randbytes(33), [[[]]]))
        if isinstance(value, list) and value and rng.random() < 0.8:
            place = rng.randrange(len(value))
            return [*value[:place], self.tree(value[place]), *value[place + 1 :]]
        if isinstance(value, dict) and value and rng.random() < 0.8:
            key = rng.choice(list(value))
            return value | {key: self.tree(value[key])}
        if isinstance(value, bytes):
            if value.startswith(wire.MAGIC) and rng.random() < 0.5:
                try:
                    return self.message(value, self.relayed)
                except wire.Reject:
                    pass  # changed before
            return self.octets(value)
        if isinstance(value, str):
            return rng.choice((*WORDS, value[:-1], value + value, value.upper()))
        if isinstance(value, bool | int):
            return rng.choice((*NUMBERS, value + 1, value - 1, -value))
        if isinstance(value, list):
            return self._list(value)
        if isinstance(value, dict):
            return self._dict(value)
        return rng.choice((None, 0, 1, "", b"", []))

    def _list(self, value: list[Any]) -> list[Any]:
        rng, place = self.rng, self.rng.randrange(len(value) + 1)
        return rng.choice(
            (
                [],
                value[:-1],
                value[::-1],
                value + value,
                value[:place] + value[place + 1 :],
                [*value[:place], *value[place : place + 1] * 2, *value[place + 1 :]],
                [*value, rng.choice((b"", "c1", 0, rng.choice(self.pool)))],
                sorted(value, key=repr),
            )
        )

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        rng = self.rng
        drop = rng.choice(list(value)) if value else None
        odd: dict[Any, Any] = {rng.choice((*WORDS, 0, b"")): rng.choice((None, b"", {}, 0, []))}
        return rng.choice(({k: v for k, v in value.items() if k != drop}, value | odd, {}))

    def message(self, message: bytes, identity: Ed25519PrivateKey | None = None) -> bytes:
        """A message with one or two parts changed, sealed again by the holder of ``identity``."""
        frame = take_apart(message)
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            frame = self._frame(frame)
        sealed = frame.seal(identity)
        return sealed if self.rng.random() < 0.97 else self.octets(sealed)

    def _frame(self, frame: Frame) -> Frame:
        rng = self.rng
        other = take_apart(rng.choice(self.pool))
        match rng.randrange(20):
            case 0:
                return replace(frame, kind=rng.choice((other.kind, 0, 255, rng.randrange(256))))
            case 1:
                return replace(frame, session=rng.choice((other.session, b"", bytes(32), bytes(31), bytes(255))))
            case 2:
                return replace(frame, sender=rng.choice((other.sender, b"", rng.choice(WORDS).encode(), b"\xff")))
            case 3:
                changed: tuple[dict[str, Any], ...] = ({"task": other.task}, {"task": bytes(32)}, {"version": 1})
                return replace(frame, **rng.choice((*changed, {"protocol": other.protocol}, {"protocol": 9})))
            case 4:
                return replace(frame, structure=other.structure, payload=other.payload)
            case 5:
                return replace(frame, structure=self.octets(frame.structure))
            case 6 | 7:
                return replace(frame, payload=self.octets(frame.payload or other.payload))
            case _:
                tree = self.tree(_decoded(frame.structure))
                try:
                    return replace(frame, structure=msgspec.msgpack.encode(tree))
                except (OverflowError, msgspec.MsgspecError):
                    return replace(frame, structure=self.octets(frame.structure))


def _decoded(structure: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(structure)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return [structure]


def _flip(self: Mutator, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(self.rng.choice((1, 1, 2, 8))):
        if changed:
            changed[self.rng.randrange(len(changed))] ^= 1 << self.rng.randrange(8)
    return bytes(changed)


def _cut(self: Mutator, data: bytes) -> bytes:
    return data[: self.rng.randrange(len(data) + 1)]


def _cut_end(self: Mutator, data: bytes) -> bytes:
    return data[: -self.rng.randrange(1, 70)]


def _extend(self: Mutator, data: bytes) -> bytes:
    return data + self.rng.choice((b"\0", b"\xff", data, bytes(64), self.rng.randbytes(self.rng.randrange(1, 99))))


def _remove(self: Mutator, data: bytes) -> bytes:
    start = self.rng.randrange(len(data) + 1)
    return data[:start] + data[start + self.rng.randrange(1, 40) :]


def _repeat(self: Mutator, data: bytes) -> bytes:
    start = self.rng.randrange(len(data) + 1)
    return data[:start] + data[start : start + self.rng.randrange(1, 40)] * 2 + data[start:]


def _splice(self: Mutator, data: bytes) -> bytes:
    other = self.rng.choice(self.pool)
    place = self.rng.randrange(min(len(other), len(data)) + 1)
    return data[:place] + other[place:]


def _overwrite(self: Mutator, data: bytes) -> bytes:
    start, size = self.rng.randrange(len(data) + 1), self.rng.choice((1, 2, 4, 4, 8, 32))
    fresh = self.rng.choice((bytes(size), b"\xff" * size, self.rng.randbytes(size), b"\x7f" + b"\xff" * (size - 1)))
    return data[:start] + fresh + data[start + size :]


def _random(self: Mutator, data: bytes) -> bytes:
    return self.rng.randbytes(self.rng.choice((0, 1, 32, 33, 64, len(data))))


_OCTETS: tuple[Callable[[Mutator, bytes], bytes], ...] = (
    *(_flip, _flip, _flip, _cut, _cut_end, _extend, _remove, _repeat, _splice, _overwrite, _overwrite, _random),
)
