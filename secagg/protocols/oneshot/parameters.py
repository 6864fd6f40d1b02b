"""The parameters of OneShot: the committee, the ring, who must collude, and what a session costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mpc import packed
from mpc.errors import MPCError
from mpc.hpke import Kem
from secagg import wire
from secagg._numbers import whole
from secagg.beacon import Fetch
from secagg.bitmap import bitmap_bytes
from secagg.corruption import ThreatModel, check_corruption, check_floor, corrupt_among, corrupt_count
from secagg.errors import ConfigError, FaultKind, choice, chosen, shown
from secagg.identity import PartyRole, Roster
from secagg.lanes import check_mask_bits, widths
from secagg.merkle import path_lengths
from secagg.packing import lane_dtype
from secagg.protocols.base import AggregationProtocol, Cost, check_kem, largest_proposal
from secagg.protocols.oneshot.messages import (
    HASH_BYTES,
    Dealing,
    KeyedInput,
    KeyedProposal,
    SessionKey,
)
from secagg.table import Round
from secagg.wire import Reject

if TYPE_CHECKING:
    from he.kahe import Scheme
    from secagg.encoding import SegmentLike
    from secagg.roles.context import Context
    from secagg.task import Task

MAX_MEMBERS = 128
KEY_SIZE = 64
"""The size of a coefficient of a client's key, at most: that of :mod:`he.kahe`."""

_MOST_CLIENTS = packed.MAX_SUM // KEY_SIZE


