"""The negative vectors: messages that no honest party sends, each with the one fault that it is.

``python -m tests.secagg.fuzz.vectors`` writes them to ``tests/vectors/negative`` anew, after a change
of the wire format or of a message. They are of sessions in which nothing is random.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from secagg.errors import FaultKind, RemoteProtocolError
from secagg.testing._play import Play
from tests.secagg.fuzz.decoders import decoders
from tests.secagg.fuzz.mutate import Frame, take_apart
from tests.secagg.fuzz.roles import Scene, scenes
from tests.secagg.fuzz.tally import VECTORS, Tally, Vector

SENDER = "c5"  # the last to answer in each round: the others have
RECEIVERS = {"client": SENDER, "aggregator": "aggregator-1"}


@cache
def stage() -> dict[str, Scene]:
    """The scenes by name."""
    return {scene.name: scene for scene in scenes()}


@cache
def honest(name: str, **changes: Any) -> Play:
    """A whole session, in its scene or under another task, session or seed."""
    play = Play(stage()[name].casting, **changes)
    play.run()
    return play


def replay(vector: Vector) -> str:
    """What its target makes of a vector in an honest session, which has to end well: the fault's kind."""
    role, _, rest = vector.target.partition(" ")
    name = next((name for name in sorted(stage(), key=len, reverse=True) if rest.startswith(f"{name} ")), "")
    if role not in ("server", *RECEIVERS) or not name:
        with tempfile.TemporaryDirectory() as folder:
            found = {decoder.name: decoder for decoder in decoders(list(stage().values()), Path(folder))}
            return found[vector.target].feed(vector.data, Tally())
    play, outcomes = Play(stage()[name].casting), list[str]()

    def before_request(party: str, request: bytes) -> None:
        if party != RECEIVERS.get(role) or vector.target != f"{role} {name} {play.round}":
            return
        member = play.members[party]
        known = len(getattr(member, "faults", ()))
        try:
            member.receive(vector.data)
        except RemoteProtocolError as error:
            outcomes.append(error.fault.kind)
        outcomes.extend(fault.kind for fault in getattr(member, "faults", ())[known:])

    def before_relay(party: str, message: bytes) -> None:
        if take_apart(message).sender == SENDER.encode():
            before_request(party, message)

    def before_answer(party: str, answer: bytes) -> None:
        if party == SENDER and vector.target == f"server {name} {play.round}":
            known = len(play.server.faults)
            play.server.receive(vector.sender, vector.data)
            outcomes.extend(fault.kind for fault in play.server.faults[known:])

    play.before_request, play.before_answer, play.before_relay = before_request, before_answer, before_relay
    play.require_exact(play.run(), "beside the vector")
    return ", ".join(outcomes)


