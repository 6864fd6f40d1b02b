"""Clients lie to an honest server, to have a wrong sum accepted as right or to spoil the session for the others."""

import hashlib
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc import keys
from secagg import Layout, SecAgg, _kernels, fixed_point, identity, wire
from secagg.errors import Aborted, ConfigError, FaultKind
from secagg.identity import Party, Roster
from secagg.lanes import fold_lanes, mask_lanes, pack_lanes, reduce_lanes, zero_lanes
from secagg.protocols.pairwise import server as pairwise_server
from secagg.protocols.pairwise.client import PairwiseClient
from secagg.protocols.pairwise.messages import (
    SEALED_BYTES,
    SHARE_BYTES,
    Advert,
    DealtShares,
    Revealed,
    SignedSurvivors,
    mask_info,
)
from secagg.protocols.pairwise.server import PairwiseServer
from secagg.roles import Environment
from secagg.roles.context import Context
from secagg.table import Round
from secagg.wire import seal_envelope
from tests.secagg.adversary.driver import (
    CLIENTS,
    LIMIT,
    SESSION,
    SIZE,
    UPDATES,
    Played,
    World,
    encoded_sum,
    is_right,
    lend,
    make_task,
    play,
    remove,
    resign,
    step,
)
from tests.secagg.adversary.registry import attack, refusal

LIAR = "c3"
OTHERS = tuple(party for party in CLIENTS if party != LIAR)
TASK = make_task()


class Anything(bytes):
    """Equal to whatever it is compared with: a check of a hash that checks nothing."""

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


@attack(
    title="A holder reveals a wrong share of an honest dealer's secret",
    attacker="one client, to end the session and have the dealer blamed",
    defence="the signed ShareKeys message has hashes of all shares (`PairwiseServer._take_revealed`)",
    control="without the check of shares: nothing is opened, and the honest dealer is blamed",
    source="Bonawitz et al. 2017 promise privacy, not a correct sum",
)
class TestWrongShare:
    def attack(self) -> Played:
        def flip(revealed: Any, rest: bytes) -> Any:
            shares = bytearray(revealed.shares)
            shares[SHARE_BYTES - 1] ^= 1  # of c1, the first dealer
            return Revealed(revealed.unopened, bytes(shares)), rest

        world = World()
        tamper = {(LIAR, Round.UNMASKING): lambda reply: [resign(world, reply, flip)]}
        return play(world, world.join(), tamper=tamper)

    def test_refused(self) -> None:
        played = self.attack()
        assert played.faults == {(LIAR, FaultKind.WRONG_SHARE)}
        assert is_right(played.outcome, TASK)
        assert played.outcome.survivors == CLIENTS

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pairwise_server, "commit_share", lambda *_: Anything())
        played = self.attack()
        assert played.outcome is None
        assert played.faults == {("c1", FaultKind.WRONG_DEALING)}


class WrongDealer(PairwiseClient):
    """Deals shares of another masking key than it advertised: one whose masks leave a sum that looks possible."""

    def _private_keys(self, draft: Any) -> tuple[bytes, bytes]:
        sealing, masking = super()._private_keys(draft)
        return sealing, self.other_key(draft, masking) if draft.u1 else masking

    def other_key(self, draft: Any, masking: bytes) -> bytes:
        while True:
            other = os.urandom(32)
            left = zero_lanes(self.context.task)  # of the masks, when the server takes off the wrong ones
            for party in draft.u1:
                for key, sign in ((masking, 1), (other, -1)) if party != self.id else ():
                    salt, info = draft.session_id, mask_info(party, self.id)
                    mask = keys.agree(key, draft.adverts[party][1], salt=salt, info=info)
                    mask_lanes(left, [(mask, sign if party < self.id else -sign)])
            reduce_lanes(self.context.task, left)
            if ((left[0] + np.uint32(60_000)) % 2**19 < 120_000).all() and left[1][0] <= 6:
                return other


