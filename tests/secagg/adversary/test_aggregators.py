"""AdditiveShares: a collector lies to honest aggregators, alone, with clients, or in the network."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import secagg
from mpc import additive
from mpc.hpke import Kem, PrivateKey, seal
from mpc.masks import add_mask
from secagg import session as session_module, wire
from secagg.bitmap import to_bitmap
from secagg.errors import Aborted, FaultKind
from secagg.identity import Roster, enrol
from secagg.lanes import fold_lanes, pack_lanes, reduce_lanes, stream_offsets, to_lanes, zero_lanes
from secagg.protocols.shares import aggregator as aggregator_module, client as client_module, messages as shares
from secagg.protocols.shares.aggregator import ShareAggregator
from secagg.protocols.shares.messages import AggregateShare, Agreed, Collect, Recount, Release, Report
from secagg.roles import MemberContext
from secagg.table import Proposal
from secagg.testing import Integers, MemoryStore, Session
from secagg.wire import Envelope
from tests.secagg.adversary.driver import (
    CLIENTS,
    COLLUDERS,
    HONEST,
    SESSION,
    UPDATES,
    VICTIM,
    Vector,
    World,
    encoded_sum,
    has,
    make_task,
    make_updates,
    remove,
)
from tests.secagg.adversary.registry import attack, refusal

LEADER, HELPER = "aggregator-1", "aggregator-2"
OTHERS = CLIENTS[1:]
LIMIT = 1 << 20
TASK = make_task(protocol=secagg.AdditiveShares(corruption=0.33))
WANTED = UPDATES[VICTIM]


class LyingCollector:
    """Speaks to real clients and aggregators in well-formed messages, and may tell anyone anything."""

    def __init__(
        self,
        world: World,
        *,
        session: bytes = SESSION,
        stores: Mapping[str, MemoryStore] | None = None,
        honest: Collection[str] | None = None,
    ) -> None:
        self.world, self.task, self.session = world, world.task, session
        self.nonce, self.cohort = os.urandom(32), list(CLIENTS)
        self.id = session_module.session_id(
            task=self.task.digest,
            roster=world.roster.digest,
            session=session,
            nonce=self.nonce,
            cohort=self.cohort,
        )
        self.aggregators = {
            party: world.role(party, session=session, save=(stores or {}).get(party))
            for party in honest or world.aggregators
        }
        self.reports: dict[str, bytes] = {}
        self.answers: list[tuple[str, Envelope]] = []
        for party in self.aggregators:
            self.ask(party, Proposal(self.cohort, session, self.nonce))

    def ask(self, party: str, message: wire.Message) -> Envelope | None:
        """An aggregator's answer; None where it refuses."""
        answer = self.aggregators[party].receive(self.seal(message))
        return None if answer is None else Envelope.parse(answer, LIMIT)

    def seal(self, message: wire.Message) -> bytes:
        return wire.seal_envelope(
            message,
            protocol=self.task.protocol.ID,
            task=self.task.digest,
            session=b"" if isinstance(message, Proposal) else self.id,
            sender=wire.SERVER,
        )

    def gather(self, parties: Iterable[str], **arguments: Any) -> None:
        """Ask honest clients for their reports."""
        for party in parties:
            client = self.world.join([party], session=self.session, **arguments)[party]
            self.reports[party] = client.receive(self.seal(Proposal(self.cohort, self.session, self.nonce)))

    def relay(self, parties: Iterable[str], to: Iterable[str] | None = None) -> None:
        for party in parties:
            for aggregator in to or self.aggregators:
                assert self.aggregators[aggregator].receive(self.reports[party]) is None

    def agree(self, stories: Mapping[str, Collection[str]]) -> list[bytes]:
        """Recount and Agreement: each aggregator is told its own story; what they sign."""
        signed = []
        for aggregator, chosen in stories.items():
            if self.aggregators[aggregator]._state.step == 1:
                self.ask(aggregator, Recount())
            unopened = [self.reports[party] for party in CLIENTS if party not in chosen and party in self.reports]
            answer = self.ask(aggregator, Collect(to_bitmap(chosen, self.cohort), unopened))
            if answer is not None:
                signed.append(answer.raw)
        return signed

    def release(self, signed: list[bytes], of: Iterable[str] | None = None) -> dict[str, list[Vector]]:
        """AggregateShare: the lanes that aggregators release."""
        released = {}
        for aggregator in of or self.aggregators:
            answer = self.ask(aggregator, Release(signed))
            if answer is not None:
                released[aggregator] = zero_lanes(self.task)
                fold_lanes(self.task, answer.open(AggregateShare)[1], released[aggregator])
        return released

    def collect(self, chosen: Collection[str]) -> Vector | None:
        """The sum over ``chosen``, if all aggregators release their share of it."""
        return self.opened(self.release(self.agree(dict.fromkeys(self.aggregators, chosen))), len(chosen))

    def opened(self, aggregate_shares: Mapping[str, list[Vector]], count: int) -> Vector | None:
        if set(aggregate_shares) != set(self.world.aggregators):
            return None
        total = [sum(parts) for parts in zip(*aggregate_shares.values(), strict=True)]
        reduce_lanes(self.task, total)
        task = self.task
        summed: Vector = task.encoding.decode(total, layout=task.layout, survivors=count, max_weight=None).sum
        return summed

    def forge(self, sender: str, update: Vector, signer: Any) -> bytes:
        """A report in a client's name, of an update that the collector knows."""
        lanes = to_lanes(
            self.task,
            self.task.encoding.encode(
                update.astype(np.float64), layout=self.task.layout, weight=None, max_weight=None, rng=os.urandom
            ),
        )
        sealed = {
            party: seal(
                Kem.MLKEM768_X25519,
                self.world.roster[party].encryption_key or b"",
                text,
                info=shares.share_info(self.task, self.id, sender, party),
            )
            for party, text in self._split(lanes).items()
        }
        return self.sign(sender, [sealed[party] for party in self.world.aggregators[1:]], sealed[LEADER], signer)

    def _split(self, lanes: list[Vector]) -> dict[str, bytes]:
        seeds = {party: os.urandom(32) for party in self.world.aggregators[1:]}
        for lane, offset in stream_offsets(lanes):
            additive.shard(lane, list(seeds.values()), offset=offset)
        return {LEADER: pack_lanes(self.task, lanes), **seeds}

    def sign(self, sender: str, seeds: list[bytes], leaders: bytes, signer: Any) -> bytes:
        return wire.seal_envelope(
            Report(seeds),
            protocol=self.task.protocol.ID,
            task=self.task.digest,
            session=self.id,
            sender=sender,
            payload=leaders,
            identity=signer,
        )

    def kinds(self) -> set[FaultKind]:
        """What the aggregators found wrong."""
        return {fault.kind for aggregator in self.aggregators.values() for fault in aggregator.faults}


