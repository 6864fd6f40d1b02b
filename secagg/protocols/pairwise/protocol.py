"""SecAgg and SecAggPlus: pairwise masks that cancel in the sum (Bonawitz et al., CCS 2017; Bell et al., CCS 2020).

Client u uploads ``masked_input`` = x_u + PRG(b_u) + Σ_{v > u} PRG(s_uv) - Σ_{v < u} PRG(s_uv). The self mask's seed
b_u and the private key behind every s_uv are dealt to the others in Shamir shares; at the end the
survivors reveal, for each client, a share of *one* of the two: of b_u where u's input is in the sum, of
the key where it isn't. U1 ⊇ U2 ⊇ U3 are the clients that advertised keys, dealt shares, sent their
input. A set travels as a bitmap over U1 sorted by id; a client's evaluation point is its
position among the holders of a dealer's shares, plus one.

u, v are neighbours on a graph over U1: the complete one in SecAgg, a sparse random one in SecAggPlus.
The protocols' parameters are here, the messages in ``messages``, the roles in
``client`` and ``server``, what a session costs in ``cost``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from secagg.beacon import SLACK_BITS, Beacon
from secagg.corruption import ThreatModel, check_corruption, corrupt_among, corrupt_count
from secagg.errors import ConfigError
from secagg.identity import PartyRole, Roster
from secagg.lanes import check_mask_bits
from secagg.protocols.base import AggregationProtocol, Cost
from secagg.protocols.pairwise.messages import (
    Advert,
    Adverts,
    DealtShares,
    DrawnAdverts,
    Frozen,
    HeldShares,
    MaskedInput,
    NearAdverts,
    NextRound,
    Revealed,
    SignedSurvivors,
    Survivors,
    Unmask,
    VouchedInput,
    VouchedSurvivors,
)
from secagg.protocols.pairwise.neighbours import Shape
from secagg.table import Phase, Proposal, Round

if TYPE_CHECKING:
    from secagg.roles.member import Member
    from secagg.roles.server import Server
    from secagg.task import Task

MAX_POINT = (1 << 16) - 1


@dataclass(frozen=True)
class Pairwise(AggregationProtocol):
    """What SecAgg and SecAggPlus have in common: all but the graph."""

    corruption: float
    threat_model: ThreatModel

    name: ClassVar[str]
    threat_models: ClassVar[tuple[str, ...]]
    sparse: ClassVar[bool]
    others: ClassVar[Mapping[PartyRole, int]] = {}

    def __post_init__(self) -> None:
        if self.threat_model not in self.threat_models:
            known = " or ".join(map(repr, self.threat_models))
            raise ConfigError(f"got threat_model={self.threat_model!r}; expected {known}")
        object.__setattr__(self, "corruption", check_corruption(self.corruption))

    @property
    def checked(self) -> bool:
        """Whether clients sign survivor lists, and act on none that too few have signed."""
        return self.threat_model != "semi-honest"

    @property
    def drawn(self) -> bool:
        """Whether the graph hangs on a beacon's value, published after the keys were frozen."""
        return self.sparse and self.threat_model == "malicious"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The table of the protocol's rounds."""
        client = PartyRole.CLIENT
        vouched = self.sparse and self.checked
        survivors = VouchedSurvivors if vouched else Survivors
        checked = (Phase(Round.CONSISTENCY_CHECK, client, survivors, SignedSurvivors),)
        masked = VouchedInput if vouched else MaskedInput
        frozen = (Phase(Round.FREEZE_KEYS, client, Frozen, NextRound),)
        near = DrawnAdverts if self.drawn else NearAdverts
        return (
            Phase(Round.ADVERTISE_KEYS, client, Proposal, Advert),
            *(frozen if self.drawn else ()),
            Phase(Round.SHARE_KEYS, client, near if self.sparse else Adverts, DealtShares),
            Phase(Round.MASKED_INPUT, client, HeldShares, masked, takes_input=True, reply_vectors=True),
            *(checked if self.checked else ()),
            Phase(Round.UNMASKING, client, Unmask, Revealed),
        )

    @property
    def members(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """Clients alone answer the server."""
        from secagg.protocols.pairwise.client import PairwiseClient

        return {PartyRole.CLIENT: PairwiseClient}

    @property
    def server(self) -> type[Server[Any]]:
        """The server's class."""
        from secagg.protocols.pairwise.server import PairwiseServer

        return PairwiseServer

    def corrupt(self, cohort: int, roster: Roster | None) -> int:
        """c: how many clients may collude with the server, of the cohort or of all enrolled."""
        return corrupt_among(self, cohort, roster)

    def threshold(self, present: int, corrupt: int) -> int:
        """t on the complete graph: shares that rebuild a secret, when ``present`` clients deal.

        Where survivor lists are signed: above (n + c)/2, so that no two disjoint sets of survivors, the corrupt
        in both, each hold t shares (section 6.2 of the paper). Semi-honest: more than the corrupt have.
        """
        return self.quorum(present, corrupt) or max(2, corrupt + 1)

    def quorum(self, present: int, corrupt: int) -> int:
        """Signatures under a survivor list that no two lists can both have: more than (n + c)/2. 0: none asked."""
        return (present + corrupt) // 2 + 1 if self.checked else 0

    def shape(self, task: Task, present: int, corrupt: int) -> Shape:
        """The graph's parameters for ``present`` clients: the complete graph's."""
        return Shape(present, present - 1, self.threshold(present, corrupt), self.quorum(present, corrupt))

    def floor(self, task: Task, present: int, corrupt: int) -> int:
        """The least survivors whose sum is opened."""
        shape = self.shape(task, present, corrupt)
        return max(task.min_survivors, shape.threshold, shape.quorum)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, or if no cohort at all could be safe."""
        check_mask_bits(task)
        # Anything that the least cohort can't satisfy, no roster and no larger cohort will.
        self._check_floor(task, task.min_survivors, corrupt_count(self.corruption, task.min_survivors))

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        """Raise ``ConfigError`` for a missing roster, or one with so many enrolled that no cohort would do."""
        if self.checked and roster is None:
            raise ConfigError(
                f'got no roster; threat_model="{self.threat_model}" needs identities that the server can\'t '
                f'invent: pass roster= and identity=, or ask for {self.name}(threat_model="semi-honest") by name'
            )
        if self.threat_model != "malicious":
            return
        self._check_cohort_size(task, task.max_clients, self.corrupt(task.max_clients, roster))
        least = max(task.min_survivors, self.corrupt(task.max_clients, roster) + 2)
        self._check_floor(task, least, self.corrupt(least, roster))

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        """Raise ``ConfigError`` where threshold, floor and cohort don't fit each other."""
        self.validate_roster(task, roster)
        c = self.corrupt(len(cohort), roster)
        self._check_cohort_size(task, len(cohort), c)
        self._check_floor(task, len(cohort), c)

    def _check_cohort_size(self, task: Task, present: int, corrupt: int) -> None:
        if self.threat_model == "malicious" and present < corrupt + 2:
            raise ConfigError(
                f"got a cohort of {present} with {corrupt} of all enrolled clients possibly corrupt; expected "
                f"at least {max(corrupt + 2, task.min_survivors)}: ask more clients, or enrol fewer"
            )

    def _check_floor(self, task: Task, present: int, corrupt: int) -> None:
        shape = self.shape(task, present, corrupt)
        least = max(shape.threshold, shape.quorum, corrupt + 2)
        if task.min_survivors < least:
            raise ConfigError(
                f"got min_survivors={task.min_survivors} with a cohort of {present}, {corrupt} of them possibly "
                f"corrupt; expected at least {least}, so that no sum opens for two stories or for one honest "
                "client: raise min_survivors, or lower corruption if fewer can collude"
            )

    def cost(self, task: Task, cohort: Sequence[str] | None = None, *, signed: bool | None = None) -> Cost:
        """Bytes by round with nobody dropping out; see :class:`~secagg.protocols.base.Cost`."""
        from secagg.protocols.pairwise.cost import cost

        return cost(self, task, cohort, signed)

    def collusion(self, task: Task, present: int | None) -> str:
        """Who breaks it: one client more than c, or all the others in the smallest sum, by subtraction."""
        smallest = task.min_survivors if present is None else present
        breaks = min(self.corrupt(smallest, None) + 1, task.min_survivors - 1)
        least = "" if present is not None else " in the smallest session allowed"
        return f"the server and {breaks} of {smallest} clients{least}"

    def describe(self, task: Task) -> list[str]:
        """Threat model, thresholds and floor, in lines for :meth:`secagg.Task.describe`."""
        among = "enrolled" if self.threat_model == "malicious" else "in the cohort"
        return [
            f"{self.threat_model} server, which up to {self.corruption:.0%} of the clients {among} may help",
            f"{self._thresholds(task)} rebuild a secret; no sum of fewer than {task.min_survivors} is opened",
        ]

    def _thresholds(self, task: Task) -> str:
        shapes = self._shapes(task)
        return " to ".join(f"{shape.threshold} of {shape.nodes}" for shape in shapes) + " shares"

    def _shapes(self, task: Task) -> list[Shape]:
        """Of the smallest and the largest cohort."""
        sizes = sorted({task.min_survivors, task.max_clients})
        return [self.shape(task, size, self.corrupt(size, None)) for size in sizes]

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes; of the largest message that any cohort makes, with ids of the greatest length."""
        from secagg.protocols.pairwise.cost import largest

        return largest(self, task, receiver)


@dataclass(frozen=True)
class SecAgg(Pairwise):
    """Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017).

    On the complete graph, with double masks and dropout in every round. ``corruption`` is the
    fraction of clients that may collude with the server. ``threat_model="malicious"``: the server may lie
    and tell different clients different things; identities and a roster are needed, c is counted
    over all enrolled clients, and survivor lists are signed. ``"semi-honest"``: the server
    follows the protocol, there is no ConsistencyCheck, c is counted over the cohort.

    Ideal functionality: the server learns the sum over U3, with ``|U3| >= min_survivors``, and U3;
    with at most c clients colluding, no opened sum holds fewer than ``min_survivors - c`` honest
    updates. Clients learn U1, U2 and U3 and nothing of each other's updates. An abort before
    Unmasking reveals nothing; from then on the server may hold the sum, whatever it says. A client
    can spoil the sum, not read it.
    """

    corruption: float = 0.33
    threat_model: ThreatModel = "malicious"

    ID: ClassVar[int] = 2
    name: ClassVar[str] = "SecAgg"
    threat_models: ClassVar[tuple[str, ...]] = ("malicious", "semi-honest")
    sparse: ClassVar[bool] = False

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, or if no cohort at all could be safe."""
        if task.max_clients >= 1 << 16:
            raise ConfigError(f"got max_clients={task.max_clients}; SecAgg's complete graph ends at 65,535")
        super().validate(task)


