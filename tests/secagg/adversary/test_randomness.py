"""A client's ciphertexts follow from its seed, so that a restored client repeats them.

An attacker who brings it to use the same randomness twice has the difference of two updates, and an attacker who
knows the randomness has the update. Each row runs with every scheme whose randomness comes from the seed.
"""

from typing import Any

import gmpy2
import numpy as np
import pytest

from he.errors import OpenError
from secagg.protocols.encrypted.client import EncryptedClient
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import Ciphertexts, Committed, KeyedProposal, SessionKey, pin
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.encrypted.protocol import Paillier
from secagg.table import Round
from secagg.testing import MemoryStore, Session, rng_for_tests
from secagg.wire import Envelope
from tests.he.polynomials import read, written
from tests.secagg.adversary.registry import attack
from tests.secagg.test_encrypted import DEC, LIMIT, PROTOCOLS, begin, replaced_key

VICTIM = "c1"
SEEDED = {name: protocol for name, protocol in PROTOCOLS.items() if not protocol.unseeded}
every = pytest.mark.parametrize("protocol", SEEDED.values(), ids=SEEDED)

Vector = np.ndarray[Any, Any]


def difference(session: Session, one: bytes, other: bytes) -> Vector | None:
    """The difference of the updates in two uploads, if they share their randomness; read without any key."""
    scheme, digits = session.task.protocol.scheme(session.task), Digits(session.task)  # type: ignore[attr-defined]
    top = np.full(digits.length, digits.bound)
    if isinstance(session.task.protocol, Paillier):
        key = session.server._public(session.server.context.state.signed_key).key
        pairs = zip(scheme._read(one, digits.length, key), scheme._read(other, digits.length, key), strict=True)
        ratios = [a * gmpy2.invert(b, key.n**2) % key.n**2 for a, b in pairs]
        if any((ratio - 1) % key.n for ratio in ratios):
            return None
        lifted = [
            ((ratio - 1) // key.n + high) % key.n
            for ratio, high in zip(ratios, scheme.slots.pack(top.astype(np.uint64)), strict=True)
        ]
        slots = scheme.slots.unpack(lifted)[: digits.length].astype(np.int64) - top
    else:
        # Without randomness the difference is a ciphertext under every key, also under one of the attacker's own.
        own = scheme.generate()
        plus, minus = scheme.adder(digits.length), scheme.adder(digits.length)
        for adder, data in ((plus, one), (plus, own.encrypt(top)), (minus, other)):
            adder.fold(data)
        try:
            slots = own.open(less(scheme, plus.total(), minus.total()), digits.length, 2) - top
        except OpenError:
            return None
    return slots[: session.task.layout.size] / 32767


def less(scheme: Any, total: bytes, other: bytes) -> bytes:
    """The encrypted sum ``total`` less ``other``."""
    primes = np.tile(scheme._primes, 2)[:, None]
    return written(scheme, total, (read(scheme, total) + primes - read(scheme, other)) % primes)


def has(recovered: Vector | None, wanted: Vector) -> bool:
    """Whether the attacker has ``wanted`` within a grid step; both terms of a difference are rounded."""
    return recovered is not None and bool((np.abs(recovered - wanted) <= 1 / 32767).all())


def uploaded(session: Session, client: Any, asked: bytes) -> bytes:
    """The ciphertexts of a client that gets the request ``asked`` of its first round, and what follows."""
    answer = client.receive(asked)
    if session.task.protocol.commit:  # type: ignore[attr-defined]
        answer = client.receive(session.seal(Committed()))
    return bytes(Envelope.parse(answer, LIMIT).open(Ciphertexts)[1])


def first_request(session: Session) -> bytes:
    return session.until(session.task.protocol.phases[1].round)[VICTIM]


@attack(
    title=(
        "Trained again: a client whose state and ledger were rolled back together encrypts another vector in "
        "the same session, from the same seed"
    ),
    attacker="a server that asks twice, or another party that sees both uploads",
    defence=(
        "the randomness of the ciphertexts is derived from the hash of the encoded vector too "
        "(`EncryptedClient._randomness`)"
    ),
    control="without that hash: the difference of the two updates",
    source="own",
)
@every
class TestTrainedAgain:
    def attack(self, protocol: Encrypted) -> tuple[Vector | None, Vector]:
        session = begin(protocol)
        asked, before = first_request(session), session.make(VICTIM).to_bytes()
        update = session.updates[VICTIM]["w"] / 2
        uploads = []
        for trained in (update, -update[::-1]):
            client = session.restore(VICTIM, before, save=MemoryStore())
            client.contribute({"w": trained})
            uploads.append(uploaded(session, client, asked))
        return difference(session, *uploads), update + update[::-1]

    def test_refused(self, protocol: Encrypted) -> None:
        assert self.attack(protocol)[0] is None

    def test_control_succeeds(self, protocol: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
        def unbound(self: EncryptedClient, draft: Any, shown: bytes) -> Any:
            return self.context.rng(draft, "encryption", pin(shown))

        monkeypatch.setattr(EncryptedClient, "_randomness", unbound)
        assert has(*self.attack(protocol))


@attack(
    title=(
        "Two keys: a client whose state and ledger were rolled back together gets the key of a decryptor that was "
        "started anew, in the same session, and encrypts its update again"
    ),
    attacker="a party that sees both uploads, such as a server that asks twice; the decryptor is honest",
    defence=(
        "the randomness of the ciphertexts is derived from the decryptor's key too (`EncryptedClient._randomness`)"
    ),
    control=(
        "without the key: the update. Under BFV and CKKS the difference of the second polynomials is "
        "the difference of the public keys times the ephemeral secret, without an error. (Paillier's ciphertexts "
        "under two moduli show nothing that is known to help.)"
    ),
    source="own",
)
@pytest.mark.parametrize("name", ["BFV", "BFV/uncommitted", "CKKS"])
class TestTwoKeys:
    def attack(self, name: str) -> tuple[Vector | None, Vector]:
        session = begin(SEEDED[name])
        asked, state = first_request(session), session.members[VICTIM].to_bytes()
        proposal = Envelope.parse(asked, LIMIT).open(KeyedProposal)[0]
        anew = session.make(DEC, rng=rng_for_tests(b"anew"), save=MemoryStore())
        signed = [proposal.key, anew.receive(session.requests[DEC, Round.SESSION_KEY])]
        uploads = []
        for key in signed:
            client = session.restore(VICTIM, state, save=MemoryStore())
            uploads.append(uploaded(session, client, session.seal(replaced_key(proposal, key), session=b"")))
        shown = [Envelope.parse(key, LIMIT).open(SessionKey)[0].key for key in signed]
        assert shown[0] != shown[1]
        return self.read(session, uploads, shown), np.clip(session.updates[VICTIM]["w"], -1, 1)

    def read(self, session: Session, uploads: list[bytes], shown: list[bytes]) -> Vector | None:
        """The update in the first upload; all polynomials are taken by their values, so that products are plain."""
        scheme, digits = session.task.protocol.scheme(session.task), Digits(session.task)  # type: ignore[attr-defined]
        one, other = (read(scheme, upload).astype(object) for upload in uploads)
        key, another = (scheme.load_public(data)._key.rows.astype(object) for data in shown)
        primes = scheme.parameters.primes
        for j, prime in enumerate(primes):
            second = j + len(primes)
            inverses = np.array([pow(int(a), -1, prime) for a in (key[second] - another[second]) % prime])
            carrier = (one[:, second] - other[:, second]) * inverses % prime
            one[:, j] = (one[:, j] - key[j] * carrier) % prime
            one[:, second] = 0
        # What is left is a message with a small error: a ciphertext under every key.
        adder = scheme.adder(digits.length)
        adder.fold(uploads[0])
        total = written(scheme, adder.total(), one.astype(np.uint64))
        try:
            slots = scheme.generate().open(total, digits.length, 1)
        except OpenError:
            return None
        return slots[: session.task.layout.size] / 32767 - 1

    def test_refused(self, name: str) -> None:
        assert self.attack(name)[0] is None

    def test_control_succeeds(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def unbound(self: EncryptedClient, draft: Any, shown: bytes) -> Any:
            return self.context.rng(draft, "encryption", draft.contributed)

        monkeypatch.setattr(EncryptedClient, "_randomness", unbound)
        assert has(*self.attack(name))


@attack(
    title="A stolen state: the state that a client saved between Commit and Input is copied",
    attacker="a party that reads the client's disk at that time, and sees the upload",
    defence=(
        "the seed from which the ciphertexts follow is replaced when the update is forgotten "
        "(`EncryptedClient._later_seed`)"
    ),
    control="with the seed kept: the update that the state no longer holds",
    source="own",
)
@pytest.mark.parametrize(
    "protocol", [protocol for protocol in SEEDED.values() if protocol.commit], ids=lambda protocol: protocol.name
)
class TestStolenState:
    def attack(self, protocol: Encrypted) -> tuple[Vector | None, Vector]:
        session = begin(protocol)
        asked = first_request(session)
        session.members[VICTIM].receive(asked)
        thief = session.restore(VICTIM, session.stores[VICTIM].state)
        state, signed = thief._state, Envelope.parse(asked, LIMIT).open(KeyedProposal)[0].key
        assert not state.contribution
        shown = Envelope.parse(signed, LIMIT).open(SessionKey)[0].key
        rng = thief._randomness(state, shown)
        nothing = np.zeros(Digits(session.task).length, np.int64)
        empty = thief._encryption_key(state, shown).encrypt(nothing, rng=rng)
        recovered = difference(session, state.ciphertexts, empty)
        wanted = np.clip(session.updates[VICTIM]["w"], -1, 1)
        return None if recovered is None else recovered - 1, wanted  # the encoding of zero is the grid's middle

    def test_refused(self, protocol: Encrypted) -> None:
        assert self.attack(protocol)[0] is None

    def test_control_succeeds(self, protocol: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(EncryptedClient, "_later_seed", lambda _, draft: draft.seed)
        assert has(*self.attack(protocol))