@attack(
    title="A dealer deals shares of another masking key than it advertised, then drops out: masks stay on the sum",
    attacker="one client, to have a wrong sum accepted as right",
    defence=("the rebuilt key must be the advertised key, or nothing is opened (`PairwiseServer._rebuild`)"),
    control=("without the check of the rebuilt key: a wrong sum is accepted as right, and nobody is blamed"),
    source="Bonawitz et al. 2017 promise privacy, not a correct sum",
)
class TestWrongDealing:
    task = make_task(layout=Layout.of(np.zeros(2)))
    updates = {party: update[:2] / 4 for party, update in UPDATES.items()}

    def attack(self) -> Played:
        world = World(self.task)
        clients = world.join(updates=self.updates)
        clients[LIAR] = WrongDealer(
            self.task, LIAR, Environment(identity=world.keys[LIAR], roster=world.roster), session=SESSION
        )
        clients[LIAR].contribute(self.updates[LIAR])
        return play(world, clients, tamper={(LIAR, Round.MASKED_INPUT): lambda reply: []})

    def test_refused(self) -> None:
        played = self.attack()
        assert played.outcome is None
        assert played.faults == {(LIAR, FaultKind.WRONG_DEALING)}
        assert played.aborted == f"{LIAR} dealt shares of a wrong secret; leave it out of the next session"

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unchecked = SimpleNamespace(**{**vars(keys), "public_key": lambda _: Anything()})
        monkeypatch.setattr(pairwise_server, "keys", unchecked)
        played = self.attack()
        assert not played.faults
        assert played.outcome.survivors == OTHERS
        assert not is_right(played.outcome, self.task, self.updates)


@attack(
    title="A dealer seals garbage to two honest clients, to push them out of the session",
    attacker="one client, to choose the clients in the sum",
    defence=(
        "a client reports a share that doesn't open later, and stays in the session (`PairwiseClient._open_shares`)"
    ),
    control="with clients that leave when a share doesn't open: the two are not in the sum, and nobody is blamed",
    source="Bonawitz et al. 2017, whose clients abort when an operation fails",
)
class TestUnopenedShare:
    pushed = ("c1", "c2")

    def attack(self) -> Played:
        def garbage(dealt: Any, rest: bytes) -> Any:
            spoilt = SEALED_BYTES * len(self.pushed)  # c1 and c2 come first
            sealed = bytes(spoilt) + dealt.sealed[spoilt:]
            return DealtShares(dealt.self_mask_commitment, dealt.commitments, sealed), rest

        world = World()
        tamper = {(LIAR, Round.SHARE_KEYS): lambda reply: [resign(world, reply, garbage)]}
        return play(world, world.join(), tamper=tamper)

    def test_refused(self) -> None:
        played = self.attack()
        assert not played.refusals
        assert played.faults == {(LIAR, FaultKind.UNOPENED_SHARE)}
        assert played.outcome.survivors == CLIENTS
        assert is_right(played.outcome, TASK)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        open_shares = PairwiseClient._open_shares

        def or_leave(*arguments: Any) -> Any:
            shares = open_shares(*arguments)
            if shares is None:
                raise Aborted("a share doesn't open")
            return shares

        monkeypatch.setattr(PairwiseClient, "_open_shares", or_leave)
        played = self.attack()
        assert not played.faults
        assert set(played.outcome.survivors) == set(CLIENTS) - set(self.pushed)


def changed_input(world: World, reply: bytes, values: int, weight: int = 0) -> bytes:
    """A masked input with a number added to each of its values, and one to its weight."""

    def change(message: Any, payload: bytes) -> Any:
        lanes = zero_lanes(world.task)
        fold_lanes(world.task, memoryview(payload), lanes)
        for lane, added in zip(lanes, (values, weight), strict=False):
            lane += lane.dtype.type(added % 2**32)
        return message, pack_lanes(world.task, lanes)

    return resign(world, reply, change)


class ForgetfulServer(PairwiseServer):
    """Forgets who has answered."""

    def _refusal(self, sender: str, read: Any) -> Any:
        self.context.state.answered = [party for party in self.context.state.answered if party != sender]
        self._pending.add(sender)
        return super()._refusal(sender, read)


@attack(
    title="A second upload in one session",
    attacker="one client, to count twice",
    defence="the server takes one message of each client in a round (`Server._refusal`)",
    control="with a server that forgets which clients answered: a wrong sum is accepted as right",
    source="own",
)
class TestSecondUpload:
    def attack(self, server_class: type[PairwiseServer]) -> Played:
        world = World()
        bare = zero_lanes(TASK)
        bare[0] += np.uint32(2**14)

        def twice(reply: bytes) -> list[bytes]:
            return [reply, resign(world, reply, lambda message, _: (message, pack_lanes(TASK, bare)))]

        return play(world, world.join(), tamper={(LIAR, Round.MASKED_INPUT): twice}, server_class=server_class)

    def test_refused(self) -> None:
        played = self.attack(PairwiseServer)
        assert played.faults == {(LIAR, FaultKind.DUPLICATE)}
        assert is_right(played.outcome, TASK)

    def test_control_succeeds(self) -> None:
        played = self.attack(ForgetfulServer)
        assert not played.faults
        assert played.outcome.survivors == CLIENTS
        extra = played.outcome.sum - encoded_sum(CLIENTS, UPDATES, TASK)
        assert np.allclose(extra, 2**14 * step(TASK))


