"""The negative vectors: messages that no honest party sends, each with the one fault that it is.

``python -m tests.secagg.fuzz.vectors`` writes them to ``tests/vectors/negative`` anew, after a change
of the wire format or of a message. They are of sessions in which nothing is random, and hold nothing of what HPKE
sealed, which always is.
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
from secagg.protocols.pairwise.messages import NearAdverts
from secagg.testing import Session
from tests.secagg.fuzz.mutate import Frame, take_apart
from tests.secagg.fuzz.roles import STRANGER, Case, cases, fetch
from tests.secagg.fuzz.table import every_decoder
from tests.secagg.fuzz.tally import VECTORS, Tally, Vector

SENDERS = {"client": "c5", "aggregator": "aggregator-2"}  # c1 and the first aggregator have answered before
RECEIVERS = {"client": "c5", "aggregator": "aggregator-1"}
SENDER = SENDERS["client"]


@cache
def cases_by_name() -> dict[str, Case]:
    """The cases by name."""
    return {case.name: case for case in cases()}


@cache
def honest(name: str, **changes: Any) -> Session:
    """A whole session, in its case or under another task, session or seed."""
    session = Session(cases_by_name()[name].parties, **changes)
    session.run()
    return session


def replay(vector: Vector) -> str:
    """What its target makes of a vector in an honest session, which has to end well: the fault's kind."""
    role, _, rest = vector.target.partition(" ")
    name = next(
        (name for name in sorted(cases_by_name(), key=len, reverse=True) if rest.startswith(f"{name} ")), ""
    )
    if role not in ("server", *RECEIVERS) or not name:
        with tempfile.TemporaryDirectory() as folder:
            by_name = {
                decoder.name: decoder for decoder in every_decoder(list(cases_by_name().values()), Path(folder))
            }
            return by_name[vector.target].feed(vector.data, Tally())
    session, outcomes = Session(cases_by_name()[name].parties), list[str]()

    def before_request(party: str, request: bytes) -> None:
        if party != RECEIVERS.get(role) or vector.target != f"{role} {name} {session.round}":
            return
        member = session.members[party]
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
        if party in SENDERS.values() and vector.target == f"server {name} {session.round}":
            known = len(session.server.faults)
            session.server.receive(vector.sender, vector.data)
            outcomes.extend(fault.kind for fault in session.server.faults[known:])

    session.before_request, session.before_answer, session.before_relay = (
        before_request,
        before_answer,
        before_relay,
    )
    session.require_exact(session.run(), "beside the vector")
    return ", ".join(outcomes)


class Forger:
    """A whole honest session in a case, and the vectors that are made of its messages."""

    def __init__(self, name: str, by_file: dict[str, Vector]) -> None:
        self.name, self.by_file, self.true = name, by_file, honest(name)
        self.identities = cases_by_name()[name].parties.identities
        self.rounds = [phase.round for phase in cases_by_name()[name].parties.protocol.phases]

    def to_server(self, file: str, kind: FaultKind, message: bytes, at: str, sender: str = SENDER) -> None:
        self.by_file[file] = Vector(f"server {self.name} {at}", kind, message.hex(), sender)

    def to_member(self, file: str, kind: FaultKind, message: bytes, at: str, role: str = "client") -> None:
        self.by_file[file] = Vector(f"{role} {self.name} {at}", kind, message.hex())

    def reply(self, at: str, change: Callable[[list[Any]], None], party: str = SENDER) -> bytes:
        """A party's message of a round with its fields changed, signed by itself."""
        return _changed(take_apart(self.true.answers[party, at]), change).seal(self.identities[party])

    def asked(self, at: str, change: Callable[[list[Any]], None], party: str = SENDER) -> bytes:
        """The server's request of a round with its fields changed."""
        return _changed(take_apart(self.true.requests[party, at]), change).seal(None)


def vectors() -> dict[str, Vector]:
    """All of them, by the name of their file."""
    by_file: dict[str, Vector] = {}
    _secagg(by_file)
    _secagg_plus(by_file)
    _secagg_plus_drawn(by_file)
    _shares_to_collector(by_file)
    _shares_to_aggregator(by_file)
    return by_file