def vectors() -> dict[str, Vector]:
    """All of them, by the name of their file."""
    made: dict[str, Vector] = {}
    name = "SecAgg malicious"
    true, identity = honest(name), stage()[name].casting.identities[SENDER]
    other_task = Play(stage()[name].casting, task=stage()[name].casting.make_task(context=b"another run"))
    other_task.run()
    other_session = honest(name, seed=b"again")

    def to_server(file: str, kind: FaultKind, message: bytes, at: str, sender: str = SENDER) -> None:
        made[file] = Vector(f"server {name} {at}", kind, message.hex(), sender)

    def to_client(file: str, kind: FaultKind, message: bytes, at: str) -> None:
        made[file] = Vector(f"client {name} {at}", kind, message.hex())

    def told(at: str, change: Callable[[list[Any]], None]) -> bytes:
        """The sender's message of a round with its fields changed, signed by itself."""
        return _changed(take_apart(true.answers[SENDER, at]), change).seal(identity)

    def asked(at: str, change: Callable[[list[Any]], None]) -> bytes:
        """The server's request of a round with its fields changed."""
        return _changed(take_apart(true.requests[SENDER, at]), change).seal(None)

    keys, deal, masked, check, unmasking = (phase.round for phase in stage()[name].casting.protocol.phases)
    advert, upload = true.answers[SENDER, keys], take_apart(true.answers[SENDER, masked])
    spare = upload.payload[:-1] + bytes([upload.payload[-1] | 0x80])
    stolen = msgspec.msgpack.decode(take_apart(true.answers["c1", keys]).structure)[1]

    kind = FaultKind.MALFORMED
    to_server("malformed-empty", kind, b"", keys)
    to_server("malformed-cut-in-header", kind, advert[:60], keys)
    to_server("malformed-cut-in-trailer", kind, advert[:-1], keys)
    to_server("malformed-byte-left-over", kind, advert + b"\0", keys)
    to_server("malformed-field-missing", kind, told(keys, lambda fields: fields.pop()), keys)
    to_server("malformed-field-unknown", kind, told(keys, lambda fields: fields.append(b"")), keys)
    to_server("malformed-field-of-another-type", kind, told(keys, _set(0, "text")), keys)
    to_server("malformed-vector-short", kind, replace(upload, payload=upload.payload[:-1]).seal(identity), masked)
    to_server("malformed-vector-spare-bit", kind, replace(upload, payload=spare).seal(identity), masked)

    kind = FaultKind.UNAUTHENTIC
    to_server("unauthentic-in-anothers-name", kind, true.answers["c4", keys], keys)
    to_server("unauthentic-signature", kind, _last_bit(advert), keys)
    to_server("unauthentic-checksum-for-signature", kind, take_apart(advert).seal(None), keys)
    to_client("client-unauthentic-checksum", kind, _last_bit(true.requests[SENDER, masked]), masked)

    to_server("version-2", FaultKind.VERSION, replace(take_apart(advert), version=2).seal(identity), keys)
    to_server("oversized", FaultKind.OVERSIZED, bytes(8192), keys)
    to_server("foreign-task", FaultKind.FOREIGN_TASK, other_task.answers[SENDER, masked], masked)
    to_server("foreign-session", FaultKind.FOREIGN_SESSION, other_session.answers[SENDER, masked], masked)
    to_client("client-foreign-session", FaultKind.FOREIGN_SESSION, asked(keys, _set(1, b"other")), keys)
    to_server("unknown-sender", FaultKind.UNKNOWN_SENDER, advert, keys, "nobody")
    to_server("out-of-turn-round-before", FaultKind.OUT_OF_TURN, true.answers[SENDER, deal], masked)
    to_client("client-out-of-turn-unmasking", FaultKind.OUT_OF_TURN, true.requests[SENDER, unmasking], masked)
    to_server("duplicate", FaultKind.DUPLICATE, true.answers["c1", keys], keys, "c1")

    kind = FaultKind.INVALID
    to_server("invalid-one-key-for-both-uses", kind, told(keys, lambda f: _set(1, f[0])(f)), keys)
    to_server("invalid-key-of-small-order", kind, told(keys, _set(0, bytes(32))), keys)
    to_server("invalid-key-of-another", kind, told(keys, _set(1, stolen)), keys)
    to_server("invalid-commitments-short", kind, told(deal, lambda f: _set(1, f[1][:-64])(f)), deal)
    to_server("invalid-other-survivors", kind, told(check, _set(1, b"\x0f")), check)
    to_server("invalid-own-share-unopened", kind, told(unmasking, _set(0, b"\x10")), unmasking)
    to_server("invalid-shares-short", kind, told(unmasking, lambda f: _set(1, f[1][:-1])(f)), unmasking)
    for file, cohort in (
        ("twice", ["c1", "c2", "c3", "c5", "c5"]),
        ("too-small", ["c1", "c5"]),
        ("without-it", ["c1", "c2", "c3", "c4"]),
    ):
        to_client(f"client-invalid-cohort-{file}", kind, asked(keys, _set(0, cohort)), keys)
    to_client("client-invalid-adverts-without-its-own", kind, asked(deal, lambda f: f[0].pop()), deal)
    to_client("client-invalid-adverts-reversed", kind, asked(deal, lambda f: f[0].reverse()), deal)
    to_client("client-invalid-dealers-spare-bits", kind, asked(masked, _set(0, b"\xff")), masked)
    to_client("client-invalid-survivors-spare-bits", kind, asked(check, _set(0, b"\x3f")), check)
    return made


def _changed(frame: Frame, change: Callable[[list[Any]], None]) -> Frame:
    fields = msgspec.msgpack.decode(frame.structure)
    change(fields)
    return replace(frame, structure=msgspec.msgpack.encode(fields))


def _set(place: int, value: object) -> Callable[[list[Any]], None]:
    return lambda fields: fields.__setitem__(place, value)


def _last_bit(message: bytes) -> bytes:
    return message[:-1] + bytes([message[-1] ^ 1])


if __name__ == "__main__":
    for old in VECTORS.glob("*.json"):
        old.unlink()
    for file, vector in vectors().items():
        vector.save(VECTORS, file)
