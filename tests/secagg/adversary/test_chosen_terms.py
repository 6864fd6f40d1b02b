"""A lying server chooses what clients don't choose themselves: parameters, keys, participants, the model."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from mpc import keys
from secagg import FixedPoint
from secagg.errors import FaultKind
from secagg.identity import Roster, enrol
from secagg.lanes import mask_bits
from secagg.protocols.pairwise.client import PairwiseClient
from secagg.protocols.pairwise.messages import (
    COMMITMENT_BYTES,
    SEALED_BYTES,
    SELF,
    SHARE_BYTES,
    Advert,
    open_advert,
    seal_info,
    share_context,
)
from secagg.roles import MemberContext
from secagg.session import session_id
from secagg.wire import Envelope
from tests.secagg.adversary.driver import (
    CLIENTS,
    COLLUDERS,
    LIMIT,
    UPDATES,
    VICTIM,
    LyingServer,
    Played,
    SemiHonest,
    World,
    encoded_sum,
    has,
    is_right,
    make_task,
    make_updates,
    opened_sum,
    play,
    remove,
    unpin,
)
from tests.secagg.adversary.registry import attack

SERVER = "lying server, c colluders"
OTHERS = CLIENTS[1:]
WANTED = UPDATES[VICTIM]
TASK = make_task()
DIGEST = "the task is pinned; its digest, in every message and session id, covers every field (`Task.digest`)"


@attack(
    title="Lowered threshold: a task in which c + 1 shares rebuild a secret and nobody signs a list",
    attacker=SERVER,
    defence=DIGEST,
    control="with a digest that leaves `protocol` out, and clients that take the server's: the victim's update",
    source="Flower: clients obey the server's `threshold`",
)
class TestLoweredThreshold:
    offered = replace(TASK, protocol=SemiHonest)

    def attack(self) -> LyingServer:
        server = LyingServer(World(), offered=self.offered)
        server.propose()
        if len(server.adverts) == len(CLIENTS):
            server.deal()
            server.collect()
            server.unmask(["c2"], CLIENTS)
            server.unmask(["c3"], OTHERS)
        return server

    def test_refused(self) -> None:
        server = self.attack()
        assert server.refusals == dict.fromkeys(CLIENTS, FaultKind.FOREIGN_TASK)
        assert not server.sent
        assert server.recover() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unpin(monkeypatch, "protocol")
        assert has(self.attack().recover(), WANTED, TASK)


@attack(
    title="Lowered corruption and floor: a cohort of the victim and two colluders",
    attacker=SERVER,
    defence=DIGEST,
    control="with a digest that leaves out `protocol` and `min_survivors`, and clients that take these from the "
    "server: the victim's update",
    source="Flower: clients obey the server's configuration without a floor",
)
class TestLoweredFloor:
    offered = replace(TASK, protocol=secagg.SecAgg(corruption=0), min_survivors=3)

    def attack(self) -> Played:
        world = World()
        return play(world, world.join([VICTIM, *COLLUDERS], offered=self.offered), offered=self.offered)

    def test_refused(self) -> None:
        played = self.attack()
        assert played.refusals == dict.fromkeys([VICTIM, *COLLUDERS], FaultKind.FOREIGN_TASK)
        assert played.outcome is None

    def test_refused_under_the_pinned_digest(self) -> None:
        server = LyingServer(World())
        server.cohort = [VICTIM, *COLLUDERS]
        server.propose()
        assert server.refusals == dict.fromkeys([VICTIM, *COLLUDERS], FaultKind.INVALID)
        assert not server.sent

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unpin(monkeypatch, "protocol", "min_survivors")
        outcome = self.attack().outcome
        assert has(outcome.sum - encoded_sum(COLLUDERS, UPDATES, TASK), WANTED, TASK)


@attack(
    title="Another clip for everyone but the victim, so that all other updates round to zero",
    attacker="lying server alone",
    defence=DIGEST,
    control="with a digest that leaves `encoding` out, and clients that take the server's: the victim's update",
    source="Flower: clip and quantization range come from the server's configuration",
)
class TestAnotherClip:
    offered = replace(TASK, encoding=FixedPoint(clip=1e9, bits=16, rounding="nearest"))

    def attack(self) -> Played:
        world = World()
        return play(
            world,
            world.join([VICTIM]) | world.join(OTHERS, offered=self.offered),
            offered=self.offered,
        )

    def test_refused(self) -> None:
        played = self.attack()
        assert played.refusals == dict.fromkeys(CLIENTS, FaultKind.FOREIGN_TASK)
        assert played.outcome is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unpin(monkeypatch, "encoding")
        outcome = self.attack().outcome
        assert has(outcome.sum / 1e9, WANTED, TASK)


@attack(
    title="A small modulus: the sum of all clients at the edge of their range does not fit",
    attacker="the party that sets the group: a server, or a mistake",
    defence="k is computed from `max_clients` and the encoding's bound, both pinned (`mask_bits`)",
    control="with k one bit short: a sum that wrapped is accepted as right",
    source="Flower: `num_shares > modulus / quantization_range` only warns; FedML: sums beyond ±0.97 wrap",
)
class TestShrunkModulus:
    edges = {party: np.full(WANTED.size, 1.0) for party in CLIENTS}

    def attack(self) -> Played:
        world = World()
        return play(world, world.join(updates=self.edges))

    def test_refused(self) -> None:
        assert is_right(self.attack().outcome, TASK, self.edges)

    @pytest.mark.parametrize("most", [5, 7, 4096, 65_535])
    @pytest.mark.parametrize("bits", [2, 16, 32])
    def test_every_sum_fits(self, most: int, bits: int) -> None:
        task = replace(TASK, max_clients=most, max_weight=2**32, encoding=FixedPoint(clip=1.0, bits=bits))
        for segment in task.segments:
            assert most * segment.bound < 2 ** mask_bits(segment, most)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remove(monkeypatch, mask_bits, lambda segment, most: mask_bits(segment, most) - 1)
        played = self.attack()
        assert played.outcome.survivors == CLIENTS
        assert not played.faults
        assert np.abs(played.outcome.mean - 1.0).min() > 0.5


@attack(
    title="Swapped keys: the server shows the victim adverts that it made in the others' names",
    attacker="lying server alone",
    defence=("adverts must be signed by identities of the pinned roster (`MemberContext.check_signature`)"),
    control="without the signature check: the victim's update",
    source="Bonawitz et al. 2017, section 6.2; Flower's keys are unauthenticated",
)
class TestSwappedKeys:
    def attack(self) -> LyingServer:
        server = LyingServer(World(colluders=()))
        server.propose()
        sealing_keys = {}
        for party in OTHERS:
            sealing_keys[party], server.masking_keys[party] = os.urandom(32), os.urandom(32)
            advert = Advert(keys.public_key(sealing_keys[party]), keys.public_key(server.masking_keys[party]))
            server.adverts[party] = server.forge(party, advert, Ed25519PrivateKey.generate())
        server.deal([VICTIM])
        if VICTIM in server.dealt:
            server.collect([VICTIM], dealers=CLIENTS, box=lambda *_: (bytes(SEALED_BYTES), bytes(COMMITMENT_BYTES)))
            self.open_boxes(server, sealing_keys)
        return server

    def open_boxes(self, server: LyingServer, sealing_keys: dict[str, bytes]) -> None:
        """Read the shares that the victim sealed to the server's keys."""
        session = server.ids[VICTIM]
        public = open_advert(Envelope.parse(server.adverts[VICTIM], LIMIT)).sealing_key
        for point, holder in enumerate(OTHERS, 2):
            key = keys.agree(sealing_keys[holder], public, salt=session, info=seal_info(VICTIM, holder))
            context = share_context(session, VICTIM, holder, point)
            opened = keys.open_sealed(key, server.box(VICTIM, holder)[0], associated_data=context)
            server.keep(VICTIM, SELF, holder, opened[:SHARE_BYTES])

    def test_refused(self) -> None:
        server = self.attack()
        assert server.refusals == {VICTIM: FaultKind.UNAUTHENTIC}
        assert server.sent[VICTIM] == ["Advert"]
        assert server.recover() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "check_signature", lambda *_: None)
        assert has(self.attack().recover(), WANTED, TASK)


