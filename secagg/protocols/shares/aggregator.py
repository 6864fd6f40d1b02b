"""The aggregator of AdditiveShares: takes reports, agrees on a set of them, releases one share of the sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.errors import MPCError
from mpc.hpke import Kem, PrivateKey
from secagg import wire
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import Aborted, ConfigError, Fault, FaultKind, LocalProtocolError, blaming
from secagg.identity import PartyRole, is_listed
from secagg.lanes import fold_lanes, mask_all, pack_lanes, zero_lanes
from secagg.protocols.shares.messages import (
    MAX_UNOPENED,
    AggregateShare,
    Agreed,
    Collect,
    Held,
    Ready,
    Recount,
    Release,
    Report,
    reports_digest,
    share_info,
)
from secagg.protocols.shares.parameters import ShareParameters, check_report
from secagg.relay import relayed
from secagg.roles.listener import Aggregator
from secagg.roles.member import Handler, Listener, Reply, method
from secagg.roles.state import MemberState, hold
from secagg.table import Proposal, Round
from secagg.wire import Envelope, Reject

_TAKES_REPORTS = 1  # answers given so far: between Preparation and Recount


class ShareAggregatorState(MemberState):
    """What an aggregator keeps of a session."""

    reports: dict[str, bytes] = {}  # digest of each report held, by client
    seeds: dict[str, bytes] = {}  # a helper's input shares
    share: list[bytes] = []  # the leader's, added up: a segment's lanes
    unopened: dict[str, bytes] = {}  # reports that a helper couldn't open
    agreed: bytes = b""


class ShareAggregator(Aggregator[ShareAggregatorState]):
    """An aggregator of :class:`secagg.AdditiveShares`: the leader, which is the first by id, or a helper.

    1. Preparation: it answers the proposal, and takes reports from then on.
    2. Report: it gets each client's signed report as it arrives, and opens its own share in it. The leader adds the
       share to its sum. A helper keeps the seed. It keeps whole a report that it can't open, up to
       ``MAX_UNOPENED`` of them.
    3. Recount: it takes no more reports, and answers whose reports it holds; a helper hands back those that it
       couldn't open.
    4. Agreement: it gets the set of reports that all aggregators hold, drops the others, and signs the set with the
       digest of these reports. The leader subtracts the shares that it had added from dropped reports.
    5. AggregateShare: it gets the signed sets of all aggregators, and releases its share of the sum.

    It leaves, and releases nothing, when the set is smaller than ``min_survivors``, when another aggregator signed
    another set or other reports, or when the ledger has another set of this session. Bytes that break the protocol
    become a fault and change nothing.
    """

    state_type = ShareAggregatorState
    answers: ClassVar[Mapping[str, Handler]] = {
        Round.PREPARATION: method("_ready"),
        Round.RECOUNT: method("_recount"),
        Round.AGREEMENT: method("_agree"),
        Round.AGGREGATE_SHARE: method("_release"),
    }
    overhears: ClassVar[Mapping[str, Listener]] = {Round.REPORT: method("_take_report")}

    def prepare(self) -> None:
        """See :meth:`secagg.roles.Member.prepare`."""
        super().prepare()
        protocol, roster = self.context.task.protocol, self.context.roster
        assert isinstance(protocol, ShareParameters)
        if roster is None or self.context.key is None:
            raise ConfigError(
                f"got no roster or no key for {self.id}; an aggregator needs roster=, identity= and key="
            )
        try:
            self._sealing = PrivateKey(Kem(protocol.kem), self.context.key)
        except MPCError as error:
            raise ConfigError(str(error)) from error
        if self._sealing.public != roster[self.id].encryption_key:
            raise ConfigError(
                f"got a key that is not the private half of what the roster lists for {self.id}; load the one that "
                "was made with this roster's entry, or enrol the new one and give everyone the new roster"
            )
        self._aggregators = roster.ids(PartyRole.AGGREGATOR)

    def check_restored(self) -> None:
        """See :meth:`secagg.roles.Member.check_restored`."""
        if self._state.step and not self._ended and self.context.environment.ledger is None:
            raise LocalProtocolError(
                "got an aggregator past its first answer without a ledger, which alone holds it to one set of "
                "reports; pass save= a store that has one, or leave this session out"
            )

    @property
    def _leads(self) -> bool:
        return self.id == self._aggregators[0]

    def _ready(self, draft: ShareAggregatorState, message: Proposal, payload: memoryview) -> Reply:
        """Preparation: take note of the cohort, whose clients may report."""
        if self._leads:
            draft.share = [lane.tobytes() for lane in zero_lanes(self.context.task)]
        return Ready(), b""

    def heard(self, envelope: Envelope) -> bool:
        """See :meth:`Member.heard`."""
        state, client = self._state, envelope.sender
        return envelope.digest == state.reports.get(client) or envelope.received == state.unopened.get(client)

    def _take_report(
        self, draft: ShareAggregatorState, envelope: Envelope, message: Report, payload: memoryview
    ) -> None:
        """Report: take one report of each client of the cohort; the engine has checked its signature."""
        client = envelope.sender
        if draft.step != _TAKES_REPORTS:
            raise Reject(FaultKind.OUT_OF_TURN, "got a report before Preparation or after Recount")
        if not is_listed(client, draft.cohort):
            raise Reject(FaultKind.UNKNOWN_SENDER, f"got a report of {client}, who is not in the cohort")
        check_report(self.context.task, message, payload)
        if client in draft.reports or client in draft.unopened:
            raise Reject(FaultKind.DUPLICATE, f"got a second report of {client}", blame=client)
        sealed = bytes(payload) if self._leads else message.seeds[self._aggregators.index(self.id) - 1]
        try:
            opened = self._open(draft, client, sealed)
        except MPCError as error:
            detail = f"got a report of {client} that doesn't open"
            if self._leads or len(draft.unopened) == MAX_UNOPENED:
                raise Reject(FaultKind.UNOPENED_SHARE, detail, blame=client) from error
            draft.unopened = draft.unopened | {client: envelope.raw}
            self.note(Fault(client, Round.REPORT, FaultKind.UNOPENED_SHARE, detail))
            return
        if self._leads:
            lanes = self._lanes(draft)
            try:
                fold_lanes(self.context.task, memoryview(opened), lanes)
            except Reject as refused:  # the client sealed it, so nobody else can have changed it
                raise Reject(refused.kind, refused.detail, blame=client) from refused
            draft.share = [lane.tobytes() for lane in lanes]
        else:
            self.add(draft.seeds, client, opened)
        self.add(draft.reports, client, envelope.digest)

    def new_row(self, draft: ShareAggregatorState) -> bytes | None:
        """What a helper keeps of the newest report. The leader keeps no report, but a sum that each one changes."""
        if self._leads or draft.unopened is not self._state.unopened:
            return None
        client = next(reversed(draft.reports))
        return msgspec.msgpack.encode((client, draft.reports[client], draft.seeds[client]))

    def take_rows(self, draft: ShareAggregatorState, rows: Sequence[bytes]) -> None:
        """See :meth:`secagg.roles.MemberHooks.take_rows`."""
        hold(not rows or (draft.step == _TAKES_REPORTS and not (draft.aborted or self._leads)), "reports")
        cohort = set(draft.cohort)
        for row in rows:
            with blaming(ConfigError, "got a saved state with reports that can't be read"):
                client, digest, seed = msgspec.msgpack.decode(row, type=tuple[str, bytes, bytes])
            known = client in draft.reports or client in draft.unopened
            hold(client in cohort and not known, "reports")
            draft.reports[client], draft.seeds[client] = digest, seed

    def _recount(self, draft: ShareAggregatorState, message: Recount, payload: memoryview) -> Reply:
        """Recount: answer which reports this aggregator holds."""
        return Held(to_bitmap(self._holds(draft), draft.cohort), list(draft.unopened.values())), b""

    def _agree(self, draft: ShareAggregatorState, message: Collect, payload: memoryview) -> Reply:
        """Agreement: sign one set of reports that are all held here, and drop the others."""
        chosen, held = from_bitmap(message.reports, draft.cohort), self._holds(draft)
        if missing := sorted(set(chosen) - set(held)):
            raise Reject(FaultKind.INVALID, f"got a set with {missing[0]}, whose report this aggregator lacks")
        self._check_floor(len(chosen))
        left_out = set(held) - set(chosen)
        if self._leads and left_out:
            draft.share = self._take_off(draft, sorted(left_out), message.unopened)
        draft.reports = draft.reports | {client: held[client] for client in chosen}
        draft.seeds = {client: seed for client, seed in draft.seeds.items() if client not in left_out}
        self._forget_unopened(draft)
        draft.agreed = message.reports
        return Agreed(message.reports, self._agreed_digest(draft)), b""

    def _agreed_digest(self, draft: ShareAggregatorState) -> bytes:
        """The digest of the reports in the set that was agreed on; those left out are known too, to be no fault."""
        chosen = from_bitmap(draft.agreed, draft.cohort)
        return reports_digest(draft.session_id, {client: draft.reports[client] for client in chosen})

    def _forget_unopened(self, draft: ShareAggregatorState) -> None:
        """Keep only the digests of reports that did not open, to know them again."""
        kept = {client: Envelope.parse(raw, len(raw)).digest for client, raw in draft.unopened.items()}
        draft.reports, draft.unopened = draft.reports | kept, {}

    def _release(self, draft: ShareAggregatorState, message: Release, payload: memoryview) -> Reply:
        """AggregateShare: release a share of the sum if all aggregators signed the same set of the same reports.

        With a ledger this happens once ever; without one, once for this object.
        """
        digest = self._agreed_digest(draft)
        self._check_agreement(draft, message.agreed, digest)
        # Claimed before the share leaves. A report belongs to one session, so it is in one sum only, ever.
        self.context.claim(digest, "aggregate share", self.context.task.digest, draft.session or b"")
        if self._leads:
            return AggregateShare(), pack_lanes(self.context.task, self._lanes(draft))
        total = zero_lanes(self.context.task)
        mask_all(total, [(seed, 1) for seed in draft.seeds.values()], self.context.executor)
        return AggregateShare(), pack_lanes(self.context.task, total)

    def erase(self, draft: ShareAggregatorState) -> None:
        """Forget all shares."""
        super().erase(draft)
        self._forget_unopened(draft)
        draft.seeds, draft.share = {}, []

    def _open(self, draft: ShareAggregatorState, client: str, sealed: bytes) -> bytes:
        return self._sealing.open(sealed, info=share_info(self.context.task, draft.session_id, client, draft.id))

    def _lanes(self, draft: ShareAggregatorState) -> list[NDArray[Any]]:
        """The leader's sum so far, in arrays of its own."""
        pairs = zip(draft.share, zero_lanes(self.context.task), strict=True)
        return [np.frombuffer(data, lane.dtype).copy() for data, lane in pairs]

    def _holds(self, draft: ShareAggregatorState) -> Mapping[str, bytes]:
        """The reports that this aggregator holds: the digest of each, by client."""
        return draft.reports

    def _check_floor(self, count: int) -> None:
        """``Aborted`` for too few reports. They are kept by client, so ``count`` is a number of clients."""
        if count < self.context.task.min_survivors:
            raise Aborted(f"got a set of {count} reports; {self.context.task.min_survivors} are needed")

    def _take_off(self, draft: ShareAggregatorState, left_out: list[str], handed_back: list[bytes]) -> list[bytes]:
        """The leader's sum without the reports of ``left_out``, each handed back as it was added."""
        lanes, surplus = self._lanes(draft), zero_lanes(self.context.task)
        returned = {}
        for data in handed_back:
            envelope = relayed(data, self.context.task, draft.session_id, Report, self.context.limit)
            returned[envelope.sender] = envelope
        for client in left_out:
            report = returned.get(client)
            if report is None or report.digest != draft.reports[client]:
                raise Reject(FaultKind.INVALID, f"got a set without {client}, whose report was not handed back")
            _, payload = report.open(Report)
            fold_lanes(self.context.task, memoryview(self._open(draft, client, bytes(payload))), surplus)
        return [(lane - extra).tobytes() for lane, extra in zip(lanes, surplus, strict=True)]

    def _check_agreement(self, draft: ShareAggregatorState, agreed: list[bytes], digest: bytes) -> None:
        """Go on only if each aggregator, this one among them, signed the same set of the same reports."""
        if len(agreed) != len(self._aggregators):
            raise Reject(FaultKind.INVALID, f"got {len(agreed)} agreements of {len(self._aggregators)} aggregators")
        signers = []
        for data in agreed:
            envelope = self.context.relayed(data, Agreed, draft.session_id, PartyRole.AGGREGATOR)
            signed, rest = envelope.open(Agreed)
            wire.no_vectors(rest)
            if (signed.reports, signed.digest) != (draft.agreed, digest):
                raise Aborted(f"{envelope.sender} agreed to another set of reports")
            signers.append(envelope.sender)
        if sorted(signers) != list(self._aggregators):
            raise Reject(FaultKind.INVALID, "got agreements that are not one of each aggregator")
