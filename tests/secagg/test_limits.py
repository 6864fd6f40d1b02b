"""What honest parties send fits the caps of those who read it, whatever the cohort and however long the ids."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from mpc.additive import SEED_BYTES
from mpc.hpke import Kem
from secagg import wire
from secagg.beacon import LATEST_ROUND, VALUE_BYTES, SignedBeacon
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import ConfigError, FaultKind
from secagg.identity import PartyRole
from secagg.lanes import vectors_size
from secagg.layout import Layout, Leaf
from secagg.protocols.clear import Input
from secagg.protocols.encrypted import messages as encrypted
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.oneshot import messages as one_shot
from secagg.protocols.pairwise import messages as pairwise
from secagg.protocols.shares import messages as shares
from secagg.session import MAX_SESSION_BYTES
from secagg.table import Proposal
from secagg.testing import Parties, Session, clock_for_tests
from secagg.wire import Envelope, Reject
from tests.secagg.test_encrypted import keys_found_once

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
BEACON = SignedBeacon(KEY.public_key().public_bytes_raw(), genesis=0, period=30)
SIZES = (1, 64)

Sent = tuple[wire.Message, bytes]


def ids_of(count: int, length: int) -> list[str]:
    """``count`` ids, of ``length`` characters or of as few more as keep them apart."""
    width = max(length, len(str(count)))
    return [str(number).rjust(width, "c") for number in range(count)]


def make_task(protocol: Any, clients: int) -> secagg.Task:
    least = {"Clear": 1}.get(protocol.name, max(3, math.ceil(0.7 * clients)))
    return secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of(np.zeros(3)),
        encoding=secagg.FixedPoint(clip=1.0, bits=8, rounding="nearest"),
        max_clients=clients,
        min_survivors=least,
    )


class Largest:
    """Each message of a session in which everyone takes part, nobody drops out and every id is ``length`` long.

    Each helper of AdditiveShares could not open ``unopened`` reports, a member of OneShot says why unless that is
    zero, and the graph is drawn from ``beacon_round``
    of the beacon.
    """

    def __init__(
        self,
        task: secagg.Task,
        clients: int,
        length: int,
        unopened: int = shares.MAX_UNOPENED,
        beacon_round: int = LATEST_ROUND,
    ) -> None:
        self.task, self.ids = task, ids_of(clients, length)
        self.unopened, self.beacon_round = unopened, beacon_round
        self.bits = bytes((clients + 7) // 8)
        self.aggregators = [letter.rjust(length, "a") for letter in "abcdefghijklmnop"]

    def seal(self, message: wire.Message, payload: bytes = b"", sender: str = "", session: int = 32) -> bytes:
        return wire.seal_envelope(
            message,
            protocol=self.task.protocol.ID,
            task=bytes(32),
            session=bytes(session),
            sender=sender,
            payload=payload,
            identity=KEY if sender else None,
        )

    @property
    def proposal(self) -> Proposal:
        return Proposal(self.ids, bytes(MAX_SESSION_BYTES), bytes(32))

    def messages(self) -> dict[type[wire.Message], Sent]:
        """By type; a type that is not here is one that this test has to be told of."""
        protocol: Any = self.task.protocol
        if isinstance(protocol, secagg.SecAgg | secagg.SecAggPlus):
            messages = self.pairwise(protocol)
        elif isinstance(protocol, secagg.AdditiveShares):
            messages = self.shares(protocol)
        elif isinstance(protocol, secagg.OneShot):
            messages = self.one_shot(protocol)
        elif isinstance(protocol, Encrypted):
            messages = self.encrypted(protocol)
        else:
            messages = iter([(Input(), bytes(vectors_size(self.task)))])
        return {type(self.proposal): (self.proposal, b"")} | {type(sent[0]): sent for sent in messages}

    def pairwise(self, protocol: Any) -> Iterator[Sent]:
        n, bits = len(self.ids), self.bits
        shape = protocol.shape(self.task, n, protocol.corrupt(n, None))
        holders, near = (n if shape.complete else shape.degree), shape.degree
        vectors = bytes(vectors_size(self.task))
        advert = pairwise.Advert(bytes(32), bytes(32))
        adverts = [self.seal(advert, sender=party) for party in self.ids[: near + 1]]
        shown = bits, adverts, [bytes(32 * (n - 1).bit_length())] * len(adverts)
        vouchers = bytes(16 * near)
        for message in (
            advert,
            pairwise.Adverts(adverts),
            pairwise.NearAdverts(*shown, bytes(32)),
            pairwise.DrawnAdverts(*shown, self.beacon_round, bytes(VALUE_BYTES)),
            pairwise.Frozen(bits, bytes(32)),
            pairwise.NextRound(self.beacon_round),
            pairwise.DealtShares(bytes(32), bytes(64 * holders), bytes(82 * near)),
            pairwise.HeldShares(bits, bytes(64 * near), bytes(82 * near)),
            pairwise.Survivors(bits),
            pairwise.VouchedSurvivors(bits, vouchers),
            pairwise.SignedSurvivors(bits, bits),
            pairwise.Unmask(bits, bits if shape.quorum else b"", bytes(64 * shape.quorum)),
            pairwise.Revealed(bits, bytes(33 * holders)),
        ):
            yield message, b""
        yield pairwise.MaskedInput(), vectors
        yield pairwise.VouchedInput(vouchers), vectors

    def shares(self, protocol: secagg.AdditiveShares) -> Iterator[Sent]:
        vectors, overhead = vectors_size(self.task), Kem(protocol.kem).overhead
        helpers = protocol.aggregators - 1
        report = shares.Report([bytes(SEED_BYTES + overhead)] * helpers), bytes(vectors + overhead)
        raw = self.seal(*report, sender=self.ids[0])
        agreed = shares.Agreed(self.bits, bytes(32))
        all_agreed = [self.seal(agreed, sender=party) for party in self.aggregators[: protocol.aggregators]]
        yield report
        for message in (
            shares.Ready(),
            shares.Recount(),
            shares.Held(self.bits, [raw] * self.unopened),
            shares.Collect(self.bits, [raw] * self.unopened * helpers),
            agreed,
            shares.Release(all_agreed),
        ):
            yield message, b""
        yield shares.AggregateShare(), bytes(vectors)

    def one_shot(self, protocol: secagg.OneShot) -> Iterator[Sent]:
        members, scheme = range(protocol.members), protocol.scheme(self.task)
        longest = len(self.ids[0])
        key = one_shot.SessionKey(bytes(Kem(protocol.kem).public_bytes))
        keys = [self.seal(key, sender="k" * longest)] * len(members)
        dealing = one_shot.Dealing(bytes(32), bytes(protocol.committee.proof_bytes))
        raw = self.seal(dealing, sender=self.ids[0])
        sealed = [bytes(protocol.sealed_bytes(self.task, place)) for place in members]
        agreed = one_shot.Agreed(bytes(32), b"")
        path = bytes(32 * (len(members) - 1).bit_length())
        yield one_shot.KeyedInput(raw, bytes(32 * len(members)), sealed), bytes(scheme.size)
        for message in (
            key,
            one_shot.KeyedProposal(self.ids, bytes(MAX_SESSION_BYTES), bytes(32), keys),
            one_shot.KeyShare(raw, bytes(32), sealed[-1], path),
            one_shot.Recount(),
            one_shot.Held(bytes(len(self.ids))),
            one_shot.Collect(self.bits),
            one_shot.Agreed(b"", bytes(len(self.ids))) if self.unopened else agreed,
            one_shot.Release([self.seal(agreed, sender="m" * longest)] * len(members)),
        ):
            yield message, b""
        yield one_shot.KeyShareSum(), bytes(protocol.committee.answer_bytes(scheme.degree))

    def encrypted(self, protocol: Any) -> Iterator[Sent]:
        scheme, length = protocol.scheme(self.task), Digits(self.task).length
        key = encrypted.SessionKey(bytes(protocol.key_size(self.task)))
        yield key, b""
        signed = self.seal(key, sender=self.ids[0])
        yield encrypted.KeyedProposal(self.ids, bytes(MAX_SESSION_BYTES), bytes(32), signed), b""
        yield encrypted.Commitment(bytes(encrypted.HASH_BYTES)), b""
        yield encrypted.Committed(), b""
        yield encrypted.Ciphertexts(), bytes(scheme.size(length))
        yield encrypted.EncryptedSum(self.bits), bytes(scheme.total_size(length))
        yield encrypted.OpenedSum(), bytes(vectors_size(self.task))


PROTOCOLS = [
    secagg.Clear(),
    secagg.SecAgg(),
    secagg.SecAgg(threat_model="semi-honest"),
    secagg.SecAggPlus(),
    secagg.SecAggPlus(threat_model="semi-honest"),
    secagg.SecAggPlus(threat_model="malicious", beacon=BEACON),
    secagg.AdditiveShares(),
    secagg.AdditiveShares(aggregators=16, kem="X25519"),
    secagg.OneShot(),
    secagg.OneShot(members=16, corrupt_members=3, kem="X25519", recount=True),
    secagg.Paillier(),
    secagg.BFV(),
    secagg.CKKS(),
    secagg.CKKS(holder="clients"),
]


@pytest.mark.parametrize("clients", [2, 100, 1177, 1409, 5000])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: f"{p.name} {getattr(p, 'threat_model', '')}")
def test_every_honest_message_is_read(protocol: Any, clients: int) -> None:
    if not isinstance(protocol, secagg.Clear):
        clients = max(3, clients)  # no sum of fewer is opened
    task = make_task(protocol, clients)
    limits = {role: protocol.largest_message(task, role) for role in (None, *PartyRole)}
    for length in SIZES:
        largest = Largest(task, clients, length)
        messages, sender = largest.messages(), largest.ids[0]
        for phase in protocol.phases:
            up, down = messages[phase.reply], messages[phase.request]
            opening = issubclass(phase.request, Proposal)
            request = largest.seal(*down, session=0 if opening else 32)
            answer = largest.seal(*up, sender=sender)
            handed = answer if phase.relayed is None else largest.seal(*messages[phase.relayed])
            for data, kind, limit in (
                (request, phase.request, limits[phase.role]),
                (answer, phase.reply, limits[None]),
                *([(handed, phase.handed_on, limits[phase.relay])] if phase.relay else []),
            ):
                assert Envelope.parse(data, limit).open(kind)[0] == messages[kind][0]
                with pytest.raises(Reject) as refused:
                    Envelope.parse(bytes(limit + 1), limit)
                assert refused.value.kind is FaultKind.OVERSIZED


@pytest.mark.parametrize("length", SIZES)
@pytest.mark.parametrize(
    "protocol",
    [*PROTOCOLS, secagg.BFV(commit=False), secagg.Paillier(key="run")],
    ids=lambda p: f"{p.name} {getattr(p, 'threat_model', '')}",
)
def test_the_messages_above_are_as_long_as_those_that_roles_send(protocol: Any, length: int) -> None:
    """In a real session of four, in every phase and for every party; and each is within its receiver's cap."""
    task = replace(make_task(protocol, 4), layout=secagg.Layout.of({"w": np.zeros(3, np.float32)}))
    beacon_round = BEACON.next_round(clock_for_tests())
    largest = Largest(task, 4, length, unopened=0, beacon_round=beacon_round)
    roles = dict.fromkeys(largest.ids, PartyRole.CLIENT)
    for role, count in protocol.party_counts.items():
        roles |= dict.fromkeys(largest.aggregators[:count], role)
    parties = Parties(
        protocol, tuple(largest.ids), roles, {}, None, 3, beacon=lambda number: BEACON.publish(KEY, number)
    )
    with keys_found_once():
        session = Session(parties.enrolled(), task=task, session=bytes(MAX_SESSION_BYTES))
        relayed: list[tuple[PartyRole, int]] = []
        session.before_relay = lambda party, data: relayed.append((roles[party], len(data)))
        session.require_completes(f"with ids of {length} characters")
    messages = largest.messages()
    for phase in protocol.phases:
        asked = [party for party, role in roles.items() if role is phase.role]
        id_bytes = 0 if issubclass(phase.request, Proposal) else 32
        down = len(largest.seal(*messages[phase.request], session=id_bytes))
        up = len(largest.seal(*messages[phase.reply], sender=asked[0]))
        requests = {len(session.requests[party, phase.round]) for party in asked}
        assert (phase.round, requests) == (phase.round, {down})
        assert (phase.round, {len(session.answers[party, phase.round]) for party in asked}) == (phase.round, {up})
        relays = [phase.relay] * (len(asked) * protocol.party_counts.get(phase.relay, 0))
        if phase.relayed is not None:  # one part a listener: the longest is the one that counts
            up = len(largest.seal(*messages[phase.relayed]))
            assert max(relayed[: len(relays)], default=None) == (phase.relay, up)
        else:
            assert relayed[: len(relays)] == [(role, up) for role in relays]
        del relayed[: len(relays)]
        assert down <= protocol.largest_message(task, phase.role)
        for receiver in (None, *relays[:1]):
            assert up <= protocol.largest_message(task, receiver)
    assert not relayed


