"""AdditiveShares: clients split their updates between m servers, one honest one of which is enough.

Client u shards x_u into m *input shares* that add up to it modulo 2^k, and seals one to each *aggregator* in a
single signed *report*. Each aggregator adds up the shares of the same reports and releases one *aggregate
share*; the *collector*, this library's server, adds those (*unshard*). The words, and the shares written as
seeds, are those of VDAF and DAP (draft-irtf-cfrg-vdaf, draft-ietf-ppm-dap) without their proofs.

The first aggregator by id is the *leader*, whose share is written out; the others are *helpers*, whose shares
are seeds. The leader adds up what it opens and keeps no report; a helper keeps 32 bytes a report and adds up at
the end. A client can seal garbage to one of them, which only that one can see, and must not end the session
by it. What the leader can't open it doesn't take, and the helpers drop the seed. What a helper can't open it
keeps as it was signed, and hands back in the recount, so that the leader can take off what it added. Memory
is O(vector), for no helper keeps more than ``MAX_UNOPENED`` such reports.

The protocol's parameters are here, its messages in ``messages``, the roles in ``client``, ``aggregator`` and
``collector``. Sets of reports travel as bitmaps over the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mpc.additive import SEED_BYTES
from mpc.errors import MPCError
from mpc.hpke import PRIVATE_BYTES, Kem, PrivateKey, check_public_key
from secagg import wire
from secagg._numbers import whole
from secagg.bitmap import bitmap_bytes
from secagg.corruption import ThreatModel, check_corruption, check_floor, corrupt_among, corrupt_count
from secagg.errors import ConfigError, FaultKind, shown
from secagg.identity import PartyRole, Roster
from secagg.lanes import check_mask_bits, vectors_size
from secagg.protocols.base import AggregationProtocol, Cost, largest_proposal
from secagg.protocols.shares.messages import (
    HASH_BYTES,
    MAX_AGGREGATORS,
    MAX_UNOPENED,
    AggregateShare,
    Agreed,
    Collect,
    Held,
    Ready,
    Recount,
    Release,
    Report,
)
from secagg.table import Phase, Proposal, Round
from secagg.wire import Reject

if TYPE_CHECKING:
    from secagg.roles.member import Member
    from secagg.roles.server import Server
    from secagg.task import Task


@dataclass(frozen=True)
class AdditiveShares(AggregationProtocol):
    """Additive shares between ``aggregators`` servers, of which one honest one suffices; one message a client.

    ``corruption`` is the fraction of clients that may collude with the collector and with all aggregators
    but one: of everyone enrolled (``threat_model="malicious"``) or of the cohort (``"semi-honest"``: the
    collector picks it honestly). ``kem`` is what input shares are sealed by: "MLKEM768-X25519" (X-Wing), under
    which recorded reports stay confidential against a quantum computer, or "X25519". The roster lists exactly
    ``aggregators`` aggregators, each with a sealing key of that kind.

    Ideal functionality: the collector learns the sum over the agreed reports, at least ``min_survivors`` of them
    and each of another enrolled client of the cohort, and whose they are. The aggregators learn whose reports there
    are, and nothing of any update as long as one of them is honest; with at most c clients colluding, no
    opened sum holds fewer than ``min_survivors - c`` honest updates, and an honest aggregator that keeps a ledger
    takes part in one sum only under one (task, session); without a ledger that holds until it is started anew.
    Clients learn the cohort. An abort before AggregateShare reveals nothing; from then on the collector may hold
    the sum, whatever it says. A client or an aggregator can spoil the sum, not read it; a silent client costs
    nothing, a silent aggregator the session.
    """

    aggregators: int = 2
    corruption: float = 0.05
    threat_model: ThreatModel = "malicious"
    kem: str = Kem.MLKEM768_X25519

    ID: ClassVar[int] = 4
    name: ClassVar[str] = "AdditiveShares"
    #: Rounds with messages that depend on randomness of HPKE, which no seed governs.
    unseeded: ClassVar[tuple[str, ...]] = (Round.REPORT, Round.AGREEMENT, Round.AGGREGATE_SHARE)
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase(Round.PREPARATION, PartyRole.AGGREGATOR, Proposal, Ready),
        Phase(
            Round.REPORT,
            PartyRole.CLIENT,
            Proposal,
            Report,
            takes_input=True,
            reply_vectors=True,
            relay=PartyRole.AGGREGATOR,
        ),
        Phase(Round.RECOUNT, PartyRole.AGGREGATOR, Recount, Held),
        Phase(Round.AGREEMENT, PartyRole.AGGREGATOR, Collect, Agreed),
        Phase(Round.AGGREGATE_SHARE, PartyRole.AGGREGATOR, Release, AggregateShare, reply_vectors=True),
    )

    def __post_init__(self) -> None:
        aggregators = whole(self.aggregators)
        if aggregators is None or not 2 <= aggregators <= MAX_AGGREGATORS:
            raise ConfigError(
                f"got aggregators={shown(self.aggregators)}; expected a number of servers, 2 to {MAX_AGGREGATORS}"
            )
        object.__setattr__(self, "aggregators", aggregators)
        if self.threat_model not in ("malicious", "semi-honest"):
            raise ConfigError(f"got threat_model={self.threat_model!r}; expected 'malicious' or 'semi-honest'")
        if self.kem not in list(Kem):
            raise ConfigError(f"got kem={self.kem!r}; expected any of {', '.join(Kem)}")
        object.__setattr__(self, "corruption", check_corruption(self.corruption))
        object.__setattr__(self, "kem", Kem(self.kem))

    @property
    def others(self) -> Mapping[PartyRole, int]:
        """The aggregators."""
        return {PartyRole.AGGREGATOR: self.aggregators}

    @property
    def members(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """Clients and aggregators answer the collector."""
        from secagg.protocols.shares.aggregator import ShareAggregator
        from secagg.protocols.shares.client import ShareClient

        return {PartyRole.CLIENT: ShareClient, PartyRole.AGGREGATOR: ShareAggregator}

    @property
    def server(self) -> type[Server[Any]]:
        """The collector's class."""
        from secagg.protocols.shares.collector import Collector

        return Collector

    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """A sealing key for an aggregator: private and public half."""
        if role is not PartyRole.AGGREGATOR:
            return None
        private = rng(PRIVATE_BYTES)
        try:
            return private, PrivateKey(Kem(self.kem), private).public
        except MPCError as error:
            raise ConfigError(str(error)) from error

    def corrupt(self, cohort: int, roster: Roster | None) -> int:
        """c: how many clients may collude, of the cohort or of all enrolled."""
        return corrupt_among(self, cohort, roster)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, if no cohort could be safe, or if ``kem`` isn't there."""
        check_mask_bits(task)
        if not Kem(self.kem).available:
            raise ConfigError(
                f"got kem={str(self.kem)!r}, which the installed cryptography doesn't have; install 47 or later as "
                "a wheel, or pass kem='X25519', whose confidentiality is not post-quantum"
            ) from ImportError(f"cryptography has no {self.kem}")
        check_floor(task, corrupt_count(self.corruption, task.min_survivors))

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        """Raise ``ConfigError`` for other aggregators than the task's, or too low a floor for so many enrolled."""
        if roster is None:
            raise ConfigError(
                "got no roster; AdditiveShares needs one with clients and aggregators: pass roster= and identity="
            )
        enrolled, kem = roster.ids(PartyRole.AGGREGATOR), Kem(self.kem)
        if len(enrolled) != self.aggregators:
            raise ConfigError(f"got a roster of {len(enrolled)} aggregators; the task has {self.aggregators}")
        for party in enrolled:
            key = roster[party].encryption_key
            if key is None or len(key) != kem.public_bytes:
                found = "no sealing key" if key is None else f"a sealing key of {len(key)} bytes"
                raise ConfigError(
                    f"got {found} for {party} in the roster; expected {kem.public_bytes} bytes for {kem}: make one "
                    "with secagg keygen --role aggregator"
                )
            try:
                check_public_key(kem, key)
            except MPCError as error:
                raise ConfigError(f"got a sealing key for {party} in the roster that is none: {error}") from error
        check_floor(task, self.corrupt(task.min_survivors, roster))

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        """Raise ``ConfigError`` where floor and cohort don't fit each other."""
        self.validate_roster(task, roster)
        check_floor(task, self.corrupt(len(cohort), roster))

    def cost(self, task: Task, cohort: Sequence[str] | None = None) -> Cost:
        """One message a client; see :class:`~secagg.protocols.base.Cost`."""
        ids = list(cohort or wire.stand_in_ids(task.max_clients))
        proposal = Proposal(cohort=ids, session=bytes(32), nonce=bytes(32))
        up = wire.overhead(ids[0], signed=True) + self._report_size(task)
        down = wire.overhead(wire.SERVER, session=False, signed=False) + wire.structure_size(proposal)
        smallest, where = (len(ids), "") if cohort else (task.min_survivors, " in the smallest session allowed")
        padding = f"the collector and {task.min_survivors - 1} of {smallest} clients{where}"
        return Cost(
            up={Round.REPORT: up},
            down={Round.REPORT: down},
            collusion=f"all {self.aggregators} aggregators, or {padding}",
            post_quantum=Kem(self.kem).post_quantum,
        )

    def _report_size(self, task: Task) -> int:
        overhead = Kem(self.kem).overhead
        seeds = [bytes(SEED_BYTES + overhead)] * (self.aggregators - 1)
        return wire.structure_size(Report(seeds)) + vectors_size(task) + overhead

    def describe(self, task: Task) -> list[str]:
        """Threat model and floor, in lines for :meth:`secagg.Task.describe`."""
        among = "enrolled" if self.threat_model == "malicious" else "in the cohort"
        helped = f"up to {self.corruption:.0%} of the clients {among} may help the others"
        return [
            f"{self.aggregators} aggregators, one of them honest; {helped}",
            f"no sum of fewer than {task.min_survivors} is opened",
        ]

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes; a proposal to the largest cohort, or the reports that the helpers could not open."""
        bits = bitmap_bytes(task.max_clients)
        report = wire.largest(signed=True) + self._report_size(task)
        agreed = wire.largest(bits, HASH_BYTES, signed=True)
        if receiver is None:
            held = wire.largest(bits, (MAX_UNOPENED, report), signed=True)
            return max(held, agreed, wire.largest(signed=True) + vectors_size(task))
        if receiver is PartyRole.CLIENT:
            return largest_proposal(task)
        collect = wire.largest(bits, (MAX_UNOPENED * (self.aggregators - 1), report), signed=False)
        return max(largest_proposal(task), collect, wire.largest((self.aggregators, agreed), signed=False))


def check_report(task: Task, message: Report, payload: memoryview) -> None:
    """``Reject`` a report whose sealed shares are not as many and as long as they have to be."""
    protocol = task.protocol
    assert isinstance(protocol, AdditiveShares)
    overhead = Kem(protocol.kem).overhead
    lengths = [*map(len, message.seeds), len(payload)]
    expected = [SEED_BYTES + overhead] * (protocol.aggregators - 1) + [vectors_size(task) + overhead]
    if lengths != expected:
        raise Reject(FaultKind.MALFORMED, f"got sealed shares of {lengths} bytes; expected {expected}")
