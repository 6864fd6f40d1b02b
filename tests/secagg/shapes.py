"""In-clear stand-ins of the protocols' shapes, to drive the one loop with. They protect nothing.

What differs between protocols is who is asked what and in which order; what these do with the numbers is
the least that makes a wrong order or a lost message show in the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from secagg import wire
from secagg.errors import FaultKind
from secagg.identity import PartyRole
from secagg.lanes import fold_lanes, pack_lanes, reduce_lanes, to_lanes, vectors_size, zero_lanes
from secagg.protocols.base import AggregationProtocol, Cost
from secagg.roles.client import Client
from secagg.roles.listener import Aggregator, Decryptor
from secagg.roles.member import Handler, Listener, Reply
from secagg.roles.server import Server, Step
from secagg.roles.state import ClientState, MemberState, ServerState
from secagg.table import Phase, Proposal, rounds
from secagg.wire import Envelope, Reject

CLIENT, DECRYPTOR, AGGREGATOR = PartyRole.CLIENT, PartyRole.DECRYPTOR, PartyRole.AGGREGATOR


class Shape(AggregationProtocol):
    """What the stand-ins share: no demands, no honest cost."""

    phases: ClassVar[tuple[Phase, ...]]

    def validate(self, task: Any) -> None:
        pass

    def cost(self, task: Any, cohort: Any = None) -> Cost:
        zero = dict.fromkeys(rounds(self), 0)
        return Cost(up=zero, down=zero, collusion="nobody", post_quantum=False)

    def largest_message(self, task: Any, receiver: Any) -> int:
        return 65536 + 2 * vectors_size(task)


def noise(seed: bytes, task: Any) -> list[Any]:
    """Integers that everyone who knows ``seed`` can draw again, one array a segment."""
    stream = np.random.default_rng(np.frombuffer(seed, np.uint8))
    return [stream.integers(0, np.iinfo(v.dtype).max, v.size, v.dtype, endpoint=True) for v in zero_lanes(task)]


def take_off(task: Any, lanes: list[Any], seed: bytes) -> list[Any]:
    return [v - r for v, r in zip(lanes, noise(seed, task), strict=True)]


# CKKS with a decryptor: a key from the decryptor, one message a client, the sum opened by the decryptor.


class SessionKey(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 10
    key: bytes


class KeyedProposal(Proposal, frozen=True):
    TYPE: ClassVar[int] = 11
    keys: list[bytes]


class Ciphertext(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 12


class Encrypted(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 13
    senders: list[str]


class Opened(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 14


class KeyHolderState(MemberState):
    key: bytes = b""


class KeyHolder(Decryptor[KeyHolderState]):
    state_type = KeyHolderState

    def _make_key(self, draft: KeyHolderState, message: Proposal, payload: memoryview) -> Reply:
        draft.key = self.context.derive(draft, "key")
        return SessionKey(draft.key), b""

    def _open(self, draft: KeyHolderState, message: Encrypted, payload: memoryview) -> Reply:
        total = zero_lanes(self.context.task)
        fold_lanes(self.context.task, payload, total)
        if len(message.senders) < self.context.task.min_survivors:
            raise Reject(FaultKind.INVALID, "got a sum of too few")
        for _ in message.senders:
            total = take_off(self.context.task, total, draft.key)
        return Opened(), pack_lanes(self.context.task, total)

    answers: ClassVar[Mapping[str, Handler]] = {"SessionKey": _make_key, "Opening": _open}


class Encryptor(Client[ClientState]):
    state_type = ClientState

    def _encrypt(self, draft: ClientState, message: KeyedProposal, payload: memoryview) -> Reply:
        lanes = to_lanes(self.context.task, self.context.contribution(draft))
        for relayed in message.keys:
            envelope = Envelope.parse(relayed, self.context.limit)
            self.context.check_signature(envelope, DECRYPTOR)
            key, _ = envelope.open(SessionKey)
            lanes = [v + r for v, r in zip(lanes, noise(key.key, self.context.task), strict=True)]
        return Ciphertext(), pack_lanes(self.context.task, lanes)

    answers: ClassVar[Mapping[str, Handler]] = {"Input": _encrypt}


class SummingState(ServerState):
    keys: dict[str, bytes] = {}


class SummingServer(Server[SummingState]):
    state_type = SummingState

    def _propose(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.roster.ids(DECRYPTOR), (self.context.proposal(), b""))

    def _take_key(self, envelope: Envelope, message: SessionKey, payload: memoryview) -> None:
        self.context.state.keys = self.context.state.keys | {envelope.sender: envelope.raw}

    def _settle_key(self) -> None:
        self.context.need(len(self.context.state.keys), 1, "session keys")
        self.context.sums = zero_lanes(self.context.task)

    def _send_keys(self) -> Mapping[str, Reply]:
        p, keys = self.context.proposal(), list(self.context.state.keys.values())
        return dict.fromkeys(
            self.context.state.cohort,
            (KeyedProposal(cohort=p.cohort, session=p.session, nonce=p.nonce, keys=keys), b""),
        )

    def _take_ciphertext(self, envelope: Envelope, message: Ciphertext, payload: memoryview) -> None:
        fold_lanes(self.context.task, payload, self.context.sums)

    def _settle_input(self) -> None:
        self.context.state.survivors = sorted(self.context.state.answered)
        self.context.need(len(self.context.state.survivors), self.context.task.min_survivors, "ciphertexts")

    def _send_sum(self) -> Mapping[str, Reply]:
        request = Encrypted(self.context.state.survivors), pack_lanes(self.context.task, self.context.sums)
        return dict.fromkeys(self.context.roster.ids(DECRYPTOR), request)

    def _take_opened(self, envelope: Envelope, message: Opened, payload: memoryview) -> None:
        total = zero_lanes(self.context.task)
        fold_lanes(self.context.task, payload, total)
        self.context.sums = total

    def _settle_opened(self) -> None:
        self.context.need(len(self.context.state.answered), 1, "answers of the decryptor")

    steps: ClassVar[Mapping[str, Step]] = {
        "SessionKey": Step(_propose, _take_key, _settle_key),
        "Input": Step(_send_keys, _take_ciphertext, _settle_input),
        "Opening": Step(_send_sum, _take_opened, _settle_opened),
    }


@dataclass(frozen=True)
class DecryptorShape(Shape):
    """One decryptor, asked before and after the clients."""

    ID: ClassVar[int] = 0x8001
    name: ClassVar[str] = "decryptor shape"
    others: ClassVar[Mapping[PartyRole, int]] = {DECRYPTOR: 1}
    members: ClassVar[Mapping[PartyRole, type]] = {CLIENT: Encryptor, DECRYPTOR: KeyHolder}
    server: ClassVar[type] = SummingServer
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("SessionKey", DECRYPTOR, Proposal, SessionKey),
        Phase("Input", CLIENT, KeyedProposal, Ciphertext, takes_input=True, reply_vectors=True),
        Phase("Opening", DECRYPTOR, Encrypted, Opened, request_vectors=True, reply_vectors=True),
    )


# AdditiveShares with two aggregators: reports handed on as they arrive, agreement, one aggregate share each.


class Ready(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 20


class Report(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 21
    seed: bytes


class Collect(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 22
    reporters: list[str]


class Agreed(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 23
    reporters: list[str]


class Release(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 24
    agreed: list[bytes]


class AggregateShare(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 25


class ShareHolderState(MemberState):
    share: list[bytes] = []
    reporters: list[str] = []
    agreed: list[str] = []


class ShareHolder(Aggregator[ShareHolderState]):
    state_type = ShareHolderState

    def _ready(self, draft: ShareHolderState, message: Proposal, payload: memoryview) -> Reply:
        draft.share = [v.tobytes() for v in zero_lanes(self.context.task)]
        return Ready(), b""

    def _take_report(
        self, draft: ShareHolderState, envelope: Envelope, report: Report, payload: memoryview
    ) -> None:
        sender = envelope.sender
        if sender in draft.reporters or draft.agreed:
            raise Reject(FaultKind.DUPLICATE, "got a report twice or too late")
        first = self.id == self.context.roster.ids(AGGREGATOR)[0]
        share = noise(report.seed, self.context.task)
        if not first:
            share = zero_lanes(self.context.task)
            fold_lanes(self.context.task, payload, share)
        draft.share = [(v + s).tobytes() for v, s in zip(self._share(draft), share, strict=True)]
        draft.reporters = sorted([*draft.reporters, sender])

    def _share(self, draft: ShareHolderState) -> list[Any]:
        pairs = zip(draft.share, zero_lanes(self.context.task), strict=True)
        return [np.frombuffer(data, v.dtype) for data, v in pairs]

    def _agree(self, draft: ShareHolderState, message: Collect, payload: memoryview) -> Reply:
        if message.reporters != draft.reporters:
            raise Reject(FaultKind.INVALID, "got another set of reports than arrived here")
        draft.agreed = message.reporters
        return Agreed(draft.agreed), b""

    def _release(self, draft: ShareHolderState, message: Release, payload: memoryview) -> Reply:
        for relayed in message.agreed:
            envelope = Envelope.parse(relayed, self.context.limit)
            self.context.check_signature(envelope, AGGREGATOR)
            if envelope.open(Agreed)[0].reporters != draft.agreed:
                raise Reject(FaultKind.INVALID, "got an aggregator that agreed to another set")
        return AggregateShare(), pack_lanes(self.context.task, self._share(draft))

    answers: ClassVar[Mapping[str, Handler]] = {
        "Preparation": _ready,
        "Agreement": _agree,
        "AggregateShare": _release,
    }
    overhears: ClassVar[Mapping[str, Listener]] = {"Report": _take_report}


class Reporter(Client[ClientState]):
    state_type = ClientState

    def _report(self, draft: ClientState, message: Proposal, payload: memoryview) -> Reply:
        lanes = to_lanes(self.context.task, self.context.contribution(draft))
        seed = self.context.derive(draft, "seed")
        return Report(seed), pack_lanes(self.context.task, take_off(self.context.task, lanes, seed))

    answers: ClassVar[Mapping[str, Handler]] = {"Report": _report}


class CollectorState(ServerState):
    agreed: list[bytes] = []


class Collector(Server[CollectorState]):
    state_type = CollectorState

    def _prepare(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.roster.ids(AGGREGATOR), (self.context.proposal(), b""))

    def _take_nothing(self, envelope: Envelope, message: wire.Message, payload: memoryview) -> None:
        pass

    def _settle_ready(self) -> None:
        self.context.need(len(self.context.state.answered), 2, "aggregators")

    def _ask_reports(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.state.cohort, (self.context.proposal(), b""))

    def _settle_reports(self) -> None:
        self.context.state.survivors = sorted(self.context.state.answered)
        self.context.need(len(self.context.state.survivors), self.context.task.min_survivors, "reports")
        self.context.sums = zero_lanes(self.context.task)

    def _collect(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.roster.ids(AGGREGATOR), (Collect(self.context.state.survivors), b""))

    def _take_agreed(self, envelope: Envelope, message: Agreed, payload: memoryview) -> None:
        self.context.state.agreed = [*self.context.state.agreed, envelope.raw]

    def _ask_shares(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.roster.ids(AGGREGATOR), (Release(self.context.state.agreed), b""))

    def _unshard(self, envelope: Envelope, message: AggregateShare, payload: memoryview) -> None:
        fold_lanes(self.context.task, payload, self.context.sums)

    def _settle_shares(self) -> None:
        self._settle_ready()
        reduce_lanes(self.context.task, self.context.sums)

    steps: ClassVar[Mapping[str, Step]] = {
        "Preparation": Step(_prepare, _take_nothing, _settle_ready),
        "Report": Step(_ask_reports, _take_nothing, _settle_reports),
        "Agreement": Step(_collect, _take_agreed, _settle_ready),
        "AggregateShare": Step(_ask_shares, _unshard, _settle_shares),
    }


@dataclass(frozen=True)
class AggregatorsShape(Shape):
    """Two aggregators that take the clients' reports as they arrive; a collector that holds none."""

    ID: ClassVar[int] = 0x8002
    name: ClassVar[str] = "aggregators shape"
    others: ClassVar[Mapping[PartyRole, int]] = {AGGREGATOR: 2}
    members: ClassVar[Mapping[PartyRole, type]] = {CLIENT: Reporter, AGGREGATOR: ShareHolder}
    server: ClassVar[type] = Collector
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("Preparation", AGGREGATOR, Proposal, Ready),
        Phase("Report", CLIENT, Proposal, Report, takes_input=True, reply_vectors=True, relay=AGGREGATOR),
        Phase("Agreement", AGGREGATOR, Collect, Agreed),
        Phase("AggregateShare", AGGREGATOR, Release, AggregateShare, reply_vectors=True),
    )


