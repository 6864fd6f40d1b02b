"""A role's state as bytes: a header that says whose state it is, a checksum, and the fields."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mpc.keys import TAG_BYTES, encode_parts
from secagg import wire
from secagg._canonical import plain_bytes
from secagg.errors import ConfigError, Fault, blaming, shown
from secagg.identity import Roster
from secagg.session import roster_digest
from secagg.table import Phase

if TYPE_CHECKING:
    from secagg.task import Task


_STATE_MAGIC = b"secagg/v1/state"
_NONCE = bytes(12)
_LONG = 1 << 16  # bytes for which MessagePack writes a length of four bytes
_SHORT_LIST = 15  # entries whose number is in the first byte of a list
_AT_ONCE = 1 << 30  # OpenSSL takes no 2 GiB in a call
AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)


def pack_state(state: msgspec.Struct, task: Task, role: str, roster: Roster | None) -> bytes:
    """The bytes that a role saves: a header that says whose state it is, a checksum, the fields."""
    header, fields = _state_header(task, role, roster), pack_fields(state)
    return b"".join((header, _state_checksum(header, *fields), *fields))


def pack_fields(state: msgspec.Struct) -> list[bytes]:
    """``state`` in MessagePack, in parts: a long byte string is a part of its own, and is not copied."""
    names, settings = state.__struct_fields__, state.__struct_config__
    renamed = names != state.__struct_encode_fields__
    if renamed or settings.array_like or settings.omit_defaults or settings.tag:
        return [msgspec.msgpack.encode(state)]
    values = [getattr(state, name) for name in names]
    if not any(map(_is_long, values)):
        return [msgspec.msgpack.encode(state)]
    packed = [bytes([0x80 | len(names)]) if len(names) < 16 else b"\xde" + len(names).to_bytes(2, "big")]
    for name, value in zip(names, values, strict=True):
        packed += [msgspec.msgpack.encode(name), *_parts(value)]
    return packed


def _is_long(value: object) -> bool:
    """Whether a field is a long byte string, or a short list of byte strings of which one is long."""
    if isinstance(value, list):
        octets = len(value) <= _SHORT_LIST and all(isinstance(one, bytes | memoryview) for one in value)
        return octets and any(map(_is_long, value))
    return isinstance(value, bytes | memoryview) and len(value) >= _LONG


def _parts(value: Any) -> list[bytes]:
    """A field in MessagePack, as :func:`pack_fields` writes it."""
    if not _is_long(value):
        return [msgspec.msgpack.encode(value)]
    if isinstance(value, list):
        return [bytes([0x90 | len(value)]), *(part for one in value for part in _parts(one))]
    return [b"\xc6" + len(value).to_bytes(4, "big"), value]


def unpack_state(data: bytes, kind: type[AnyStruct], task: Task, role: str, roster: Roster | None) -> AnyStruct:
    """The state in ``data``; ``ConfigError`` if it is damaged, or of another task, role or roster."""
    data = plain_bytes(data, "a saved state")
    with blaming(ConfigError, f"got {shown(task)} as task; expected a secagg.Task"):
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
    """Arrays of uint32 or uint64 as little-endian bytes, in the memory of the arrays: don't change these."""
    arrays = (np.ascontiguousarray(v, v.dtype.newbyteorder("<")) for v in vectors)
    # MessagePack writes a view as it does bytes. To copy a large vector costs more than to pack it.
    return [cast("bytes", array.view(np.uint8).data.toreadonly()) for array in arrays]


def unpack_segments(written: Sequence[bytes], task: Task) -> list[NDArray[Any]]:
    """The arrays that :func:`pack_segments` wrote, one for each segment of ``task``; read-only."""
    return [
        np.frombuffer(data, np.dtype("<u4") if len(data) == 4 * segment.length else np.dtype("<u8"))
        for data, segment in zip(written, task.segments, strict=True)
    ]


def _state_header(task: Task, role: str, roster: Roster | None) -> bytes:
    # The roster is in the header: a client restored without it would accept unsigned messages.
    return encode_parts(
        _STATE_MAGIC, str(wire.VERSION), task.protocol.name, task.digest, role, roster_digest(roster)
    )


def _state_checksum(header: bytes, *fields: bytes | memoryview) -> bytes:
    """AES-GMAC under a key that anyone can compute. It detects damage and mix-ups, ten times as fast as a hash.

    Neither stops a forger: anyone who can write a state can write its checksum.
    """
    mac = Cipher(algorithms.AES(hashlib.sha256(header).digest()), modes.GCM(_NONCE)).encryptor()
    for part in fields:
        for at in range(0, len(part), _AT_ONCE):
            mac.authenticate_additional_data(memoryview(part)[at : at + _AT_ONCE])
    mac.finalize()
    return mac.tag


def hold(fine: bool, what: str) -> None:
    """``ConfigError`` unless a saved state is ``fine``; ``what`` names the part that no role would have saved."""
    if not fine:
        raise ConfigError(f"got a saved state with impossible {what}; leave this session out")


def among(parties: Collection[str], known: Collection[str]) -> bool:
    """Whether ``parties`` are all ``known``, each once."""
    return len(parties) == len(set(parties)) and set(parties) <= set(known)


