"""Records sessions from fixed seeds: ``python -m tests.secagg.transcript`` writes the vectors anew.

What HPKE seals is different each time, so a recorded session of AdditiveShares is published with the keys that
open it. All that follows from its reports is the same each time: see :func:`replay`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from secagg.identity import Party, PartyRole, Roster
from secagg.lanes import widths
from secagg.protocols.base import AggregationProtocol, key_pairs
from secagg.table import Round
from secagg.testing import Parties, Session, rng_for_tests, roles_of
from secagg.wire import stand_in_ids
from tests.secagg.fuzz.mutate import take_apart

SESSION = b"round 1"


@dataclass(frozen=True)
class Script:
    """A session to record: who falls silent before which message, whose report is ``spoilt`` for a helper."""

    file: str
    about: str
    protocol: Any
    clients: int
    min_survivors: int
    dropouts: Mapping[str, Round]
    spoilt: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return Path(__file__).parent.parent / "vectors" / f"{self.file}.json"

    @cached_property
    def published(self) -> dict[str, Any]:
        """As it stands in ``tests/vectors``."""
        published: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return published


SECAGG = Script(
    file="secagg-transcript",
    about="A session of SecAgg in the malicious model; c3 silent before MaskedInput, c5 before Unmasking.",
    protocol=secagg.SecAgg(),
    clients=6,
    min_survivors=4,
    dropouts={"c3": Round.MASKED_INPUT, "c5": Round.UNMASKING},
)
SECAGG_PLUS = Script(
    file="secagg-plus-transcript",
    about="A session of SecAggPlus in the semi-malicious model, on a sparse graph; c2 silent before AdvertiseKeys, "
    "c3 before MaskedInput, c5 before Unmasking.",
    protocol=secagg.SecAggPlus(),
    clients=12,
    min_survivors=9,
    dropouts={"c2": Round.ADVERTISE_KEYS, "c3": Round.MASKED_INPUT, "c5": Round.UNMASKING},
    extra={"min_survivors": 9},
)
SHARES = Script(
    file="additive-shares-transcript",
    about="A session of AdditiveShares with three aggregators; c3 silent before Report, a share of c4's that does "
    "not open.",
    protocol=secagg.AdditiveShares(aggregators=3),
    clients=5,
    min_survivors=3,
    dropouts={"c3": Round.REPORT},
    spoilt=frozenset({"c4"}),
    extra={"kem": "MLKEM768-X25519"},
)
PAILLIER = Script(
    file="paillier-transcript",
    about="A session of Paillier with a key of its own; c3 silent before Input.",
    protocol=secagg.Paillier(bits=2048),
    clients=4,
    min_survivors=3,
    dropouts={"c3": Round.INPUT},
    extra={"modulus_bits": 2048, "max_clients": 4, "bounds": [2**31 - 2, 5, 9]},
)
ONE_SHOT = Script(
    file="one-shot-transcript",
    about="A session of OneShot with four members; c3 silent before Input, a member before SumOfKeys.",
    protocol=secagg.OneShot(members=4, corrupt_members=1),
    clients=4,
    min_survivors=3,
    dropouts={"c3": Round.INPUT, "decryptor-2": Round.SUM_OF_KEYS},
    extra={"kem": "MLKEM768-X25519", "corrupt_members": 1},
)
SCRIPTS = (SECAGG, SECAGG_PLUS, SHARES, PAILLIER, ONE_SHOT)


def parties_of(script: Script) -> Parties:
    """The parties of a script, with keys from fixed seeds."""
    protocol: AggregationProtocol = script.protocol
    clients = sorted(stand_in_ids(script.clients))
    roles = roles_of(protocol, clients)
    identities = {
        party: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"identity of " + party.encode()).digest())
        for party in roles
    }
    pairs: dict[str, tuple[bytes, bytes]] = {}
    for party, role in roles.items():
        pairs |= key_pairs(protocol, {party: role}, lambda p: rng_for_tests(b"sealing key of " + p.encode()))
    public = {party: key for party, (_, key) in pairs.items()}
    roster = Roster(
        Party(party, roles[party], key.public_key().public_bytes_raw(), public.get(party))
        for party, key in identities.items()
    )
    sealing = {party: private for party, (private, _) in pairs.items()}
    return Parties(protocol, tuple(clients), roles, identities, roster, script.min_survivors, sealing)


def session_of(script: Script) -> Session:
    """The session of a script, all from fixed seeds."""
    parties = parties_of(script)
    task = parties.make_task(
        layout=secagg.Layout.of({"w": np.zeros((2, 3), np.float32), "b": np.zeros(3)}),
        encoding=secagg.FixedPoint(clip={"w": 1.0, "b": 0.5}, bits=31),
        max_weight=5,
        context=b"test vector",
    )
    session = Session(parties, task=task, session=SESSION, contribute=False)
    session.server = task.server(
        parties.cohort, roster=parties.roster, session=SESSION, rng=rng_for_tests(b"server")
    )
    for number, party in enumerate(parties.cohort, 1):
        values = np.linspace(-0.7, 0.9, 9) * number / 5
        update = {"w": values[:6].reshape(2, 3), "b": values[6:]}
        session.members[party].contribute(update, weight=(number - 1) % 5 + 1)
    return session


def encoded(session: Session, client: str) -> list[list[int]]:
    """The integers of a client's contribution, by segment."""
    member = session.members[client]
    return [[int(number) for number in segment] for segment in member.context.contribution(member._state)]


