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
from secagg.roles.member import Reply, method
from secagg.roles.server import Server, Step
from secagg.roles.state import ServerState
from secagg.table import Round
from secagg.wire import Envelope, Reject

MOST_NAMED = 8


class CollectorState(ServerState):
    """What the collector keeps between rounds. Of the reports, only those that a helper couldn't open."""

    held: dict[str, list[str]] = {}  # whose reports each aggregator holds
    unopened: dict[str, bytes] = {}
    agreed: dict[str, bytes] = {}
    digest: bytes = b""


class Collector(Server[CollectorState]):
    """The server of :class:`secagg.AdditiveShares`.

    1. Preparation: it proposes the session to the aggregators. ``Aborted`` unless all of them answer.
    2. Report: it proposes the session to the cohort, checks the size of each report, and hands it on to all
       aggregators at once. ``Aborted`` if fewer than ``min_survivors`` clients report.
    3. Recount: it asks the aggregators which reports they hold. The survivors are the clients whose report all of
       them hold; every other client is a fault. ``Aborted`` if an aggregator is silent, if too few survive, or if
       the leader has added a report that no helper handed back.
    4. Agreement: it sends the set of survivors, and the leader the reports that were handed back. It collects the
       signed sets, which must be of the same reports. ``Aborted`` unless all aggregators sign.
    5. AggregateShare: it shows all signed sets to each aggregator, and adds up their shares. ``Aborted`` unless all
       of them answer. Otherwise the session ends with an ``Outcome``.
    """

    state_type = CollectorState
    steps: ClassVar[Mapping[str, Step]] = {
        Round.PREPARATION: Step(method("_prepare"), method("_take_ready"), method("_need_all")),
        Round.REPORT: Step(method("propose"), method("_take_report"), method("_settle_reports"), merge=()),
        Round.RECOUNT: Step(method("_recount"), method("_take_held"), method("_settle_held")),
        Round.AGREEMENT: Step(method("_collect"), method("_take_agreed"), method("_settle_agreed")),
        Round.AGGREGATE_SHARE: Step(method("_ask_shares"), method("_unshard"), method("_settle_shares")),
    }

    @property
    def _aggregators(self) -> tuple[str, ...]:
        assert self.context.roster is not None
        return self.context.roster.ids(PartyRole.AGGREGATOR)

    def _prepare(self) -> Mapping[str, Reply]:
        return dict.fromkeys(self._aggregators, (self.context.proposal(), b""))

    def _take_ready(self, envelope: Envelope, message: Ready, payload: memoryview) -> None:
        """Keep nothing: it is enough that the aggregator answered."""

    def _need_all(self) -> None:
        self.context.need(len(self.context.state.answered), len(self._aggregators), "aggregators")

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
            detail = f"got back {len(message.unopened)} reports that did not open; at most {MAX_UNOPENED} may be"
            raise Reject(FaultKind.INVALID, detail)
        handed_back = {}
        for data in message.unopened:
            report = relayed(data, self.context.task, state.session_id, Report, self.context.limit)
            party = None if self.context.roster is None else self.context.roster.get(report.sender)
            if party is None or report.sender not in state.survivors:
                raise Reject(FaultKind.INVALID, f"got back a report of {report.sender}, which did not report")
            report.verify(party.signing_key)
            handed_back[report.sender] = report.raw
        state.held[envelope.sender] = held
        state.unopened.update(handed_back)

    def _settle_held(self) -> None:
        """Count the clients whose report every aggregator holds as survivors."""
        self._need_all()
        state = self.context.state
        holders = {aggregator: set(state.held[aggregator]) for aggregator in self._aggregators}
        for client in state.survivors:
            if without := [aggregator for aggregator, held in holders.items() if client not in held]:
                detail = f"{', '.join(without)} could not open its report, or did not get it"
                self.context.blame(client, FaultKind.UNOPENED_SHARE, detail)
        state.survivors = [c for c in state.survivors if all(c in held for held in holders.values())]
        state.unopened = {c: raw for c, raw in state.unopened.items() if c in holders[self._aggregators[0]]}
        self._check_taken_off()
        state.held = {}
        self.context.need(
            len(state.survivors), self.context.task.min_survivors, "reports that every aggregator holds"
        )

    def _check_taken_off(self) -> None:
        """``Aborted`` if the leader added a report that is not in the set and that no helper handed back."""
        state, leader = self.context.state, self._aggregators[0]
        survivors = set(state.survivors)
        stuck = [c for c in state.held[leader] if c not in survivors and c not in state.unopened]
        if stuck:
            named = ", ".join(stuck[:MOST_NAMED]) + (", ..." if len(stuck) > MOST_NAMED else "")
            raise Aborted(
                f"{leader} has added reports of {named}, which another aggregator neither holds nor handed back, "
                "so they can't be subtracted again. If they did not reach it, open a new session and hand on all "
                f"that receive() returns; if it can't open them (it hands back {MAX_UNOPENED} at most), leave "
                "these clients out"
            )

    def _collect(self) -> Mapping[str, Reply]:
        """Name the survivors; give the leader, which alone needs them, the reports that a helper couldn't open."""
        state, (leader, *helpers) = self.context.state, self._aggregators
        chosen = to_bitmap(state.survivors, state.cohort)
        taken_off = [state.unopened[client] for client in sorted(state.unopened)]
        asked = {leader: (Collect(chosen, taken_off), b"")}
        return asked | dict.fromkeys(helpers, (Collect(chosen, []), b""))

    def _take_agreed(self, envelope: Envelope, message: Agreed, payload: memoryview) -> None:
        state = self.context.state
        if message.reports != to_bitmap(state.survivors, state.cohort):
            raise Reject(FaultKind.INVALID, "got an agreement to another set than the collector's")
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
