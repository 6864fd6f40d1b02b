"""A protocol of your own, by public names only: pairwise masks between all clients, without dropout recovery.

Each client agrees on one mask with every other client. One of the two adds it, the other subtracts it, so the masks
cancel in the sum of all. If one client falls silent, its masks stay in the sum, and nothing is opened.
``docs/extending.md`` explains this file. Run it: ``python examples/own_protocol.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mpc.keys import agree, check_public_key, encode_parts, public_key
from secagg import ConfigError, Task, lanes, wire
from secagg.corruption import check_floor, corrupt_among
from secagg.errors import FaultKind
from secagg.identity import PartyRole, Roster
from secagg.protocols.base import AggregationProtocol, Cost, largest_proposal
from secagg.roles import Client, ClientState, Handler, Member, Reply, Server, ServerState, Step, method
from secagg.table import Phase, Proposal
from secagg.testing import check_protocol


class Advert(wire.Message, frozen=True):
    """A client's X25519 public key of this session. The envelope around it is signed."""

    TYPE: ClassVar[int] = 2
    key: bytes


class Adverts(wire.Message, frozen=True):
    """The clients' signed envelopes with their adverts, in the order of the cohort."""

    TYPE: ClassVar[int] = 3
    adverts: list[bytes]


class MaskedInput(wire.Message, frozen=True):
    """The masked vectors follow."""

    TYPE: ClassVar[int] = 4


class MaskingClient(Client[ClientState]):
    """Advertises a key, then masks its input with one mask for each other client."""

    state_type = ClientState
    answers: ClassVar[Mapping[str, Handler]] = {"AdvertiseKeys": method("_advert"), "MaskedInput": method("_mask")}

    def _advert(self, draft: ClientState, message: Proposal, payload: memoryview) -> Reply:
        return Advert(public_key(self.context.derive(draft, "masking key"))), b""

    def _mask(self, draft: ClientState, message: Adverts, payload: memoryview) -> Reply:
        adverts = [self.context.relayed(a, Advert, draft.session_id, PartyRole.CLIENT) for a in message.adverts]
        if [envelope.sender for envelope in adverts] != draft.cohort:
            raise wire.Reject(FaultKind.INVALID, "the adverts are not one of each client, in the cohort's order")
        private, keys = self.context.derive(draft, "masking key"), []
        for envelope in adverts:
            lower, higher = sorted((draft.id, envelope.sender))
            info = encode_parts("own-protocol/v1/mask", lower, higher)
            if lower != higher:
                key = agree(private, envelope.open(Advert)[0].key, salt=draft.session_id, info=info)
                keys.append((key, 1 if draft.id == lower else -1))
        vectors = lanes.to_lanes(self.context.task, self.context.contribution(draft))
        lanes.mask_all(vectors, keys, self.context.executor)
        return MaskedInput(), lanes.pack_lanes(self.context.task, vectors)


class MaskingServerState(ServerState):
    adverts: dict[str, bytes] = {}


class MaskingServer(Server[MaskingServerState]):
    """Passes the adverts to all clients, and adds the masked inputs as they arrive."""

    state_type = MaskingServerState
    steps: ClassVar[Mapping[str, Step]] = {
        "AdvertiseKeys": Step(method("propose"), method("_take_advert"), method("_settle_adverts")),
        "MaskedInput": Step(method("_send_adverts"), method("_take_input"), method("_settle_inputs")),
    }

    def _take_advert(self, envelope: wire.Envelope, message: Advert, payload: memoryview) -> None:
        check_public_key(message.key)  # the MPCError of a bad key becomes a fault of its sender
        self.context.state.adverts[envelope.sender] = envelope.raw

    def _settle_adverts(self) -> None:
        self.context.need(len(self.context.state.adverts), self.context.task.min_survivors, "adverts")
        self.context.sums = lanes.zero_lanes(self.context.task)

    def _send_adverts(self) -> Mapping[str, Reply]:
        adverts = Adverts([self.context.state.adverts[client] for client in self.context.state.cohort])
        return dict.fromkeys(self.context.state.cohort, (adverts, b""))

    def _take_input(self, envelope: wire.Envelope, message: MaskedInput, payload: memoryview) -> None:
        lanes.fold_lanes(self.context.task, payload, self.context.sums)

    def _settle_inputs(self) -> None:
        self.context.need(len(self.context.state.survivors), self.context.task.min_survivors, "masked inputs")
        lanes.reduce_lanes(self.context.task, self.context.sums)


@dataclass(frozen=True)
class PairwiseMasks(AggregationProtocol):
    """The server learns the sum over the whole cohort, or nothing, though up to c enrolled clients may help it.

    Inputs are independent: a masked input is uniform to everyone but the clients that share its masks.
    """

    corruption: float = 0.33
    threat_model = "malicious"  # not a field: nobody can set it
    ID: ClassVar[int] = 0x8101  # 0x8000 and above are for protocols outside of this library
    name: ClassVar[str] = "PairwiseMasks"
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("AdvertiseKeys", PartyRole.CLIENT, Proposal, Advert),
        Phase("MaskedInput", PartyRole.CLIENT, Adverts, MaskedInput, takes_input=True, reply_vectors=True),
    )
    role_classes: ClassVar[Mapping[PartyRole, type[Member[Any]]]] = {PartyRole.CLIENT: MaskingClient}
    server: ClassVar[type[Server[Any]]] = MaskingServer

    def validate(self, task: Task) -> None:
        lanes.check_mask_bits(task)

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        if roster is None:
            raise ConfigError("there is no roster, so a server could invent clients; pass roster=")

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        check_floor(task, corrupt_among(self, len(cohort), roster))
        if task.min_survivors != len(cohort):
            raise ConfigError(f"nobody may drop out: min_survivors must be the cohort's size, {len(cohort)}")

    def cost(self, task: Task, cohort: Sequence[str] | None = None) -> Cost:
        ids = list(cohort or wire.stand_in_ids(task.max_clients))
        up, down = wire.overhead(ids[0], signed=True), wire.overhead("", signed=False)
        advert = up + wire.structure_size(Advert(bytes(32)))
        masked = up + wire.structure_size(MaskedInput()) + lanes.vectors_size(task)
        proposal = down - 32 + wire.structure_size(Proposal(ids, bytes(32), bytes(32)))  # it has no session id yet
        adverts = down + wire.structure_size(Adverts([bytes(advert)] * len(ids)))
        sent = {"AdvertiseKeys": advert, "MaskedInput": masked}
        received = {"AdvertiseKeys": proposal, "MaskedInput": adverts}
        return Cost(sent, received, f"the server and {len(ids) - 1} of {len(ids)} clients", post_quantum=False)

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        advert = wire.largest(32, signed=True)
        adverts = wire.largest((task.max_clients, advert), signed=False)
        return advert + lanes.vectors_size(task) if receiver is None else adverts + largest_proposal(task)


if __name__ == "__main__":
    print(*check_protocol(PairwiseMasks()), sep="\n")
