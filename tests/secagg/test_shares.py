"""AdditiveShares: exact sums, bad reports left out, and what each role refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secagg
from mpc.additive import SEED_BYTES
from mpc.errors import MPCError
from mpc.hpke import Kem, PrivateKey
from secagg import identity, lanes, wire
from secagg.errors import Aborted, FaultKind
from secagg.identity import PartyRole, Roster
from secagg.protocols.shares.aggregator import ShareAggregator
from secagg.protocols.shares.messages import MAX_UNOPENED, AggregateShare, Agreed, Held, Report, share_info
from secagg.session import session_id
from secagg.simulation import enrol_for
from secagg.store import MemoryLedger
from secagg.table import Round
from secagg.testing import check_protocol
from secagg.wire import Envelope
from tests.secagg.fuzz.mutate import Mutator

LIMIT = 1 << 22
IDS = tuple(f"c{number}" for number in range(1, 9))


def make_task(**changes: Any) -> secagg.Task:
    task = secagg.Task(
        protocol=secagg.AdditiveShares(),
        layout=secagg.Layout.of(np.zeros(9)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=len(IDS),
        min_survivors=3,
    )
    return replace(task, **changes)


UPDATES = {party: np.random.default_rng(number).uniform(-1, 1, 9) for number, party in enumerate(IDS)}


class Disk:
    """Keeps every state, and a ledger."""

    def __init__(self) -> None:
        self.ledger: MemoryLedger | None = MemoryLedger()
        self.states: list[bytes] = []

    def __call__(self, number: int, state: bytes) -> None:
        self.states.append(state)


class Counting(ThreadPoolExecutor):
    """Threads that count what they are given."""

    submitted = 0

    def submit(self, *arguments: Any, **named: Any) -> Any:
        self.submitted += 1
        return super().submit(*arguments, **named)


class Case:
    """One session with all its parties, whose reports can be changed on their way to the collector."""

    def __init__(
        self, task: secagg.Task | None = None, session: bytes = b"round 1", like: Case | None = None
    ) -> None:
        self.task = task or make_task()
        self.keys, self.roster, self.sealing = (
            enrol_for(self.task, IDS) if like is None else (like.keys, like.roster, like.sealing)
        )
        assert self.roster is not None
        self.session = session
        self.aggregators = self.roster.ids(PartyRole.AGGREGATOR)
        self.disks = {party: Disk() for party in self.roster} if like is None else like.disks
        self.server_disk = Disk()
        self.server = self.task.server(IDS, roster=self.roster, session=session, save=self.server_disk)
        self.members: dict[str, Any] = {party: self.client(party) for party in IDS}
        self.members |= {party: self.aggregator(party) for party in self.aggregators}
        self.changed: dict[str, Callable[[bytes], bytes]] = {}  # what becomes of an answer, by party
        self.lost: set[tuple[str, str]] = set()  # reports of whom that don't reach whom
        self.gone: set[str] = set()  # who fell silent, and hears nothing any more

    def client(self, party: str) -> Any:
        client = self.task.client(
            party, identity=self.keys[party], roster=self.roster, session=self.session, save=self.disks[party]
        )
        client.contribute(UPDATES[party])
        return client

    def aggregator(self, party: str, **changes: Any) -> Any:
        arguments: dict[str, Any] = {
            "identity": self.keys[party],
            "roster": self.roster,
            "session": self.session,
            "key": self.sealing[party],
            "save": self.disks[party],
        }
        return self.task.aggregator(party, **arguments | changes)

    def restore(self, party: str, state: bytes, **changes: Any) -> Any:
        arguments: dict[str, Any] = {
            "identity": self.keys[party],
            "roster": self.roster,
            "key": self.sealing.get(party),
            "save": self.disks[party],
        }
        restore = self.task.restore_client if party in IDS else self.task.restore_aggregator
        restored = self.members[party] = restore(state, **arguments | changes)
        return restored

    def play(self, until: str | None = None, *, silent: Mapping[str, str] | None = None) -> secagg.Outcome | None:
        """To the end, or to the opening of round ``until``, whose requests are in ``self.outbox``."""
        self.outbox = self.server.start() if self.server.round is None else self.outbox
        while self.server.outcome is None and self.server.round != until:
            name = self.server.round
            for party, request in self.outbox.items():
                if (silent or {}).get(party) == name:
                    self.gone.add(party)
                if party in self.gone:
                    continue
                answer = self.members[party].receive(request)
                if answer is not None:
                    self.deliver(party, self.changed.get(party, bytes)(answer))
            self.outbox = self.server.close_round()
        return self.server.outcome

    def deliver(self, party: str, answer: bytes) -> None:
        for aggregator, report in self.server.receive(party, answer).items():
            if (party, aggregator) not in self.lost:
                assert self.members[aggregator].receive(report) is None

    def resealed(self, party: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """The party's sealed shares changed by itself, helpers' first and the leader's last; signed anew."""

        def forge(honest: bytes) -> bytes:
            envelope = Envelope.parse(honest, LIMIT)
            message, payload = envelope.open(Report)
            *seeds, leaders = change([*message.seeds, bytes(payload)])
            return wire.seal_envelope(
                Report(seeds),
                protocol=envelope.protocol,
                task=envelope.task,
                session=envelope.session,
                sender=party,
                payload=leaders,
                identity=self.keys[party],
            )

        self.changed[party] = forge

    def require_sum_of(self, outcome: secagg.Outcome | None, parties: Any) -> None:
        assert outcome is not None
        assert outcome.survivors == tuple(sorted(parties))
        step = 1 / (2**15 - 1)
        expected = sum(np.rint(UPDATES[party] / step) for party in parties) * step
        np.testing.assert_allclose(outcome.sum, expected, rtol=0, atol=1e-9)


