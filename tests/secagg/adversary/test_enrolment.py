"""Enrolment: the one who chooses the roster chooses the other clients, or to whom shares are sealed.

The server sends the roster, and holds keys for every client but the victim: its own keys, or stolen ones. The
victim accepts the roster or refuses it, as its kit and its ledger say. If it accepts, the server plays all other
clients in an honest session, and subtracts their updates from the sum. The last rows attack the requests that
parties send to the registrar, and the kits.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from mpc.hpke import Kem, PrivateKey
from mpc.masks import add_mask
from secagg import enrolment, registrar
from secagg.enrolment import build_roster, read_request, request_enrolment
from secagg.identity import Party, PartyRole, Roster, enrol
from secagg.kit import Kit
from secagg.lanes import fold_lanes, reduce_lanes, stream_offsets, zero_lanes
from secagg.protocols.shares import messages as shares
from secagg.protocols.shares.messages import Report
from secagg.registrar import sign_roster
from secagg.store import MemoryLedger
from secagg.wire import Envelope
from tests.secagg.adversary.driver import (
    CLIENTS,
    LIMIT,
    UPDATES,
    VICTIM,
    Vector,
    World,
    as_update,
    encoded_sum,
    has,
    make_task,
    play,
)
from tests.secagg.adversary.registry import attack
from tests.secagg.adversary.test_aggregators import HELPER, LEADER, TASK as SHARED, LyingCollector

TASK = make_task()
OTHERS = CLIENTS[1:]
WANTED = UPDATES[VICTIM]
NOW = 1_800_000_000
WEEK = 7 * 86400
REGISTRAR = Ed25519PrivateKey.from_private_bytes(b"the registrar".rjust(32))
PUBLIC = REGISTRAR.public_key().public_bytes_raw()
ATTACKER = Ed25519PrivateKey.from_private_bytes(b"the attacker".rjust(32))


def signed(roster: Roster, version: int = 1, key: Ed25519PrivateKey = REGISTRAR) -> tuple[str, str]:
    """A roster and its signature, as they travel; the registrar here remembers nothing."""
    return roster.to_json(), sign_roster(roster, key, version=version, expires=NOW + WEEK, ledger=MemoryLedger())


class Victim:
    """A client with a kit and a ledger, which is shown rosters."""

    def __init__(self, **pins: Any) -> None:
        self.world = World(TASK)
        fields = {"party": VICTIM, "url": "https://agg.example.org", "task": TASK.digest.hex(), "registrar": PUBLIC}
        self.kit = Kit(**fields | pins)
        self.ledger = MemoryLedger()
        self.refusal = ""

    def accept(self, roster: str, signature: str | None, now: float = NOW) -> Roster | None:
        """The roster, or None where it is refused."""
        try:
            self.kit.check_task(TASK)
            return self.kit.check_roster(roster, signature, ledger=self.ledger, now=now)
        except secagg.ConfigError as error:
            self.refusal = str(error)
            return None

    def listed_among(self, parties: Roster) -> Roster:
        """A roster of the victim and others."""
        return Roster([self.world.roster[VICTIM], *(parties[party] for party in OTHERS)])

    def loses(self, roster: Roster | None, keys: Mapping[str, Ed25519PrivateKey]) -> Vector | None:
        """The victim's update, as a server learns it that plays all others under this roster by their ``keys``."""
        if roster is None:
            return None
        self.world.roster = roster
        self.world.keys |= {party: keys[party] for party in OTHERS}
        outcome = play(self.world, self.world.join()).outcome
        return None if outcome is None else outcome.sum - encoded_sum(OTHERS, UPDATES, TASK)