def less(total: Vector | None, parties: Iterable[str], updates: Mapping[str, Vector] = UPDATES) -> Vector | None:
    """What is left of a sum when updates that the attacker knows are taken off."""
    return None if total is None else total - encoded_sum(parties, updates, TASK)


@attack(
    title=("Invented reports: the collector adds reports to the victim's that it makes in the names of others"),
    attacker="lying collector alone",
    defence="each aggregator checks a report's signature against its pinned roster "
    "(`MemberContext.check_signature`)",
    control="without the signature check: the victim's update",
    source="own; the Sybils of Bonawitz et al. 2017, section 6.2, in DAP's setting",
)
class TestInventedReports:
    updates = make_updates(OTHERS, seed=1)

    def attack(self) -> LyingCollector:
        server = LyingCollector(World(TASK))
        server.gather([VICTIM])
        strangers, _ = enrol(OTHERS)
        server.reports |= {party: server.forge(party, self.updates[party], strangers[party]) for party in OTHERS}
        server.relay(CLIENTS)
        return server

    def test_refused(self) -> None:
        server = self.attack()
        assert server.collect(CLIENTS) is None
        assert {FaultKind.UNAUTHENTIC, FaultKind.INVALID} <= server.kinds()
        assert all(list(member._state.reports) == [VICTIM] for member in server.aggregators.values())

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "check_signature", lambda *_: None)
        assert has(less(self.attack().collect(CLIENTS), OTHERS, self.updates), WANTED, TASK)