def _secagg(by_file: dict[str, Vector]) -> None:
    name = "SecAgg malicious"
    forger = Forger(name, by_file)
    true, identity = forger.true, forger.identities[SENDER]
    to_server, to_client, reply, asked = forger.to_server, forger.to_member, forger.reply, forger.asked
    other_task = Session(
        cases_by_name()[name].parties, task=cases_by_name()[name].parties.make_task(context=b"another run")
    )
    other_task.run()
    other_session = honest(name, seed=b"again")

    keys, deal, masked, check, unmasking = forger.rounds
    advert, upload = true.answers[SENDER, keys], take_apart(true.answers[SENDER, masked])
    spare = upload.payload[:-1] + bytes([upload.payload[-1] | 0x80])
    stolen = msgspec.msgpack.decode(take_apart(true.answers["c1", keys]).structure)[1]

    kind = FaultKind.MALFORMED
    to_server("malformed-empty", kind, b"", keys)
    to_server("malformed-cut-in-header", kind, advert[:60], keys)
    to_server("malformed-cut-in-trailer", kind, advert[:-1], keys)
    to_server("malformed-byte-left-over", kind, advert + b"\0", keys)
    to_server("malformed-field-missing", kind, reply(keys, lambda fields: fields.pop()), keys)
    to_server("malformed-field-unknown", kind, reply(keys, lambda fields: fields.append(b"")), keys)
    to_server("malformed-field-of-another-type", kind, reply(keys, _set(0, "text")), keys)
    to_server("malformed-vector-short", kind, replace(upload, payload=upload.payload[:-1]).seal(identity), masked)
    to_server("malformed-vector-spare-bit", kind, replace(upload, payload=spare).seal(identity), masked)

    kind = FaultKind.UNAUTHENTIC
    to_server("unauthentic-in-anothers-name", kind, true.answers["c4", keys], keys)
    to_server("unauthentic-signature", kind, _last_bit(advert), keys)
    to_server("unauthentic-checksum-for-signature", kind, take_apart(advert).seal(None), keys)
    to_client("client-unauthentic-checksum", kind, _last_bit(true.requests[SENDER, masked]), masked)

    to_server("version-1", FaultKind.VERSION, replace(take_apart(advert), version=1).seal(identity), keys)
    to_server("oversized", FaultKind.OVERSIZED, bytes(8192), keys)
    to_server("foreign-task", FaultKind.FOREIGN_TASK, other_task.answers[SENDER, masked], masked)
    to_server("foreign-session", FaultKind.FOREIGN_SESSION, other_session.answers[SENDER, masked], masked)
    to_client("client-foreign-session", FaultKind.FOREIGN_SESSION, asked(keys, _set(1, b"other")), keys)
    to_server("unknown-sender", FaultKind.UNKNOWN_SENDER, advert, keys, "nobody")
    to_server("out-of-turn-round-before", FaultKind.OUT_OF_TURN, reply(deal, _set(0, bytes(32))), masked)
    to_client("client-out-of-turn-unmasking", FaultKind.OUT_OF_TURN, true.requests[SENDER, unmasking], masked)
    to_server("duplicate", FaultKind.DUPLICATE, reply(keys, _set(0, bytes(range(32))), "c1"), keys, "c1")

    kind = FaultKind.INVALID
    to_server("invalid-one-key-for-both-uses", kind, reply(keys, lambda f: _set(1, f[0])(f)), keys)
    to_server("invalid-key-of-small-order", kind, reply(keys, _set(0, bytes(32))), keys)
    to_server("invalid-key-of-another", kind, reply(keys, _set(1, stolen)), keys)
    to_server("invalid-commitments-short", kind, reply(deal, lambda f: _set(1, f[1][:-64])(f)), deal)
    to_server("invalid-other-survivors", kind, reply(check, _set(1, b"\x0f")), check)
    to_server("invalid-own-share-unopened", kind, reply(unmasking, _set(0, b"\x10")), unmasking)
    to_server("invalid-shares-short", kind, reply(unmasking, lambda f: _set(1, f[1][:-1])(f)), unmasking)
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