@attack(
    title="A roster of the server's own: it signs one in which it holds the keys of all clients but the victim",
    attacker="lying server",
    defence="the kit pins the registrar's key, which must have signed (`enrolment.is_signed`)",
    control="with any signature accepted: the victim's update",
    source="own; the Sybils of Bonawitz et al. 2017, section 6.2",
)
class TestForeignRegistrar:
    def attack(self) -> tuple[Victim, Vector | None]:
        victim = Victim()
        keys, strangers = enrol(OTHERS)
        roster = victim.listed_among(strangers)
        return victim, victim.loses(victim.accept(*signed(roster, key=ATTACKER)), keys)

    def test_refused(self) -> None:
        victim, recovered = self.attack()
        assert recovered is None
        assert "did not sign" in victim.refusal

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrar, "is_signed", lambda *_: True)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="A roster swapped under the registrar's signature, which is that of the true one",
    attacker="lying server",
    defence="the signature names the roster's digest, which every party computes (`registrar._check_digest`)",
    control="without that comparison: the victim's update",
    source="own",
)
class TestSwappedRoster:
    def attack(self) -> tuple[Victim, Vector | None]:
        victim = Victim()
        keys, strangers = enrol(OTHERS)
        _, signature = signed(victim.world.roster)
        roster = victim.listed_among(strangers).to_json()
        return victim, victim.loses(victim.accept(roster, signature), keys)

    def test_refused(self) -> None:
        victim, recovered = self.attack()
        assert recovered is None
        assert "not the one that the registrar signed" in victim.refusal

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrar, "_check_digest", lambda *_: None)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="A roster rolled back to one that lists stolen keys, all of which were replaced since",
    attacker="lying server with the old private keys of all clients but the victim",
    defence="the highest version that was seen stays in the client's ledger (`registrar._check_rollback`)",
    control="without that: the victim's update",
    source="own; rollback in The Update Framework",
)
class TestRolledBackRoster:
    def attack(self) -> tuple[Victim, Vector | None]:
        victim = Victim()
        stolen, before = enrol(OTHERS)
        old = signed(victim.listed_among(before), version=1)
        assert victim.accept(*old) is not None
        assert victim.accept(*signed(victim.world.roster, version=2)) is not None
        return victim, victim.loses(victim.accept(*old), stolen)

    def test_refused(self) -> None:
        victim, recovered = self.attack()
        assert recovered is None
        assert "version 1 of the roster after version 2" in victim.refusal

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrar, "_check_rollback", lambda *_: None)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="A roster frozen: the server withholds every newer one from a client that never saw any",
    attacker="lying server with the old private keys of all clients but the victim",
    defence="a signature expires (`registrar._check_expiry`)",
    control="without the expiry: the victim's update",
    source="own; the freeze attack in The Update Framework",
)
class TestFrozenRoster:
    def attack(self) -> tuple[Victim, Vector | None]:
        victim = Victim()
        stolen, before = enrol(OTHERS)
        old = signed(victim.listed_among(before), version=1)
        return victim, victim.loses(victim.accept(*old, now=NOW + WEEK), stolen)

    def test_refused(self) -> None:
        victim, recovered = self.attack()
        assert recovered is None
        assert "expired" in victim.refusal

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrar, "_check_expiry", lambda *_: None)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="Two rosters under one version: one that everybody compared, and another for the victim alone",
    attacker="lying server, and a registrar that signs a second roster under a version that it used",
    defence="the digest under a version is claimed in the client's ledger (`registrar._check_equivocation`)",
    control="without that: the victim's update",
    source="own; equivocation",
)
class TestTwoRostersUnderOneVersion:
    def attack(self) -> tuple[Victim, Vector | None]:
        victim = Victim()
        keys, strangers = enrol(OTHERS)
        assert victim.accept(*signed(victim.world.roster)) is not None
        return victim, victim.loses(victim.accept(*signed(victim.listed_among(strangers))), keys)

    def test_refused(self) -> None:
        victim, recovered = self.attack()
        assert recovered is None
        assert "second, different roster as version 1" in victim.refusal

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrar, "_check_equivocation", lambda *_: None)
        assert has(self.attack()[1], WANTED, TASK)


# Requests: one of the two aggregators is the attacker's by right, and it wants the other's share too.


class Aggregators:
    """A registrar enrols everyone by requests; the attacker runs an aggregator and holds a second sealing key."""

    def __init__(self) -> None:
        self.world = World(SHARED)
        self.private = PrivateKey(Kem.MLKEM768_X25519, bytes(range(32)))

    def request(self, party: str) -> str:
        """The request that a party sends."""
        return request_enrolment(self.world.roster[party], self.world.keys[party])

    def loses(self, roster: Roster | None) -> Vector | None:
        """The victim's update, if its report is sealed to two keys of the attacker."""
        if roster is None:
            return None
        theirs = {LEADER: PrivateKey(Kem.MLKEM768_X25519, self.world.sealing[LEADER]), HELPER: self.private}
        self.world.roster = roster
        server = LyingCollector(self.world, honest=[LEADER])
        server.gather([VICTIM])
        message, payload = Envelope.parse(server.reports[VICTIM], LIMIT).open(Report)
        sealed = {LEADER: bytes(payload), HELPER: message.seeds[0]}
        opened = {
            party: key.open(sealed[party], info=shares.share_info(SHARED, server.id, VICTIM, party))
            for party, key in theirs.items()
        }
        lanes = zero_lanes(SHARED)
        fold_lanes(SHARED, opened[LEADER], lanes)
        for lane, offset in stream_offsets(lanes):
            add_mask(lane, opened[HELPER], offset=offset)
        reduce_lanes(SHARED, lanes)
        return as_update(lanes, SHARED)


