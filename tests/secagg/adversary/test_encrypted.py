"""Ciphertexts that contain the key, keys that aren't the decryptor's, sums that are opened twice.

The homomorphic protocols assume a server that follows the protocol and doesn't collude with the decryptor. These
attacks are by a client, or by a server that departs from the protocol while the decryptor is honest. What a server
that lies to the decryptor can always do is in the threat model, with a test of its own.
"""

from typing import Any

import numpy as np
import pytest

from he import _rlwe, bfv
from he.errors import OpenError
from secagg import wire
from secagg.bitmap import to_bitmap
from secagg.errors import RemoteProtocolError
from secagg.lanes import fold_lanes, zero_lanes
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import (
    Ciphertexts,
    Committed,
    EncryptedSum,
    KeyedProposal,
    OpenedSum,
    SessionKey,
)
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.encrypted.protocol import BFV
from secagg.roles import MemberContext
from secagg.wire import Envelope
from tests.he.test_malformed_rlwe import HONEST, attacked, digits_of_slots, honest, read_with, slots_of_the_key
from tests.secagg.adversary.registry import attack
from tests.secagg.test_encrypted import LIMIT, PROTOCOLS, Stage

VICTIM = "c1"

Vector = np.ndarray[Any, Any]


def decoded(stage: Stage, opened: bytes, clients: int) -> Vector:
    """The sum in the decryptor's answer, as floats."""
    lanes = zero_lanes(stage.task)
    fold_lanes(stage.task, Envelope.parse(opened, LIMIT).open(OpenedSum)[1], lanes)
    found = stage.task.encoding.decode(lanes, layout=stage.task.layout, survivors=clients, max_weight=None)
    summed: Vector = found.sum
    return summed


def has(found: Vector | None, wanted: Vector) -> bool:
    return found is not None and bool((np.abs(found - wanted) <= 1 / 32767).all())


@attack(
    title=(
        "The key in the sum: a client adds (0, K) to its ciphertext, so K times the session's key is "
        "added to the opened sum"
    ),
    attacker="a client, and someone who recorded the uploads",
    defence=(
        "every slot, unused ones too, must be a possible sum, and the plaintext modulus is 2^8 times the "
        "largest sum (`he._rlwe.Scheme._require_possible`)"
    ),
    control=(
        "without that check: the key, and with it another client's vector. "
        "`tests/he/test_malformed_rlwe.py` has the same for CKKS, for both trust models, and for "
        "coefficients and moduli without the margin"
    ),
    source="reference implementations open coefficients; measured there and here",
)
class TestKeyInTheSum:
    def attack(self) -> tuple[Any, Any, list[Vector], bytes, list[bytes], int]:
        scheme, count = bfv.Scheme(254, 256), 5
        key, length = scheme.generate(), count * scheme.slots
        vectors = honest(scheme, length)
        total, uploads = attacked(scheme, key, vectors, digits_of_slots(scheme, count))
        return scheme, key, vectors, total, uploads, length

    def test_refused(self) -> None:
        _, key, _, total, _, length = self.attack()
        with pytest.raises(OpenError, match="not a possible sum"):
            key.open(total, length, HONEST + 1)

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_rlwe.Scheme, "_require_possible", lambda *_: None)
        scheme, key, vectors, total, uploads, length = self.attack()
        found = slots_of_the_key(scheme, key.open(total, length, HONEST + 1).reshape(5, -1))[None]
        scheme._plain.backward(found)
        secret = found[0].astype(np.int64)
        secret -= scheme.parameters.plain_modulus * (secret > 1)
        assert np.array_equal(read_with(scheme, secret, uploads[3], length), vectors[3])