def _secagg_plus(by_file: dict[str, Vector]) -> None:
    """What the sparse graph adds: paths, and pieces for neighbours only."""
    forger, kind = Forger("SecAggPlus semi-malicious", by_file), FaultKind.INVALID
    to_server, to_client, reply, asked = forger.to_server, forger.to_member, forger.reply, forger.asked
    _, deal, masked, check, unmasking = forger.rounds
    _, adverts, paths, _ = msgspec.msgpack.decode(take_apart(forger.true.requests[SENDER, deal]).structure)
    shown = [take_apart(advert).sender.decode() for advert in adverts]
    place = next(place for place, party in enumerate(shown) if party != SENDER)
    everyone = cases_by_name()[forger.name].parties.cohort
    stranger = next(bit for bit, party in enumerate(everyone) if party not in shown)

    def without(fields: list[Any]) -> None:
        del fields[1][place], fields[2][place]

    def bent(path: bytes) -> Callable[[list[Any]], None]:
        return lambda fields: fields[2].__setitem__(place, path)

    hidden = bytes([0xFF & ~(1 << everyone.index(shown[place]))])
    to_client("client-invalid-path-short", kind, asked(deal, bent(paths[place][:-32])), deal)
    to_client("client-invalid-path-to-another-root", kind, asked(deal, bent(_last_bit(paths[place]))), deal)
    to_client("client-invalid-paths-one-missing", kind, asked(deal, lambda f: f[2].pop()), deal)
    to_client("client-invalid-neighbour-not-shown", kind, asked(deal, without), deal)
    to_client("client-invalid-neighbour-not-in-u1", kind, asked(deal, _set(0, hidden)), deal)
    to_client("client-invalid-u1-spare-byte", kind, asked(deal, _set(0, b"\xff\0")), deal)
    to_client("client-invalid-graph-nonce-short", kind, asked(deal, lambda f: _set(3, f[3][:-1])(f)), deal)
    to_client("client-invalid-vouchers-short", kind, asked(check, lambda f: _set(1, f[1][:-16])(f)), check)
    to_server("invalid-commitments-to-a-stranger", kind, reply(deal, lambda f: _set(1, f[1] + bytes(64))(f)), deal)
    to_server("invalid-vouchers-short", kind, reply(masked, lambda f: _set(0, f[0][:-16])(f)), masked)
    to_server(
        "invalid-strangers-share-unopened", kind, reply(unmasking, _set(0, bytes([1 << stranger]))), unmasking
    )


def _secagg_plus_drawn(by_file: dict[str, Vector]) -> None:
    """What the beacon adds: keys that are frozen, and a graph that nobody could choose."""
    forger, kind = Forger("SecAggPlus malicious", by_file), FaultKind.INVALID
    to_server, to_client, reply, asked = forger.to_server, forger.to_member, forger.reply, forger.asked
    _, freeze, deal, *_ = forger.rounds
    number = msgspec.msgpack.decode(take_apart(forger.true.requests[SENDER, deal]).structure)[3]
    left_out = bytes([0xFF & ~(1 << cases_by_name()[forger.name].parties.cohort.index(SENDER))])
    to_client("client-invalid-frozen-without-it", kind, asked(freeze, _set(0, left_out)), freeze)
    to_client("client-invalid-frozen-spare-byte", kind, asked(freeze, _set(0, b"\xff\0")), freeze)
    to_client("client-invalid-frozen-root-short", kind, asked(freeze, lambda f: _set(1, f[1][:-1])(f)), freeze)
    to_client("client-malformed-frozen-number", FaultKind.MALFORMED, asked(freeze, _set(0, 7)), freeze)
    to_client("client-invalid-value-of-the-next-round", kind, asked(deal, _set(4, fetch(number + 1))), deal)
    to_client("client-invalid-value-short", kind, asked(deal, lambda f: _set(4, f[4][:-1])(f)), deal)
    to_client("client-invalid-drawn-paths-one-missing", kind, asked(deal, lambda f: f[2].pop()), deal)
    to_client("client-out-of-turn-drawn-without-a-value", FaultKind.OUT_OF_TURN, _undrawn(forger, deal), deal)
    to_server("invalid-round-no-beacon-has", kind, reply(freeze, _set(0, 0)), freeze)
    to_server("invalid-round-negative", kind, reply(freeze, _set(0, -1)), freeze)
    to_server("malformed-round-is-text", FaultKind.MALFORMED, reply(freeze, _set(0, "2")), freeze)


def _undrawn(forger: Forger, deal: str) -> bytes:
    """The adverts as a semi-malicious client takes them: nothing says what drew the graph."""
    true = take_apart(forger.true.requests[SENDER, deal])
    fields = [*msgspec.msgpack.decode(true.structure)[:3], bytes(range(32))]
    return replace(true, kind=NearAdverts.TYPE, structure=msgspec.msgpack.encode(fields)).seal(None)


def _report(forger: Forger, party: str = SENDER, *, short: int = 0, seeds: int = 1) -> bytes:
    """A report in which nothing opens. True ones are never twice the same, for HPKE draws for itself."""
    true = take_apart(forger.true.answers[SENDER, forger.rounds[1]])
    (sealed,), *_ = msgspec.msgpack.decode(true.structure)
    structure = msgspec.msgpack.encode([[bytes(len(sealed) - short)] * seeds])
    frame = replace(true, sender=party.encode(), structure=structure, payload=bytes(len(true.payload)))
    return frame.seal(forger.identities[party])