@dataclass(frozen=True)
class OneShotParameters(AggregationProtocol):
    """What the roles read of :class:`secagg.OneShot`: its fields and the rules that follow from them."""

    members: int = 7
    corrupt_members: int = 2
    corruption: float = 0.05
    threat_model: ThreatModel = "malicious"
    kem: str = Kem.MLKEM768_X25519
    recount: bool = False

    name: ClassVar[str] = "OneShot"
    #: The field that says how many decryptors are enrolled.
    enrolled_by: ClassVar[str] = "members"

    def __post_init__(self) -> None:
        self._check_committee()
        known = ("malicious", "semi-honest")
        object.__setattr__(self, "threat_model", choice("threat_model", self.threat_model, known))
        kem = chosen(self.kem, map(str, Kem))
        if kem is None:
            raise ConfigError(f"got kem={shown(self.kem)}; expected any of {', '.join(Kem)}")
        if type(self.recount) is not bool:
            raise ConfigError(f"got recount={shown(self.recount)}; expected True for a round Recount, or False")
        object.__setattr__(self, "corruption", check_corruption(self.corruption))
        object.__setattr__(self, "kem", Kem(kem))

    def _check_committee(self) -> None:
        members, corrupt = whole(self.members), whole(self.corrupt_members)
        if members is None or not 1 <= members <= MAX_MEMBERS:
            raise ConfigError(
                f"got members={shown(self.members)}; expected a number of members up to {MAX_MEMBERS}"
            )
        if corrupt is None or corrupt < 1:
            raise ConfigError(
                f"got corrupt_members={shown(self.corrupt_members)}; expected a number of members, at least 1"
            )
        if quorum(members, corrupt) >= members:  # corrupt > members - 3
            least = [f"at least members={corrupt + 3}"] if corrupt + 3 <= MAX_MEMBERS else []
            least += [f"at most corrupt_members={members - 3}"] * (members > 3)
            raise ConfigError(
                f"got members={members} with corrupt_members={shown(corrupt)}: all of them would have to agree, so "
                "that one silent member ends the session; expected "
                f"{' or '.join(least) or 'fewer corrupt members'}"
            )
        if _threshold(members, corrupt) > quorum(members, corrupt) + 1:
            enough = next(c for c in count(corrupt) if _threshold(members, c) <= quorum(members, c) + 1)
            raise ConfigError(
                f"got corrupt_members={corrupt} of members={members}: {_threshold(members, corrupt)} of them would "
                f"have to answer; expected at least corrupt_members={enough}, or fewer members"
            )
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "corrupt_members", corrupt)

    @cached_property
    def committee(self) -> packed.Committee:
        """How a client's key is shared among the members."""
        return packed.Committee(self.members, self.corrupt_members)

    @property
    def quorum(self) -> int:
        """The members that must agree to one set: two sets can't both have so many if at most c_m members lie."""
        return quorum(self.members, self.corrupt_members)

    @property
    def needed(self) -> int:
        """The members that must show a session key, and later agree, for a session to end with a sum."""
        return max(self.quorum, self.committee.threshold)

    @property
    def party_counts(self) -> Mapping[PartyRole, int]:
        """The members of the committee, which are decryptors."""
        return {PartyRole.DECRYPTOR: self.members}

    def committee_ids(self, roster: Roster, beacon: Fetch | None) -> tuple[str, ...]:
        """The ids of the committee's members, sorted: all decryptors, unless ``beacon`` draws some of them."""
        return roster.ids(PartyRole.DECRYPTOR)

    def scheme(self, task: Task) -> Scheme:
        """The cipher that carries the task; ``ConfigError`` with the reason if none does."""
        segments = tuple((segment.length, segment.bound) for segment in task.segments if carried(segment))
        # What a coefficient of a key costs in shares: all members but those that get a seed hold a word a column.
        shares = 4 * (self.members - self.corrupt_members)
        try:
            return _make_scheme(segments, task.max_clients, -(-shares // self.committee.per_column))
        except ValueError as error:  # the errors of he are ValueErrors
            raise ConfigError(f"{self.name} can't carry this task: {error}") from error

    def segments(self, task: Task, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The sums of all segments, in the lanes of an outcome.

        ``values`` are the sums of the segments that are sent. A segment with a modulus is returned reduced: the
        cipher adds over the integers.
        """
        opened, joined = iter(values), []
        for segment, bits in zip(task.segments, widths(task), strict=True):
            total = next(opened).astype(np.uint64) if carried(segment) else np.zeros(segment.length, np.uint64)
            if segment.modulus is not None:
                total %= np.uint64(segment.modulus)
            joined.append(total.astype(lane_dtype(bits)))
        return joined

    def corrupt(self, cohort: int, roster: Roster | None) -> int:
        """c: the number of clients that may collude, as :func:`secagg.corruption.corrupt_among` counts it."""
        return corrupt_among(self, cohort, roster)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if the sum would not fit, if no cohort could be safe, or if ``kem`` isn't there."""
        check_mask_bits(task)
        if task.max_clients > _MOST_CLIENTS:
            raise ConfigError(
                f"got max_clients={task.max_clients}; {self.name} adds up keys of at most {_MOST_CLIENTS} clients"
            )
        self.scheme(task)
        check_kem(Kem(self.kem))
        check_floor(task, corrupt_count(self.corruption, task.min_survivors))

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        """Raise ``ConfigError`` for another committee than the task's, or too low a floor for so many enrolled."""
        if roster is None:
            raise ConfigError(
                "got no roster; OneShot needs one with clients and committee members: pass roster= and identity="
            )
        enrolled, expected = len(roster.ids(PartyRole.DECRYPTOR)), self.party_counts[PartyRole.DECRYPTOR]
        if enrolled != expected:
            raise ConfigError(
                f"got a roster of {enrolled} decryptors; the task has {self.enrolled_by}={expected}: enrol each "
                f"with secagg keygen --role decryptor, or change {self.enrolled_by}="
            )
        check_floor(task, self.corrupt(task.min_survivors, roster))

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        """Raise ``ConfigError`` if the floor is too low for the cohort."""
        check_floor(task, self.corrupt(len(cohort), roster))

    def sealed_bytes(self, task: Task, place: int) -> int:
        """Bytes of the sealed share for the member at ``place`` of the roster."""
        share = self.committee.share_bytes(self.scheme(task).degree, place)
        return packed.SALT_BYTES + share + Kem(self.kem).overhead

    def cost(self, task: Task, cohort: Sequence[str] | None = None) -> Cost:
        """One message a client, if all members show a key; see :class:`~secagg.protocols.base.Cost`."""
        ids = list(cohort or wire.stand_in_ids(task.max_clients))
        member = f"decryptor-{self.members}"
        key = SessionKey(bytes(Kem(self.kem).public_bytes))
        shown = wire.overhead(member, signed=True) + wire.structure_size(key)
        proposal = KeyedProposal(ids, bytes(32), bytes(32), [bytes(shown)] * self.members)
        smallest, where = (len(ids), "") if cohort else (task.min_survivors, " in the smallest session allowed")
        clients = f"the server and {task.min_survivors - 1} of {smallest} clients{where}"
        return Cost(
            up={Round.INPUT: self._upload_size(task, ids[0])},
            down={
                Round.INPUT: wire.overhead(wire.SERVER, session=False, signed=False) + wire.structure_size(proposal)
            },
            collusion=(
                f"the server and {self.corrupt_members + 1} of {self.members} committee members, or {clients}"
            ),
            post_quantum=Kem(self.kem).post_quantum,
        )

    def _upload_size(self, task: Task, client: str) -> int:
        frame = wire.overhead(client, signed=True)
        dealing = frame + wire.structure_size(Dealing(bytes(HASH_BYTES), bytes(self.committee.proof_bytes)))
        sealed = [bytes(self.sealed_bytes(task, place)) for place in range(self.members)]
        message = KeyedInput(bytes(dealing), bytes(HASH_BYTES * self.members), sealed)
        return frame + wire.structure_size(message) + self.scheme(task).size

    def describe(self, task: Task) -> list[str]:
        """The ring, the committee and the floor, in lines for :meth:`secagg.Task.describe`."""
        among = "enrolled" if self.threat_model == "malicious" else "in the cohort"
        committee = self.committee
        lines = [
            self.scheme(task).describe(),
            f"{self.members} committee members, of which up to {self.corrupt_members} may help the server; "
            f"{self.needed} must agree to one set of clients, and {committee.threshold} right answers open its sum",
            f"up to {self.corruption:.0%} of the clients {among} may help the server too",
            f"no sum of fewer than {task.min_survivors} is opened, and one only in a session",
        ]
        if self.recount:
            lines.append("inputs wait in a file of the server until the members said whose key shares they hold")
        shares = sum(self.sealed_bytes(task, place) for place in range(self.members))
        if shares > self.scheme(task).size:
            lines.append(
                f"the {shares:,} bytes of key shares outweigh the vector; for so few coordinates AdditiveShares or "
                "SecAggPlus sends less"
            )
        return lines

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes: an upload for the server, the cohort and all session keys for a client, a share for a member."""
        key = wire.largest(Kem(self.kem).public_bytes, signed=True)
        if receiver is PartyRole.CLIENT:
            return largest_proposal(task, *[key] * (self.members + 1))
        dealing = wire.largest(HASH_BYTES, self.committee.proof_bytes, signed=True)
        sealed = max(self.sealed_bytes(task, place) for place in (0, self.members - 1))
        agreed = wire.largest(HASH_BYTES, 0, signed=True)
        if receiver is PartyRole.DECRYPTOR:
            path = HASH_BYTES * max(path_lengths(self.members))
            part = wire.largest(dealing, HASH_BYTES, sealed, path, signed=False)
            collect = wire.largest(bitmap_bytes(task.max_clients), signed=False)
            release = wire.largest((self.members, agreed), signed=False)
            return max(largest_proposal(task), part, collect, release)
        commitments, texts = HASH_BYTES * self.members, (self.members, sealed)
        upload = wire.largest(dealing, commitments, texts, signed=True) + self.scheme(task).size
        lacking = wire.largest(HASH_BYTES, task.max_clients, signed=True)  # a member's word on the whole cohort too
        answer = wire.largest(signed=True) + self.committee.answer_bytes(self.scheme(task).degree)
        return max(key, upload, lacking, answer)


def carried(segment: SegmentLike) -> bool:
    """Whether a segment is sent: it is not if it is empty, or holds zeros only."""
    return segment.length > 0 and segment.bound > 0


def quorum(members: int, corrupt: int) -> int:
    """The least number of members of which any two groups share an honest one: ⌊(m + c_m) / 2⌋ + 1."""
    return (members + corrupt) // 2 + 1


def bears_silence(members: int, corrupt: int) -> bool:
    """Whether a committee is allowed, and a session ends with a sum if all its corrupt members are silent."""
    most, threshold = quorum(members, corrupt), _threshold(members, corrupt)
    return threshold <= most + 1 and max(most, threshold) + corrupt <= members


def _threshold(members: int, corrupt: int) -> int:
    return max(1, members - 3 * corrupt) + corrupt


@lru_cache(maxsize=32)
def _make_scheme(segments: tuple[tuple[int, int], ...], max_clients: int, key_bytes: int) -> Scheme:
    from he import kahe  # with its kernels, which a task that only names the protocol doesn't need

    return kahe.Scheme(segments, max_clients, key_bytes)


def check_dealing(protocol: OneShotParameters, dealing: Dealing) -> None:
    """``Reject`` a dealing whose root or proof has the wrong length, or whose proof has a number out of range."""
    lengths, expected = (len(dealing.root), len(dealing.proof)), (HASH_BYTES, protocol.committee.proof_bytes)
    if lengths != expected:
        raise Reject(FaultKind.MALFORMED, f"got a dealing of {lengths} bytes; expected {expected}")
    try:
        packed.check_proof(protocol.committee, dealing.proof)
    except MPCError as error:
        raise Reject(FaultKind.MALFORMED, str(error)) from error


def committee_of(context: Context) -> tuple[str, ...]:
    """The ids of the committee's members, in the order of their places; see ``committee_ids``."""
    protocol, roster = context.task.protocol, context.roster
    assert isinstance(protocol, OneShotParameters)
    assert roster is not None  # validate_roster refused None
    return protocol.committee_ids(roster, context.environment.beacon)


def place_of(members: Sequence[str], member: str) -> int:
    """The place of a committee member, from 0; its point is one more. ``Reject`` for anyone else."""
    if member not in members:
        raise Reject(FaultKind.UNKNOWN_SENDER, f"got {member}, who is not a member of this committee")
    return members.index(member)
