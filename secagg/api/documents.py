"""What travels besides envelopes: offers, results, and the frames in which several envelopes come at once."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from mpc.keys import encode_parts
from secagg import _rounds
from secagg.errors import ConfigError

_FRAME: Final = struct.Struct(">II")  # of a message in an answer to a poll: its round's number, its length
DIGEST_BYTES: Final = 32
_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")
_LONGEST_CONFIG: Final = 1 << 16  # characters

Document = TypeVar("Document", bound=msgspec.Struct)


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A round of training that a client may take part in.

    ``number`` counts the rounds from 1, and ``attempt`` the sessions over one model. ``model`` is the SHA-256 of
    the model's bytes in hexadecimal digits, and ``model_bytes`` their number. ``config`` is a JSON object as text,
    the same for all clients. ``seconds`` is the time that is left to accept. ``input_seconds`` is the time that
    clients will have to train once the session has begun.
    """

    number: int
    attempt: int
    model: str
    model_bytes: int
    config: str
    seconds: float
    input_seconds: float

    def settings(self) -> dict[str, Any]:
        """The config as an object; ``ConfigError`` for an offer that no service makes."""
        try:
            config = json.loads(self.config)
        except (ValueError, RecursionError):
            config = None
        if (
            not _HEX.match(self.model)
            or not (0 < self.number < 1 << 32 and 0 < self.attempt < 1 << 16)
            or not isinstance(config, dict)
            or len(self.config) > _LONGEST_CONFIG
            or not (math.isfinite(self.seconds) and math.isfinite(self.input_seconds))
        ):
            raise ConfigError("got an offer whose fields are impossible")
        return config

    def name(self) -> bytes:
        """The session's name, which the client computes and never takes from a message.

        It holds the digests of all that steers the training, so two clients with two models are in two sessions.
        """
        return session_name(self.number, self.attempt, bytes.fromhex(self.model), self.config)


class Acceptance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client's answer to an offer. ``reason`` says why it declines, in at most 200 characters."""

    accept: bool
    reason: str = ""


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server says of a session: ``state`` is gathering, running, done or failed.

    ``selected`` says whether this party is in the cohort, and ``in_sum`` whether its input was counted.
    """

    state: str
    selected: bool
    in_sum: bool


class Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server took of a party: the message's digest."""

    digest: str


class Joined(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new client's id and token, where anyone may join."""

    party: str
    token: str


class Rosters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The roster's JSON text, and that of the registrar's signature if it was signed."""

    roster: str
    signature: str | None = None


def session_name(number: int, attempt: int, model: bytes, config: str) -> bytes:
    """The name of a session that the service runs; ``model`` is the SHA-256 of the model's bytes."""
    request = hashlib.sha256(config.encode()).digest()
    return _rounds.session_name("http", number, attempt, model=model, request=request)


def session_key(task: bytes, name: bytes) -> str:
    """The session's address in paths: 64 hexadecimal digits of a hash over the task's digest and the name."""
    return hashlib.sha256(encode_parts("secagg/v1/http-session", task, name)).hexdigest()


class Framed(NamedTuple):
    """A message of a session, with the number of the round in which the server sent it."""

    round: int
    data: bytes


def to_frames(messages: Iterable[tuple[int, bytes | memoryview]]) -> bytes:
    """Several messages as one body."""
    return b"".join(frames(messages))


def frames(messages: Iterable[tuple[int, bytes | memoryview]]) -> Iterator[bytes | memoryview]:
    """The parts of that body, none of them a copy of a message."""
    for number, data in messages:
        yield _FRAME.pack(number, len(data))
        yield data


def from_frames(body: bytes, most: int | None = None) -> Sequence[Framed]:
    """The messages in a body; ``ConfigError`` for more than ``most``, or a body that ends within a message."""
    messages: list[Framed] = []
    at = 0
    while at < len(body):
        if at + _FRAME.size > len(body):
            raise ConfigError("got an answer that is cut short in the head of a message; ask again")
        number, length = _FRAME.unpack_from(body, at)
        at += _FRAME.size
        if at + length > len(body):
            raise ConfigError("got an answer that is cut short in a message; ask again")
        if len(messages) == most:  # a message of no bytes costs its sender eight, and its reader more
            raise ConfigError(f"got more than {most} messages at once; expected 1 to {most}")
        messages.append(Framed(number, body[at : at + length]))
        at += length
    return messages


def read_document(data: bytes, kind: type[Document], most: int = 1 << 16) -> Document:
    """The ``kind`` in JSON ``data`` of at most ``most`` bytes; ``ConfigError`` for anything else."""
    if len(data) > most:
        raise ConfigError(f"got a document of {len(data)} bytes; expected at most {most}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"got a document that is not a {kind.__name__}: {error!s:.200}") from error
