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
from secagg.roles.member import Member
from secagg.roles.server import Server
from secagg.table import Round
from secagg.testing import rng_for_tests
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
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return found


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
SCRIPTS = (SECAGG, SECAGG_PLUS, SHARES)


class Stage:
    """The parties of a script, all from fixed seeds."""

    def __init__(self, script: Script) -> None:
        protocol: AggregationProtocol = script.protocol
        self.clients = sorted(stand_in_ids(script.clients))
        roles = dict.fromkeys(self.clients, PartyRole.CLIENT)
        for role, count in protocol.others.items():
            roles |= {f"{role}-{number}": role for number in range(1, count + 1)}
        self.identities = {
            party: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"identity of " + party.encode()).digest())
            for party in roles
        }
        pairs: dict[str, tuple[bytes, bytes]] = {}
        for party, role in roles.items():
            pairs |= key_pairs(protocol, {party: role}, lambda p: rng_for_tests(b"sealing key of " + p.encode()))
        self.sealing_keys = {party: private for party, (private, _) in pairs.items()}
        self.roster = Roster(
            Party(
                party,
                roles[party],
                key.public_key().public_bytes_raw(),
                pairs[party][1] if party in pairs else None,
            )
            for party, key in self.identities.items()
        )
        self.task = secagg.Task(
            protocol=protocol,
            layout=secagg.Layout.of({"w": np.zeros((2, 3), np.float32), "b": np.zeros(3)}),
            encoding=secagg.FixedPoint(clip={"w": 1.0, "b": 0.5}, bits=31),
            max_clients=script.clients,
            min_survivors=script.min_survivors,
            max_weight=5,
            context=b"test vector",
        )
        self.server: Server[Any] = self.task.server(
            self.clients, roster=self.roster, session=SESSION, rng=rng_for_tests(b"server")
        )
        self.members = {party: self._member(party, role) for party, role in roles.items()}

    def _member(self, party: str, role: PartyRole) -> Member[Any]:
        make = self.task.client if role is PartyRole.CLIENT else self.task.aggregator
        key = {"key": self.sealing_keys[party]} if party in self.sealing_keys else {}
        member: Any = make(
            party,
            identity=self.identities[party],
            roster=self.roster,
            session=SESSION,
            rng=rng_for_tests(party.encode()),
            **key,
        )
        if role is PartyRole.CLIENT:
            number = self.clients.index(party) + 1
            values = np.linspace(-0.7, 0.9, 9) * number / 5
            member.contribute({"w": values[:6].reshape(2, 3), "b": values[6:]}, weight=(number - 1) % 5 + 1)
        return member  # type: ignore[no-any-return]

    def encoded(self, client: str) -> list[list[int]]:
        """The integers of a client's contribution, by segment."""
        member: Any = self.members[client]
        return [[int(number) for number in segment] for segment in member.context.contribution(member._state)]

    def spoil(self, report: bytes) -> bytes:
        """A report whose last sealed seed has one bit flipped, signed again by its client."""
        frame = take_apart(report)
        structure = frame.structure[:-1] + bytes([frame.structure[-1] ^ 1])
        return replace(frame, structure=structure).seal(self.identities[frame.sender.decode()])


def record(script: Script) -> dict[str, Any]:
    """Play ``script``; everything that the independent script needs to check it."""
    stage = Stage(script)
    server, task = stage.server, stage.task
    messages: list[dict[str, str]] = []

    def send(sender: str, receiver: str, data: bytes) -> bytes:
        messages.append({"from": sender, "to": receiver, "data": data.hex()})
        return data

    encoded, gone, outbox = {c: stage.encoded(c) for c in stage.clients}, set[str](), server.start()
    while server.outcome is None:
        for party, request in outbox.items():
            if script.dropouts.get(party) == server.round:
                gone.add(party)
            if party in gone:
                continue
            reply = stage.members[party].receive(send("server", party, request))
            assert reply is not None
            if party in script.spoilt:
                reply = stage.spoil(reply)
            for receiver, data in server.receive(party, send(party, "server", reply)).items():
                stage.members[receiver].receive(send(party, receiver, data))
        outbox = server.close_round()
    pairs = zip(task.segments, widths(task), strict=True)
    secrets = {party: key.hex() for party, key in stage.sealing_keys.items()}
    return {
        "about": script.about,
        "task": task.to_bytes().hex(),
        "session": SESSION.hex(),
        "corrupt": script.protocol.corrupt(script.clients, stage.roster),
        "segments": [[segment.length, bits] for segment, bits in pairs],
        "identities": {party: key.private_bytes_raw().hex() for party, key in stage.identities.items()},
        **({"sealing_keys": secrets} if secrets else {}),
        **script.extra,
        "seeds": {c: rng_for_tests(c.encode())(32).hex() for c in stage.clients},
        "encoded": encoded,
        "messages": messages,
        "survivors": list(server.outcome.survivors),
    }


def replay(script: Script) -> Iterator[tuple[str, str, str]]:
    """The published messages that we say too, where everyone hears those before: sender, published, said.

    Left out are the answers of a round that a protocol calls ``unseeded`` because clients seal in it.
    """
    stage, answers, handed_on = Stage(script), dict[str, bytes](), dict[str, bytes]()
    server, outbox = stage.server, stage.server.start()
    for message in script.published["messages"]:
        sender, receiver, data = message["from"], message["to"], bytes.fromhex(message["data"])
        if sender == "server":
            if receiver not in outbox:
                outbox = server.close_round()
            said = outbox.pop(receiver)
        elif receiver == "server":
            sealed = sender in stage.clients and server.round in getattr(script.protocol, "unseeded", ())
            said = data if sealed else answers[sender]
            handed_on = server.receive(sender, data)
        else:
            said = handed_on[receiver]
        if said is not data:
            yield sender, data.hex(), said.hex()
        if receiver != "server":
            answers[receiver] = stage.members[receiver].receive(data) or b""
    server.close_round()
    assert server.outcome is not None
    yield "server", " ".join(script.published["survivors"]), " ".join(server.outcome.survivors)


if __name__ == "__main__":
    for each in SCRIPTS:
        each.path.write_text(json.dumps(record(each), indent=1) + "\n", encoding="utf-8")
