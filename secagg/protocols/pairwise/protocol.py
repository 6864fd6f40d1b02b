"""SecAgg and SecAggPlus: pairwise masks that cancel in the sum (Bonawitz et al., CCS 2017; Bell et al., CCS 2020).

Client u uploads ``masked_input`` = x_u + PRG(b_u) + Σ_{v > u} PRG(s_uv) - Σ_{v < u} PRG(s_uv). It deals two
secrets to the others in Shamir shares: the seed b_u of its self mask, and the private key behind every s_uv. At
the end the survivors reveal, for each client, a share of *one* of the two: of b_u where u's input is in the sum,
else of the key. U1 ⊇ U2 ⊇ U3 are the clients that advertised keys, dealt shares, sent their input. A set travels
as a bitmap over U1 sorted by id. A client's evaluation point is its place among the holders of a dealer's
shares, plus one.

u and v share a mask if they are neighbours on a graph over U1: the complete graph in SecAgg, a sparse random one
in SecAggPlus. This module is the top of the folder. Below it are, for SecAgg, ``parameters`` (thresholds and
floors), ``client`` and ``server``; for what SecAggPlus adds ``sparse_parameters``, ``sparse_client`` and
``sparse_server``; for both ``messages``, ``states``, ``neighbours`` (the graph) and ``cost``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from secagg.corruption import ThreatModel
from secagg.errors import ConfigError
from secagg.identity import PartyRole
from secagg.protocols.base import Cost
from secagg.protocols.pairwise import messages
from secagg.protocols.pairwise.client import PairwiseClient
from secagg.protocols.pairwise.cost import cost, largest
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.protocols.pairwise.server import PairwiseServer
from secagg.protocols.pairwise.sparse_client import SparseClient
from secagg.protocols.pairwise.sparse_parameters import Sparse
from secagg.protocols.pairwise.sparse_server import SparseServer
from secagg.roles.member import Member
from secagg.roles.server import Server
from secagg.table import Phase, Proposal, Round

if TYPE_CHECKING:
    from secagg.task import Task


@dataclass(frozen=True)
class SecAgg(Pairwise):
    """Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017).

    Every client shares masks with every other, and has a mask of its own. Clients may drop out in every round.
    ``corruption`` is the fraction of clients that may collude with the server. Under ``threat_model="malicious"``
    the server may lie, and tell different clients different things. Identities and a roster are then needed, c is
    counted over all enrolled clients, and clients sign the survivor list. Under ``"semi-honest"`` the server
    follows the protocol: there is no ConsistencyCheck, and c is counted over the cohort.

    Ideal functionality: the server learns U3, with ``|U3| >= min_survivors``, and the sum over it. If at most c
    clients collude, every opened sum holds at least ``min_survivors - c`` honest updates. Clients learn U1, U2 and
    U3, and nothing of each other's updates. An abort before Unmasking reveals nothing; after that, the server may
    have the sum, whatever it claims. A client can spoil the sum, but can't read it.
    """

    corruption: float = 0.33
    threat_model: ThreatModel = "malicious"

    ID: ClassVar[int] = 2
    name: ClassVar[str] = "SecAgg"
    threat_models: ClassVar[tuple[str, ...]] = ("malicious", "semi-honest")

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, or if no cohort at all could be safe."""
        if task.max_clients >= 1 << 16:
            raise ConfigError(f"got max_clients={task.max_clients}; SecAgg's complete graph ends at 65,535")
        super().validate(task)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The rounds of figure 4 of the paper."""
        client = PartyRole.CLIENT
        checked = (Phase(Round.CONSISTENCY_CHECK, client, messages.Survivors, messages.SignedSurvivors),)
        return (
            Phase(Round.ADVERTISE_KEYS, client, Proposal, messages.Advert),
            Phase(Round.SHARE_KEYS, client, messages.Adverts, messages.DealtShares),
            Phase(
                Round.MASKED_INPUT,
                client,
                messages.HeldShares,
                messages.MaskedInput,
                takes_input=True,
                reply_vectors=True,
            ),
            *(checked if self.checked else ()),
            Phase(Round.UNMASKING, client, messages.Unmask, messages.Revealed),
        )

    @property
    def role_classes(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """The class of the clients; nobody else answers the server."""
        return {PartyRole.CLIENT: PairwiseClient}

    @property
    def server(self) -> type[Server[Any]]:
        """The class of the server."""
        return PairwiseServer

    def cost(self, task: Task, cohort: Sequence[str] | None = None, *, signed: bool | None = None) -> Cost:
        """Bytes by round if nobody drops out; see :meth:`secagg.protocols.base.AggregationProtocol.cost`."""
        return cost(self, task, cohort, signed)

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes of the largest message that any cohort makes, with ids of the greatest length."""
        return largest(self, task, receiver)