@attack(
    title=(
        "A small set: aggregators hold everyone's reports, and the colluders' many times; the collector "
        "names only those of the victim and the colluders"
    ),
    attacker="lying collector, c colluders",
    defence=(
        "each aggregator counts the distinct clients of the set, which must reach `min_survivors` "
        "(`ShareAggregator._check_floor`)"
    ),
    control="without the floor: the victim's update",
    source="own; the batch size of DAP",
)
class TestSmallSet:
    few = (VICTIM, *COLLUDERS)

    def attack(self) -> Vector | None:
        self.server = LyingCollector(World(TASK))
        self.server.gather(CLIENTS)
        self.server.relay([*CLIENTS, *COLLUDERS * 3])
        return less(self.server.collect(self.few), COLLUDERS)

    def test_refused(self) -> None:
        assert self.attack() is None
        for aggregator in self.server.aggregators.values():
            assert "got a set of 3 reports; 5 are needed" in aggregator.faults[0].detail

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ShareAggregator, "_check_floor", lambda *_: None)
        assert has(self.attack(), WANTED, TASK)


@attack(
    title=(
        "Replayed reports: the collector adds the others' reports of a first session, whose sum is known, "
        "to the victim's report of a second"
    ),
    attacker="lying collector alone",
    defence=("a report belongs to one session, whose id is under its signature and in its seals (`session_id`)"),
    control="with a session id that is always the same: the victim's update",
    source="own; replay protection of DAP, by report id",
)
class TestReplayedReports:
    def attack(self) -> tuple[LyingCollector, Vector | None]:
        world = World(TASK)
        first = LyingCollector(world)
        first.gather(OTHERS)
        first.relay(OTHERS)
        known = first.collect(OTHERS)
        assert known is not None
        second = LyingCollector(world, session=b"round 2")
        second.gather([VICTIM])
        second.reports |= {party: first.reports[party] for party in OTHERS}
        second.relay(CLIENTS)
        total = second.collect(CLIENTS)
        return second, None if total is None else total - known

    def test_refused(self) -> None:
        server, recovered = self.attack()
        assert recovered is None
        assert {FaultKind.FOREIGN_SESSION, FaultKind.INVALID} <= server.kinds()

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remove(monkeypatch, session_module.session_id, lambda **_: bytes(32))
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title=("The collector asks the aggregators twice: for the sum with the victim, then for the sum without it"),
    attacker="lying collector alone; the aggregators keep no ledger",
    defence="each row of the table is answered once (`Member._answer`)",
    control="with aggregators whose last answer doesn't change their state: the victim's update",
    source="own; Willow's decryptor has no one-use check",
)
class TestAggregatorsAskedTwice:
    def attack(self) -> tuple[LyingCollector, Vector | None]:
        server = LyingCollector(World(TASK))
        server.gather(CLIENTS)
        server.relay(CLIENTS)
        whole, rest = (server.collect(chosen) for chosen in (CLIENTS, OTHERS))
        assert whole is not None
        return server, None if rest is None else whole - rest

    def test_refused(self) -> None:
        server, recovered = self.attack()
        assert recovered is None
        assert server.kinds() == {FaultKind.OUT_OF_TURN}

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        commit, states = ShareAggregator._commit, dict[Any, Any]()

        def forgetful(member: Any, draft: Any, row: bytes | None = None) -> None:
            if draft.step == 3:
                states.setdefault(member, member._state)
            if draft.finished:
                draft = states[member]
            commit(member, draft)

        monkeypatch.setattr(ShareAggregator, "erase", lambda *_: None)
        monkeypatch.setattr(ShareAggregator, "_commit", forgetful)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title=("Aggregators are restored from an older state, and the collector names another set of reports"),
    attacker="lying collector, and aggregators that crash and are restored from an old state",
    defence=(
        "the ledger's entries for each round and for the aggregate share; the ledger is kept apart from "
        "the state (`MemberContext.claim`)"
    ),
    control="with the ledger rolled back together with the state: the victim's update",
    source="own; see `limitations.md`",
)
class TestAggregatorsRestored:
    def attack(self, *, ledger_too: bool) -> tuple[LyingCollector, Vector | None]:
        world, stores = World(TASK), {party: MemoryStore() for party in (LEADER, HELPER)}
        server = LyingCollector(world, stores=stores)
        server.gather(CLIENTS)
        server.relay(CLIENTS)
        snapshot = {party: (store.states[-1], dict(store.ledger._entries)) for party, store in stores.items()}
        whole = server.collect(CLIENTS)
        assert whole is not None
        for party, (state, entries) in snapshot.items():
            if ledger_too:
                stores[party].ledger._entries = entries
            server.aggregators[party] = world.restore(party, state, stores[party].ledger)
        rest = server.collect(OTHERS)
        return server, None if rest is None else whole - rest

    def test_refused(self) -> None:
        server, recovered = self.attack(ledger_too=False)
        assert recovered is None
        for aggregator in server.aggregators.values():
            assert "the ledger of" in aggregator.faults[0].detail

    def test_control_succeeds(self) -> None:
        assert has(self.attack(ledger_too=True)[1], WANTED, TASK)


