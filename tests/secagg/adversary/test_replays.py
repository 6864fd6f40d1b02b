"""A server replays old messages, reflects messages, or relies on masks that repeat or can be guessed."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from mpc.masks import keystream
from secagg import SecAgg
from secagg.bitmap import from_bitmap
from secagg.errors import FaultKind
from secagg.lanes import mask_lanes, reduce_lanes
from secagg.protocols.pairwise.messages import (
    KEY,
    SELF,
    SHARE_BYTES,
    seal_info,
    share_context,
    share_dealer,
    share_holder,
)
from secagg.roles import MemberContext
from secagg.session import session_id
from secagg.wire import Reject
from tests.secagg.adversary.driver import (
    CLIENTS,
    COLLUDERS,
    HONEST,
    UPDATES,
    VICTIM,
    LyingServer,
    SemiHonest,
    World,
    as_update,
    difference,
    has,
    make_task,
    make_updates,
    remove,
)
from tests.secagg.adversary.registry import attack
from tests.secagg.adversary.test_two_stories import NEAR, STORIES

SERVER = "lying server, c colluders"
OTHERS = CLIENTS[1:]
WANTED = UPDATES[VICTIM]
TASK = make_task()


@attack(
    title=("Signatures under survivor lists of earlier sessions, shown as the quorum of split views"),
    attacker=SERVER,
    defence=(
        "a signature is valid only in its own session, whose id is under the signature (`Context.check_signatures`)"
    ),
    control="with signatures of any session accepted: the victim's update",
    source="FCP: clients never recompute the session id",
)
class TestReplayedLists:
    def attack(self, world: World) -> LyingServer:
        self.sessions: set[bytes] = set()  # all in which someone signed
        stories = [(NEAR if party == VICTIM else CLIENTS, story) for party, story in STORIES.items()]
        lists = {}
        for number, (dealers, survivors) in enumerate(stories):
            lists[dealers, survivors] = self.honest_lists(world, dealers, survivors, b"earlier %d" % number)
        server = LyingServer(world)
        server.propose()
        server.deal()
        server.collect([VICTIM], dealers=NEAR)
        server.collect(OTHERS)
        for party, story in zip(STORIES, stories, strict=True):
            server.sign([party], story[1])
            server.unmask([party], story[1], lists[story])
        server.learn_key("c2")
        server.learn_key("c3")
        return server

    def honest_lists(
        self, world: World, dealers: tuple[str, ...], survivors: tuple[str, ...], session: bytes
    ) -> list[bytes]:
        """The lists of a session in which the others did drop out."""
        server = LyingServer(world, session=session)
        server.propose()
        server.deal(dealers)
        server.collect(survivors)
        self.sessions.update(server.ids.values())
        return server.sign(survivors, survivors)

    def test_refused(self) -> None:
        server = self.attack(World())
        assert server.refusals == dict.fromkeys(HONEST, FaultKind.UNAUTHENTIC)
        assert not any("Revealed" in server.sent[party] for party in HONEST)
        assert server.recover() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check = MemberContext.check_signatures

        def signed_in(context: Any, session: bytes, *arguments: Any) -> bool:
            message, role, sender, signature = arguments
            try:
                check(context, message, session, role, {sender: signature})
            except Reject:
                return False
            return True

        def of_any_session(context: Any, message: Any, session: bytes, role: Any, signatures: Any) -> None:
            for sender, signature in signatures.items():
                known = (session, *self.sessions)
                assert any(signed_in(context, one, message, role, sender, signature) for one in known)

        monkeypatch.setattr(MemberContext, "check_signatures", of_any_session)
        server = self.attack(World())
        assert not server.refusals
        assert has(server.recover(), WANTED, TASK)


@attack(
    title=(
        "Reflection: the server returns the shares that the victim sealed to a dropped client as if that "
        "client had sealed them, and the victim reveals a share of its own key"
    ),
    attacker=(
        "lying server, c colluders; under `semi-honest`, because the threshold of `malicious` would be "
        "enough by itself"
    ),
    defence="a share is bound to dealer, holder and point in its sealing key, its associated data and its "
    "commitment (`seal_info`, `share_context`, `share_dealer` and `share_holder`)",
    control="with these three leaving out dealer, holder and point: the victim's update",
    source="FCP: AES-GCM without associated data or ids",
)
class TestReflectedShare:
    gone = "c5"

    def attack(self) -> LyingServer:
        server = LyingServer(World(make_task(protocol=SemiHonest)))
        survivors = tuple(party for party in CLIENTS if party != self.gone)
        server.propose()
        server.deal()

        def reflect(dealer: str, holder: str) -> tuple[bytes, bytes]:
            turned = (holder, dealer) if (dealer, holder) == (self.gone, VICTIM) else (dealer, holder)
            return server.box(*turned)

        server.collect(survivors, dealers=CLIENTS, box=reflect)
        revealed = server.unmask(survivors, survivors)[VICTIM]
        if self.gone not in from_bitmap(revealed.unopened, server.u1):
            at = server.u1.index(self.gone) * SHARE_BYTES
            server.keep(VICTIM, KEY, self.gone, revealed.shares[at : at + SHARE_BYTES])
        return server

    def test_refused(self) -> None:
        server = self.attack()
        assert len(server.shares[VICTIM, KEY]) == len(COLLUDERS)  # one short
        assert server.rebuild(VICTIM, SELF) is not None
        assert server.recover() is None

    @pytest.mark.parametrize("kept", ["seal_info", "share_context", "share_dealer"])
    def test_refused_by_each_alone(self, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unbind(monkeypatch, kept)
        assert self.attack().recover() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unbind(monkeypatch)
        assert has(self.attack().recover(), WANTED, TASK)

    def unbind(self, monkeypatch: pytest.MonkeyPatch, kept: str = "") -> None:
        unbound: dict[Callable[..., bytes], Callable[..., bytes]] = {
            seal_info: lambda *_: seal_info("", ""),
            share_context: lambda session, *_: share_context(session, "", "", 0),
            share_dealer: lambda session, _: share_dealer(session, ""),
            share_holder: lambda _, kind: share_holder("", kind),
        }
        both = {"share_dealer": "share_holder"}  # a commitment is bound by these two together
        for defence, instead in unbound.items():
            if defence.__name__ not in (kept, both.get(kept)):
                remove(monkeypatch, defence, instead)


@attack(
    title="Mask reuse: clients with the same randomness in two sessions (a cloned machine)",
    attacker="server that only listens",
    defence=("every key is derived with the session id, which depends on name, nonce and adverts (`session_id`)"),
    control="with a session id that is always the same: the difference of the victim's two updates",
    source="MicroSecAgg; OpenFL: masks fixed for a whole experiment",
)
class TestMaskReuse:
    updates = make_updates(CLIENTS, seed=2)

    def attack(self) -> np.ndarray:
        world, inputs = World(), []
        for session, updates in ((b"round 1", UPDATES), (b"round 2", self.updates)):
            clients = {
                party: world.role(
                    party, session=session, rng=lambda count, party=party: party.encode() * (count // 2)
                )
                for party in CLIENTS
            }
            for party, client in clients.items():
                client.contribute(updates[party])
            server = LyingServer(world, clients, session=session)
            server.propose()
            server.deal()
            server.collect()
            inputs.append(server.inputs[VICTIM][0])
        return difference(inputs[1], inputs[0], TASK)

    def test_refused(self) -> None:
        assert not has(self.attack(), self.updates[VICTIM] - WANTED, TASK)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remove(monkeypatch, session_id, lambda **_: bytes(32))
        assert has(self.attack(), self.updates[VICTIM] - WANTED, TASK)


TRIED = 2**12


@attack(
    title=(
        "Guessed masks: all masks are known but the one that two honest clients share, and the server "
        "tries every seed"
    ),
    attacker="a server that only listens, c colluders",
    defence="a mask is AES-256 under all 32 bytes of the agreed key (`mask_lanes`)",
    control="with keys reduced to 12 bits (peers: 16, 28 and 32 bits): the victim's update",
    source="Flower: 2^28 masks, its issue 7522; Flamingo: 16 bits; OpenFL: one float",
)
class TestGuessedMasks:
    def attack(self) -> np.ndarray | None:
        ids = CLIENTS[:4]
        task = make_task(protocol=SecAgg(corruption=0.5), max_clients=4, min_survivors=4)
        server = LyingServer(World(task, ids, colluders=ids[2:]))
        server.propose()
        server.deal()
        server.collect()
        server.unmask(ids, ids, server.sign(ids, ids))
        lanes = server.peel(VICTIM, server.rebuild(VICTIM, SELF), but=["c2"])
        assert lanes is not None
        for guess in range(TRIED):
            tried = [lane.copy() for lane in lanes]
            mask_lanes(tried, [(folded(guess), -1)])
            reduce_lanes(task, tried)
            if tried[0].max() < 2**16 and tried[1][0] <= tried[0].size:  # an update in range: no accident
                return as_update(tried, task)
        return None

    def test_refused(self) -> None:
        assert self.attack() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def weak(lanes: Any, keyed: Any) -> None:
            mask_lanes(lanes, [(folded(int.from_bytes(key[:2], "big") % TRIED), sign) for key, sign in keyed])

        remove(monkeypatch, mask_lanes, weak)
        assert has(self.attack(), WANTED, TASK)


def folded(number: int) -> bytes:
    """One of the few keys."""
    return number.to_bytes(32, "big")


def test_one_bit_of_a_key_changes_half_the_mask() -> None:
    """For each of the 256 bits: 32,768 mask bits, half of them within six standard deviations (90.5 bits)."""
    key = bytes(range(32))
    mask, other = np.zeros(1024, np.uint32), np.zeros(1024, np.uint32)
    keystream(key, mask)
    for byte, bit in product(range(32), range(8)):
        flipped = bytearray(key)
        flipped[byte] ^= 1 << bit
        keystream(bytes(flipped), other)
        changed = int(np.unpackbits((mask ^ other).view(np.uint8)).sum())
        assert abs(changed - 16384) < 6 * 90.5