@dataclass(frozen=True)
class SecAggPlus(Pairwise):
    """Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020).

    SecAgg on a sparse random graph: a client shares masks and shares with k neighbours, not with
    everyone. Every client computes k, the threshold and all else that the graph needs for itself,
    for the |U1| clients on which it stands, c of them corrupt, |U1| - ``min_survivors`` dropping out
    (:func:`mpc.graph.sparse_parameters`); where no k below |U1| - 1 will do, the graph is
    complete, with SecAgg's threshold. Who is whose neighbour follows from the session id, and so
    from everyone's fresh keys and from 32 bytes that the server draws once it has them all.

    ``threat_model="semi-malicious"``: the server is honest until the graph stands, and then lies as it
    likes. Identities and a roster are needed. Survivor lists are signed, and a client reveals nothing (i)
    under a list without signatures of more than (n + c)/2 of the n in U1 over the same bytes, (ii) unless every
    k/2 consecutive places on the ring hold more survivors than there can be corrupt ones, (iii) of
    a survivor's self mask unless that survivor vouched for the same U2. c is counted over the cohort,
    which is taken to be chosen honestly.

    ``"malicious"``: the server lies from the start. ``beacon`` (a :class:`secagg.beacon.Beacon`) is
    needed, and c is counted over all enrolled. Before anyone's neighbours are known, the server
    shows every client the frozen U1; the client notes by its own clock which round of the beacon comes next,
    and takes no graph but one drawn from that round's value or one of the 63 after it.

    ``"semi-honest"``: the server follows the protocol, and there are no such checks; one that lies
    about who dropped out can open a small part of the sum, or one client's update. The graph is made to
    lose |U1| - ``min_survivors`` clients: where as many as may drop out did so before they advertised
    keys, one more that is silent in Unmasking can end the session, with nothing opened.

    Ideal functionality: as SecAgg's, but that clients learn U1, U2, U3 and the keys of their
    neighbours only, and that it fails with probability 2^-40 for each graph that is drawn. No
    client can draw twice in a session. The server can: an attempt that it gives up before
    MaskedInput costs it nothing and draws a new graph, so m attempts fail with m times that probability.
    """

    corruption: float = 0.05
    threat_model: ThreatModel = "semi-malicious"
    beacon: Beacon | None = None

    ID: ClassVar[int] = 3
    name: ClassVar[str] = "SecAggPlus"
    threat_models: ClassVar[tuple[str, ...]] = ("malicious", "semi-malicious", "semi-honest")
    sparse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threat_model == "malicious" and self.beacon is None:
            raise ConfigError(
                'got threat_model="malicious" without beacon=; a server that knows how the graph will be drawn can '
                'choose a client\'s neighbours: pass a secagg.beacon.SignedBeacon(...), or take "semi-malicious", '
                "or SecAgg()"
            )
        if self.beacon is not None and self.threat_model != "malicious":
            raise ConfigError(
                f'got beacon= with threat_model="{self.threat_model}"; only "malicious" draws from one'
            )
        if self.beacon is not None and not isinstance(self.beacon, Beacon):
            raise ConfigError(
                f"got beacon={self.beacon!r:.80}; expected one such as secagg.beacon.SignedBeacon(...)"
            )

    def shape(self, task: Task, present: int, corrupt: int) -> Shape:
        """The graph's parameters for ``present`` clients, of whom ``min_survivors`` are sure to stay."""
        from mpc import graph

        # Of so many values of the beacon the server may take the one that suits it best.
        security = graph.SECURITY + (SLACK_BITS if self.drawn else 0)
        found = None
        if present >= task.min_survivors and present > corrupt:
            found = graph.sparse_parameters(
                present,
                corrupt=corrupt,
                dropping=present - task.min_survivors,
                server="semi-malicious" if self.checked else "curious",
                security=security,
                windows=self.checked,
            )
        if found is None:
            return super().shape(task, present, corrupt)
        degree, threshold = found
        window = degree // 2 if self.checked else 0
        least = graph.window_floor(present, corrupt=corrupt, window=window, security=security) if window else 0
        return Shape(present, degree, threshold, self.quorum(present, corrupt), window, least)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, or if the largest cohort couldn't be served."""
        super().validate(task)
        corrupt = corrupt_count(self.corruption, task.max_clients)
        self._check_floor(task, task.max_clients, corrupt)
        if self.shape(task, task.max_clients, corrupt).degree >= MAX_POINT:
            raise ConfigError(
                f"got max_clients={task.max_clients} with min_survivors={task.min_survivors}, for which a client "
                f"would need {MAX_POINT} neighbours or more: raise min_survivors or lower max_clients"
            )

    def _thresholds(self, task: Task) -> str:
        return " to ".join(
            f"{shape.threshold} of {shape.nodes if shape.complete else shape.degree} shares ({shape.nodes} clients)"
            for shape in self._shapes(task)
        )

    def collusion(self, task: Task, present: int | None) -> str:
        """Who must collude; and, where nothing is checked, what a server that lies could do alone."""
        plain, nodes = super().collusion(task, present), present or task.max_clients
        if self.checked:
            return plain
        shape = self.shape(task, nodes, self.corrupt(nodes, None))
        alone = (
            2 * shape.threshold <= shape.degree
        )  # a self mask from one half of the holders, a key from the other
        return (
            f"{plain}; a server that lies about who dropped out can do it alone"
            if alone
            else f"{plain}; nothing is promised against a server that lies about who dropped out"
        )
