"""The baseline: every client sends its encoding in the clear. It hides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from secagg import wire
from secagg.identity import PartyRole
from secagg.lanes import check_mask_bits, fold_lanes, pack_lanes, to_lanes, vectors_size, zero_lanes
from secagg.protocols.base import AggregationProtocol, Cost, largest_proposal
from secagg.roles.client import Client
from secagg.roles.member import Handler, Member, Reply, method
from secagg.roles.server import Server, Step
from secagg.roles.state import ClientState, ServerState
from secagg.table import Phase, Proposal, Round

if TYPE_CHECKING:
    from secagg.task import Task


class Input(wire.Message, frozen=True):
    """A client's encoded update follows, for everyone to read."""

    TYPE: ClassVar[int] = 2


class ClearClient(Client[ClientState]):
    """A client of :class:`secagg.Clear`.

    Input: the server proposes the session, and the client answers with its encoded update, in the clear. Then it
    has finished. It refuses a proposal that does not fit its task.
    """

    state_type = ClientState
    answers: ClassVar[Mapping[str, Handler]] = {Round.INPUT: method("_input")}

    def _input(self, draft: ClientState, message: Proposal, payload: memoryview) -> Reply:
        return Input(), pack_lanes(self.context.task, to_lanes(self.context.task, self.context.contribution(draft)))


class ClearServer(Server[ServerState]):
    """The server of :class:`secagg.Clear`.

    Input: it proposes the session to the cohort, and adds each encoded update to one sum. ``Aborted`` if fewer than
    ``min_survivors`` clients answer. Otherwise the session ends with an ``Outcome``.
    """

    state_type = ServerState
    steps: ClassVar[Mapping[str, Step]] = {
        Round.INPUT: Step(method("propose"), method("_take_input"), method("_settle"), merge=("sums",))
    }

    def _take_input(self, envelope: wire.Envelope, message: Input, payload: memoryview) -> None:
        if not self.context.sums:
            self.context.sums = zero_lanes(self.context.task)
        fold_lanes(self.context.task, payload, self.context.sums)

    def _settle(self) -> None:
        self.context.need(len(self.context.state.survivors), self.context.task.min_survivors, "inputs")


@dataclass(frozen=True)
class Clear(AggregationProtocol):
    """No protection: the server reads every update. Use it to compare other protocols with, and to test with.

    Ideal functionality: none. Every party that sees the traffic learns every update.
    """

    ID: ClassVar[int] = 1
    name: ClassVar[str] = "Clear"
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase(Round.INPUT, PartyRole.CLIENT, Proposal, Input, takes_input=True, reply_vectors=True),
    )
    role_classes: ClassVar[Mapping[PartyRole, type[Member[Any]]]] = {PartyRole.CLIENT: ClearClient}
    server: ClassVar[type[Server[Any]]] = ClearServer

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit."""
        check_mask_bits(task)

    def cost(self, task: Task, cohort: Sequence[str] | None = None, *, signed: bool = True) -> Cost:
        """One message a client; see :meth:`secagg.protocols.base.AggregationProtocol.cost`."""
        ids = list(cohort or wire.stand_in_ids(task.max_clients))
        proposal = Proposal(cohort=ids, session=bytes(32), nonce=bytes(32))
        up = wire.overhead(ids[0], signed=signed) + wire.structure_size(Input()) + vectors_size(task)
        down = wire.overhead(wire.SERVER, session=False, signed=False) + wire.structure_size(proposal)
        return Cost(
            up={Round.INPUT: up},
            down={Round.INPUT: down},
            collusion="the server alone: it reads every update",
            post_quantum=False,
        )

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes; a proposal to the largest cohort, or to the server one vector."""
        return vectors_size(task) + wire.largest(signed=True) if receiver is None else largest_proposal(task)