@attack(
    title="Sybils: a cohort of the victim and six clients that the server invented",
    attacker="lying server alone",
    defence="the roster is pinned and does not come from the server (`check_cohort`)",
    control="with a client that takes the roster from the server: the victim's update",
    source="Bonawitz et al. 2017, section 6.2: Sybils",
)
class TestSybils:
    sybils = tuple(f"s{number}" for number in range(1, 7))

    def attack(self, *, roster_from_server: bool) -> Played:
        world = World()
        keys, invented = enrol(self.sybils)
        server_roster = Roster([world.roster[VICTIM], *invented.values()])
        evil = World(ids=self.sybils)
        evil.keys, evil.roster = keys, server_roster
        updates = make_updates(self.sybils) | {VICTIM: WANTED}
        if roster_from_server:
            world.roster = server_roster
        clients = world.join([VICTIM], updates=updates) | evil.join(updates=updates)
        return play(world, clients, roster=server_roster)

    def test_refused(self) -> None:
        played = self.attack(roster_from_server=False)
        assert played.refusals[VICTIM] is FaultKind.INVALID
        assert played.outcome.survivors == self.sybils

    def test_control_succeeds(self) -> None:
        outcome = self.attack(roster_from_server=True).outcome
        assert has(outcome.sum - encoded_sum(self.sybils, make_updates(self.sybils), TASK), WANTED, TASK)


