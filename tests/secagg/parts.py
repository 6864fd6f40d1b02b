"""In-clear stand-ins for protocols that hand parts of answers on, and whose listeners answer. They protect nothing.

In ``Splits`` each client's answer has a part for each aggregator, which gets its own at once. In ``Vetting`` the
aggregators vet each input before the server takes it: first the helpers, then, shown their words, the leader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from secagg import wire
from secagg.bitmap import bitmap_bytes, from_bitmap, to_bitmap
from secagg.errors import FaultKind
from secagg.identity import PartyRole, is_listed
from secagg.lanes import check_mask_bits, fold_lanes, pack_lanes, reduce_lanes, to_lanes, vectors_size, zero_lanes
from secagg.protocols.base import AggregationProtocol, Cost, largest_proposal
from secagg.roles import (
    Aggregator,
    Client,
    ClientState,
    ForListener,
    Handler,
    Listener,
    ListenerState,
    MemberState,
    Reply,
    Server,
    ServerState,
    Step,
    Waiting,
    method,
)
from secagg.table import Phase, Proposal, Word
from secagg.wire import Envelope, Reject

CLIENT, AGGREGATOR = PartyRole.CLIENT, PartyRole.AGGREGATOR


class Ready(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 2


class Part(wire.Message, frozen=True):
    """A client's share for one aggregator; its vectors follow."""

    TYPE: ClassVar[int] = 3
    receiver: str


class Split(wire.Message, frozen=True):
    """A client's parts, one for each aggregator by id."""

    TYPE: ClassVar[int] = 4
    parts: list[bytes]


