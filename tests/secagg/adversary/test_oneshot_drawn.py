"""A committee of OneShot that a beacon draws: a server that wants other members, or others' signatures.

Of ten enrolled members seven are drawn. Three of the ten are corrupt: two that are drawn, and one that is not.
Three right answers open a sum, and a set needs five signatures.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc import packed
from mpc.hpke import Kem, PrivateKey
from secagg.beacon import SignedBeacon
from secagg.errors import ConfigError, FaultKind, LocalProtocolError
from secagg.identity import PartyRole, Roster
from secagg.protocols.oneshot import DrawnOneShot, drawn, member
from secagg.protocols.oneshot.messages import SessionKey, share_info
from secagg.roles import Environment
from tests.secagg.adversary.driver import CLIENTS, UPDATES, VICTIM, Vector, World, has, make_task, remove
from tests.secagg.adversary.oneshot import OTHERS, LyingServer, less
from tests.secagg.adversary.registry import attack, refusal

OPERATOR = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BEACON = SignedBeacon(OPERATOR.public_key().public_bytes_raw(), genesis=1_700_000_000, period=30)
ROUND = 1000


def published(number: int) -> bytes:
    """What the beacon publishes in a round."""
    return BEACON.publish(OPERATOR, number)


def make_protocol(**changes: Any) -> DrawnOneShot:
    """Seven of ten, and three corrupt: a draw has all three with probability 0.29, which no task may have."""
    with pytest.MonkeyPatch.context() as weak:
        weak.setattr(drawn, "SECURITY", 1)
        chosen = {"enrolled": 10, "member_corruption": 0.3, "beacon": BEACON, "draw_round": ROUND} | changes
        return DrawnOneShot(7, 2, corruption=0.33, kem=Kem.X25519, **chosen)


PROTOCOL = make_protocol()
TASK = make_task(protocol=PROTOCOL)


class DrawnWorld(World):
    """Everyone gets the beacon's values from ``source``."""

    source = staticmethod(published)

    def lent(self, party: str, **changes: Any) -> Environment:
        return super().lent(party, **{"beacon": self.source} | changes)


WORLD = DrawnWorld(TASK)  # keys depend on names only, so every world has this one's
ENROLLED = WORLD.roster.ids(PartyRole.DECRYPTOR)
COMMITTEE = PROTOCOL.committee_ids(WORLD.roster, published)
OUTSIDE = tuple(party for party in ENROLLED if party not in COMMITTEE)
CORRUPT, HONEST_MEMBERS = COMMITTEE[-2:], COMMITTEE[:-2]
COLLUDING = (*CORRUPT, OUTSIDE[0])
FAVOURITES = tuple(sorted((*COLLUDING, *HONEST_MEMBERS[:4])))
"""The committee that the server would like: all of its three, and four others."""


class CommitteeServer(LyingServer):
    """Speaks to the committee that was drawn, and has the keys of a third corrupt member too."""

    protocol, committee, corrupt = PROTOCOL, COMMITTEE, CORRUPT

    def forged(self, chosen: Any) -> list[bytes]:
        signed = super().forged(chosen)
        outsider, two = COLLUDING[2], self.corrupt
        self.corrupt = (outsider,)
        try:
            return signed + super().forged(chosen)
        finally:
            self.corrupt = two


class Alone(CommitteeServer):
    """The same before it has spoken to anyone."""

    committee = ()


def opened_with(committee: tuple[str, ...], source: Any = published) -> tuple[FaultKind | None, Vector | None]:
    """What the victim finds wrong with session keys of ``committee``, or its update read by three corrupt members.

    The victim gets the beacon's values from ``source``, in which the server has a hand. Honest members don't, and
    show a key only if they were drawn.
    """
    world = DrawnWorld(TASK)
    server = Alone(world)
    own = {party: PrivateKey(Kem.X25519, bytes([7, place]) * 16) for place, party in enumerate(COLLUDING)}
    shown = []
    for party in committee:
        if party in own:
            shown.append(server.seal(SessionKey(own[party].public), party))
        elif (answer := world.role(party).receive(server.seal(server.proposal()))) is not None:
            shown.append(answer)
    world.source = source
    try:
        server.gather([VICTIM], keys=shown)
    except LocalProtocolError:  # by the victim's own caller, who is to look at its source of values
        return None, None
    if VICTIM not in server.inputs:
        return server.refusals[VICTIM], None
    message, _ = server.opened(VICTIM)
    answers = {}
    for party in COLLUDING:
        place = committee.index(party)
        text = own[party].open(message.sealed[place], info=share_info(TASK, server.id, VICTIM, party))
        share = packed.read_share(PROTOCOL.committee, server.scheme.degree, place, text[packed.SALT_BYTES :])
        answers[place] = share.kept()
    return None, server.read([VICTIM], server.sum_of_keys(answers))