@attack(
    title="A small U1: the server says that only the victim and the colluders advertised keys",
    attacker=SERVER,
    defence=("U1, U2 and U3 must each reach `min_survivors` and the threshold (`PairwiseClient._require`)"),
    control="without these floors: the victim's update",
    source="Bonawitz et al. 2017, section 6.2; Flower has no floor on its clients",
)
class TestShrunkU1:
    few = (VICTIM, *COLLUDERS)

    def attack(self) -> LyingServer:
        server = LyingServer(World())
        server.propose()
        server.deal(self.few, {party: server.adverts[party] for party in self.few})
        if VICTIM in server.dealt:
            server.collect()
            server.unmask([VICTIM], self.few, server.sign(self.few, self.few))
        return server

    def test_refused(self) -> None:
        server = self.attack()
        reason = "got 3 clients that advertised keys; 5 are needed, so this client reveals nothing more"
        assert server.refusals == dict.fromkeys(self.few, reason)
        assert server.sent[VICTIM] == ["Advert"]
        assert server.recover() is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PairwiseClient, "_require", lambda *_: None)
        assert has(self.attack().recover(), WANTED, TASK)


DEAD, LIVE = np.zeros(WANTED.size), np.ones(WANTED.size)


def train(model: np.ndarray, data: np.ndarray) -> np.ndarray:
    """One step of a model whose gradient is zero where its parameters are."""
    return model * data


def name_of(model: np.ndarray) -> bytes:
    """What a session is called: the hash of the model that it trains."""
    return hashlib.sha256(model.tobytes()).digest()


class ModelsServer(LyingServer):
    """Sends the victim a model that it can train and everyone else one that they can't."""

    models = dict.fromkeys(CLIENTS, DEAD) | {VICTIM: LIVE}

    def run(self, names: dict[str, bytes]) -> np.ndarray | None:
        for party in CLIENTS:
            self.propose([party], session=names[party])
            if self.clients[party].session is not None and party in self.adverts:
                self.clients[party].contribute(train(self.models[party], UPDATES[party]))
        self.deal()
        self.collect()
        self.unmask(CLIENTS, CLIENTS, self.sign(CLIENTS, CLIENTS))
        return opened_sum(self, CLIENTS)


@attack(
    title=("Another model for one client, under another name: the others get a model that they can't train"),
    attacker="lying server alone",
    defence=("`session=` names the model, and every session id, key and mask depends on it (`session_id`)"),
    control="with a session id that leaves `session` out: the victim's update",
    source="Pasquini, Francati, Ateniese, CCS 2022: model inconsistency",
)
class TestAnotherModel:
    def attack(self) -> tuple[LyingServer, np.ndarray | None]:
        world = World(colluders=())
        names = {party: name_of(model) for party, model in ModelsServer.models.items()}
        server = ModelsServer(world, {party: world.role(party, session=names[party]) for party in CLIENTS})
        return server, server.run(names)

    def test_refused(self) -> None:
        server, recovered = self.attack()
        assert recovered is None
        assert server.refusals == dict.fromkeys(CLIENTS, FaultKind.FOREIGN_SESSION)
        assert all(server.sent[party] == ["Advert"] for party in CLIENTS)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remove(monkeypatch, session_id, lambda **parts: session_id(**{**parts, "session": b""}))
        assert has(self.attack()[1], WANTED, TASK)


@attack(
    title="Another model for one client, under the name of the model that the others get",
    attacker="lying server alone",
    defence="a client with `session=` takes part in that session only (`Member._accept_proposal`)",
    control=(
        "with a victim without `session=`, whose caller doesn't compare the session's name: the victim's update"
    ),
    source="Pasquini, Francati, Ateniese, CCS 2022: model inconsistency",
)
class TestAnotherModelUnderOneName:
    def attack(self, *, pinned: bool) -> tuple[LyingServer, np.ndarray | None]:
        world = World(colluders=())
        clients = {party: world.role(party, session=None) for party in CLIENTS}
        if pinned:
            clients[VICTIM] = world.role(VICTIM, session=name_of(LIVE))
        server = ModelsServer(world, clients)
        return server, server.run(dict.fromkeys(CLIENTS, name_of(DEAD)))

    def test_refused(self) -> None:
        server, recovered = self.attack(pinned=True)
        assert not has(recovered, WANTED, TASK)
        assert server.refusals[VICTIM] is FaultKind.FOREIGN_SESSION
        assert VICTIM not in server.sent

    def test_control_succeeds(self) -> None:
        assert has(self.attack(pinned=False)[1], WANTED, TASK)