# One message a client; a committee drawn from the roster opens the sum of the clients' keys.


class KeyedInput(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 30
    seed: bytes  # in the clear here; encrypted to the committee's keys in earnest


class SumOfKeys(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 31
    seeds: list[bytes]


class PartialOpening(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 32


class CommitteeMember(KeyHolder):
    def _open_keys(self, draft: KeyHolderState, message: SumOfKeys, payload: memoryview) -> Reply:
        """This member's part of the sum of keys: the committee's parts, added up, are the sum."""
        members = self.context.roster.ids(DECRYPTOR)
        mine = [s for i, s in enumerate(message.seeds) if members[i % len(members)] == self.id]
        total = zero_lanes(self.context.task)
        for seed in mine:
            total = [v + r for v, r in zip(total, noise(seed, self.context.task), strict=True)]
        return PartialOpening(), pack_lanes(self.context.task, total)

    answers: ClassVar[Mapping[str, Handler]] = {
        "CommitteeKeys": KeyHolder._make_key,
        "SumOfKeys": _open_keys,
    }


class OneShotClient(Client[ClientState]):
    state_type = ClientState

    def _input(self, draft: ClientState, message: KeyedProposal, payload: memoryview) -> Reply:
        seed = self.context.derive(draft, "seed")
        lanes = to_lanes(self.context.task, self.context.contribution(draft))
        masked = [v + r for v, r in zip(lanes, noise(seed, self.context.task), strict=True)]
        return KeyedInput(seed), pack_lanes(self.context.task, masked)

    answers: ClassVar[Mapping[str, Handler]] = {"Input": _input}


class OneShotState(SummingState):
    seeds: list[bytes] = []


class OneShotServer(SummingServer):
    state_type = OneShotState

    def _take_input(self, envelope: Envelope, message: KeyedInput, payload: memoryview) -> None:
        fold_lanes(self.context.task, payload, self.context.sums)
        self.context.state.seeds = [*self.context.state.seeds, message.seed]

    def _ask_sum(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.roster.ids(DECRYPTOR), (SumOfKeys(self.context.state.seeds), b""))

    def _take_partial(self, envelope: Envelope, message: PartialOpening, payload: memoryview) -> None:
        part = zero_lanes(self.context.task)
        fold_lanes(self.context.task, payload, part)
        self.context.sums = [v - p for v, p in zip(self.context.sums, part, strict=True)]

    def _settle_partials(self) -> None:
        self.context.need(
            len(self.context.state.answered), len(self.context.roster.ids(DECRYPTOR)), "members of the committee"
        )
        reduce_lanes(self.context.task, self.context.sums)

    steps: ClassVar[Mapping[str, Step]] = {
        "CommitteeKeys": Step(SummingServer._propose, SummingServer._take_key, SummingServer._settle_key),
        "Input": Step(SummingServer._send_keys, _take_input, SummingServer._settle_input),
        "SumOfKeys": Step(_ask_sum, _take_partial, _settle_partials),
    }


@dataclass(frozen=True)
class CommitteeShape(Shape):
    """A committee of three that is asked for keys first and for the sum of the clients' keys last."""

    ID: ClassVar[int] = 0x8003
    name: ClassVar[str] = "committee shape"
    others: ClassVar[Mapping[PartyRole, int]] = {DECRYPTOR: 3}
    members: ClassVar[Mapping[PartyRole, type]] = {CLIENT: OneShotClient, DECRYPTOR: CommitteeMember}
    server: ClassVar[type] = OneShotServer
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("CommitteeKeys", DECRYPTOR, Proposal, SessionKey),
        Phase("Input", CLIENT, KeyedProposal, KeyedInput, takes_input=True, reply_vectors=True),
        Phase("SumOfKeys", DECRYPTOR, SumOfKeys, PartialOpening, reply_vectors=True),
    )