def spoil(session: Session, report: bytes) -> bytes:
    """A report whose last sealed seed has one bit flipped, signed again by its client."""
    frame = take_apart(report)
    structure = frame.structure[:-1] + bytes([frame.structure[-1] ^ 1])
    return replace(frame, structure=structure).seal(session.parties.identities[frame.sender.decode()])


def of_one_shot(session: Session) -> dict[str, Any]:
    """What the independent script needs besides: the ring, the members' seeds, what each client drew afresh."""
    protocol, parties = session.task.protocol, session.parties
    assert isinstance(protocol, secagg.OneShot)
    ring = protocol.scheme(session.task).parameters
    contributed = session.members["c1"].context.contribution(session.members["c1"]._state)
    return {
        "ring": {
            "degree": ring.degree,
            "primes": ring.primes,
            "shift": ring.shift,
            "places": ring.places,
            "digest": protocol.scheme(session.task).digest.hex(),
            "segments": [[plane.length, plane.width, plane.per_coefficient] for plane in ring.planes],
        },
        "lane_bytes": [part.itemsize for part in contributed],
        "member_seeds": {
            party: rng_for_tests(party.encode())(32).hex() for party in parties.ids(PartyRole.DECRYPTOR)
        },
        "fresh": {party: rng_for_tests(party.encode())(64)[32:].hex() for party in parties.cohort},
    }


def record(script: Script) -> dict[str, Any]:
    """Play ``script``; everything that the independent script needs to check it."""
    session = session_of(script)
    server, task, parties = session.server, session.task, session.parties
    messages: list[dict[str, str]] = []

    def send(sender: str, receiver: str, data: bytes) -> bytes:
        messages.append({"from": sender, "to": receiver, "data": data.hex()})
        return data

    contributions = {party: encoded(session, party) for party in parties.cohort}
    extra = dict(script.extra) | (of_one_shot(session) if script is ONE_SHOT else {})
    gone, outbox = set[str](), server.start()
    while server.outcome is None:
        for party, request in outbox.items():
            if script.dropouts.get(party) == server.round:
                gone.add(party)
            if party in gone:
                continue
            reply = session.members[party].receive(send("server", party, request))
            assert reply is not None
            if party in script.spoilt:
                reply = spoil(session, reply)
            for receiver, data in server.receive(party, send(party, "server", reply)).items():
                session.members[receiver].receive(send(party, receiver, data))
        outbox = server.close_round()
    pairs = zip(task.segments, widths(task), strict=True)
    secrets = {party: key.hex() for party, key in parties.long_lived.items()}
    return {
        "about": script.about,
        "task": task.to_bytes().hex(),
        "session": SESSION.hex(),
        **({} if script is PAILLIER else {"corrupt": script.protocol.corrupt(script.clients, parties.roster)}),
        "segments": [[segment.length, bits] for segment, bits in pairs],
        "identities": {party: key.private_bytes_raw().hex() for party, key in parties.identities.items()},
        **({"sealing_keys": secrets} if secrets else {}),
        **extra,
        "seeds": {c: rng_for_tests(c.encode())(32).hex() for c in parties.cohort},
        "encoded": contributions,
        "messages": messages,
        "survivors": list(server.outcome.survivors),
    }


def replay(script: Script) -> Iterator[tuple[str, str, str]]:
    """The published messages that we say too, where everyone hears those before: sender, published, said.

    Left out are the answers of a round that a protocol calls ``unseeded`` because clients seal in it.
    """
    session, answers, handed_on = session_of(script), dict[str, bytes](), dict[str, bytes]()
    server, outbox = session.server, session.server.start()
    for message in script.published["messages"]:
        sender, receiver, data = message["from"], message["to"], bytes.fromhex(message["data"])
        if sender == "server":
            if receiver not in outbox:
                outbox = server.close_round()
            ours = outbox.pop(receiver)
        elif receiver == "server":
            sealed = sender in session.parties.cohort and server.round in getattr(script.protocol, "unseeded", ())
            ours = data if sealed else answers[sender]
            handed_on = server.receive(sender, data)
        else:
            ours = handed_on[receiver]
        if ours is not data:
            yield sender, data.hex(), ours.hex()
        if receiver != "server":
            answers[receiver] = session.members[receiver].receive(data) or b""
    server.close_round()
    assert server.outcome is not None
    yield "server", " ".join(script.published["survivors"]), " ".join(server.outcome.survivors)


if __name__ == "__main__":
    for each in SCRIPTS:
        each.path.write_text(json.dumps(record(each), indent=1) + "\n", encoding="utf-8")