def flip(place: int) -> Callable[[list[bytes]], list[bytes]]:
    """Flip a bit in the sealed share at ``place``."""

    def change(sealed: list[bytes]) -> list[bytes]:
        broken = bytearray(sealed[place])
        broken[-1] ^= 1
        return [bytes(broken) if number == place % len(sealed) else s for number, s in enumerate(sealed)]

    return change


# --- sums


@given(
    st.sampled_from([2, 3]),
    st.sampled_from(list(Kem)),
    st.integers(2, 32),
    st.sampled_from([None, 1, 5000]),
    st.sets(st.sampled_from(IDS), max_size=5),
    st.integers(0, 1000),
)
def test_sums_are_those_of_clear(
    aggregators: int, kem: Kem, bits: int, max_weight: int | None, silent: set[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    updates = {c: {"w": rng.normal(0, 1, (3, 2)), "b": rng.normal(0, 1, 5).astype("f4")} for c in IDS}
    weights = None if max_weight is None else {c: int(rng.integers(1, max_weight + 1)) for c in IDS}
    task = make_task(
        protocol=secagg.AdditiveShares(aggregators=aggregators, kem=kem),
        layout=secagg.Layout.of(updates["c1"]),
        encoding=secagg.FixedPoint(clip=1.0, bits=bits, rounding="nearest"),
        max_weight=max_weight,
    )
    found = secagg.simulate(task, updates, weights=weights, dropouts=dict.fromkeys(silent, Round.REPORT))
    clear = secagg.simulate(
        replace(task, protocol=secagg.Clear()), updates, weights=weights, dropouts=dict.fromkeys(silent, "Input")
    )
    assert found.survivors == clear.survivors == tuple(sorted(set(IDS) - silent))
    assert (found.total_weight, found.clipped) == (clear.total_weight, clear.clipped)
    for leaf in ("w", "b"):
        np.testing.assert_array_equal(found.sum[leaf], clear.sum[leaf])
        np.testing.assert_array_equal(found.mean[leaf], clear.mean[leaf])


@pytest.mark.parametrize(
    "protocol",
    [
        secagg.AdditiveShares(),
        secagg.AdditiveShares(aggregators=3, kem="X25519"),
        secagg.AdditiveShares(threat_model="semi-honest"),
    ],
    ids=["default", "three, X25519", "semi-honest"],
)
def test_check_protocol(protocol: secagg.AdditiveShares) -> None:
    check_protocol(protocol)


@pytest.mark.parametrize("silent", ["aggregator1", "aggregator2"])
@pytest.mark.parametrize("name", [phase.round for phase in secagg.AdditiveShares.phases if phase.relay is None])
def test_a_silent_aggregator_costs_the_session(silent: str, name: str) -> None:
    with pytest.raises(Aborted, match="got 1 aggregators; 2 are needed") as aborted:
        Case().play(silent={silent: name})
    assert set(aborted.value.outbox) == {*IDS, "aggregator1", "aggregator2"}


def test_an_aggregator_that_is_told_of_the_abort_releases_nothing_after_it() -> None:
    case = Case()
    case.play(Round.AGGREGATE_SHARE)
    release = case.outbox["aggregator2"]
    with pytest.raises(Aborted) as aborted:
        case.play(silent={"aggregator1": Round.AGGREGATE_SHARE, "aggregator2": Round.AGGREGATE_SHARE})
    helper = case.members["aggregator2"]
    assert helper.receive(aborted.value.outbox["aggregator2"]) is None
    assert helper.finished
    assert helper.receive(release) is None
    assert [fault.kind for fault in helper.faults] == [FaultKind.INVALID, FaultKind.OUT_OF_TURN]
    assert not helper._state.seeds


# --- reports that don't open


@pytest.mark.parametrize("place", [0, 1, -1], ids=["first helper", "second helper", "leader"])
def test_a_report_that_one_aggregator_can_not_open_is_left_out_alone(place: int) -> None:
    case = Case(make_task(protocol=secagg.AdditiveShares(aggregators=3)))
    case.resealed("c5", flip(place))
    case.require_sum_of(case.play(), set(IDS) - {"c5"})
    assert [(f.sender, f.round, f.kind) for f in case.server.faults] == [
        ("c5", Round.RECOUNT, FaultKind.UNOPENED_SHARE)
    ]
    blind = case.members[case.aggregators[(place + 1) % 3]]
    assert [(f.sender, f.kind) for f in blind.faults] == [("c5", FaultKind.UNOPENED_SHARE)]


def test_reports_that_different_aggregators_can_not_open_are_all_left_out() -> None:
    case = Case(make_task(protocol=secagg.AdditiveShares(aggregators=3)))
    for party, place in (("c1", 0), ("c2", 1), ("c3", -1), ("c4", 0)):
        case.resealed(party, flip(place))
    case.require_sum_of(case.play(), set(IDS) - {"c1", "c2", "c3", "c4"})


def test_a_share_with_spare_bits_is_left_out() -> None:
    case = Case()
    public = case.roster["aggregator1"].encryption_key
    wrong = b"\xff" * 22

    def change(sealed: list[bytes]) -> list[bytes]:
        from mpc.hpke import seal
        from secagg.protocols.shares.messages import share_info

        session = case.server.context.state.session_id
        size = len(sealed[-1]) - Kem.MLKEM768_X25519.overhead
        info = share_info(case.task, session, "c5", "aggregator1")
        return [*sealed[:-1], seal(Kem.MLKEM768_X25519, public, (wrong * 9)[:size], info=info)]

    case.resealed("c5", change)
    case.require_sum_of(case.play(), set(IDS) - {"c5"})
    assert [(f.sender, f.kind) for f in case.members["aggregator1"].faults] == [("c5", FaultKind.MALFORMED)]


def test_more_reports_than_a_helper_keeps_abort_and_open_nothing() -> None:
    case = Case()
    for party in IDS[: MAX_UNOPENED + 1]:
        case.resealed(party, flip(0))
    with pytest.raises(Aborted, match=r"so that they can't be taken off again: of c5\. .* leave these clients out"):
        case.play()
    assert case.server.round is None
    assert len(case.members["aggregator2"]._state.unopened) <= MAX_UNOPENED
    assert {f.sender for f in case.server.faults} == set(IDS[: MAX_UNOPENED + 1])
    assert not case.members["aggregator1"].faults


def test_too_few_that_open_abort() -> None:
    case = Case(make_task(min_survivors=5))
    for party in IDS[:4]:
        case.resealed(party, flip(0))
    with pytest.raises(Aborted, match="got 4 reports that every aggregator holds; 5 are needed"):
        case.play()


def test_a_report_that_the_leader_missed_is_left_out_and_one_that_a_helper_missed_aborts() -> None:
    case = Case()
    case.lost = {("c3", "aggregator1")}
    case.require_sum_of(case.play(), set(IDS) - {"c3"})
    case = Case()
    case.lost = {("c3", "aggregator2")}
    with pytest.raises(Aborted, match=r"of c3\. If they didn't reach it, open a new session and hand on all"):
        case.play()


def test_an_agreement_to_other_reports_is_the_aggregators_fault_in_its_own_round() -> None:
    case = Case()

    def lie(honest: bytes) -> bytes:
        envelope = Envelope.parse(honest, LIMIT)
        if envelope.kind != Agreed.TYPE:
            return honest
        told, _ = envelope.open(Agreed)
        return wire.seal_envelope(
            Agreed(told.reports, bytes(32)),
            protocol=envelope.protocol,
            task=envelope.task,
            session=envelope.session,
            sender="aggregator2",
            identity=case.keys["aggregator2"],
        )

    case.changed["aggregator2"] = lie
    with pytest.raises(Aborted, match="got 1 aggregators; 2 are needed"):
        case.play()
    found = case.server.faults[0]
    assert (found.sender, found.round, found.kind) == ("aggregator2", Round.AGREEMENT, FaultKind.INVALID)
    assert "other reports than another aggregator holds" in found.detail


@pytest.mark.parametrize("changed", ["task", "session", "client", "aggregator"])
def test_an_input_share_opens_for_what_it_was_sealed_for_and_for_nothing_else(changed: str) -> None:
    case = Case()
    case.play(Round.REPORT)
    message, _ = Envelope.parse(relayed_report(case, "c1"), LIMIT).open(Report)
    key = PrivateKey(Kem.MLKEM768_X25519, case.sealing["aggregator2"])
    right = {
        "task": case.task,
        "session": case.server.context.state.session_id,
        "client": "c1",
        "aggregator": "aggregator2",
    }
    wrong: dict[str, Any] = {
        "task": replace(case.task, context=b"another run"),
        "session": bytes(32),
        "client": "c2",
        "aggregator": "aggregator1",
    }
    assert len(key.open(message.seeds[0], info=share_info(**right))) == SEED_BYTES  # type: ignore[arg-type]
    with pytest.raises(MPCError, match="do not open"):
        key.open(message.seeds[0], info=share_info(**right | {changed: wrong[changed]}))


def test_an_aggregator_without_a_ledger_warns_once_when_it_takes_part(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    for party in case.aggregators:
        case.members[party] = case.aggregator(party, save=None if party == "aggregator2" else case.disks[party])
    case.require_sum_of(case.play(), IDS)
    told = [record.getMessage() for record in caplog.records if "no ledger" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("aggregator2 has no ledger")
    caplog.clear()
    secagg.simulate(case.task, UPDATES)
    assert not caplog.records


@pytest.mark.parametrize(
    "change",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: [*sealed, sealed[-1]],
        lambda sealed: [sealed[0][:-1], sealed[1]],
        lambda sealed: [sealed[0], sealed[1] + b"\0"],
        lambda sealed: sealed[::-1],
    ],
)
def test_the_collector_refuses_a_report_of_the_wrong_size(change: Any) -> None:
    case = Case()
    case.resealed("c5", lambda sealed: change(sealed) or [b""])
    case.require_sum_of(case.play(), set(IDS) - {"c5"})
    assert {(f.sender, f.kind) for f in case.server.faults} == {
        ("c5", FaultKind.MALFORMED),
        ("c5", FaultKind.SILENT),
    }


# --- what an aggregator refuses


def relayed_report(case: Case, party: str) -> bytes:
    """An honest report as it is relayed."""
    report = case.members[party].receive(case.outbox[party])
    assert report is not None
    return bytes(report)


def test_only_reports_of_the_cohort_and_only_in_their_round() -> None:
    case = Case()
    task = make_task(protocol=case.task.protocol)
    server = task.server(IDS[:6], roster=case.roster, session=b"round 1")
    helper = case.aggregator("aggregator2")
    helper.receive(server.start()["aggregator2"])
    outsider = task.client("c7", identity=case.keys["c7"], roster=case.roster, session=b"round 1")
    outsider.contribute(UPDATES["c7"])
    session = server.context.state.session_id
    report = wire.seal_envelope(
        Report([bytes(32 + Kem.MLKEM768_X25519.overhead)]),
        protocol=task.protocol.ID,
        task=task.digest,
        session=session,
        sender="c7",
        identity=case.keys["c7"],
        payload=bytes(22 + Kem.MLKEM768_X25519.overhead),
    )
    before = helper.to_bytes()
    assert helper.receive(report) is None
    assert (helper.faults[-1].kind, helper.to_bytes()) == (FaultKind.UNKNOWN_SENDER, before)


def test_reports_come_once_and_the_same_bytes_change_nothing() -> None:
    case = Case()
    case.play(Round.REPORT)
    report = relayed_report(case, "c1")
    for aggregator in case.aggregators:
        member = case.members[aggregator]
        for _ in range(2):
            assert member.receive(report) is None
            assert (list(member._state.reports), member.faults) == (["c1"], ())
    other = case.restore("c1", case.disks["c1"].states[0]).receive(case.outbox["c1"])
    assert other != report
    for aggregator in case.aggregators:
        member = case.members[aggregator]
        share, seeds = member._state.share, member._state.seeds
        assert member.receive(other) is None
        assert (member._state.share, member._state.seeds) == (share, seeds)
        assert [(f.sender, f.kind) for f in member.faults] == [("c1", FaultKind.DUPLICATE)]


def test_a_report_after_the_recount_is_refused() -> None:
    case = Case()
    case.play(Round.REPORT)
    late = relayed_report(case, "c1")
    case.play(Round.AGREEMENT, silent={"c1": Round.REPORT})
    helper = case.members["aggregator2"]
    assert helper.receive(late) is None
    assert helper.faults[-1].kind is FaultKind.OUT_OF_TURN
    case.require_sum_of(case.play(), set(IDS) - {"c1"})


def test_a_server_restored_after_it_passed_reports_on_ends_with_the_same_sum() -> None:
    case = Case()
    case.play(Round.REPORT)
    for party in IDS[:5]:
        case.deliver(party, relayed_report(case, party))
    case.server = case.task.restore_server(case.server_disk.states[-1], roster=case.roster)
    case.outbox = case.server.start()
    assert set(case.outbox) == set(IDS)
    case.require_sum_of(case.play(), IDS)
    assert not any(case.members[aggregator].faults for aggregator in case.aggregators)


def test_every_role_restored_before_every_message_ends_with_the_sum() -> None:
    case = Case()

    class Restoring(dict[str, Any]):
        def __getitem__(self, party: str) -> Any:
            case.restore(party, dict.__getitem__(self, party).to_bytes())
            return dict.__getitem__(self, party)

    case.members = Restoring(case.members)
    case.require_sum_of(case.play(), IDS)


# --- keys and states


def test_the_sealing_key_is_never_part_of_a_state() -> None:
    case = Case()
    case.play()
    for aggregator in case.aggregators:
        assert case.disks[aggregator].states
        assert not any(case.sealing[aggregator] in state for state in case.disks[aggregator].states)


def test_what_a_finished_party_keeps() -> None:
    case = Case()
    case.play()
    leader, helper, client = (case.members[party] for party in ("aggregator1", "aggregator2", "c1"))
    for member in (leader, helper, client):
        assert member.finished
        assert member._state.seed == b""
    assert (leader._state.share, helper._state.seeds, client._state.contribution) == ([], {}, [])


def test_the_collector_holds_no_report_and_aggregators_one_vector() -> None:
    size = 20_000
    case = Case(make_task(layout=secagg.Layout.of(np.zeros(9)), encoding=secagg.FixedPoint(clip=1.0, bits=16)))
    big = make_task(layout=secagg.Layout.of(np.zeros(size)))
    reports = []
    secagg_server = big.server(IDS, roster=case.roster, session=b"s")
    outbox = secagg_server.start()
    members = {}
    for aggregator in case.aggregators:
        members[aggregator] = big.aggregator(
            aggregator, identity=case.keys[aggregator], roster=case.roster, key=case.sealing[aggregator]
        )
        secagg_server.receive(aggregator, members[aggregator].receive(outbox[aggregator]))
    outbox = secagg_server.close_round()
    for party in IDS:
        client = big.client(party, identity=case.keys[party], roster=case.roster, session=b"s")
        client.contribute(np.zeros(size))
        reports.append(client.receive(outbox[party]))
        for aggregator, report in secagg_server.receive(party, reports[-1]).items():
            members[aggregator].receive(report)
    assert len(secagg_server.to_bytes()) < 5_000
    assert len(members["aggregator1"].to_bytes()) < 4 * size + 5_000
    assert len(members["aggregator2"].to_bytes()) < 5_000
    assert min(map(len, reports)) > 2 * size


@pytest.mark.parametrize("wrong", [None, b"", bytes(32), bytes(31)])
def test_an_aggregator_needs_its_own_sealing_key(wrong: bytes | None) -> None:
    with pytest.raises(secagg.ConfigError, match="key"):
        Case().aggregator("aggregator1", key=wrong)


def test_an_aggregator_needs_a_roster() -> None:
    with pytest.raises(secagg.ConfigError, match="roster"):
        Case().aggregator("aggregator1", roster=None, identity=None)


def test_an_aggregator_is_not_restored_without_a_ledger() -> None:
    case = Case()
    case.play(Round.AGREEMENT)
    state = case.disks["aggregator1"].states[-1]
    with pytest.raises(secagg.LocalProtocolError, match="past its first answer without a ledger"):
        case.restore("aggregator1", state, save=None)


def test_an_aggregator_takes_part_in_one_sum_under_one_session_name() -> None:
    """A second session of the name: its clients may have other keys or no ledger; the aggregator has one."""
    first = Case()
    first.play()
    second = Case(like=first)
    for party in IDS:
        first.disks[party].ledger = MemoryLedger()
        second.members[party] = second.client(party)
    with pytest.raises(Aborted, match="got 0 aggregators"):
        second.play()
    for aggregator in second.aggregators:
        assert "holds another aggregate share" in second.members[aggregator].faults[-1].detail
    third = Case(session=b"round 2", like=first)
    third.require_sum_of(third.play(), IDS)


def test_a_client_restored_from_before_its_report_seals_the_same_shares_again() -> None:
    case = Case()
    case.play(Round.REPORT)
    reports = [relayed_report(case, "c1")]
    case.restore("c1", case.disks["c1"].states[0])
    reports.append(relayed_report(case, "c1"))
    assert case.members["c1"].receive(case.outbox["c1"]) == reports[1], "once it was saved, it repeats itself"
    assert reports[0] != reports[1]
    opened = []
    for report in reports:
        envelope = Envelope.parse(report, LIMIT)
        message, payload = envelope.open(Report)
        leader, helper = (case.members[party] for party in case.aggregators)
        opened.append(
            (leader._open(leader._state, "c1", bytes(payload)), helper._open(helper._state, "c1", message.seeds[0]))
        )
    assert opened[0] == opened[1]


def test_a_sealing_key_of_the_roster_that_is_none_is_the_callers_to_mend() -> None:
    def listing(sealing_key: bytes) -> Roster:
        shared = dict.fromkeys(("a1", "a2"), sealing_key)
        _, aggregators = identity.enrol(["a1", "a2"], PartyRole.AGGREGATOR, encryption_keys=shared)
        return Roster([*clients.values(), *aggregators.values()])

    keys, clients = identity.enrol(IDS)
    task = make_task()
    for curve, why in ((bytes(32), "of small order"), (b"\xff" * 32, "another encoding")):
        with pytest.raises(secagg.ConfigError, match=f"got a sealing key for a1 .* {why}"):
            task.server(IDS, roster=listing(b"\xff" * 1184 + curve), session=b"s")
    roster = listing(b"\xff" * 1184 + bytes(range(32)))  # a lattice key that no reduced numbers make
    server = task.server(IDS, roster=roster, session=b"s")
    client = task.client("c1", identity=keys["c1"], roster=roster, session=b"s")
    client.contribute(UPDATES["c1"])
    before = client.to_bytes()
    with pytest.raises(secagg.LocalProtocolError, match="sealing key of a2 can't be used"):
        client.receive(server.context.seal(server.context.proposal()))
    assert client.to_bytes() == before


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_make_an_aggregator_raise_or_change_by_a_lie(seed: int) -> None:
    """Before each true message some dozens of changed ones, resealed by the party that they are of."""
    case, rng = Case(), Random(seed)
    recorded = Case(like=case, session=b"round 0")
    pool: list[bytes] = []

    class Recording(dict[str, Any]):
        def __getitem__(self, party: str) -> Any:
            member = dict.__getitem__(self, party)

            class Tap:
                def receive(self, data: bytes) -> bytes | None:
                    pool.append(data)
                    return member.receive(data)

            return Tap()

    recorded.members = Recording(recorded.members)
    recorded.play()
    tried = 0

    class Lied(dict[str, Any]):
        def __getitem__(self, party: str) -> Any:
            member = dict.__getitem__(self, party)
            if party in IDS:
                return member

            class Tap:
                def receive(self, data: bytes) -> bytes | None:
                    nonlocal member, tried
                    sender = Envelope.parse(data, LIMIT).sender
                    mutator = Mutator(rng, pool, case.keys.get(sender))
                    for _ in range(25):
                        before, faults = member.to_bytes(), len(member.faults)
                        lie = (
                            mutator.message(data, case.keys.get(sender)) if rng.random() < 0.7 else rng.choice(pool)
                        )
                        if lie == data:
                            continue
                        answer = member.receive(lie)
                        tried += 1
                        if answer is None and member.to_bytes() == before:
                            assert len(member.faults) > faults
                            continue
                        # It was taken: from a corrupt client, or as another request of the server's.
                        case.disks[party] = Disk()
                        member = case.restore(party, before)
                    return member.receive(data)

            return Tap()

    case.members = Lied(case.members)
    case.require_sum_of(case.play(), IDS)
    assert tried > 400


# --- tasks and rosters


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"aggregators": 1}, "a number of servers, 2 to 16"),
        ({"aggregators": 17}, "a number of servers, 2 to 16"),
        ({"aggregators": True}, "expected a number of servers"),
        ({"aggregators": 2.0}, "expected a number of servers"),
        ({"corruption": 1.0}, "below 1"),
        ({"corruption": -0.1}, "at least 0"),
        ({"corruption": "much"}, "expected a number"),
        ({"threat_model": "semi-malicious"}, "expected 'malicious' or 'semi-honest'"),
        ({"kem": "RSA"}, "expected any of MLKEM768-X25519, X25519"),
    ],
)
def test_parameters_that_mean_nothing(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(secagg.ConfigError, match=says):
        secagg.AdditiveShares(**arguments)


def test_the_floor_is_above_what_can_collude() -> None:
    with pytest.raises(
        secagg.ConfigError, match="min_survivors=2 with 1 clients possibly corrupt; expected at least 3"
    ):
        make_task(min_survivors=2)
    task = make_task(protocol=secagg.AdditiveShares(corruption=0.25))
    _, roster, _ = enrol_for(task, [f"c{number}" for number in range(1, 21)])
    with pytest.raises(secagg.ConfigError, match="with 5 clients possibly corrupt; expected at least 7"):
        task.server(IDS, roster=roster, session=b"s")
    curious = replace(
        task, protocol=secagg.AdditiveShares(corruption=0.25, threat_model="semi-honest"), min_survivors=4
    )
    curious.server(IDS, roster=roster, session=b"s")


def test_the_roster_has_the_tasks_aggregators_with_keys_of_the_tasks_kem() -> None:
    task = make_task()
    with pytest.raises(secagg.ConfigError, match="got no roster"):
        task.server(IDS, session=b"s")
    _, clients = identity.enrol(IDS)
    with pytest.raises(secagg.ConfigError, match="got a roster of 0 aggregators; the task has 2"):
        task.server(IDS, roster=clients, session=b"s")
    _, keyless = identity.enrol(["a1", "a2"], PartyRole.AGGREGATOR)
    with pytest.raises(secagg.ConfigError, match=r"got no sealing key for a1 .*secagg keygen --role aggregator"):
        task.server(IDS, roster=Roster([*clients.values(), *keyless.values()]), session=b"s")
    short = {party: PrivateKey(Kem.X25519, party.encode().ljust(32)).public for party in ("a1", "a2")}
    _, curve = identity.enrol(["a1", "a2"], PartyRole.AGGREGATOR, encryption_keys=short)
    both = Roster([*clients.values(), *curve.values()])
    with pytest.raises(secagg.ConfigError, match=r"got a sealing key of 32 bytes for a1 .*expected 1216"):
        task.server(IDS, roster=both, session=b"s")
    replace(task, protocol=secagg.AdditiveShares(kem="X25519")).server(IDS, roster=both, session=b"s")


def test_a_kem_that_is_not_there_is_refused_with_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives.asymmetric import mlkem

    monkeypatch.delattr(mlkem, "MLKEM768PrivateKey")
    with pytest.raises(secagg.ConfigError, match="pass kem='X25519'") as refused:
        make_task()
    assert isinstance(refused.value.__cause__, ImportError)
    curve = secagg.AdditiveShares(kem="X25519")
    secagg.Task(curve, secagg.Layout.of(np.zeros(3)), secagg.FixedPoint(clip=1.0), max_clients=8, min_survivors=3)


def test_who_must_collude_and_whether_quantum_computers_matter() -> None:
    task = make_task(protocol=secagg.AdditiveShares(aggregators=3))
    assert "all 3 aggregators, or the collector and 2 of 3 clients in the smallest session" in task.describe()
    assert "post-quantum confidentiality" in task.describe()
    assert not replace(task, protocol=secagg.AdditiveShares(kem="X25519")).protocol.cost(task).post_quantum


def test_a_task_is_written_and_read() -> None:
    task = make_task(protocol=secagg.AdditiveShares(aggregators=3, kem="X25519"))
    again = secagg.Task.from_bytes(task.to_bytes())
    assert (again, again.digest) == (task, task.digest)


def test_an_aggregate_share_of_another_size_is_refused() -> None:
    case = Case()

    def cut(honest: bytes) -> bytes:
        envelope = Envelope.parse(honest, LIMIT)
        if envelope.kind != AggregateShare.TYPE:
            return honest
        return wire.seal_envelope(
            AggregateShare(),
            protocol=envelope.protocol,
            task=envelope.task,
            session=envelope.session,
            sender="aggregator2",
            payload=bytes(envelope.open(AggregateShare)[1])[:-1],
            identity=case.keys["aggregator2"],
        )

    case.changed["aggregator2"] = cut
    with pytest.raises(Aborted, match="got 1 aggregators"):
        case.play()


HANDED_BACK = {
    "too many": FaultKind.INVALID,
    "of nobody enrolled": FaultKind.INVALID,
    "of an aggregator": FaultKind.INVALID,
    "of a member who sent none": FaultKind.INVALID,
    "of another session": FaultKind.FOREIGN_SESSION,
    "unsigned": FaultKind.UNAUTHENTIC,
}


@pytest.mark.parametrize("handed_back", HANDED_BACK)
def test_the_collector_checks_what_is_handed_back(handed_back: str) -> None:
    """Every report but one is signed by whom it names, so that only what it is called for is wrong with it."""
    case = Case()
    case.resealed("c5", flip(0))

    def lie(honest: bytes) -> bytes:
        envelope = Envelope.parse(honest, LIMIT)
        if envelope.kind != Held.TYPE:
            return honest
        told, _ = envelope.open(Held)
        report = Envelope.parse(told.unopened[0], LIMIT)
        message, payload = report.open(Report)

        def forge(sender: str, session: bytes, signer: str) -> bytes:
            return wire.seal_envelope(
                message,
                protocol=report.protocol,
                task=report.task,
                session=session,
                sender=sender,
                payload=bytes(payload),
                identity=case.keys[signer],
            )

        other = session_id(task=bytes(32), roster=bytes(32), session=b"", nonce=bytes(32), cohort=IDS)
        unopened = {
            "too many": [told.unopened[0][:60]] * (MAX_UNOPENED + 1),
            "of nobody enrolled": [forge("c99", report.session, "c5")],
            "of an aggregator": [forge("aggregator1", report.session, "aggregator1")],
            "of a member who sent none": [forge("c8", report.session, "c8")],
            "of another session": [forge("c5", other, "c5")],
            "unsigned": [forge("c5", report.session, "aggregator2")],
        }[handed_back]
        return wire.seal_envelope(
            Held(told.reports, unopened),
            protocol=envelope.protocol,
            task=envelope.task,
            session=envelope.session,
            sender="aggregator2",
            identity=case.keys["aggregator2"],
        )

    case.changed["aggregator2"] = lie
    with pytest.raises(Aborted, match="got 1 aggregators"):
        case.play(silent={"c8": Round.REPORT})
    (found,) = [fault for fault in case.server.faults if fault.kind is not FaultKind.SILENT]
    assert (found.sender, found.round, found.kind) == ("aggregator2", Round.RECOUNT, HANDED_BACK[handed_back])


def test_an_agreement_to_another_set_is_refused_and_its_aggregator_still_awaited() -> None:
    """The digest is the right one: nothing but the set is wrong."""
    case = Case()
    case.play(until=Round.AGREEMENT)
    honest = {party: case.members[party].receive(case.outbox[party]) for party in case.aggregators}
    liar = case.aggregators[1]
    envelope = Envelope.parse(honest[liar], LIMIT)
    told, _ = envelope.open(Agreed)
    lie = wire.seal_envelope(
        Agreed(b"\x7f", told.digest),
        protocol=envelope.protocol,
        task=envelope.task,
        session=envelope.session,
        sender=liar,
        identity=case.keys[liar],
    )
    assert told.reports == b"\xff"
    for first in (False, True):  # before another aggregator agreed, and after
        assert case.server.receive(liar, lie) == {}
        found = case.server.faults[-1]
        assert (found.sender, found.round, found.kind) == (liar, Round.AGREEMENT, FaultKind.INVALID)
        assert "to another set than was named" in found.detail
        assert case.server.pending == frozenset(case.aggregators[first:])
        if not first:
            case.server.receive(case.aggregators[0], honest[case.aggregators[0]])
    case.server.receive(liar, honest[liar])
    assert case.server.pending == frozenset()
    case.outbox = case.server.close_round()
    case.require_sum_of(case.play(), IDS)


def test_one_vector_that_no_honest_client_has_ends_the_session_and_names_nobody() -> None:
    case = Case()
    state = case.members["c3"]._state
    whole = np.frombuffer(state.contribution[0], np.uint32)
    # The group ends at 524,288 for the sum of eight; with c5 to c8 silent, honest sums end at 262,136.
    state.contribution = [np.full_like(whole, 400_000).tobytes(), *state.contribution[1:]]
    with pytest.raises(
        Aborted, match=r"One client is enough .*nothing says which: open a new session for each half"
    ):
        case.play(silent=dict.fromkeys(IDS[4:], Round.REPORT))
    assert {fault.kind for fault in case.server.faults} == {FaultKind.SILENT}


def test_the_class_of_the_role_is_the_protocols() -> None:
    assert isinstance(Case().members["aggregator1"], ShareAggregator)
    with pytest.raises(secagg.ConfigError, match="has no aggregator"):
        replace(make_task(), protocol=secagg.Clear()).aggregator("aggregator1")


def test_the_sum_is_the_same_whatever_executor_a_helper_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ranges of three coordinates and one key a task, on an executor that counts its tasks."""
    monkeypatch.setattr(lanes, "_INLINE_LANES", 0)
    monkeypatch.setattr(lanes, "_RANGE_LANES", 3)
    monkeypatch.setattr(lanes, "_KEYS_IN_TASK", 1)
    case = Case()
    with Counting(2) as executor:
        case.members["aggregator2"] = case.aggregator("aggregator2", executor=executor)
        case.require_sum_of(case.play(), IDS)
        assert executor.submitted >= 3 * len(IDS)