@attack(
    title="Another key: the server gives the victim a session key that the server made",
    attacker="lying server",
    defence=(
        "the decryptor that the roster lists signs the session key, for this session "
        "(`MemberContext.check_signature`)"
    ),
    control="without the signature check: the victim's update",
    source="FL stacks that take the HE context from the server",
)
class TestOwnKey:
    def attack(self) -> tuple[Stage, Any, bytes | None]:
        stage = Stage(BFV())
        stage.exchange(stage.server.start())
        told, _ = Envelope.parse(stage.server.close_round()[VICTIM], LIMIT).open(KeyedProposal)
        made = BFV().scheme(stage.task).generate()
        forged = wire.seal_envelope(
            SessionKey(made.public.to_bytes()),
            protocol=stage.task.protocol.ID,
            task=stage.task.digest,
            session=stage.server.context.state.session_id,
            sender=stage.dec,
            identity=stage.identities["c2"],
        )
        asked = wire.seal_envelope(
            KeyedProposal(told.cohort, told.session, told.nonce, forged),
            protocol=stage.task.protocol.ID,
            task=stage.task.digest,
            session=b"",
            sender=wire.SERVER,
        )
        victim = stage.members[VICTIM]
        victim.contribute(stage.update(VICTIM))
        try:
            victim.receive(asked)
            return stage, made, victim.receive(stage.seal(Committed()))
        except RemoteProtocolError:
            return stage, made, None

    def read(self, stage: Stage, made: Any, answer: bytes | None) -> Vector | None:
        if answer is None:
            return None
        payload = bytes(Envelope.parse(answer, LIMIT).open(Ciphertexts)[1])
        digits, adder = Digits(stage.task), made.scheme.adder(Digits(stage.task).length)
        adder.fold(payload)
        lanes = digits.join(made.open(adder.total(), digits.length, 1), 1)
        layout = stage.task.layout
        summed: Vector = stage.task.encoding.decode(lanes, layout=layout, survivors=1, max_weight=None).sum
        return summed

    def test_refused(self) -> None:
        assert self.read(*self.attack()) is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "check_signature", lambda *_: None)
        stage, made, answer = self.attack()
        assert has(self.read(stage, made, answer), stage.update(VICTIM))


@attack(
    title=("Two sums of one session: the server asks the decryptor again, for the same clients without the victim"),
    attacker="lying server",
    defence=(
        "a decryptor opens one sum for a task and session: the ledger's entry is written before the sum "
        "leaves (`EncryptedDecryptor.claim`)"
    ),
    control="without the ledger's entry: the victim's update, as the difference of two sums",
    source="set differencing; threshold-HE libraries warn of repeated openings",
)
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
class TestTwoSums:
    def attack(self, protocol: Encrypted) -> tuple[Stage, Vector | None]:
        stage = Stage(protocol)
        outbox = stage.to_opening()
        state = stage.members[stage.dec].to_bytes()
        everyone = stage.members[stage.dec].receive(outbox[stage.dec])
        scheme = protocol.scheme(stage.task)
        digits = Digits(stage.task)
        adder = scheme.adder(digits.length, stage.server._public(stage.server.context.state.signed_key))
        for party in stage.ids:
            if party != VICTIM:
                adder.fold(
                    bytes(Envelope.parse(stage.members[party]._state.last_reply, LIMIT).open(Ciphertexts)[1])
                )

        def save(number: int, state: bytes) -> None:
            pass

        save.ledger = stage.ledgers[stage.dec]  # type: ignore[attr-defined]
        again: Any = stage.task.restore_decryptor(
            state,
            identity=stage.identities[stage.dec],
            roster=stage.roster,
            save=save,
            key=stage.keys.get(stage.dec),
        )
        others = to_bitmap([party for party in stage.ids if party != VICTIM], stage.ids)
        rest = again.receive(stage.seal(EncryptedSum(others), adder.total()))
        if everyone is None or rest is None:
            return stage, None
        return stage, decoded(stage, everyone, 4) - decoded(stage, rest, 3)

    def test_refused(self, protocol: Encrypted) -> None:
        assert self.attack(protocol)[1] is None

    def test_control_succeeds(self, protocol: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "claim", lambda *_: None)
        stage, found = self.attack(protocol)
        assert has(found, stage.update(VICTIM))