@pytest.mark.parametrize("clients", [100, 1409])
@pytest.mark.parametrize("threat_model", ["malicious", "semi-honest"])
def test_on_a_complete_graph_the_caps_are_not_far_above(clients: int, threat_model: str) -> None:
    protocol = secagg.SecAgg(threat_model=threat_model)  # type: ignore[arg-type]
    task = make_task(protocol, clients)
    largest = Largest(task, clients, wire.LONGEST_ID)
    messages = largest.messages()
    down = max(len(largest.seal(*messages[phase.request])) for phase in protocol.phases)
    up = max(len(largest.seal(*messages[phase.reply], sender=largest.ids[0])) for phase in protocol.phases)
    # Any number may be enrolled, and c and the quorum with it: up to all of the cohort.
    assert down <= protocol.largest_message(task, PartyRole.CLIENT) <= 1.6 * down
    assert up <= protocol.largest_message(task, None) <= 1.05 * up + 100


@pytest.mark.parametrize(
    ("protocol", "clients", "coordinates", "who"),
    [
        (secagg.Clear(), 4, 3 << 30, "server"),
        (secagg.SecAgg(threat_model="semi-honest"), 4, 3 << 30, "server"),
        (secagg.AdditiveShares(), 4, 3 << 30, "server"),
        (secagg.SecAggPlus(), 6_000_000, 3, "client"),
        (secagg.SecAggPlus(), 4_000_000, 3, None),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_task_whose_messages_no_envelope_carries_is_refused(
    protocol: Any, clients: int, coordinates: int, who: str | None
) -> None:
    layout = Layout((Leaf((), (coordinates,), "float32"),), ())
    encoding, least = secagg.FixedPoint(clip=1.0, bits=16), math.ceil(0.85 * clients)

    def make() -> secagg.Task:
        return secagg.Task(protocol, layout, encoding, max_clients=clients, min_survivors=least)

    if who is None:
        assert make().protocol.largest_message(make(), PartyRole.CLIENT) <= wire.LARGEST_BODY
        return
    with pytest.raises(ConfigError, match=f"largest message to the {who} has .* at most 4,294,967,295: lower"):
        make()


class Counted(list[str]):
    """Ids that count how often a reader goes through them."""

    passes = 0

    def __getitem__(self, at: Any) -> Any:
        raise AssertionError("looked one up by its place")

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return super().__iter__()


def test_a_set_is_read_in_one_pass() -> None:
    """25 KB of bitmap over 200,000 clients: no id is looked up, and an empty set reads none."""
    u1 = [f"c{number:06}" for number in range(200_000)]
    chosen = u1[7::40_000]
    counted = Counted(u1)
    assert from_bitmap(to_bitmap(chosen, u1), counted) == chosen
    assert counted.passes == 1
    assert from_bitmap(to_bitmap([], u1), counted) == []
    assert counted.passes == 1


@pytest.mark.parametrize("clients", [0, 1, 7, 8, 9, 65])
def test_sets_come_back_and_spare_bits_don_t(clients: int) -> None:
    u1 = [f"c{number:02}" for number in range(clients)]
    for chosen in ([], u1, u1[::3], u1[-1:]):
        assert from_bitmap(to_bitmap(chosen, u1), u1) == chosen
    full = to_bitmap(u1, u1)
    spoilt = [full + b"\0", full[:-1]] if full else [b"\0"]
    if clients % 8:
        spoilt.append(full[:-1] + bytes([full[-1] | 1 << clients % 8]))
    for bitmap in spoilt:
        with pytest.raises(Reject):
            from_bitmap(bitmap, u1)
