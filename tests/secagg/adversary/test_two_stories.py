"""A lying server tells different stories about who is in the sum, to different clients or at different times."""

from typing import Any

import msgspec
import numpy as np
import pytest

from secagg import wire
from secagg.errors import FaultKind, LocalProtocolError
from secagg.protocols import pairwise
from secagg.protocols._pairwise_client import PairwiseClient
from secagg.protocols.base import Round
from secagg.protocols.pairwise import Revealed, SignedSurvivors, Unmask, from_bitmap, to_bitmap
from secagg.store import MemoryLedger
from tests.secagg.adversary.driver import (
    CLIENTS,
    COLLUDERS,
    HONEST,
    SIZE,
    UPDATES,
    VICTIM,
    Disk,
    LyingServer,
    SemiHonest,
    World,
    as_update,
    has,
    make_task,
    make_updates,
    play,
    signed_by_colluders,
    step,
    total,
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
    title="Split views of U2 and U3: each client is told a list that is long enough, and together they call gone "
    "everyone with whom the victim shares a mask",
    attacker=SERVER,
    defence="signatures of more than (\\|U1\\| + c)/2 under one list (`PairwiseClient._check_quorum`)",
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
    title="Split views of U3: one honest client is told that the victim survived, another that it is gone",
    attacker=SERVER,
    defence='`threat_model="malicious"`: its threshold, above (n + c)/2, and its quorum',
    control='with `threat_model="semi-honest"`, which promises nothing against a server that lies: the victim\'s update',
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
    """Unmask as peers send it: who is alive, and who is dead."""

    TYPE = Unmask.TYPE
    survivors: bytes
    signed: list[bytes]
    dropped: bytes


class UnmaskingServer(LyingServer):
    """Lists the victim as dropped, too, when it asks for shares."""

    def ask(self, party: str, message: wire.Message) -> Any:
        if isinstance(message, Unmask):
            message = UnmaskTwoLists(message.survivors, message.signed, to_bitmap([VICTIM], self.u1))
        return super().ask(party, message)


@attack(
    title="One client listed both alive and dead in one request",
    attacker=SERVER,
    defence="the message has one set, and the reply has one share for each dealer (`Unmask`, `Revealed`)",
    control="with two lists in the message and a client that answers both, as in Flower: the victim's update",
    source="Flower, `secaggplus_mod.py:_unmask`",
)
class TestAliveAndDead:
    def attack(self, world: World) -> LyingServer:
        server = UnmaskingServer(world)
        server.propose()
        server.deal()
        server.collect()
        signed = server.sign(CLIENTS, CLIENTS)
        for holder, shares in server.unmask(HONEST, CLIENTS, signed).items():
            both = shares[VICTIM]
            for kind, at in ((pairwise.SELF, 0), (pairwise.KEY, pairwise.SHARE_BYTES)):
                if len(both) > at:
                    server.shares[VICTIM, kind][server.u1.index(holder) + 1] = both[at : at + pairwise.SHARE_BYTES]
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
            shares = pairwise.pieces(revealed.shares, pairwise.SHARE_BYTES, len(draft.held))
            for dealer in from_bitmap(message.dropped, draft.u1):
                shares[draft.u1.index(dealer)] += draft.held[dealer][1]
            return Revealed(revealed.unopened, b"".join(msgspec.json.encode(share) for share in shares)), rest

        def read_both(joined: bytes, size: int, count: int) -> list[bytes]:
            decoder = msgspec.json.Decoder(bytes)
            return [decoder.decode(b'"' + part + b'"') for part in joined.split(b'"') if part]

        monkeypatch.setattr(pairwise, "Unmask", UnmaskTwoLists)
        answers = dict(PairwiseClient.answers) | {Round.UNMASKING: answer_both}
        monkeypatch.setattr(PairwiseClient, "answers", answers)
        monkeypatch.setattr(UnmaskingServer, "split_shares", staticmethod(read_both), raising=False)
        server = self.attack(World())
        assert has(server.recover(), WANTED, server.task)