@attack(
    title=(
        "The collector runs the same session a second time without one client and asks for reports again: "
        "the sums differ by that client's update"
    ),
    attacker="lying collector alone; the clients keep no ledger",
    defence=(
        "the ledger's entry for the aggregate share: each aggregator has one for a (task, session) "
        "(`ShareAggregator._release`)"
    ),
    control="without that entry: the victim's update",
    source="Multi-RoundSecAgg; Gradient Disaggregation",
)
class TestSameSessionTwice:
    def attack(self) -> tuple[LyingCollector, Vector | None]:
        world, stores = World(TASK), {party: MemoryStore() for party in (LEADER, HELPER)}
        sums = []
        for parties in (CLIENTS, OTHERS):
            stores = {party: MemoryStore(store.ledger) for party, store in stores.items()}
            server = LyingCollector(world, stores=stores)
            server.gather(parties)
            server.relay(parties)
            sums.append(server.collect(parties))
        return server, None if sums[1] is None else sums[0] - sums[1]  # type: ignore[operator]

    def test_refused(self) -> None:
        server, recovered = self.attack()
        assert recovered is None
        for party, aggregator in server.aggregators.items():
            assert f"the ledger of {party} holds another aggregate share" in aggregator.faults[0].detail

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = MemberContext.claim

        def without(member: Any, value: bytes, *entry: Any) -> None:
            if entry[0] != "aggregate share":
                claim(member, value, *entry)

        monkeypatch.setattr(MemberContext, "claim", without)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title=(
        "A copied report: a colluder sends the victim's sealed shares as its own, so the sum counts the "
        "victim's update twice"
    ),
    attacker="a lying client that sees the victim's report",
    defence="a sealed share is bound to its client (`share_info`)",
    control="with seals that leave the client out: a wrong sum is accepted as right",
    source="own; input independence, as in Prio and DAP",
)
class TestCopiedReport:
    thief = COLLUDERS[0]

    def attack(self) -> tuple[LyingCollector, Vector | None]:
        server = LyingCollector(World(TASK))
        server.gather(CLIENTS)
        message, payload = Envelope.parse(server.reports[VICTIM], LIMIT).open(Report)
        server.reports[self.thief] = server.sign(
            self.thief, message.seeds, bytes(payload), server.world.keys[self.thief]
        )
        server.relay(CLIENTS)
        held = [party for party in CLIENTS if party in server.aggregators[LEADER]._state.reports]
        return server, less(server.collect(held), [party for party in held if party != self.thief])

    def test_refused(self) -> None:
        server, recovered = self.attack()
        assert has(recovered, np.zeros(WANTED.size), TASK), "the sum without the thief is right"
        assert server.kinds() == {FaultKind.UNOPENED_SHARE}

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bound = shares.share_info

        def unbound(task: secagg.Task, session: bytes, client: str, aggregator: str) -> bytes:
            return bound(task, session, "", aggregator)

        for module in (shares, client_module, aggregator_module):
            monkeypatch.setattr(module, "share_info", unbound)
        server, recovered = self.attack()
        assert has(recovered, WANTED, TASK)
        assert not server.kinds()


@attack(
    title=(
        "Invented aggregators: the collector shows clients a roster with sealing keys whose private halves it has"
    ),
    attacker="lying collector alone",
    defence=(
        "the roster is pinned: its digest is in the session id, and sealing keys come from the roster "
        "only (`ShareClient._seal`)"
    ),
    control="with a client that takes the roster from the collector: the victim's update",
    source="own; see `threat-model.md`",
)
class TestRosterOfTheServer:
    def attack(self, *, roster_from_server: bool) -> Vector | None:
        world, evil = World(TASK), World(TASK, seed=b"evil")
        evil.keys |= {party: world.keys[party] for party in CLIENTS}
        evil.roster = Roster(
            [
                *(world.roster[party] for party in CLIENTS),
                *(evil.roster[party] for party in evil.aggregators),
            ]
        )
        server = LyingCollector(evil)
        server.gather([VICTIM], roster=evil.roster if roster_from_server else world.roster)
        server.relay([VICTIM])
        self.server = server
        if VICTIM not in server.aggregators[LEADER]._state.reports:
            return None
        for aggregator in server.aggregators.values():
            aggregator._check_floor = lambda count: None
        return server.collect([VICTIM])

    def test_refused(self) -> None:
        assert self.attack(roster_from_server=False) is None
        assert self.server.kinds() == {FaultKind.FOREIGN_SESSION}

    def test_control_succeeds(self) -> None:
        assert has(self.attack(roster_from_server=True), WANTED, TASK)