def check_member(state: MemberState, phases: Sequence[Phase], task: Task, roster: Roster | None) -> None:
    """``ConfigError`` for a restored state that no member under ``task`` saves; ``phases`` are its role's."""
    steps = len(phases)
    hold(0 <= state.step <= steps and state.finished == (state.step == steps), "rounds")
    hold(len(state.requests) == state.step and all(len(one) == 32 for one in state.requests), "requests")
    if state.step:
        hold(len(state.session_id) == len(state.opening_id) == len(state.nonce) == 32, "session ids")
        hold(state.session is not None and bool(state.last_reply), "session or answer")
        task.check_cohort(state.cohort, roster)
    ended = state.finished or bool(state.aborted)
    hold(len(state.seed) == 32 or (ended and not state.seed), "seed")
    if isinstance(state, ListenerState):
        hold(all(len(digest) == 32 and word for digest, word in state.words.values()), "words")
        hold(among(state.words, state.cohort), "words")
    if isinstance(state, ClientState):
        hold(len(state.contributed) in (0, 32), "contribution")
        # After an answer that carries the input, or fixes it, the state may need nothing more of the input.
        waits = not ended and not any(phase.takes_input or phase.commits_input for phase in phases[: state.step])
        needed = bool(state.contribution) or (waits and bool(state.contributed))
        hold(not needed or _fits(state.contribution, task), "contribution")


def check_server(state: ServerState, rounds: int, task: Task, roster: Roster | None) -> None:
    """``ConfigError`` for a restored state that no server under ``task`` with ``rounds`` rounds has saved."""
    task.check_cohort(state.cohort, roster)
    known = {*state.cohort, *(() if roster is None else roster)}
    hold(-1 <= state.position < rounds, "rounds")
    hold(not state.finished or state.position == rounds - 1, "rounds")
    hold(len(state.session_id) == len(state.asked_under) == len(state.nonce) == 32, "session ids")
    hold(len(state.noise_key) in (0, 32), "noise key")
    hold(among(state.asked, known) and among(state.answered, state.asked), "parties that were asked or answered")
    hold(among(state.parted, known) and among(state.dropped, known), "parties that were dropped")
    hold(among(state.taken, known) and all(len(tags) % 16 == 0 for tags in state.taken.values()), "tags")
    hold(among(state.survivors, state.cohort) and state.survivors == sorted(state.survivors), "survivors")
    hold(not state.finished or bool(state.survivors and state.sums), "sums")
    hold(not state.sums or _fits(state.sums, task), "sums")


def _fits(vectors: Sequence[bytes], task: Task) -> bool:
    """Whether there is a vector for each segment, with a lane of 4 or 8 bytes for each coordinate."""
    segments = task.segments
    return len(vectors) == len(segments) and all(
        len(vector) in (4 * segment.length, 8 * segment.length)
        for vector, segment in zip(vectors, segments, strict=True)
    )


class MemberState(msgspec.Struct, forbid_unknown_fields=True):
    """All that a role remembers; what :meth:`Member.to_bytes` writes."""

    #: The party's own id.
    id: str
    #: 32 bytes from which all randomness of the role follows; erased when the role is done.
    seed: bytes
    #: How many states were saved.
    number: int = 0
    #: How many requests were answered.
    step: int = 0
    #: The session's name, as the caller passed it or as the server proposed it.
    session: bytes | None = None
    #: The session id in force; empty until a proposal was accepted.
    session_id: bytes = b""
    #: The session id that follows from the proposal alone.
    opening_id: bytes = b""
    #: The ids of the session's clients, sorted.
    cohort: list[str] = []
    #: The server's 32 random bytes from the proposal.
    nonce: bytes = b""
    #: SHA-256 of each request that was answered, in order.
    requests: list[bytes] = []
    #: The answer to the last request, for when the server asks again.
    last_reply: bytes = b""
    #: Whether the last request was answered.
    finished: bool = False
    #: Why the session was given up; empty if it was not.
    aborted: str = ""


class ListenerState(MemberState):
    """The state of a role that answers what the server hands on to it.

    It also has the fields of :class:`MemberState`.
    """

    #: By client: the digest of the message that the word answers, and the word as it was sent.
    words: dict[str, tuple[bytes, bytes]] = {}


class ClientState(MemberState):
    """A client's state: its encoded update too, until it has left.

    It also has the fields of :class:`MemberState`.
    """

    #: A budget pays for the input, and has to be passed again with a saved state.
    budgeted: bool = False
    #: A segment's integers, little-endian; never the update itself.
    contribution: list[bytes] = []
    #: SHA-256 of ``contribution``; empty before ``contribute``.
    contributed: bytes = b""


class ServerState(msgspec.Struct, forbid_unknown_fields=True):
    """All that a server remembers; what :meth:`Server.to_bytes` writes."""

    #: The ids of the session's clients, sorted.
    cohort: list[str]
    #: The session's name.
    session: bytes
    #: The server's 32 random bytes in the proposal.
    nonce: bytes
    #: The session id that answers carry.
    session_id: bytes
    #: The session id that the open round's requests carry.
    asked_under: bytes
    #: How many states were saved.
    number: int = 0
    #: The row of the protocol's table that is open; -1 before the start.
    position: int = -1
    #: The parties that the open round asks.
    asked: list[str] = []
    #: The parties of ``asked`` whose answer was accepted.
    answered: list[str] = []
    #: By sender: a tag of 16 bytes for each message that was taken from it so far, joined.
    taken: dict[str, bytes] = {}
    #: By party that fell silent: the round of its silence.
    dropped: dict[str, str] = {}
    #: The parties that were dropped when the last round was closed, and are told so.
    parted: list[str] = []
    #: What parties did wrong, in the order in which the server noticed it.
    faults: list[Fault] = []
    #: The sums so far, a segment each, little-endian; filled when the state is written.
    sums: list[bytes] = []
    #: The key of an encoding whose noise the server adds: with it, an exact sum decodes to one noise.
    noise_key: bytes = b""
    #: The clients whose input is in the sum, sorted.
    survivors: list[str] = []
    #: Whether there is an outcome.
    finished: bool = False
    #: Why the session was given up; empty if it was not.
    aborted: str = ""