def _shares_to_collector(by_file: dict[str, Vector]) -> None:
    forger, (_, sender) = Forger("AdditiveShares malicious", by_file), SENDERS.values()
    to_server, reply = forger.to_server, forger.reply
    _, report, recount, agreement, release = forger.rounds
    garbage, others = _report(forger), take_apart(_report(forger)).seal(STRANGER)

    def held(bitmap: bytes, *unopened: bytes) -> bytes:
        return reply(recount, lambda fields: fields.__setitem__(slice(None), [bitmap, list(unopened)]), sender)

    def agreed(bitmap: bytes) -> bytes:
        return reply(agreement, lambda fields: fields.__setitem__(slice(None), [bitmap, bytes(32)]), sender)

    kind = FaultKind.MALFORMED
    share = take_apart(forger.true.answers[sender, release])
    short = replace(share, payload=bytes(len(share.payload) - 1)).seal(forger.identities[sender])
    to_server("malformed-report-share-short", kind, _report(forger, short=1), report)
    to_server("malformed-report-to-one-more", kind, _report(forger, seeds=2), report)
    to_server("malformed-report-handed-back", kind, held(b"\x1f", b"report"), recount, sender)
    to_server("malformed-aggregate-share-short", kind, short, release, sender)
    to_server("unauthentic-report-handed-back", FaultKind.UNAUTHENTIC, held(b"\x1f", others), recount, sender)
    to_server("out-of-turn-report", FaultKind.OUT_OF_TURN, garbage, recount)
    kind = FaultKind.INVALID
    to_server("invalid-reports-held-spare-bits", kind, held(b"\xff"), recount, sender)
    to_server("invalid-reports-handed-back-too-many", kind, held(b"\x1f", *[garbage[:60]] * 5), recount, sender)
    to_server("invalid-agreement-to-another-set", kind, agreed(b"\x0f"), agreement, sender)
    to_server("invalid-agreement-to-other-reports", kind, agreed(b"\x1f"), agreement, sender)


def _shares_to_aggregator(by_file: dict[str, Vector]) -> None:
    forger = Forger("AdditiveShares malicious", by_file)
    ready, report, _, agreement, release = forger.rounds
    garbage = _report(forger)

    def to_leader(file: str, kind: FaultKind, message: bytes, at: str) -> None:
        forger.to_member(f"aggregator-{file}", kind, message, at, "aggregator")

    def asked(at: str, change: Callable[[list[Any]], None]) -> bytes:
        return forger.asked(at, change, RECEIVERS["aggregator"])

    unsigned = take_apart(garbage).seal(None)
    to_leader("malformed-report-share-short", FaultKind.MALFORMED, _report(forger, short=1), report)
    to_leader("unauthentic-report", FaultKind.UNAUTHENTIC, take_apart(garbage).seal(STRANGER), report)
    to_leader("unauthentic-checksum-for-signature", FaultKind.UNAUTHENTIC, unsigned, report)
    to_leader("unknown-sender-report", FaultKind.UNKNOWN_SENDER, _report(forger, SENDERS["aggregator"]), report)
    to_leader("duplicate-report", FaultKind.DUPLICATE, _report(forger, "c1"), report)
    to_leader("unopened-share", FaultKind.UNOPENED_SHARE, garbage, report)
    to_leader("out-of-turn-report", FaultKind.OUT_OF_TURN, garbage, agreement)
    to_leader("foreign-session", FaultKind.FOREIGN_SESSION, asked(ready, _set(1, b"other")), ready)
    kind = FaultKind.INVALID
    to_leader("invalid-cohort-twice", kind, asked(ready, _set(0, ["c1", "c2", "c2", "c4", "c5"])), ready)
    to_leader("invalid-reports-spare-bits", kind, asked(agreement, _set(0, b"\xff")), agreement)
    to_leader("invalid-report-left-out", kind, asked(agreement, _set(0, b"\x0f")), agreement)
    came_back = asked(agreement, lambda f: f.__setitem__(slice(None), [b"\x0f", [garbage]]))
    to_leader("invalid-other-report-came-back", kind, came_back, agreement)
    to_leader("invalid-agreements-none", kind, asked(release, _set(0, [])), release)
    to_leader("malformed-agreements", FaultKind.MALFORMED, asked(release, _set(0, [b"", b""])), release)


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