@attack(
    title="Different sets: the leader has added a report that the helper never received",
    attacker="the network between an honest collector and the aggregators",
    defence=(
        "an aggregator names, in the recount and under its signature, only reports that it holds "
        "(`ShareAggregator._holds`)"
    ),
    control=(
        "with aggregators that claim to hold a report of everyone in the cohort: a wrong sum is accepted as right"
    ),
    source="own; the report count and checksum of DAP",
)
class TestDifferentSets:
    shapes = ((5, (1 << 12) - 1, 1 << 12),)  # modular, so that no sum is out of range

    def attack(self) -> secagg.Outcome | None:
        encoding = Integers(self.shapes)
        world = World(replace(TASK, encoding=encoding, layout=encoding.layout))
        update = {"halves": encoding.halves([1, 2, 3, 4, 5])}
        session = Session(world.parties, task=world.task, session=SESSION, contribute=False)
        for party in CLIENTS:
            session.members[party].contribute(update)
        session.before_relay = lambda party, report: (
            [] if (party, Envelope.parse(report, LIMIT).sender) == (HELPER, VICTIM) else None
        )
        return session.run()

    def test_refused(self) -> None:
        with pytest.raises(Aborted, match=f"has added reports of {VICTIM}"):
            self.attack()

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ShareAggregator, "_holds", lambda _, draft: dict.fromkeys(draft.cohort, b""))
        outcome = self.attack()
        assert outcome is not None
        assert outcome.survivors == CLIENTS
        assert outcome.sum["halves"][5:].tolist() != [7, 14, 21, 28, 35]


# --- refused, though nothing is known to follow


@refusal(
    title="Two reports of one colluder, one for each aggregator",
    why="the sum is then wrong by no more than what one bad report could add",
)
def test_two_reports_of_one_client() -> None:
    server = LyingCollector(World(TASK))
    server.gather(CLIENTS)
    colluder = COLLUDERS[0]
    server.relay([party for party in CLIENTS if party != colluder])
    for aggregator in server.aggregators:
        server.reports[colluder] = server.forge(colluder, UPDATES[colluder], server.world.keys[colluder])
        server.relay([colluder], to=[aggregator])
    assert server.collect(CLIENTS) is None
    for aggregator in server.aggregators.values():
        assert "agreed to another set of reports" in aggregator.faults[-1].detail


@refusal(
    title="The collector names different sets to the aggregators, each of which is long enough",
    why=(
        "a report that only one of them counts stays hidden by shares that nobody releases; each "
        "aggregator checks its own floor"
    ),
)
def test_different_sets_named() -> None:
    server = LyingCollector(World(TASK))
    server.gather(CLIENTS)
    server.relay(CLIENTS)
    signed = server.agree({LEADER: CLIENTS, HELPER: OTHERS})
    assert len(signed) == 2
    assert server.release(signed) == {}
    for aggregator in server.aggregators.values():
        assert "agreed to another set of reports" in aggregator.faults[-1].detail