@attack(
    title="A client takes part twice: as itself, and in the name of a silent client",
    attacker="one client, to have an update of its own counted under another's name",
    defence="every message is signed by its sender's enrolled identity (`wire.signature_holds`)",
    control="without the signature check: a sum with the forged update is accepted as right",
    source="Bonawitz et al. 2017, section 6.2",
)
class TestImpersonation:
    forged = {"c1": np.full(UPDATES["c1"].size, 0.5)}

    def attack(self) -> Played:
        world = World()
        clients = world.join(updates=UPDATES | self.forged)
        lend(clients["c1"], identity=world.keys[LIAR])
        return play(world, clients)

    def test_refused(self) -> None:
        played = self.attack()
        assert played.faults == {("c1", FaultKind.UNAUTHENTIC)}
        assert played.outcome.survivors == CLIENTS[1:]
        assert is_right(played.outcome, TASK)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        remove(monkeypatch, wire.signature_holds, lambda *_: True)
        played = self.attack()
        assert not played.faults
        assert played.outcome.survivors == CLIENTS
        assert is_right(played.outcome, TASK, UPDATES | self.forged)


@attack(
    title="A value out of range: the sum is larger than honest clients can make it",
    attacker="one client, to move the mean beyond the clip",
    defence="the decoder refuses a coordinate above survivors·2L (`FixedPoint.decode`)",
    control="without the range check: a wrong sum is accepted as right",
    source="own; a wrong value within the range can't be noticed",
)
class TestValueOutOfRange:
    updates = {party: np.zeros(update.size) for party, update in UPDATES.items()}

    def attack(self) -> Played:
        world = World()
        tamper = {(LIAR, Round.MASKED_INPUT): lambda reply: [changed_input(world, reply, 250_000)]}
        return play(world, world.join(updates=self.updates), tamper=tamper)

    def test_refused(self) -> None:
        played = self.attack()
        assert played.outcome is None
        assert "12 sums beyond 7·65534" in played.aborted

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dequantize = _kernels.dequantize

        def unchecked(*arguments: Any) -> int:
            dequantize(*arguments)
            return 0

        monkeypatch.setattr(_kernels, "dequantize", unchecked)
        played = self.attack()
        assert not played.faults
        assert not is_right(played.outcome, TASK, self.updates)
        assert (played.outcome.mean == 1.0).all()  # of seven zeros


@attack(
    title=("A weight of zero: a client adds to the sum, but not to the total weight by which the sum is divided"),
    attacker="one client, to move the mean without any weight",
    defence=(
        "the decoder refuses a total weight outside of survivors to survivors·max_weight (`FixedPoint.decode`)"
    ),
    control="without the check of the total weight: a wrong mean is accepted as right",
    source="own; a wrong weight can't be noticed while the total is possible",
)
class TestWeightOutOfRange:
    task = make_task(max_weight=50)

    def attack(self) -> Played:
        world = World(self.task)
        tamper = {(LIAR, Round.MASKED_INPUT): lambda reply: [changed_input(world, reply, 0, weight=-1)]}
        return play(world, world.join(weights=dict.fromkeys(CLIENTS, 1)), tamper=tamper)

    def test_refused(self) -> None:
        played = self.attack()
        assert played.outcome is None
        assert "6 total weight; expected 7 to 350" in played.aborted

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fixed_point, "_within", lambda value, *_: value)
        outcome = self.attack().outcome
        assert outcome.survivors == CLIENTS
        assert outcome.total_weight == 6
        assert np.allclose(outcome.mean, outcome.sum / 6)


