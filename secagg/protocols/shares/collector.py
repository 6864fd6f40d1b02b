"""The collector of AdditiveShares, which is the server: passes reports on, and adds up aggregate shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import Aborted, FaultKind
from secagg.identity import PartyRole
from secagg.lanes import fold_lanes, reduce_lanes, zero_lanes
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
)
from secagg.protocols.shares.parameters import check_report
from secagg.relay import relayed
from secagg.roles.member import Reply
from secagg.roles.server import Server, Step
from secagg.roles.state import ServerState
from secagg.table import Round
from secagg.wire import Envelope, Reject

MOST_NAMED = 8


class CollectorState(ServerState):
    """What the collector keeps between rounds: no report but those that a helper couldn't open."""

    held: dict[str, list[str]] = {}  # whose reports each aggregator holds
    unopened: dict[str, bytes] = {}
    agreed: dict[str, bytes] = {}
    digest: bytes = b""


class Collector(Server[CollectorState]):
    """The server of :class:`secagg.AdditiveShares`."""

    state_type = CollectorState

    @property
    def _aggregators(self) -> tuple[str, ...]:
        assert self.context.roster is not None
        return self.context.roster.ids(PartyRole.AGGREGATOR)

    def _prepare(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self._aggregators, (self.context.proposal(), b""))

    def _take_ready(self, envelope: Envelope, message: Ready, payload: memoryview) -> None:
        """Nothing is kept: that the aggregator answered is enough."""

    def _need_all(self) -> None:
        self.context.need(len(self.context.state.answered), len(self._aggregators), "aggregators")

    def _ask_reports(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self.context.state.cohort, (self.context.proposal(), b""))

    def _take_report(self, envelope: Envelope, message: Report, payload: memoryview) -> None:
        check_report(self.context.task, message, payload)

    def _settle_reports(self) -> None:
        self.context.need(len(self.context.state.survivors), self.context.task.min_survivors, "reports")

    def _recount(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self._aggregators, (Recount(), b""))

    def _take_held(self, envelope: Envelope, message: Held, payload: memoryview) -> None:
        state = self.context.state
        held = from_bitmap(message.reports, state.cohort)
        if len(message.unopened) > MAX_UNOPENED:
            raise Reject(FaultKind.INVALID, f"got {len(message.unopened)} reports handed back")
        handed_back = {}
        for data in message.unopened:
            report = relayed(data, self.context.task, state.session_id, Report, self.context.limit)
            party = None if self.context.roster is None else self.context.roster.get(report.sender)
            if party is None or report.sender not in state.survivors:
                raise Reject(FaultKind.INVALID, f"got a report of {report.sender} handed back, who sent none")
            report.verify(party.signing_key)
            handed_back[report.sender] = report.raw
        state.held[envelope.sender] = held
        state.unopened.update(handed_back)

    def _settle_held(self) -> None:
        """The survivors are those whose report every aggregator holds."""
        self._need_all()
        state = self.context.state
        holders = {aggregator: set(state.held[aggregator]) for aggregator in self._aggregators}
        for client in state.survivors:
            if without := [aggregator for aggregator, held in holders.items() if client not in held]:
                detail = f"{', '.join(without)} could not open its report, or didn't get it"
                self.context.blame(client, FaultKind.UNOPENED_SHARE, detail)
        state.survivors = [c for c in state.survivors if all(c in held for held in holders.values())]
        state.unopened = {c: raw for c, raw in state.unopened.items() if c in holders[self._aggregators[0]]}
        self._check_taken_off()
        state.held = {}
        self.context.need(
            len(state.survivors), self.context.task.min_survivors, "reports that every aggregator holds"
        )

    def _check_taken_off(self) -> None:
        """``Aborted`` if the leader added reports that are not in the sum and that nobody handed back."""
        state, leader = self.context.state, self._aggregators[0]
        survivors = set(state.survivors)
        stuck = [c for c in state.held[leader] if c not in survivors and c not in state.unopened]
        if stuck:
            named = ", ".join(stuck[:MOST_NAMED]) + (", ..." if len(stuck) > MOST_NAMED else "")
            raise Aborted(
                f"{leader} has added reports that another aggregator neither holds nor handed back, so that they "
                f"can't be taken off again: of {named}. If they didn't reach it, open a new session and hand on "
                f"all that receive() returns; if it can't open them (it hands back {MAX_UNOPENED} at most), leave "
                "these clients out"
            )

    def _collect(self) -> Mapping[str, Reply]:
        """The leader alone needs what a helper couldn't open."""
        state, (leader, *helpers) = self.context.state, self._aggregators
        chosen = to_bitmap(state.survivors, state.cohort)
        taken_off = [state.unopened[client] for client in sorted(state.unopened)]
        asked = {leader: (Collect(chosen, taken_off), b"")}
        return asked | dict.fromkeys(helpers, (Collect(chosen, []), b""))

    def _take_agreed(self, envelope: Envelope, message: Agreed, payload: memoryview) -> None:
        state = self.context.state
        if message.reports != to_bitmap(state.survivors, state.cohort):
            raise Reject(FaultKind.INVALID, "got an agreement to another set than was named")
        if message.digest != (state.digest or message.digest):
            raise Reject(FaultKind.INVALID, "got an agreement to other reports than another aggregator holds")
        state.digest = message.digest
        state.agreed[envelope.sender] = envelope.raw

    def _settle_agreed(self) -> None:
        self._need_all()
        self.context.state.unopened = {}
        self.context.sums = zero_lanes(self.context.task)

    def _ask_shares(self) -> Mapping[str, Reply]:
        agreed = self.context.state.agreed
        return dict.fromkeys(self._aggregators, (Release([agreed[party] for party in sorted(agreed)]), b""))

    def _unshard(self, envelope: Envelope, message: AggregateShare, payload: memoryview) -> None:
        fold_lanes(self.context.task, payload, self.context.sums)

    def _settle_shares(self) -> None:
        self._need_all()
        reduce_lanes(self.context.task, self.context.sums)

    steps: ClassVar[Mapping[str, Step]] = {
        Round.PREPARATION: Step(_prepare, _take_ready, _need_all),
        Round.REPORT: Step(_ask_reports, _take_report, _settle_reports),
        Round.RECOUNT: Step(_recount, _take_held, _settle_held),
        Round.AGREEMENT: Step(_collect, _take_agreed, _settle_agreed),
        Round.AGGREGATE_SHARE: Step(_ask_shares, _unshard, _settle_shares),
    }