@attack(
    title="A request under another's id: an aggregator's operator asks to be enrolled as the other one, too",
    attacker="one aggregator of two, and the collector",
    defence="an id that is enrolled keeps its key, unless the registrar replaces it by name "
    "(`enrolment._check_replacement`)",
    control="if the last request wins: the victim's update",
    source="own",
)
class TestAnothersId:
    def attack(self) -> tuple[str, Vector | None]:
        parties = Aggregators()
        asking = Party(
            HELPER, PartyRole.AGGREGATOR, ATTACKER.public_key().public_bytes_raw(), parties.private.public
        )
        request = read_request(request_enrolment(asking, ATTACKER))
        try:
            roster = build_roster([request], base=parties.world.roster)
        except secagg.ConfigError as error:
            return str(error), None
        return "", parties.loses(roster)

    def test_refused(self) -> None:
        refusal, recovered = self.attack()
        assert recovered is None
        assert "another key than the one that is enrolled" in refusal

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(enrolment, "_check_replacement", lambda *_: None)
        assert has(self.attack()[1], WANTED, SHARED)


@attack(
    title="A request changed on its way: the other aggregator's, with the attacker's sealing key in it",
    attacker="one aggregator of two, the collector, and the carrier of the requests",
    defence="a party signs its whole request with the key that it asks for (`enrolment.is_signed`)",
    control="without a proof of possession: the victim's update",
    source="own",
)
class TestForgedProofOfPossession:
    def attack(self) -> tuple[str, Vector | None]:
        parties = Aggregators()
        requests = {party: parties.request(party) for party in parties.world.roster}
        changed = json.loads(requests[HELPER])
        changed["encryption_key"] = base64.b64encode(parties.private.public).decode()
        requests[HELPER] = json.dumps(changed)
        try:
            roster = build_roster(map(read_request, requests.values()))
        except secagg.ConfigError as error:
            return str(error), None
        return "", parties.loses(roster)

    def test_refused(self) -> None:
        refusal, recovered = self.attack()
        assert recovered is None
        assert f"got a request of {HELPER} whose signature is wrong" in refusal

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(enrolment, "is_signed", lambda *_: True)
        assert has(self.attack()[1], WANTED, SHARED)


# Kits


@attack(
    title="A kit without its pins: its carrier takes the registrar's key out, so the server's word counts",
    attacker="lying server, and the carrier of the kit",
    defence="a task against a lying server, which the kit pins, needs a vouched roster (`Kit.check_task`)",
    control="without that check: the victim's update",
    source="own; a downgrade",
)
class TestKitWithoutItsPins:
    def attack(self) -> tuple[Victim, Vector | None]:
        victim = Victim()
        fields = json.loads(victim.kit.to_json())
        del fields["registrar"]
        victim.kit = Kit.from_json(json.dumps(fields | {"trust": "semi-honest"}))
        keys, strangers = enrol(OTHERS)
        return victim, victim.loses(victim.accept(victim.listed_among(strangers).to_json(), None), keys)

    def test_refused(self) -> None:
        victim, recovered = self.attack()
        assert recovered is None
        assert "nothing vouches for the roster" in victim.refusal

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Kit, "check_task", lambda *_: None)
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="A kit with another registrar: its carrier puts the attacker's key in",
    attacker="lying server, and the carrier of the kit",
    defence="the party compares the kit's fingerprint, which is over all fields, with the person who made it "
    "(`Kit.fingerprint`)",
    control="with a fingerprint over task and party alone: the victim's update",
    source="own",
)
class TestKitWithAnotherRegistrar:
    def attack(self) -> Vector | None:
        victim = Victim()
        read_out = victim.kit.fingerprint
        victim.kit = replace(victim.kit, registrar=ATTACKER.public_key().public_bytes_raw())
        if victim.kit.fingerprint != read_out:
            return None
        keys, strangers = enrol(OTHERS)
        return victim.loses(victim.accept(*signed(victim.listed_among(strangers), key=ATTACKER)), keys)

    def test_refused(self) -> None:
        assert self.attack() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Kit, "fingerprint", property(lambda kit: f"{kit.party} {kit.task}"))
        assert has(self.attack(), WANTED, TASK)


def test_an_honest_enrolment_gives_the_sum_and_no_update() -> None:
    """The same victim under the roster that the registrar signed, with all other clients honest."""
    victim = Victim()
    roster = victim.accept(*signed(victim.world.roster))
    assert roster is not None
    outcome = play(victim.world, victim.world.join()).outcome
    assert outcome is not None
    assert np.allclose(outcome.sum, encoded_sum(CLIENTS, UPDATES, TASK), rtol=0, atol=1e-9)