@refusal(
    title="A masked vector that no honest client could send",
    why=(
        "the sum is outside the range of honest sums, and is not returned. The session ends and nobody is "
        "named, because masks hide whose vector it was"
    ),
)
@pytest.mark.parametrize("threat_model", ["malicious", "semi-honest"])
def test_a_vector_that_no_honest_client_has(threat_model: Any) -> None:
    task = make_task(protocol=SecAgg(threat_model=threat_model))
    world = World(task)
    clients = world.join(updates={party: np.zeros(SIZE) for party in CLIENTS})
    # The others add up to 196,602; honest sums end at 458,738, and the group at 524,288.
    state = clients[LIAR]._state
    state.contribution = [np.full(SIZE, 290_000, "<u4").tobytes(), *state.contribution[1:]]
    played = play(world, clients)
    assert played.outcome is None
    assert "One client is enough for that, and nothing says which" in played.aborted
    assert "a new session for each half of the cohort" in played.aborted
    assert not played.faults


@attack(
    title=(
        "A name that anyone can sign for: a client is enrolled with an Ed25519 key of small order, which "
        "has no private half and for which everyone can make signatures"
    ),
    attacker="anyone who can send to the server",
    defence="a roster refuses such a key (`check_signing_key`)",
    control=("with a roster that lists it: the server takes an advert that was signed without any private key"),
    source="Chalkias et al. 2020, Taming the many EdDSAs",
)
class TestANameThatAnyoneSigns:
    def attack(self) -> set[tuple[str, FaultKind]]:
        """What the server finds wrong with an advert in the name of ``LIAR``, made without its key."""
        world = World()
        neutral = (1).to_bytes(32, "little")
        parties = [p if p.id != LIAR else Party(LIAR, p.role, neutral) for p in world.roster.values()]
        server: Any = world.task.server(CLIENTS, roster=Roster(parties), session=SESSION)
        server.start()
        unsigned = seal_envelope(
            Advert(*(keys.public_key(os.urandom(32)) for _ in range(2))),
            protocol=world.task.protocol.ID,
            task=world.task.digest,
            session=server.context.state.session_id,
            sender=LIAR,
            identity=Ed25519PrivateKey.generate(),
        )[:-64]
        server.receive(LIAR, unsigned + neutral + bytes(32))  # R and s, which hold under the neutral point
        assert (LIAR in server.pending) == bool(server.faults)
        return {(fault.sender, fault.kind) for fault in server.faults}

    def test_refused(self) -> None:
        with pytest.raises(ConfigError, match=f"of small order as the signing key of {LIAR}"):
            self.attack()

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(identity, "check_signing_key", lambda *_: None)
        assert self.attack() == set()


def in_other_bytes(world: World, reply: bytes) -> bytes:
    """The same signed survivor list, in which MessagePack states each length in two bytes instead of one."""
    envelope = wire.Envelope.parse(reply, LIMIT)
    signed, _ = envelope.open(SignedSurvivors)
    fields = (b"\xc5" + len(field).to_bytes(2, "big") + field for field in (signed.dealers, signed.survivors))
    structure = b"\x92" + b"".join(fields)
    header = reply[: len(reply) - len(envelope.body) - 4 - wire.SIGNATURE_BYTES]
    lengths = (4 + len(structure)).to_bytes(4, "big") + len(structure).to_bytes(4, "big")
    changed = header + lengths + structure
    digest = hashlib.sha256(changed).digest()
    return changed + world.keys[envelope.sender].sign(wire.SIGNATURE_LABEL + digest)


@attack(
    title="A client signs the right survivor list in other bytes: its signature holds for the server alone",
    attacker="one client, to end the session with nobody blamed",
    defence="the server takes the signature of the bytes that the others rebuild only (`Context.bare_signature`)",
    control="without that check: every honest client refuses the signatures, and nothing is opened",
    source="this library: signatures are relayed without the message",
)
class TestSignatureOfOtherBytes:
    def attack(self) -> Played:
        world = World()
        tamper = {(LIAR, Round.CONSISTENCY_CHECK): lambda reply: [in_other_bytes(world, reply)]}
        return play(world, world.join(), tamper=tamper)

    def test_refused(self) -> None:
        played = self.attack()
        assert played.faults == {(LIAR, FaultKind.MALFORMED)}
        assert played.outcome is not None
        assert played.outcome.survivors == CLIENTS
        assert is_right(played.outcome, TASK)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Context, "bare_signature", lambda self, envelope, message: envelope.trailer)
        played = self.attack()
        assert played.outcome is None
        assert not played.faults
        assert {played.refusals[party] for party in OTHERS} == {FaultKind.UNAUTHENTIC}
