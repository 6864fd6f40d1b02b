"""A protocol in the clear with a committee that is asked before and after the clients. It protects nothing.

No protocol of the library has this shape: several decryptors, all of whom are needed, each opening a part of a sum
of keys. What it does with the numbers is the least that makes a wrong order or a lost message show in the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from secagg import wire
from secagg.identity import PartyRole
from secagg.lanes import fold_lanes, pack_lanes, reduce_lanes, to_lanes, vectors_size, zero_lanes
from secagg.protocols.base import AggregationProtocol, Cost
from secagg.roles import Client, ClientState, Decryptor, MemberState, Reply, Server, ServerState, Step
from secagg.roles.member import Handler
from secagg.table import Phase, Proposal, rounds
from secagg.wire import Envelope

CLIENT, DECRYPTOR = PartyRole.CLIENT, PartyRole.DECRYPTOR


class Ready(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 10


class KeyedInput(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 30
    seed: bytes


class SumOfKeys(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 31
    seeds: list[bytes]


class PartialOpening(wire.Message, frozen=True):
    TYPE: ClassVar[int] = 32


def noise(seed: bytes, task: Any) -> list[Any]:
    """Integers that everyone who knows ``seed`` can draw again, one array a segment."""
    stream = np.random.default_rng(np.frombuffer(seed, np.uint8))
    return [stream.integers(0, np.iinfo(v.dtype).max, v.size, v.dtype, endpoint=True) for v in zero_lanes(task)]


class CommitteeMember(Decryptor[MemberState]):
    state_type = MemberState

    def _ready(self, draft: MemberState, message: Proposal, payload: memoryview) -> Reply:
        return Ready(), b""

    def _open_keys(self, draft: MemberState, message: SumOfKeys, payload: memoryview) -> Reply:
        """This member's part of the sum of keys: the committee's parts, added up, are the sum."""
        members, task = self.context.roster.ids(DECRYPTOR), self.context.task
        total = zero_lanes(task)
        for place, seed in enumerate(message.seeds):
            if members[place % len(members)] == self.id:
                total = [v + r for v, r in zip(total, noise(seed, task), strict=True)]
        return PartialOpening(), pack_lanes(task, total)

    answers: ClassVar[Mapping[str, Handler]] = {"Committee": _ready, "SumOfKeys": _open_keys}


class CommitteeClient(Client[ClientState]):
    state_type = ClientState

    def _input(self, draft: ClientState, message: Proposal, payload: memoryview) -> Reply:
        seed, task = self.context.derive(draft, "seed"), self.context.task
        lanes = to_lanes(task, self.context.contribution(draft))
        return KeyedInput(seed), pack_lanes(task, [v + r for v, r in zip(lanes, noise(seed, task), strict=True)])

    answers: ClassVar[Mapping[str, Handler]] = {"Input": _input}


class CommitteeServerState(ServerState):
    seeds: list[bytes] = []


class CommitteeServer(Server[CommitteeServerState]):
    state_type = CommitteeServerState

    def _propose(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.roster.ids(DECRYPTOR), (self.context.proposal(), b""))

    def _take_ready(self, envelope: Envelope, message: Ready, payload: memoryview) -> None:
        pass

    def _need_committee(self) -> None:
        committee = self.context.roster.ids(DECRYPTOR)
        self.context.need(len(self.context.state.answered), len(committee), "members of the committee")

    def _settle_committee(self) -> None:
        self._need_committee()
        self.context.sums = zero_lanes(self.context.task)

    def _ask_inputs(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.state.cohort, (self.context.proposal(), b""))

    def _take_input(self, envelope: Envelope, message: KeyedInput, payload: memoryview) -> None:
        fold_lanes(self.context.task, payload, self.context.sums)
        self.context.state.seeds.append(message.seed)

    def _settle_inputs(self) -> None:
        self.context.state.survivors = sorted(self.context.state.answered)
        self.context.need(len(self.context.state.survivors), self.context.task.min_survivors, "inputs")

    def _ask_sum(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.roster.ids(DECRYPTOR), (SumOfKeys(self.context.state.seeds), b""))

    def _take_partial(self, envelope: Envelope, message: PartialOpening, payload: memoryview) -> None:
        part = zero_lanes(self.context.task)
        fold_lanes(self.context.task, payload, part)
        self.context.sums = [v - p for v, p in zip(self.context.sums, part, strict=True)]

    def _settle_partials(self) -> None:
        self._need_committee()
        reduce_lanes(self.context.task, self.context.sums)

    steps: ClassVar[Mapping[str, Step]] = {
        "Committee": Step(_propose, _take_ready, _settle_committee),
        "Input": Step(_ask_inputs, _take_input, _settle_inputs),
        "SumOfKeys": Step(_ask_sum, _take_partial, _settle_partials),
    }


@dataclass(frozen=True)
class Committee(AggregationProtocol):
    """A committee of three that is asked first whether it is there, and for the sum of the clients' keys last."""

    ID: ClassVar[int] = 0x8003
    name: ClassVar[str] = "committee"
    party_counts: ClassVar[Mapping[PartyRole, int]] = {DECRYPTOR: 3}
    role_classes: ClassVar[Mapping[PartyRole, type]] = {CLIENT: CommitteeClient, DECRYPTOR: CommitteeMember}
    server: ClassVar[type] = CommitteeServer
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("Committee", DECRYPTOR, Proposal, Ready),
        Phase("Input", CLIENT, Proposal, KeyedInput, takes_input=True, reply_vectors=True),
        Phase("SumOfKeys", DECRYPTOR, SumOfKeys, PartialOpening, reply_vectors=True),
    )

    def validate(self, task: Any) -> None:
        pass

    def cost(self, task: Any, cohort: Any = None) -> Cost:
        zero = dict.fromkeys(rounds(self), 0)
        return Cost(up=zero, down=zero, collusion="nobody", post_quantum=False)

    def largest_message(self, task: Any, receiver: Any) -> int:
        return 65536 + 2 * vectors_size(task)
