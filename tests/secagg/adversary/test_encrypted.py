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
from secagg.table import Round
from secagg.testing import MemoryStore, Session
from secagg.wire import Envelope
from tests.he.test_malformed_rlwe import (
    HONEST,
    attacked,
    digits_of_slots,
    honest,
    polynomial,
    read_with,
    slots_of_the_key,
)
from tests.secagg.adversary.registry import attack
from tests.secagg.test_encrypted import DEC, LIMIT, PROTOCOLS, begin, replaced_key

VICTIM = "c1"

Vector = np.ndarray[Any, Any]


def decoded(session: Session, opened: bytes, clients: int) -> Vector:
    """The sum in the decryptor's answer, as floats."""
    lanes = zero_lanes(session.task)
    fold_lanes(session.task, Envelope.parse(opened, LIMIT).open(OpenedSum)[1], lanes)
    result = session.task.encoding.decode(lanes, layout=session.task.layout, survivors=clients, max_weight=None)
    summed: Vector = result.sum
    return summed


def has(recovered: Vector | None, wanted: Vector) -> bool:
    """Whether the attacker has the update ``wanted``, clipped as it was sent, within a grid step."""
    return recovered is not None and bool((np.abs(recovered - np.clip(wanted, -1, 1)) <= 1 / 32767).all())


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
@pytest.mark.parametrize("engine", ["ring", "seal"])
class TestKeyInTheSum:
    def attack(self, engine: str) -> tuple[Any, Any, list[Vector], bytes, list[bytes], int]:
        scheme, count = bfv.Scheme(254, 256, engine=engine), 5
        key, length = scheme.generate(), count * scheme.slots
        vectors = honest(scheme, length)
        total, uploads = attacked(scheme, key, vectors, digits_of_slots(scheme, count))
        return scheme, key, vectors, total, uploads, length

    def test_refused(self, engine: str) -> None:
        _, key, _, total, _, length = self.attack(engine)
        with pytest.raises(OpenError, match="not a possible sum"):
            key.open(total, length, HONEST + 1)

    def test_control_succeeds(self, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_rlwe.Scheme, "_require_possible", lambda *_: None)
        scheme, key, vectors, total, uploads, length = self.attack(engine)
        slots = slots_of_the_key(scheme, key.open(total, length, HONEST + 1).reshape(5, -1))
        secret = polynomial(scheme, slots).astype(np.int64)
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
    def attack(self) -> tuple[Session, Any, bytes | None]:
        session = begin(BFV())
        proposal, _ = Envelope.parse(session.until(Round.COMMIT)[VICTIM], LIMIT).open(KeyedProposal)
        own_key = BFV().scheme(session.task).generate()
        identity = session.parties.identities["c2"]
        forged = session.seal(SessionKey(own_key.public.to_bytes()), sender=DEC, identity=identity)
        asked = session.seal(replaced_key(proposal, forged), session=b"")
        victim = session.members[VICTIM]
        try:
            victim.receive(asked)
            return session, own_key, victim.receive(session.seal(Committed()))
        except RemoteProtocolError:
            return session, own_key, None

    def read(self, session: Session, own_key: Any, answer: bytes | None) -> Vector | None:
        if answer is None:
            return None
        payload = bytes(Envelope.parse(answer, LIMIT).open(Ciphertexts)[1])
        digits, adder = Digits(session.task), own_key.scheme.adder(Digits(session.task).length)
        adder.fold(payload)
        lanes = digits.join(own_key.open(adder.total(), digits.length, 1), 1)
        layout = session.task.layout
        summed: Vector = session.task.encoding.decode(lanes, layout=layout, survivors=1, max_weight=None).sum
        return summed

    def test_refused(self) -> None:
        assert self.read(*self.attack()) is None

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "check_signature", lambda *_: None)
        session, own_key, answer = self.attack()
        assert has(self.read(session, own_key, answer), session.updates[VICTIM]["w"])


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
    def attack(self, protocol: Encrypted) -> tuple[Session, Vector | None]:
        session = begin(protocol)
        outbox = session.until(Round.OPENING)
        state = session.members[DEC].to_bytes()
        everyone = session.members[DEC].receive(outbox[DEC])
        scheme = protocol.scheme(session.task)
        digits = Digits(session.task)
        adder = scheme.adder(digits.length, session.server._public(session.server.context.state.signed_key))
        for party in session.parties.cohort:
            if party != VICTIM:
                adder.fold(
                    bytes(Envelope.parse(session.members[party]._state.last_reply, LIMIT).open(Ciphertexts)[1])
                )

        again = session.restore(DEC, state, save=MemoryStore(session.ledgers[DEC]))
        others = to_bitmap([party for party in session.parties.cohort if party != VICTIM], session.parties.cohort)
        rest = again.receive(session.seal(EncryptedSum(others), adder.total()))
        if everyone is None or rest is None:
            return session, None
        return session, decoded(session, everyone, 4) - decoded(session, rest, 3)

    def test_refused(self, protocol: Encrypted) -> None:
        assert self.attack(protocol)[1] is None

    def test_control_succeeds(self, protocol: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MemberContext, "claim", lambda *_: None)
        session, recovered = self.attack(protocol)
        assert has(recovered, session.updates[VICTIM]["w"])