@refusal(
    title=(
        "An agreement that is counted twice, belongs to another session, or is signed by the collector in "
        "another's name"
    ),
    why="an aggregator would then go on with its own set, which reaches the floor",
)
def test_agreements_that_are_not_one_of_each() -> None:
    server = LyingCollector(World(TASK))
    server.gather(CLIENTS)
    server.relay(CLIENTS)
    signed = server.agree(dict.fromkeys(server.aggregators, CLIENTS))
    other = LyingCollector(server.world)
    other.gather(CLIENTS)
    other.relay(CLIENTS)
    foreign = other.agree(dict.fromkeys(other.aggregators, CLIENTS))
    agreed, _ = Envelope.parse(signed[1], LIMIT).open(Agreed)
    strangers, _ = enrol([HELPER])

    def forged(sender: str, signer: Any) -> bytes:
        return wire.seal_envelope(
            agreed, protocol=TASK.protocol.ID, task=TASK.digest, session=server.id, sender=sender, identity=signer
        )

    of_a_client = forged(VICTIM, server.world.keys[VICTIM])
    for shown, kind in (
        ([], FaultKind.INVALID),
        (signed[:1], FaultKind.INVALID),
        ([signed[0], signed[0]], FaultKind.INVALID),
        ([*signed, signed[0]], FaultKind.INVALID),
        (foreign, FaultKind.FOREIGN_SESSION),
        ([signed[0], foreign[1]], FaultKind.FOREIGN_SESSION),
        ([signed[0], forged(HELPER, strangers[HELPER])], FaultKind.UNAUTHENTIC),
        ([signed[0], of_a_client], FaultKind.UNKNOWN_SENDER),
    ):
        assert server.release(shown) == {}
        assert {aggregator.faults[-1].kind for aggregator in server.aggregators.values()} == {kind}
    assert set(server.release(signed)) == {LEADER, HELPER}, "and none of it changed anything"


@refusal(
    title="The collector returns another report to the leader than the one that the leader added",
    why=("the sum is then wrong by the difference of two updates of one colluder, who can send any update"),
)
def test_another_report_handed_back() -> None:
    server = LyingCollector(World(TASK))
    server.gather(CLIENTS)
    server.relay(CLIENTS)
    colluder = COLLUDERS[0]
    true, rest = server.reports[colluder], [party for party in CLIENTS if party != colluder]
    server.reports[colluder] = server.forge(colluder, -UPDATES[colluder], server.world.keys[colluder])
    assert server.agree({LEADER: rest}) == []
    assert (
        server.aggregators[LEADER].faults[-1].detail
        == f"got a set without {colluder}, whose report was not handed back"
    )
    server.reports[colluder] = true
    assert has(less(server.collect(rest), rest), np.zeros(WANTED.size), TASK), "and it changed nothing"


@refusal(
    title="Seed shares are swapped between two helpers",
    why="a share that is sealed to one key opens under no other key",
)
def test_seeds_swapped_between_helpers() -> None:
    world = World(replace(TASK, protocol=secagg.AdditiveShares(aggregators=3, corruption=0.33)))
    server = LyingCollector(world)
    server.gather(CLIENTS)
    message, payload = Envelope.parse(server.reports[COLLUDERS[0]], LIMIT).open(Report)
    server.reports[COLLUDERS[0]] = server.sign(
        COLLUDERS[0], message.seeds[::-1], bytes(payload), world.keys[COLLUDERS[0]]
    )
    server.relay(CLIENTS)
    assert COLLUDERS[0] in server.aggregators[LEADER]._state.reports
    for helper in ("aggregator-2", "aggregator-3"):
        assert COLLUDERS[0] not in server.aggregators[helper]._state.reports
    rest = [party for party in CLIENTS if party != COLLUDERS[0]]
    assert has(less(server.collect(rest), rest), np.zeros(WANTED.size), TASK)


@refusal(
    title="An aggregator uses another key than the enrolled one",
    why="a share that is sealed to the roster's key doesn't open under another key",
)
def test_a_key_that_the_roster_does_not_list() -> None:
    world = World(TASK)
    world.sealing[LEADER] = os.urandom(32)
    assert PrivateKey(Kem.MLKEM768_X25519, world.sealing[LEADER]).public != world.roster[LEADER].encryption_key
    with pytest.raises(secagg.ConfigError, match="not the private half"):
        world.role(LEADER)


def test_one_honest_aggregator_keeps_the_victims_share() -> None:
    """The attacker holds the other aggregator's key and all colluders': what it can open isn't the update."""
    server = LyingCollector(World(TASK), honest=[LEADER])
    server.gather(HONEST)
    message, _ = Envelope.parse(server.reports[VICTIM], LIMIT).open(Report)
    key = PrivateKey(Kem.MLKEM768_X25519, server.world.sealing[HELPER])
    seed = key.open(message.seeds[0], info=shares.share_info(TASK, server.id, VICTIM, HELPER))
    assert len(seed) == 32
    lanes = zero_lanes(TASK)
    for lane, offset in stream_offsets(lanes):
        add_mask(lane, seed, offset=offset)
    reduce_lanes(TASK, lanes)
    top = 2**15 - 1
    assert not has((lanes[0].astype(np.int64) - top) / top, WANTED, TASK)
