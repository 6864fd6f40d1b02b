"""A lying server gives different accounts of who is in the sum, to different clients or at different times."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from secagg import Client, wire
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.errors import FaultKind, LocalProtocolError
from secagg.protocols.pairwise import protocol as pairwise
from secagg.protocols.pairwise.client import PairwiseClient
from secagg.protocols.pairwise.messages import KEY, SELF, SHARE_BYTES, Revealed, Unmask
from secagg.protocols.pairwise.server import PairwiseServer
from secagg.roles import MemberContext
from secagg.table import Round
from secagg.testing import MemoryStore
from tests.secagg.adversary.driver import (
    CLIENTS,
    HONEST,
    UPDATES,
    VICTIM,
    LyingServer,
    SemiHonest,
    World,
    as_update,
    difference,
    has,
    is_right,
    make_task,
    make_updates,
    play,
    signed_by_colluders,
)
from tests.secagg.adversary.registry import attack

SERVER = "lying server, c colluders"
OTHERS = CLIENTS[1:]
NEAR = ("c1", "c2", "c3", "c6", "c7")  # the U2 that the victim is told: its only honest masks are with c2, c3
STORIES = {  # the U3 that each is told: five survivors in each, but three say c2 is gone and three say c3 is
    "c1": NEAR,
    "c2": ("c1", "c2", "c4", "c5", "c6", "c7"),
    "c3": ("c1", "c3", "c4", "c5", "c6", "c7"),
    "c4": ("c1", "c4", "c5", "c6", "c7"),
    "c5": ("c1", "c4", "c5", "c6", "c7"),
}
WANTED = UPDATES[VICTIM]


@attack(
    title=(
        "Split views of U2 and U3: each client gets a list that is long enough, and together the lists "
        "call everyone dropped who shares a mask with the victim"
    ),
    attacker=SERVER,
    defence="signatures of more than (n + c)/2 of U1 under one list (`PairwiseClient._check_quorum`)",
    control="without the quorum check: the victim's update",
    source="Bonawitz et al. 2017, section 6.2",
)
class TestSplitViews:
    def attack(self, world: World) -> LyingServer:
        server = LyingServer(world)
        server.propose()
        server.deal()
        server.collect([VICTIM], dealers=NEAR)
        server.collect(OTHERS)
        for party, story in STORIES.items():
            dealers = server.told_dealers[party]
            lists = [*server.sign([party], story), *signed_by_colluders(server, dealers, story)]
            server.unmask([party], story, lists)
        server.learn_key("c2")
        server.learn_key("c3")
        return server

    def test_refused(self) -> None:
        server = self.attack(World())
        assert server.recover() is None
        assert set(server.refusals) == set(HONEST)
        assert all("5 are needed" in str(reason) for reason in server.refusals.values())
        assert not any("Revealed" in server.sent[party] for party in HONEST)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PairwiseClient, "_check_quorum", lambda *_: None)
        server = self.attack(World())
        assert not server.refusals
        assert has(server.recover(), WANTED, server.task)


@attack(
    title=("Split views of U3: one honest client learns that the victim survived, another that it dropped out"),
    attacker=SERVER,
    defence='`threat_model="malicious"`: a threshold above (n + c)/2, and the quorum',
    control='with `"semi-honest"`, which promises nothing against a server that lies: the victim\'s update',
    source="Bonawitz et al. 2017, section 6.2",
)
class TestSplitSurvivors:
    def attack(self, world: World) -> LyingServer:
        server = LyingServer(world)
        server.propose()
        server.deal()
        server.collect()
        gone = OTHERS
        for party, story in (("c2", CLIENTS), ("c3", gone)):
            lists: list[bytes] = []
            if world.task.protocol.threat_model == "malicious":
                lists = [*server.sign([party], story), *signed_by_colluders(server, CLIENTS, story)]
            server.unmask([party], story, lists)
        return server

    def test_refused(self) -> None:
        server = self.attack(World())
        assert server.recover() is None
        assert set(server.refusals) == {"c2", "c3"}
        assert all("5 are needed" in str(reason) for reason in server.refusals.values())

    def test_control_succeeds(self) -> None:
        server = self.attack(World(make_task(protocol=SemiHonest)))
        assert has(server.recover(), WANTED, server.task)


class UnmaskTwoLists(wire.Message, frozen=True):
    """Unmask as a peer sends it: who is alive, and who is dead."""

    TYPE = Unmask.TYPE
    survivors: bytes
    signers: bytes
    signatures: bytes
    dropped: bytes


class TwoListsServer(LyingServer):
    """Calls the victim, which it lists as a survivor, dropped as well."""

    def ask(self, party: str, message: wire.Message) -> Any:
        if isinstance(message, Unmask):
            one = message.survivors, message.signers, message.signatures
            message = UnmaskTwoLists(*one, to_bitmap([VICTIM], self.u1))
        return super().ask(party, message)


@attack(
    title="One request lists a client both as alive and as dead",
    attacker=SERVER,
    defence="the request has one set, and the reply one share for each dealer (`Unmask`, `Revealed`)",
    control="with two lists in the request and a client that answers both, as in Flower: the victim's update",
    source="Flower, `secaggplus_mod.py:_unmask`",
)
class TestAliveAndDead:
    def attack(self, world: World) -> LyingServer:
        server = TwoListsServer(world)
        server.propose()
        server.deal()
        server.collect()
        signed = server.sign(CLIENTS, CLIENTS)
        for holder, reply in server.unmask(HONEST, CLIENTS, signed).items():
            if more := reply.shares[len(CLIENTS) * SHARE_BYTES :]:
                server.keep(VICTIM, KEY, holder, more)
        return server

    def test_refused(self) -> None:
        server = self.attack(World())
        assert server.recover() is None
        assert server.refusals == dict.fromkeys(HONEST, FaultKind.MALFORMED)
        assert not any("Revealed" in server.sent[party] for party in HONEST)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = PairwiseClient._unmask

        def answer_both(client: Any, draft: Any, message: Any, payload: memoryview) -> Any:
            revealed, rest = honest(client, draft, message, payload)
            more = [draft.held[dealer][1] for dealer in from_bitmap(message.dropped, draft.u1)]
            return Revealed(revealed.unopened, b"".join([revealed.shares, *more])), rest

        both = SimpleNamespace(**{**vars(pairwise.messages), "Unmask": UnmaskTwoLists})
        monkeypatch.setattr(pairwise, "messages", both)  # what the table of rounds names
        monkeypatch.setattr(PairwiseClient, "answers", {**PairwiseClient.answers, Round.UNMASKING: answer_both})
        server = self.attack(World())
        assert has(server.recover(), WANTED, server.task)


@attack(
    title=("The server asks for Unmasking twice: first with the victim among the survivors, then without it"),
    attacker="lying server alone",
    defence=(
        "each row of the table is answered once (`Member._answer`); shown under `semi-honest`, where "
        "nobody signs survivor lists, so that this is the only defence"
    ),
    control="with a client whose answer doesn't change its state: the victim's update",
    source="Bonawitz et al. 2017, section 6.2; Willow's decryptor has no one-use check",
)
class TestUnmaskingTwice:
    def attack(self) -> LyingServer:
        server = LyingServer(World(make_task(protocol=SemiHonest), colluders=()))
        server.propose()
        server.deal()
        server.collect()
        server.unmask(OTHERS, CLIENTS)
        server.unmask(OTHERS, OTHERS)
        return server

    def test_refused(self) -> None:
        server = self.attack()
        assert server.recover() is None
        assert server.refusals == dict.fromkeys(OTHERS, FaultKind.OUT_OF_TURN)
        assert all(server.sent[party].count("Revealed") == 1 for party in OTHERS)

    def test_refused_with_signed_lists_too(self) -> None:
        server = LyingServer(World())
        server.propose()
        server.deal()
        server.collect()
        server.unmask(HONEST, CLIENTS, server.sign(CLIENTS, CLIENTS))
        server.unmask(HONEST, OTHERS, signed_by_colluders(server, CLIENTS, OTHERS))
        assert server.recover() is None
        assert server.refusals == dict.fromkeys(HONEST, FaultKind.OUT_OF_TURN)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        commit = PairwiseClient._commit
        monkeypatch.setattr(
            PairwiseClient, "_commit", lambda c, draft: None if draft.finished else commit(c, draft)
        )
        server = self.attack()
        assert has(server.recover(), WANTED, server.task)


@attack(
    title="Clients are restored from an older state and get another survivor list",
    attacker="lying server, c colluders, and clients that crash and are restored from an old state",
    defence=("the ledger's entry for each round; the ledger is kept apart from the state (`MemberContext.claim`)"),
    control="with the ledger rolled back together with the state: the victim's update",
    source="own; see `limitations.md`",
)
class TestRestoredAndToldAnotherStory:
    def attack(self, *, ledger_too: bool) -> LyingServer:
        world, stores = World(), {party: MemoryStore() for party in CLIENTS}
        server = LyingServer(world, world.join(stores=stores))
        server.propose()
        server.deal()
        server.collect()
        snapshot = {party: (stores[party].states[-1], dict(stores[party].ledger._entries)) for party in OTHERS}
        server.unmask(HONEST, CLIENTS, server.sign(CLIENTS, CLIENTS))
        for party, (state, entries) in snapshot.items():
            if ledger_too:
                stores[party].ledger._entries = entries
            server.clients[party] = world.restore(party, state, stores[party].ledger)
        server.unmask(OTHERS, OTHERS, server.sign(OTHERS, OTHERS))
        return server

    def test_refused(self) -> None:
        server = self.attack(ledger_too=False)
        assert server.recover() is None
        assert set(server.refusals) == set(OTHERS)
        assert all("ledger" in str(reason) for reason in server.refusals.values())

    def test_control_succeeds(self) -> None:
        server = self.attack(ledger_too=True)
        assert has(server.recover(), WANTED, server.task)


@attack(
    title=(
        "Clients are restored from before ShareKeys, and the rest of the session runs again: the victim, "
        "which dropped out the first time, uploads the second time"
    ),
    attacker="lying server, and enough clients that are restored from an old state",
    defence=(
        "the ledger's entry for each round (`MemberContext.claim`); without a ledger, no client that has "
        "answered can be restored (`Client.check_restored`)"
    ),
    control="with clients that are restored without a ledger: the victim's update",
    source="own; see `limitations.md`",
)
class TestRestoredFromBeforeShareKeys:
    def attack(self, *, ledger: bool) -> LyingServer:
        world = World()
        stores = {party: MemoryStore() for party in CLIENTS} if ledger else {}
        server = LyingServer(world, world.join(stores=stores))
        server.propose()
        states = {party: client.to_bytes() for party, client in server.clients.items()}
        opening = dict(server.ids)
        server.deal()
        server.collect(OTHERS, dealers=CLIENTS)
        server.unmask(OTHERS, OTHERS, server.sign(OTHERS, OTHERS))
        server.learn_key(VICTIM)
        server.ids = opening
        for party in HONEST:
            server.clients[party] = world.restore(party, states[party], stores[party].ledger if ledger else None)
        server.deal(HONEST, server.adverts)
        server.collect(HONEST, dealers=CLIENTS)
        server.unmask(HONEST, CLIENTS, server.sign(HONEST, CLIENTS))
        return server

    def test_refused(self) -> None:
        server = self.attack(ledger=True)
        assert server.recover() is None
        assert set(server.refusals) == set(HONEST)
        assert all("ledger" in str(server.refusals[party]) for party in HONEST[1:])
        assert "5 are needed" in str(server.refusals[VICTIM])

    def test_refused_without_a_ledger(self) -> None:
        with pytest.raises(LocalProtocolError, match="without a ledger"):
            self.attack(ledger=False)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Client, "check_restored", lambda client: None)
        server = self.attack(ledger=False)
        assert not server.refusals
        assert has(server.recover(), WANTED, server.task)


@attack(
    title="A client restored from before `contribute` uploads a second update under the same masks",
    attacker="a server that only listens, and a client that crashes, is restored and trains again",
    defence="the ledger's entry for the contribution (`Client.contribute`)",
    control="with the ledger rolled back together with the state: the difference of the two updates",
    source="MicroSecAgg: one masked upload a session, written down before it is sent",
)
class TestRestoredAndTrainedAgain:
    second = make_updates([VICTIM], seed=1)[VICTIM]

    def attack(self, *, ledger_too: bool) -> Any:
        world, store = World(), MemoryStore()
        clients = world.join(OTHERS) | {VICTIM: world.role(VICTIM, save=store)}
        server = LyingServer(world, clients)
        server.propose()
        server.deal()
        state, entries = store.states[-1], dict(store.ledger._entries)
        clients[VICTIM].contribute(WANTED)
        server.collect([VICTIM])
        first = server.inputs[VICTIM][0]
        if ledger_too:
            store.ledger._entries = entries
        server.clients[VICTIM] = world.restore(VICTIM, state, store.ledger)
        server.clients[VICTIM].contribute(self.second)
        server.collect([VICTIM])
        return difference(server.inputs[VICTIM][0], first, world.task)

    def test_refused(self) -> None:
        with pytest.raises(LocalProtocolError, match="another update than the ledger has"):
            self.attack(ledger_too=False)

    def test_control_succeeds(self) -> None:
        recovered = self.attack(ledger_too=True)
        assert has(recovered, self.second - WANTED, make_task())


@attack(
    title=(
        "The server runs the same session a second time without one client: the sums differ by that client's update"
    ),
    attacker="lying server alone",
    defence=(
        "the ledger's entry for the upload: each identity has one for a (task, session) (`MemberContext.claim`)"
    ),
    control="without that entry: the victim's update",
    source="Multi-RoundSecAgg; Gradient Disaggregation",
)
class TestSameSessionAgain:
    def attack(self) -> tuple[Any, Any]:
        world, stores = World(), {party: MemoryStore() for party in CLIENTS}
        first = play(world, world.join(stores=stores))
        stores = {party: MemoryStore(store.ledger) for party, store in stores.items()}
        return first, play(world, world.join(OTHERS, stores=stores))

    def test_refused(self) -> None:
        first, second = self.attack()
        assert is_right(first.outcome, make_task())
        assert second.outcome is None
        assert second.aborted == "got 0 masked inputs; 5 are needed, so nothing is opened"
        assert set(second.refusals) == set(OTHERS)
        assert all("another upload" in reason for reason in second.refusals.values())

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = MemberContext.claim

        def without_upload(client: Any, value: bytes, *entry: Any) -> None:
            if entry[0] != "upload":
                claim(client, value, *entry)

        monkeypatch.setattr(MemberContext, "claim", without_upload)
        first, second = self.attack()
        assert has(first.outcome.sum - second.outcome.sum, WANTED, make_task())


@attack(
    title=(
        "A late input: the server calls a client dropped whose masked input came a moment too late, and "
        "then has both the input and the key to its pairwise masks"
    ),
    attacker="lying server alone",
    defence="the self mask: nobody reveals its seed for a client that is called dropped",
    control="with a self mask whose seed is public: the victim's update",
    source="Bonawitz et al. 2017, section 4: double masking",
)
class TestLateInput:
    def attack(self) -> LyingServer:
        server = LyingServer(World(colluders=()))
        server.propose()
        server.deal()
        server.collect()
        server.unmask(OTHERS, OTHERS, server.sign(OTHERS, OTHERS))
        server.learn_key(VICTIM)
        return server

    def test_refused(self) -> None:
        server = self.attack()
        assert not server.refusals
        assert server.rebuild(VICTIM, SELF) is None
        assert not has(as_update(server.peel(VICTIM, bytes(32)), server.task), WANTED, server.task)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "derive", lambda *_: bytes(32))
        server = self.attack()
        assert has(as_update(server.peel(VICTIM, bytes(32)), server.task), WANTED, server.task)


class LateServer(PairwiseServer):
    """Is handed an input after U3 was frozen."""

    late: ClassVar[bytes]

    def close_round(self) -> Any:
        outbox = super().close_round()
        if self.round == Round.CONSISTENCY_CHECK:
            self.receive(VICTIM, self.late)
        return outbox


def test_an_honest_server_folds_no_late_input_in(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def hold_back(reply: bytes) -> list[bytes]:
        monkeypatch.setattr(LateServer, "late", reply, raising=False)
        return []

    played = play(world, world.join(), tamper={(VICTIM, Round.MASKED_INPUT): hold_back}, server_class=LateServer)
    assert played.faults == {(VICTIM, FaultKind.OUT_OF_TURN)}
    assert played.outcome.survivors == OTHERS
    assert is_right(played.outcome, world.task)
