"""The parameters of AdditiveShares: who may collude, what fits, and what a session costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mpc.additive import SEED_BYTES
from mpc.errors import MPCError
from mpc.hpke import PRIVATE_BYTES, Kem, PrivateKey, check_public_key
from secagg import wire
from secagg._numbers import whole
from secagg.bitmap import bitmap_bytes
from secagg.corruption import ThreatModel, check_corruption, check_floor, corrupt_among, corrupt_count
from secagg.errors import ConfigError, FaultKind, choice, chosen, shown
from secagg.identity import PartyRole, Roster
from secagg.lanes import check_mask_bits, vectors_size
from secagg.protocols.base import AggregationProtocol, Cost, check_kem, largest_proposal
from secagg.protocols.shares.messages import (
    HASH_BYTES,
    MAX_AGGREGATORS,
    MAX_UNOPENED,
    Report,
)
from secagg.table import Proposal, Round
from secagg.wire import Reject

if TYPE_CHECKING:
    from secagg.task import Task


@dataclass(frozen=True)
class ShareParameters(AggregationProtocol):
    """What the roles read of :class:`secagg.AdditiveShares`: its fields and the rules that follow from them."""

    aggregators: int = 2
    corruption: float = 0.05
    threat_model: ThreatModel = "malicious"
    kem: str = Kem.MLKEM768_X25519

    name: ClassVar[str] = "AdditiveShares"

    def __post_init__(self) -> None:
        aggregators = whole(self.aggregators)
        if aggregators is None or not 2 <= aggregators <= MAX_AGGREGATORS:
            raise ConfigError(
                f"got aggregators={shown(self.aggregators)}; expected a number of servers, 2 to {MAX_AGGREGATORS}"
            )
        object.__setattr__(self, "aggregators", aggregators)
        known = ("malicious", "semi-honest")
        object.__setattr__(self, "threat_model", choice("threat_model", self.threat_model, known))
        kem = chosen(self.kem, map(str, Kem))
        if kem is None:
            raise ConfigError(f"got kem={shown(self.kem)}; expected any of {', '.join(Kem)}")
        object.__setattr__(self, "corruption", check_corruption(self.corruption))
        object.__setattr__(self, "kem", Kem(kem))

    @property
    def party_counts(self) -> Mapping[PartyRole, int]:
        """The aggregators."""
        return {PartyRole.AGGREGATOR: self.aggregators}

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
        """c: the number of clients that may collude, as :func:`secagg.corruption.corrupt_among` counts it."""
        return corrupt_among(self, cohort, roster)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, if no cohort could be safe, or if ``kem`` isn't there."""
        check_mask_bits(task)
        check_kem(Kem(self.kem))
        check_floor(task, corrupt_count(self.corruption, task.min_survivors))

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        """Raise ``ConfigError`` for other aggregators than the task's, or too low a floor for so many enrolled."""
        if roster is None:
            raise ConfigError(
                "got no roster; AdditiveShares needs one with clients and aggregators: pass roster= and identity="
            )
        enrolled, kem = roster.ids(PartyRole.AGGREGATOR), Kem(self.kem)
        if len(enrolled) != self.aggregators:
            raise ConfigError(
                f"got a roster of {len(enrolled)} aggregators; the task has {self.aggregators}: enrol each with "
                "secagg keygen --role aggregator, or change aggregators="
            )
        for party in enrolled:
            key = roster[party].encryption_key
            if key is None or len(key) != kem.public_bytes:
                listed = "no sealing key" if key is None else f"a sealing key of {len(key)} bytes"
                raise ConfigError(
                    f"got {listed} for {party} in the roster; expected {kem.public_bytes} bytes for {kem}: make it "
                    "with secagg keygen --role aggregator"
                )
            try:
                check_public_key(kem, key)
            except MPCError as error:
                raise ConfigError(f"the sealing key of {party} in the roster is not a key: {error}") from error
        check_floor(task, self.corrupt(task.min_survivors, roster))

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        """Raise ``ConfigError`` if the floor is too low for the cohort."""
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
    """``Reject`` a report with the wrong number of sealed shares, or with shares of the wrong length."""
    protocol = task.protocol
    assert isinstance(protocol, ShareParameters)
    overhead = Kem(protocol.kem).overhead
    lengths = [*map(len, message.seeds), len(payload)]
    expected = [SEED_BYTES + overhead] * (protocol.aggregators - 1) + [vectors_size(task) + overhead]
    if lengths != expected:
        raise Reject(FaultKind.MALFORMED, f"got sealed shares of {lengths} bytes; expected {expected}")