class Recount(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 5


class Held(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 6
    clients: bytes


class Collect(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 7
    clients: bytes


class Sum(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 8


class Header(wire.Message, frozen=True):
    """What the aggregators see of an input: the total of its coordinates, as its client states it."""

    TYPE: ClassVar[int] = 9
    total: int


class Headed(wire.Message, frozen=True):
    """A client's signed header; its input follows."""

    TYPE: ClassVar[int] = 10
    header: bytes


class Show(wire.Message, frozen=True):
    """A client's header; to the leader, the helpers' words about it too."""

    TYPE: ClassVar[int] = 11
    header: bytes
    words: list[bytes]


class Verdict(Word, frozen=True):
    TYPE: ClassVar[int] = 12
    digest: bytes
    accepted: bool


class Agreed(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 13
    clients: bytes


def noise(seed: bytes, task: Any) -> list[Any]:
    """Integers that follow from ``seed``, one array a segment."""
    stream = np.random.default_rng(np.frombuffer(seed, np.uint8))
    return [stream.integers(0, np.iinfo(v.dtype).max, v.size, v.dtype, endpoint=True) for v in zero_lanes(task)]


def unpacked(task: Any, payload: memoryview) -> list[Any]:
    lanes = zero_lanes(task)
    fold_lanes(task, payload, lanes)
    return lanes


class ServesAggregators(Server[ServerState]):
    """Opens with all aggregators, then asks the clients."""

    state_type = ServerState

    @property
    def aggregators(self) -> tuple[str, ...]:
        assert self.context.roster is not None
        return self.context.roster.ids(AGGREGATOR)

    def _propose(self, parties: Iterable[str]) -> Mapping[str, Reply]:
        return dict.fromkeys(parties, (self.context.proposal(), b""))

    def _ask_aggregators(self) -> Mapping[str, Reply]:
        return self._propose(self.aggregators)

    def _ask_clients(self) -> Mapping[str, Reply]:
        return self._propose(self.context.state.cohort)

    def _take_nothing(self, envelope: Envelope, message: wire.Message, payload: memoryview) -> None:
        pass

    def _settle_all(self) -> None:
        self.context.need(len(self.context.state.answered), len(self.aggregators), "aggregators")

    def _settle_inputs(self) -> None:
        self.context.need(len(self.context.state.survivors), self.context.task.min_survivors, "inputs")

    def _collect(self) -> Mapping[str, Reply]:
        state = self.context.state
        return dict.fromkeys(self.aggregators, (Collect(to_bitmap(state.survivors, state.cohort)), b""))


class PartProtocol(AggregationProtocol):
    """What the two stand-ins share: two aggregators, and what messages cost."""

    party_counts: ClassVar[Mapping[PartyRole, int]] = {AGGREGATOR: 2}
    reply: ClassVar[type[wire.Message]]

    def validate(self, task: Any) -> None:
        check_mask_bits(task)

    def answer(self, task: Any, sender: str) -> wire.Message:
        raise NotImplementedError

    def cost(self, task: Any, cohort: Sequence[str] | None = None) -> Cost:
        ids = list(cohort or wire.stand_in_ids(task.max_clients))
        name = next(phase.round for phase in self.phases if phase.takes_input)
        up = wire.overhead(ids[0], signed=True) + wire.structure_size(self.answer(task, ids[0]))
        up += next(phase.reply_vectors for phase in self.phases if phase.takes_input) * vectors_size(task)
        down = wire.overhead("", session=False, signed=False)
        down += wire.structure_size(Proposal(ids, bytes(32), bytes(32)))
        return Cost(up={name: up}, down={name: down}, collusion="nobody", post_quantum=False)

    def largest_message(self, task: Any, receiver: PartyRole | None) -> int:
        vectors, bits = vectors_size(task), bitmap_bytes(task.max_clients)
        if receiver is CLIENT:
            return largest_proposal(task)
        part = wire.largest(wire.LONGEST_ID, 32, 32, 1, signed=True) + vectors
        if receiver is AGGREGATOR:
            return max(largest_proposal(task), wire.largest(bits, signed=False), part, 3 * (part - vectors))
        return max(wire.largest(bits, signed=True), wire.largest((2, part), signed=True))


# Splits


class Splitter(Client[ClientState]):
    state_type = ClientState
    answers: ClassVar[Mapping[str, Handler]] = {"Report": method("_report")}

    def _report(self, draft: ClientState, message: Proposal, payload: memoryview) -> Reply:
        assert self.context.roster is not None
        task = self.context.task
        leader, *helpers = self.context.roster.ids(AGGREGATOR)
        rest, shares = to_lanes(task, self.context.contribution(draft)), {}
        for helper in helpers:
            shares[helper] = noise(self.context.derive(draft, f"share of {helper}"), task)
            rest = [v - r for v, r in zip(rest, shares[helper], strict=True)]
        shares[leader] = rest
        return Split([self.part(draft, party, shares[party]) for party in sorted(shares)]), b""

    def part(self, draft: ClientState, receiver: str, share: list[Any]) -> bytes:
        return self.context.seal(draft, Part(receiver), pack_lanes(self.context.task, share))


class SplitState(MemberState):
    shares: dict[str, list[bytes]] = {}
    parts: dict[str, bytes] = {}  # digests, by client


class ShareKeeper(Aggregator[SplitState]):
    state_type = SplitState
    answers: ClassVar[Mapping[str, Handler]] = {
        "Preparation": method("_ready"),
        "Recount": method("_recount"),
        "Opening": method("_add_up"),
    }
    overhears: ClassVar[Mapping[str, Listener]] = {"Report": method("_take_part")}

    def _ready(self, draft: SplitState, message: Proposal, payload: memoryview) -> Reply:
        return Ready(), b""

    def heard(self, envelope: Envelope) -> bool:
        return self._state.parts.get(envelope.sender) == envelope.digest

    def _take_part(self, draft: SplitState, envelope: Envelope, message: Part, payload: memoryview) -> None:
        client = envelope.sender
        if draft.step != 1 or not is_listed(client, draft.cohort) or client in draft.parts:
            raise Reject(FaultKind.INVALID, "got a part twice, too late, or from outside the cohort", blame=client)
        self.check_receiver(draft, message)
        lanes = unpacked(self.context.task, payload)
        self.add(draft.shares, client, [lane.tobytes() for lane in lanes])
        self.add(draft.parts, client, envelope.digest)

    def check_receiver(self, draft: SplitState, message: Part) -> None:
        if message.receiver != draft.id:
            raise Reject(FaultKind.INVALID, "got a part for another aggregator")

    def _recount(self, draft: SplitState, message: Recount, payload: memoryview) -> Reply:
        return Held(to_bitmap(draft.parts, draft.cohort)), b""

    def _add_up(self, draft: SplitState, message: Collect, payload: memoryview) -> Reply:
        task, chosen = self.context.task, from_bitmap(message.clients, draft.cohort)
        if not set(chosen) <= draft.shares.keys() or len(chosen) < task.min_survivors:
            raise Reject(FaultKind.INVALID, "got a set with too few clients, or with one whose part is not here")
        total = zero_lanes(task)
        for client in chosen:
            for lane, data in zip(total, draft.shares[client], strict=True):
                lane += np.frombuffer(data, lane.dtype)
        return Sum(), pack_lanes(task, total)


class SplitServer(ServesAggregators):
    steps: ClassVar[Mapping[str, Step]] = {
        "Preparation": Step(method("_ask_aggregators"), method("_take_nothing"), method("_settle_all")),
        "Report": Step(
            method("_ask_clients"), method("_take_nothing"), method("_settle_inputs"), hand_on=method("_each_part")
        ),
        "Recount": Step(method("_recount"), method("_take_held"), method("_settle_held")),
        "Opening": Step(method("_collect"), method("_take_sum"), method("_settle_sums")),
    }

    def _each_part(self, envelope: Envelope, message: Split, payload: memoryview) -> Mapping[str, bytes]:
        if len(message.parts) != len(self.aggregators):
            raise Reject(FaultKind.MALFORMED, "got not one part for each aggregator")
        return dict(zip(self.aggregators, message.parts, strict=True))

    def _recount(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.aggregators, (Recount(), b""))

    def _take_held(self, envelope: Envelope, message: Held, payload: memoryview) -> None:
        state = self.context.state
        held = set(from_bitmap(message.clients, state.cohort))
        state.survivors = [client for client in state.survivors if client in held]

    def _settle_held(self) -> None:
        self._settle_all()
        self._settle_inputs()
        self.context.sums = zero_lanes(self.context.task)

    def _take_sum(self, envelope: Envelope, message: Sum, payload: memoryview) -> None:
        fold_lanes(self.context.task, payload, self.context.sums)

    def _settle_sums(self) -> None:
        self._settle_all()
        reduce_lanes(self.context.task, self.context.sums)


@dataclass(frozen=True)
class Splits(PartProtocol):
    """Each client's answer has a part for each aggregator."""

    ID: ClassVar[int] = 0x8011
    name: ClassVar[str] = "splits"
    role_classes: ClassVar[Mapping[PartyRole, type]] = {CLIENT: Splitter, AGGREGATOR: ShareKeeper}
    server: ClassVar[type] = SplitServer
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("Preparation", AGGREGATOR, Proposal, Ready),
        Phase(
            "Report",
            CLIENT,
            Proposal,
            Split,
            takes_input=True,
            relay=AGGREGATOR,
            relayed=Part,
            relayed_vectors=True,
        ),
        Phase("Recount", AGGREGATOR, Recount, Held),
        Phase("Opening", AGGREGATOR, Collect, Sum, reply_vectors=True),
    )

    def answer(self, task: Any, sender: str) -> wire.Message:
        part = wire.overhead(sender, signed=True) + vectors_size(task)
        return Split([bytes(part + wire.structure_size(Part("aggregator-1")))] * 2)


# Vetting


class HeadedClient(Client[ClientState]):
    state_type = ClientState
    answers: ClassVar[Mapping[str, Handler]] = {"Input": method("_input")}

    def _input(self, draft: ClientState, message: Proposal, payload: memoryview) -> Reply:
        lanes = to_lanes(self.context.task, self.context.contribution(draft))
        header = Header(self.stated(sum(int(v) for lane in lanes for v in lane)))
        return Headed(self.context.seal(draft, header)), pack_lanes(self.context.task, lanes)

    def stated(self, total: int) -> int:
        return total


class VetterState(ListenerState):
    seen: dict[str, bytes] = {}  # digests of headers, by client
    approved: dict[str, bool] = {}  # the clients that were; the values say nothing
    leader_words: dict[str, bytes] = {}  # digests of the leader's words, by client


class Vetter(Aggregator[VetterState]):
    """The leader, which is the first by id, or a helper."""

    state_type = VetterState
    answers: ClassVar[Mapping[str, Handler]] = {
        "Preparation": method("_ready"),
        "Agreement": method("_agree"),
    }
    overhears: ClassVar[Mapping[str, Listener]] = {"Input": method("_hear")}

    def _ready(self, draft: VetterState, message: Proposal, payload: memoryview) -> Reply:
        return Ready(), b""

    @property
    def _everyone(self) -> tuple[str, ...]:
        assert self.context.roster is not None
        return self.context.roster.ids(AGGREGATOR)

    def heard(self, envelope: Envelope) -> bool:
        if envelope.kind != Verdict.TYPE:
            return False
        word, _ = envelope.open(Verdict)
        return self._state.leader_words.get(word.client) == envelope.digest

    def _hear(
        self, draft: VetterState, envelope: Envelope, message: Show | Verdict, payload: memoryview
    ) -> Word | None:
        if draft.step != 1:
            raise Reject(FaultKind.OUT_OF_TURN, "got a message about an input outside of its round")
        if isinstance(message, Verdict):
            self._take_leader(draft, envelope, message)
            return None
        header = self.context.relayed(message.header, Header, draft.session_id, CLIENT)
        client, leader = header.sender, self._everyone[0]
        if not is_listed(client, draft.cohort) or draft.seen.get(client, header.digest) != header.digest:
            raise Reject(FaultKind.DUPLICATE, f"got a second header of {client}", blame=client)
        stated, rest = header.open(Header)
        wire.no_vectors(rest)
        if draft.id == leader:
            self._check_helpers(draft, message.words, client, header.digest)
        if client not in draft.seen:
            self.add(draft.seen, client, header.digest)
        accepted = 0 <= stated.total <= sum(s.length * s.bound for s in self.context.task.segments)
        if accepted and draft.id == leader:
            self.add(draft.approved, client, True)
        return Verdict(client, envelope.digest, header.digest, accepted)

    def _take_leader(self, draft: VetterState, envelope: Envelope, word: Verdict) -> None:
        """A helper approves what the leader approved of the header that it saw itself."""
        if envelope.sender != self._everyone[0] or draft.seen.get(word.client) != word.digest:
            raise Reject(FaultKind.INVALID, "got a word that is not the leader's about a header seen here")
        if word.client in draft.leader_words:
            raise Reject(FaultKind.DUPLICATE, "got a second word of the leader about one client")
        self.add(draft.leader_words, word.client, envelope.digest)
        if word.accepted:
            self.add(draft.approved, word.client, True)

    def _check_helpers(self, draft: VetterState, words: list[bytes], client: str, digest: bytes) -> None:
        signers = []
        for data in words:
            envelope = self.context.relayed(data, Verdict, draft.session_id, AGGREGATOR)
            word, rest = envelope.open(Verdict)
            wire.no_vectors(rest)
            if (word.client, word.digest, word.accepted) != (client, digest, True):
                raise Reject(FaultKind.INVALID, f"got a header that {envelope.sender} didn't accept")
            signers.append(envelope.sender)
        if tuple(signers) != self._everyone[1:]:
            raise Reject(FaultKind.INVALID, "got words that are not one of each helper")

    def _agree(self, draft: VetterState, message: Collect, payload: memoryview) -> Reply:
        if not set(from_bitmap(message.clients, draft.cohort)) <= set(draft.approved):
            raise Reject(FaultKind.INVALID, "got a set with a client that was not approved here")
        return Agreed(message.clients), b""


class VettingServer(ServesAggregators):
    steps: ClassVar[Mapping[str, Step]] = {
        "Preparation": Step(method("_ask_aggregators"), method("_take_nothing"), method("_settle_all")),
        "Input": Step(
            method("_ask_clients"),
            method("_take_input"),
            method("_settle_inputs"),
            hand_on=method("_show_helpers"),
            hear=method("_hear"),
        ),
        "Agreement": Step(method("_collect"), method("_take_nothing"), method("_settle_all")),
    }

    def _show_helpers(self, envelope: Envelope, message: Headed, payload: memoryview) -> Mapping[str, ForListener]:
        task, state = self.context.task, self.context.state
        unpacked(task, payload)
        header = self.context.relayed(message.header, Header, state.session_id, CLIENT)
        if header.sender != envelope.sender:
            raise Reject(FaultKind.INVALID, "got another client's header")
        return dict.fromkeys(self.aggregators[1:], (Show(message.header, []), b""))

    def _hear(self, envelope: Envelope, word: Verdict, waiting: Waiting) -> Mapping[str, ForListener]:
        leader, *helpers = self.aggregators
        if word.digest != Envelope.parse(waiting.message.header, self.context.limit).digest:
            raise Reject(FaultKind.INVALID, f"got a word about another header of {word.client}")
        if not word.accepted:
            raise Reject(FaultKind.INVALID, f"refused by {envelope.sender}", blame=word.client)
        if envelope.sender == leader:
            return dict.fromkeys(helpers, envelope.raw)
        if not waiting.words.keys() >= set(helpers):
            return {}
        words = [waiting.words[helper].raw for helper in helpers]
        return {leader: (Show(waiting.message.header, words), b"")}

    def _take_input(self, envelope: Envelope, message: Headed, payload: memoryview) -> None:
        if not self.context.sums:
            self.context.sums = zero_lanes(self.context.task)
        fold_lanes(self.context.task, payload, self.context.sums)


@dataclass(frozen=True)
class Vetting(PartProtocol):
    """An input is taken once every aggregator has vetted it."""

    ID: ClassVar[int] = 0x8012
    name: ClassVar[str] = "vetting"
    role_classes: ClassVar[Mapping[PartyRole, type]] = {CLIENT: HeadedClient, AGGREGATOR: Vetter}
    server: ClassVar[type] = VettingServer
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("Preparation", AGGREGATOR, Proposal, Ready),
        Phase(
            "Input",
            CLIENT,
            Proposal,
            Headed,
            takes_input=True,
            reply_vectors=True,
            relay=AGGREGATOR,
            relayed=Show,
            word=Verdict,
            awaiting=2,
        ),
        Phase("Agreement", AGGREGATOR, Collect, Agreed),
    )

    def answer(self, task: Any, sender: str) -> wire.Message:
        header = wire.overhead(sender, signed=True) + wire.structure_size(Header(1 << 17))
        return Headed(bytes(header))
