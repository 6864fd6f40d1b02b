"""AdditiveShares: exact sums, bad reports left out, and what each role refuses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import secagg
from mpc.additive import SEED_BYTES
from mpc.errors import MPCError
from mpc.hpke import Kem, PrivateKey, seal
from secagg import identity, lanes, wire
from secagg.errors import Aborted, FaultKind
from secagg.identity import PartyRole, Roster
from secagg.protocols.shares.aggregator import ShareAggregator
from secagg.protocols.shares.messages import MAX_UNOPENED, Agreed, Held, Report, share_info
from secagg.session import session_id
from secagg.simulation import enrol_for
from secagg.table import Round
from secagg.testing import MemoryStore, Parties, Session, check_protocol, parties_for
from secagg.testing._session import Change
from secagg.wire import Envelope

IDS = tuple(f"c{number}" for number in range(1, 9))
AGGREGATORS = ("aggregator-1", "aggregator-2")
TWO = secagg.AdditiveShares()
THREE = secagg.AdditiveShares(aggregators=3)


def make_task(**changes: Any) -> secagg.Task:
    task = secagg.Task(
        protocol=TWO,
        layout=secagg.Layout.of({"w": np.zeros(9)}),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_clients=len(IDS),
        min_survivors=3,
    )
    return replace(task, **changes)


@cache
def parties(protocol: secagg.AdditiveShares) -> Parties:
    return parties_for(protocol, len(IDS))


def begin(protocol: secagg.AdditiveShares = TWO, *, task: secagg.Task | None = None, **how: Any) -> Session:
    """A session of eight clients and the aggregators."""
    task = replace(task or make_task(), protocol=protocol)
    return Session(parties(protocol), task=task, **{"session": b"round 1", **how})


def restored(session: Session, party: str, number: int) -> Any:
    """The party as it was after so many messages, with the ledger of today."""
    store = session.stores[party]
    return session.restore(party, store.states[number], save=MemoryStore(store.ledger))


Shares = Callable[[list[bytes]], list[bytes]]


def spoil(session: Session, **changes: Shares) -> None:
    """Let clients change their sealed shares, helpers' first and the leader's last, and sign them."""

    def before_answer(party: str, answer: bytes) -> bytes | None:
        def change(report: Report, payload: bytes) -> tuple[Report, bytes]:
            *seeds, leaders = changes[party]([*report.seeds, payload])
            return Report(seeds), leaders

        return session.changed(answer, change) if party in changes else None

    session.before_answer = before_answer


def lie(session: Session, name: str, change: Change) -> None:
    """Let the second aggregator change its answer of the round ``name``, and sign it."""
    session.before_answer = lambda party, answer: (
        session.changed(answer, change) if (party, session.round) == ("aggregator-2", name) else None
    )


def sender_of(data: bytes) -> str:
    return Envelope.parse(data, len(data)).sender


def flip(place: int) -> Shares:
    """Flip a bit in the sealed share at ``place``."""

    def change(sealed: list[bytes]) -> list[bytes]:
        broken = bytearray(sealed[place])
        broken[-1] ^= 1
        return [bytes(broken) if number == place % len(sealed) else s for number, s in enumerate(sealed)]

    return change


class Counting(ThreadPoolExecutor):
    """Threads that count what they are given."""

    submitted = 0

    def submit(self, *arguments: Any, **named: Any) -> Any:
        self.submitted += 1
        return super().submit(*arguments, **named)


# --- sums


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


@pytest.mark.parametrize("silent", ["aggregator-1", "aggregator-2"])
@pytest.mark.parametrize("name", [phase.round for phase in secagg.AdditiveShares.phases if phase.relay is None])
def test_a_silent_aggregator_costs_the_session(silent: str, name: str) -> None:
    with pytest.raises(Aborted, match="got 1 aggregators; 2 are needed") as aborted:
        begin(silent={silent: name}).run()
    assert set(aborted.value.outbox) == {*IDS, "aggregator-1", "aggregator-2"}


def test_an_aggregator_that_is_told_of_the_abort_releases_nothing_after_it() -> None:
    session = begin()
    session.until(Round.AGGREGATE_SHARE)
    release = session.outbox["aggregator-2"]
    with pytest.raises(Aborted) as aborted:
        session.close()
    helper = session.members["aggregator-2"]
    assert helper.receive(aborted.value.outbox["aggregator-2"]) is None
    assert helper.finished
    assert helper.receive(release) is None
    assert [fault.kind for fault in helper.faults] == [FaultKind.INVALID, FaultKind.OUT_OF_TURN]
    assert not helper._state.seeds


# --- reports that don't open


@pytest.mark.parametrize("place", [0, 1, -1], ids=["first helper", "second helper", "leader"])
def test_a_report_that_one_aggregator_can_not_open_is_left_out_alone(place: int) -> None:
    session = begin(THREE)
    spoil(session, c5=flip(place))
    session.require_sum_of(session.run(), set(IDS) - {"c5"})
    assert session.faults == [("c5", Round.RECOUNT, FaultKind.UNOPENED_SHARE)]
    blind = session.members[session.parties.ids(PartyRole.AGGREGATOR)[(place + 1) % 3]]
    assert [(f.sender, f.kind) for f in blind.faults] == [("c5", FaultKind.UNOPENED_SHARE)]


@pytest.mark.parametrize("end", [Round.AGGREGATE_SHARE, None, "abort"])
def test_a_report_that_was_left_out_is_known_again(end: str | None) -> None:
    session = begin(THREE)
    spoil(session, c1=flip(0), c2=flip(1))
    session.until(Round.AGGREGATE_SHARE if end else None)
    if end == "abort":
        with pytest.raises(Aborted) as aborted:
            session.close()
        session.pass_on({party: aborted.value.outbox[party] for party in session.parties.ids(PartyRole.AGGREGATOR)})
    for party in session.parties.ids(PartyRole.AGGREGATOR):
        member = session.members[party]
        faults, state = member.faults, member.to_bytes()
        for client in ("c1", "c2", "c3"):
            assert member.receive(session.handed[party, Round.REPORT][IDS.index(client)][0]) is None
        assert (member.faults, member.to_bytes()) == (faults, state)


def test_reports_that_different_aggregators_can_not_open_are_all_left_out() -> None:
    session = begin(THREE)
    spoil(session, c1=flip(0), c2=flip(1), c3=flip(-1), c4=flip(0))
    session.require_sum_of(session.run(), set(IDS) - {"c1", "c2", "c3", "c4"})


def test_a_share_with_spare_bits_is_left_out() -> None:
    session = begin()
    public = session.parties.roster["aggregator-1"].encryption_key
    wrong = b"\xff" * 22

    def change(sealed: list[bytes]) -> list[bytes]:
        size = len(sealed[-1]) - Kem.MLKEM768_X25519.overhead
        info = share_info(session.task, session.server.context.state.session_id, "c5", "aggregator-1")
        return [*sealed[:-1], seal(Kem.MLKEM768_X25519, public, (wrong * 9)[:size], info=info)]

    spoil(session, c5=change)
    session.require_sum_of(session.run(), set(IDS) - {"c5"})
    assert [(f.sender, f.kind) for f in session.members["aggregator-1"].faults] == [("c5", FaultKind.MALFORMED)]


def test_more_reports_than_a_helper_keeps_abort_and_open_nothing() -> None:
    session = begin()
    spoil(session, **dict.fromkeys(IDS[: MAX_UNOPENED + 1], flip(0)))
    with pytest.raises(
        Aborted, match=r"added reports of c5, .* can't be subtracted again\. .* leave these clients"
    ):
        session.run()
    assert session.server.round is None
    assert len(session.members["aggregator-2"]._state.unopened) <= MAX_UNOPENED
    assert {f.sender for f in session.server.faults} == set(IDS[: MAX_UNOPENED + 1])
    assert not session.members["aggregator-1"].faults


def test_too_few_that_open_abort() -> None:
    session = begin(task=make_task(min_survivors=5))
    spoil(session, **dict.fromkeys(IDS[:4], flip(0)))
    with pytest.raises(Aborted, match="got 4 reports that every aggregator holds; 5 are needed"):
        session.run()


def test_a_report_that_the_leader_missed_is_left_out_and_one_that_a_helper_missed_aborts() -> None:
    session = begin()
    session.before_relay = lambda party, data: [] if (party, sender_of(data)) == ("aggregator-1", "c3") else None
    session.require_sum_of(session.run(), set(IDS) - {"c3"})
    session = begin()
    session.before_relay = lambda party, data: [] if (party, sender_of(data)) == ("aggregator-2", "c3") else None
    with pytest.raises(Aborted, match=r"reports of c3, .* did not reach it, open a new session and hand on all"):
        session.run()


@pytest.mark.parametrize("changed", ["task", "session", "client", "aggregator"])
def test_an_input_share_opens_for_what_it_was_sealed_for_and_for_nothing_else(changed: str) -> None:
    session = begin()
    session.until(Round.REPORT)
    message, _ = Envelope.parse(session.ask("c1"), 1 << 22).open(Report)
    key = PrivateKey(Kem.MLKEM768_X25519, session.parties.long_lived["aggregator-2"])
    right = {
        "task": session.task,
        "session": session.server.context.state.session_id,
        "client": "c1",
        "aggregator": "aggregator-2",
    }
    wrong: dict[str, Any] = {
        "task": replace(session.task, context=b"another run"),
        "session": bytes(32),
        "client": "c2",
        "aggregator": "aggregator-1",
    }
    assert len(key.open(message.seeds[0], info=share_info(**right))) == SEED_BYTES  # type: ignore[arg-type]
    with pytest.raises(MPCError, match="do not open"):
        key.open(message.seeds[0], info=share_info(**right | {changed: wrong[changed]}))


def test_an_aggregator_without_a_ledger_warns_once_when_it_takes_part(caplog: pytest.LogCaptureFixture) -> None:
    session = begin()
    session.members["aggregator-2"] = session.make("aggregator-2", save=None)
    session.require_sum_of(session.run(), IDS)
    lines = [record.getMessage() for record in caplog.records if "no ledger" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("aggregator-2 has no ledger")
    caplog.clear()
    secagg.simulate(session.task, [{"w": np.zeros(9)}] * 3)
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
    session = begin()
    spoil(session, c5=lambda sealed: change(sealed) or [b""])
    session.require_sum_of(session.run(), set(IDS) - {"c5"})
    assert session.faults == [("c5", Round.REPORT, FaultKind.MALFORMED)]
    assert session.server.faults[-1].kind is FaultKind.SILENT


# --- what an aggregator refuses


def test_only_reports_of_the_cohort_and_only_in_their_round() -> None:
    session = begin()
    session.server = session.task.server(IDS[:6], roster=session.parties.roster, session=b"round 1")
    helper = session.make("aggregator-2")
    helper.receive(session.server.start()["aggregator-2"])
    overhead = Kem.MLKEM768_X25519.overhead
    report = session.seal(Report([bytes(32 + overhead)]), bytes(22 + overhead), "c7")
    before = helper.to_bytes()
    assert helper.receive(report) is None
    assert (helper.faults[-1].kind, helper.to_bytes()) == (FaultKind.UNKNOWN_SENDER, before)


def test_reports_come_once_and_the_same_bytes_change_nothing() -> None:
    session = begin()
    session.until(Round.REPORT)
    report = session.ask("c1")
    for aggregator in AGGREGATORS:
        member = session.members[aggregator]
        for _ in range(2):
            assert member.receive(report) is None
            assert (list(member._state.reports), member.faults) == (["c1"], ())
    other = restored(session, "c1", 0).receive(session.outbox["c1"])
    assert other != report
    for aggregator in AGGREGATORS:
        member = session.members[aggregator]
        share, seeds = member._state.share, member._state.seeds
        assert member.receive(other) is None
        assert (member._state.share, member._state.seeds) == (share, seeds)
        assert [(f.sender, f.kind) for f in member.faults] == [("c1", FaultKind.DUPLICATE)]


def test_a_server_restored_after_it_passed_reports_on_ends_with_the_same_sum() -> None:
    session = begin()
    session.until(Round.REPORT)
    for party in IDS[:5]:
        session.deliver(party, session.ask(party))
    session.restore_server(session.stores[wire.SERVER].state)
    session.outbox = session.server.start()
    assert set(session.outbox) == set(IDS)
    session.require_sum_of(session.run(), IDS)
    assert not any(session.members[aggregator].faults for aggregator in AGGREGATORS)


# --- keys and states


def test_the_sealing_key_is_never_part_of_a_state() -> None:
    session = begin()
    session.run()
    for aggregator in AGGREGATORS:
        key, states = session.parties.long_lived[aggregator], session.stores[aggregator].states
        assert states
        assert not any(key in state for state in states)


def test_what_a_finished_party_keeps() -> None:
    session = begin()
    session.run()
    leader, helper, client = (session.members[party] for party in ("aggregator-1", "aggregator-2", "c1"))
    for member in (leader, helper, client):
        assert member.finished
        assert member._state.seed == b""
    assert (leader._state.share, helper._state.seeds, client._state.contribution) == ([], {}, [])


def test_the_collector_holds_no_report_and_aggregators_one_vector() -> None:
    size = 20_000
    session = begin(task=make_task(layout=secagg.Layout.of({"w": np.zeros(size)})))
    session.until(Round.REPORT)
    session.exchange(session.outbox)
    assert len(session.server.to_bytes()) < 5_000
    assert len(session.members["aggregator-1"].to_bytes()) < 4 * size + 5_000
    assert len(session.members["aggregator-2"].to_bytes()) < 5_000
    assert min(len(session.answers[party, Round.REPORT]) for party in IDS) > 2 * size


@pytest.mark.parametrize("wrong", [None, b"", bytes(32), bytes(31)])
def test_an_aggregator_needs_its_own_sealing_key(wrong: bytes | None) -> None:
    with pytest.raises(secagg.ConfigError, match="key"):
        begin().make("aggregator-1", key=wrong)


def test_an_aggregator_needs_a_roster() -> None:
    with pytest.raises(secagg.ConfigError, match="roster"):
        begin().make("aggregator-1", roster=None, identity=None)


def test_an_aggregator_is_not_restored_without_a_ledger() -> None:
    session = begin()
    session.until(Round.AGREEMENT)
    state = session.stores["aggregator-1"].states[-1]
    with pytest.raises(secagg.LocalProtocolError, match="past its first answer without a ledger"):
        session.restore("aggregator-1", state, save=None)


def test_an_aggregator_takes_part_in_one_sum_under_one_session_name() -> None:
    """A second session of the name: its clients may have other keys or no ledger; the aggregator has one."""
    first = begin()
    first.run()
    second = begin(seed=b"again", ledgers={party: first.ledgers[party] for party in AGGREGATORS})
    with pytest.raises(Aborted, match="got 0 aggregators"):
        second.run()
    for aggregator in AGGREGATORS:
        assert "holds another aggregate share" in second.members[aggregator].faults[-1].detail
    third = begin(session=b"round 2", ledgers=first.ledgers)
    third.require_sum_of(third.run(), IDS)


def test_a_client_restored_from_before_its_report_seals_the_same_shares_again() -> None:
    session = begin()
    session.until(Round.REPORT)
    reports = [session.ask("c1")]
    restored(session, "c1", 0)
    reports.append(session.ask("c1"))
    assert session.members["c1"].receive(session.outbox["c1"]) == reports[1], "once it was saved, it repeats itself"
    assert reports[0] != reports[1]
    opened = []
    for report in reports:
        message, payload = Envelope.parse(report, len(report)).open(Report)
        shares = zip(AGGREGATORS, (bytes(payload), message.seeds[0]), strict=True)
        members = [(session.members[party], share) for party, share in shares]
        opened.append([member._open(member._state, "c1", share) for member, share in members])
    assert opened[0] == opened[1]


def test_a_sealing_key_of_the_roster_that_is_none_is_the_callers_to_mend() -> None:
    def listing(sealing_key: bytes) -> Roster:
        shared = dict.fromkeys(("a1", "a2"), sealing_key)
        _, aggregators = identity.enrol(["a1", "a2"], PartyRole.AGGREGATOR, encryption_keys=shared)
        return Roster([*clients.values(), *aggregators.values()])

    keys, clients = identity.enrol(IDS)
    task = make_task()
    for curve, why in ((bytes(32), "of small order"), (b"\xff" * 32, "another encoding")):
        with pytest.raises(secagg.ConfigError, match=f"the sealing key of a1 .* {why}"):
            task.server(IDS, roster=listing(b"\xff" * 1184 + curve), session=b"s")
    roster = listing(b"\xff" * 1184 + bytes(range(32)))  # a lattice key that no reduced numbers make
    server = task.server(IDS, roster=roster, session=b"s")
    client = task.client("c1", identity=keys["c1"], roster=roster, session=b"s")
    client.contribute({"w": np.zeros(9)})
    before = client.to_bytes()
    with pytest.raises(secagg.LocalProtocolError, match="sealing key of a2 can't be used"):
        client.receive(server.context.seal(server.context.proposal()))
    assert client.to_bytes() == before


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
    """Every report but the last is signed by the party that it names: nothing else is wrong with it."""
    session = begin(silent={"c8": Round.REPORT})
    spoil(session, c5=flip(0))
    spoilt = session.before_answer
    other = session_id(task=bytes(32), roster=bytes(32), session=b"", nonce=bytes(32), cohort=IDS)
    identities = session.parties.identities

    def change(held: Held, _: bytes) -> tuple[Held, bytes]:
        report = Envelope.parse(held.unopened[0], 1 << 22)
        message, payload = report.open(Report)

        def forge(sender: str, signer: str, session_id: bytes | None = None) -> bytes:
            return session.seal(message, bytes(payload), sender, session=session_id, identity=identities[signer])

        unopened = {
            "too many": [held.unopened[0][:60]] * (MAX_UNOPENED + 1),
            "of nobody enrolled": [forge("c99", "c5")],
            "of an aggregator": [forge("aggregator-1", "aggregator-1")],
            "of a member who sent none": [forge("c8", "c8")],
            "of another session": [forge("c5", "c5", other)],
            "unsigned": [forge("c5", "aggregator-2")],
        }[handed_back]
        return Held(held.reports, unopened), b""

    lie(session, Round.RECOUNT, change)
    lied = session.before_answer
    session.before_answer = lambda party, answer: (spoilt if party in IDS else lied)(party, answer)
    with pytest.raises(Aborted, match="got 1 aggregators"):
        session.run()
    assert session.faults == [("aggregator-2", Round.RECOUNT, HANDED_BACK[handed_back])]


def test_an_agreement_to_another_set_is_refused_and_its_aggregator_still_awaited() -> None:
    """The digest is the right one: nothing but the set is wrong."""
    session = begin()
    session.until(Round.AGREEMENT)
    leader, liar = AGGREGATORS
    honest = {party: session.ask(party) for party in AGGREGATORS}
    lied = session.changed(honest[liar], lambda agreed, _: (Agreed(b"\x7f", agreed.digest), b""))
    for pending in ({leader, liar}, {liar}):  # before another aggregator agreed, and after
        session.refused_by_server(liar, lied, "an agreement to another set")
        assert session.faults[-1] == (liar, Round.AGREEMENT, FaultKind.INVALID)
        assert "to another set than the collector's" in session.server.faults[-1].detail
        assert session.server.pending == pending
        session.deliver(leader, honest[leader])
    session.deliver(liar, honest[liar])
    session.close()
    session.require_sum_of(session.run(), IDS)


def test_one_vector_that_no_honest_client_has_ends_the_session_and_names_nobody() -> None:
    session = begin(silent=dict.fromkeys(IDS[4:], Round.REPORT))
    state = session.members["c3"]._state
    whole = np.frombuffer(state.contribution[0], np.uint32)
    # The group ends at 524,288 for the sum of eight; with c5 to c8 silent, honest sums end at 262,136.
    state.contribution = [np.full_like(whole, 400_000).tobytes(), *state.contribution[1:]]
    with pytest.raises(
        Aborted, match=r"One client is enough .*nothing says which: open a new session for each half"
    ):
        session.run()
    assert not session.faults


def test_the_class_of_the_role_is_the_protocols() -> None:
    assert isinstance(begin().members["aggregator-1"], ShareAggregator)
    with pytest.raises(secagg.ConfigError, match="has no aggregator"):
        replace(make_task(), protocol=secagg.Clear()).aggregator("aggregator-1")


def test_the_sum_is_the_same_whatever_executor_a_helper_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ranges of three coordinates and one key a task, on an executor that counts its tasks."""
    monkeypatch.setattr(lanes, "_INLINE_LANES", 0)
    monkeypatch.setattr(lanes, "_RANGE_LANES", 3)
    monkeypatch.setattr(lanes, "_KEYS_IN_TASK", 1)
    session = begin()
    with Counting(2) as executor:
        session.members["aggregator-2"] = session.make("aggregator-2", executor=executor)
        session.require_sum_of(session.run(), IDS)
        assert executor.submitted >= 3 * len(IDS)