@attack(
    title="A committee that the server chose, with three corrupt members, of whom two were drawn",
    attacker="lying server, three corrupt members of ten",
    defence="every party computes the committee from roster and beacon (`DrawnOneShot.committee_ids`)",
    control="where the server says who was drawn: the victim's update",
    source="own; Bonawitz et al. 2017 and Willow have a committee that the server samples",
)
class TestChosenCommittee:
    def test_refused(self) -> None:
        assert opened_with(FAVOURITES) == (FaultKind.UNKNOWN_SENDER, None)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remove(monkeypatch, drawn.draw, lambda ids, members, seed: FAVOURITES)
        assert has(opened_with(FAVOURITES)[1], UPDATES[VICTIM], TASK)


@attack(
    title=(
        "Redrawn: of the beacon's rounds whose values it knows, the server passes one off as the task's, in which "
        "three corrupt members are drawn"
    ),
    attacker="lying server from which clients get the beacon's values, three corrupt members of ten",
    defence="a value counts only if the beacon published it in the task's one round (`DrawnOneShot.committee_ids`)",
    control="where any value counts: the victim's update",
    source="own; the grinding of nonces in Bell et al. 2020's model",
)
class TestRedrawn:
    def attack(self) -> Vector | None:
        def drawn_by(number: int) -> tuple[str, ...]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(SignedBeacon, "verify", lambda *_: True)
                return PROTOCOL.committee_ids(WORLD.roster, lambda _: published(number))

        number = next(number for number in range(1, ROUND) if set(COLLUDING) <= set(drawn_by(number)))
        return opened_with(drawn_by(number), lambda _: published(number))[1]

    def test_refused(self) -> None:
        assert self.attack() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(SignedBeacon, "verify", lambda *_: True)
        assert has(self.attack(), UPDATES[VICTIM], TASK)


@attack(
    title=(
        "Signatures of a member that was not drawn: with it, two sets of clients have five signatures each, three "
        "honest members' on one and two honest members' on the other"
    ),
    attacker="lying server, two corrupt members of the committee, one that was not drawn",
    defence="an agreement counts only if its signer was drawn (`CommitteeMember._agreement`)",
    control="where every enrolled member's agreement counts: the victim's update",
    source="own; the consistency check of Bonawitz et al. 2017, section 6.2",
)
class TestSignaturesFromOutside:
    def attack(self) -> Vector | None:
        server = CommitteeServer(DrawnWorld(TASK))
        server.gather(CLIENTS)
        server.relay(CLIENTS)
        opened = []
        for told, chosen in ((HONEST_MEMBERS[:3], CLIENTS), (HONEST_MEMBERS[3:], OTHERS)):
            signed = server.agree(dict.fromkeys(told, chosen)) + server.forged(chosen)
            answers = server.release(signed, told) | server.corrupt_sums(chosen)
            opened.append(server.read(chosen, server.sum_of_keys(answers)))
        whole, rest = opened
        assert whole is not None
        return None if rest is None else whole - rest

    def test_refused(self) -> None:
        assert self.attack() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        place_of = member.place_of
        monkeypatch.setattr(
            member, "place_of", lambda members, party: place_of(members, party) if party in members else 0
        )
        assert has(self.attack(), UPDATES[VICTIM], TASK)


@refusal(
    title="A proposal to a member that was not drawn (`DrawnOneShot`)",
    why="no client seals to it, and no member counts its signature; it answers nothing, so it has no key to lose",
)
def test_a_member_that_was_not_drawn_answers_nothing() -> None:
    server = CommitteeServer(DrawnWorld(TASK))
    outsider = server.world.role(OUTSIDE[1])
    before = outsider.to_bytes()
    assert outsider.receive(server.seal(server.proposal())) is None
    assert [fault.kind for fault in outsider.faults] == [FaultKind.INVALID]
    assert "who is not a member of this committee" in outsider.faults[0].detail
    assert outsider.to_bytes() == before


@refusal(
    title="A short roster, from which a draw could only be as the server likes (`DrawnOneShot`)",
    why="the task says how many members are enrolled, and everyone pins the roster: under another one, the session "
    "id and the draw are others",
)
def test_a_short_roster_is_refused() -> None:
    world = DrawnWorld(TASK)
    left_out = set(ENROLLED) - set(FAVOURITES)
    world.roster = Roster(party for party in world.roster.values() if party.id not in left_out)
    for party in (VICTIM, COMMITTEE[0]):
        with pytest.raises(ConfigError, match="got a roster of 7 decryptors; the task has enrolled=10"):
            world.role(party)


def test_the_sum_is_exact_where_nobody_lies() -> None:
    server = CommitteeServer(DrawnWorld(TASK))
    server.gather(CLIENTS)
    server.relay(CLIENTS)
    assert has(less(server.collect(CLIENTS), OTHERS), UPDATES[VICTIM], TASK)