@dataclass(frozen=True)
class SecAggPlus(Sparse):
    """Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020).

    SecAgg on a sparse random graph: a client has masks and shares in common with k neighbours, instead of with
    everyone. Every client computes k, the threshold and the other numbers of the graph for itself
    (:func:`mpc.graph.sparse_parameters`). They are for the |U1| clients of the graph, of which c are corrupt and
    |U1| - ``min_survivors`` may drop out. If no k below |U1| - 1 is safe, the graph is complete, with SecAgg's
    threshold. The neighbours follow from the session id, and therefore from everyone's fresh keys and from 32 bytes
    that the server draws once it has all keys.

    ``threat_model="semi-malicious"``: the server is honest until the graph is fixed, and may lie after that.
    Identities and a roster are needed. Clients sign the survivor list. A client reveals nothing (i) unless more
    than (n + c)/2 of the n clients in U1 signed the same list, (ii) unless every k/2 consecutive places on the ring
    hold more survivors than there can be corrupt clients, and (iii) of a survivor's self mask, unless that survivor
    vouched for the same U2. c is counted over the cohort, which the server is assumed to choose honestly.

    ``"malicious"``: the server may lie from the start. ``beacon`` (a :class:`secagg.beacon.Beacon`) is needed, and
    c is counted over all enrolled clients. Before anyone's neighbours are known, the server shows every client the
    frozen U1. The client notes by its own clock which round of the beacon comes next, and accepts only a graph that
    is drawn from the value of that round or of one of the 63 rounds after it.

    ``"semi-honest"``: the server follows the protocol, and there are no such checks. A server that lies about
    dropouts can open a small part of the sum, or one client's update. The graph allows for the loss of |U1| -
    ``min_survivors`` clients. If as many clients as may drop out did so before they advertised keys, one more that
    is silent in Unmasking can end the session, with nothing opened.

    Ideal functionality: that of SecAgg, with two differences. Clients learn U1, U2, U3, and the keys of their
    neighbours only. And it fails with probability 2^-40 for each graph that is drawn. No party can draw twice in
    one session, but a retry of the session draws a new graph. The server can cause a retry, and so can corrupt
    clients that stay silent until too few remain. Before MaskedInput this costs them nothing, so m attempts fail
    with at most m times that probability: limit the retries.
    """

    corruption: float = 0.05
    threat_model: ThreatModel = "semi-malicious"

    ID: ClassVar[int] = 3
    name: ClassVar[str] = "SecAggPlus"
    threat_models: ClassVar[tuple[str, ...]] = ("malicious", "semi-malicious", "semi-honest")

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """SecAgg's rounds on a sparse graph; FreezeKeys only where a beacon draws it."""
        client = PartyRole.CLIENT
        frozen = (Phase(Round.FREEZE_KEYS, client, messages.Frozen, messages.NextRound),)
        near = messages.DrawnAdverts if self.uses_beacon else messages.NearAdverts
        masked = messages.VouchedInput if self.checked else messages.MaskedInput
        checked = (Phase(Round.CONSISTENCY_CHECK, client, messages.VouchedSurvivors, messages.SignedSurvivors),)
        return (
            Phase(Round.ADVERTISE_KEYS, client, Proposal, messages.Advert),
            *(frozen if self.uses_beacon else ()),
            Phase(Round.SHARE_KEYS, client, near, messages.DealtShares),
            Phase(Round.MASKED_INPUT, client, messages.HeldShares, masked, takes_input=True, reply_vectors=True),
            *(checked if self.checked else ()),
            Phase(Round.UNMASKING, client, messages.Unmask, messages.Revealed),
        )

    @property
    def role_classes(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """The class of the clients; nobody else answers the server."""
        return {PartyRole.CLIENT: SparseClient}

    @property
    def server(self) -> type[Server[Any]]:
        """The class of the server."""
        return SparseServer

    def cost(self, task: Task, cohort: Sequence[str] | None = None, *, signed: bool | None = None) -> Cost:
        """Bytes by round if nobody drops out; see :meth:`secagg.protocols.base.AggregationProtocol.cost`."""
        return cost(self, task, cohort, signed)

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes of the largest message that any cohort makes, with ids of the greatest length."""
        return largest(self, task, receiver)
