"""A client makes its ciphertexts from others' ciphertexts, which it sees on the wire or gets from the server.

Server and decryptor follow the protocol. The client's ciphertexts are well-formed and look fresh, and every slot
of the opened sum is in range.
"""

from dataclasses import replace
from typing import Any

import gmpy2
import numpy as np
import pytest

import dp
import secagg
from he._rlwe_format import DIGEST_BYTES
from secagg import Round
from secagg.errors import Aborted, FaultKind
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import Ciphertexts, Commitment, commitment
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.encrypted.protocol import BFV, CKKS, Paillier
from secagg.roles.outcome import Outcome
from secagg.table import contribution_round
from secagg.testing import Session
from secagg.wire import Envelope
from tests.secagg.adversary.registry import attack
from tests.secagg.adversary.test_encrypted import has
from tests.secagg.adversary.test_randomness import less
from tests.secagg.test_encrypted import LIMIT, begin, make_task, parties

VICTIM = "c1"
SCHEMES: dict[str, Encrypted] = {
    "Paillier": Paillier(bits=2048),
    "BFV": BFV(),
    "CKKS": CKKS(),
    "BFV/seal": BFV(engine="seal"),
    "CKKS/seal": CKKS(engine="seal"),
}

Vector = np.ndarray[Any, Any]


def sent(session: Session, party: str) -> bytes:
    """The ciphertexts that a client has uploaded."""
    return bytes(Envelope.parse(session.members[party]._state.last_reply, LIMIT).open(Ciphertexts)[1])


def zero(session: Session) -> Vector:
    """The slots of an update of zeros without noise."""
    task, digits = session.task, Digits(session.task)
    if isinstance(task.encoding, dp.DistributedGaussian):
        return np.full(digits.length, 1 << (task.encoding.bits - 1))
    flat = np.zeros(task.layout.size)
    terms = task.encoding.encode(
        flat, layout=task.layout, weight=None, max_weight=None, rng=lambda size: bytes(size)
    )
    return digits.split(terms)


def combined(session: Session, plus: list[bytes], minus: list[bytes]) -> bytes:
    """An upload that encrypts the sum of the vectors in ``plus`` less those in ``minus``."""
    scheme, length = session.task.protocol.scheme(session.task), Digits(session.task).length  # type: ignore[attr-defined]
    public = session.server._public(session.server.context.state.signed_key)
    if isinstance(session.task.protocol, Paillier):
        square = public.key.n**2
        product = [gmpy2.mpz(1)] * scheme.ciphertexts(length)
        for data, power in [*((data, 1) for data in plus), *((data, -1) for data in minus)]:
            numbers = scheme._read(data, length, public.key)
            product = [a * gmpy2.powmod(b, power, square) % square for a, b in zip(product, numbers, strict=True)]
        upload: bytes = scheme._write([int(number) for number in product], public.key)
        return upload
    sums = []
    for uploads in (plus, minus):
        adder = scheme.adder(length, public)
        for data in uploads:
            adder.fold(data)
        sums.append(adder.total())
    return scheme._tag(b"") + less(scheme, *sums)[DIGEST_BYTES:]


def cancelled(session: Session) -> tuple[Session, Outcome]:
    """The last client waits for the others' ciphertexts and uploads the inverse of all but the victim's."""
    *others, corrupt = session.parties.cohort
    outbox = session.until(Round.INPUT)
    if session.task.protocol.commit:  # type: ignore[attr-defined]
        assert session.server.context.state.commitments[corrupt], "to something else: it had seen no ciphertext yet"
    session.exchange({party: outbox[party] for party in others})
    public = session.server._public(session.server.context.state.signed_key)
    fresh = [public.encrypt(zero(session)) for _ in others]
    upload = combined(session, fresh, [sent(session, party) for party in others if party != VICTIM])
    session.server.receive(corrupt, session.seal(Ciphertexts(), upload, corrupt))
    session.close()
    return session, session.run()


@attack(
    title=(
        "Cancelled ciphertexts: a client uploads the inverse of all ciphertexts but the victim's, so the "
        "opened sum is the victim's update"
    ),
    attacker="a client that sees the others' ciphertexts; the server follows the protocol",
    defence=(
        "every client commits to its ciphertexts before any is sent, and only ciphertexts that match are "
        "added (`EncryptedServer._check_commitment`)"
    ),
    control="without the round Commit (`commit=False`): the victim's update, no fault, for all three schemes",
    source="own; malleability, Dolev, Dwork, Naor, STOC 1991; commit before reveal, Blum 1981",
)
@pytest.mark.parametrize("protocol", SCHEMES.values(), ids=SCHEMES)
class TestCancelled:
    def test_refused(self, protocol: Encrypted) -> None:
        session, outcome = cancelled(begin(protocol))
        assert [(fault.sender, fault.kind) for fault in outcome.faults] == [
            ("c4", FaultKind.INVALID),
            ("c4", FaultKind.SILENT),
        ]
        assert outcome.survivors == ("c1", "c2", "c3")
        session.require_sum(outcome)
        assert not has(outcome.sum["w"], session.updates[VICTIM]["w"])

    def test_control_succeeds(self, protocol: Encrypted) -> None:
        session, outcome = cancelled(begin(replace(protocol, commit=False)))
        assert has(outcome.sum["w"], session.updates[VICTIM]["w"])
        assert (outcome.survivors, outcome.faults) == (tuple(session.parties.cohort), ())


CLIENTS, SIZE = 8, 4096
NOISE = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=1.0, bits=20)


@attack(
    title=(
        "Cancelled noise: the same under differential privacy, where the others' noise is cancelled with "
        "their updates"
    ),
    attacker="a client that sees the others' ciphertexts; the server follows the protocol",
    defence=(
        "without commitments, noise is made for one honest update, not for all honest updates in the sum "
        "(`Encrypted.shows_terms`); with commitments, see the row above"
    ),
    control=(
        "without the round Commit, and with noise made for the six honest updates that every sum should "
        "hold: the victim's update under 1/√6 of the noise that `epsilon_guaranteed` assumes, and no "
        "fault"
    ),
    source="own",
)
@pytest.mark.parametrize("scheme", SCHEMES)
class TestCancelledNoise:
    def attack(self, protocol: Encrypted) -> tuple[secagg.Task, Outcome, float]:
        """The outcome, and the standard deviation of the noise in the opened sum about what is in it."""
        layout = secagg.Layout.of({"w": np.zeros(SIZE)})
        task = make_task(
            protocol, encoding=NOISE, layout=layout, max_clients=CLIENTS, min_survivors=CLIENTS - 1, max_weight=None
        )
        updates = {f"c{number}": np.full(SIZE, 0.9 / 64) for number in range(1, CLIENTS + 1)}
        session, outcome = cancelled(begin(protocol, task=task, updates=updates))
        inside = 1 if not outcome.faults else len(outcome.survivors)
        return session.task, outcome, float((outcome.sum["w"] - inside * updates[VICTIM]).std())

    def test_refused(self, scheme: str) -> None:
        for commit in (True, False):
            task, outcome, noise = self.attack(replace(SCHEMES[scheme], commit=commit))
            assert task.honest == (CLIENTS - 2 if commit else 1)
            assert noise > 0.95 * NOISE.noise_multiplier * NOISE.l2_clip
            assert outcome.epsilon_guaranteed == task.encoder.epsilon(SIZE)  # type: ignore[attr-defined]

    def test_control_succeeds(self, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Encrypted, "shows_terms", False)
        task, outcome, noise = self.attack(replace(SCHEMES[scheme], commit=False))
        assert outcome.faults == ()
        assert noise == pytest.approx(NOISE.noise_multiplier * NOISE.l2_clip / (CLIENTS - 2) ** 0.5, rel=0.05)
        true = task.encoder.epsilon(SIZE, honest=1)  # type: ignore[attr-defined]
        assert outcome.epsilon_guaranteed is not None
        assert true > 2.5 * outcome.epsilon_guaranteed


@attack(
    title=(
        "A recorded ciphertext: a client uploads a ciphertext of the victim from an earlier session, "
        "whose sum was never opened; the victim is in no other cohort"
    ),
    attacker=("a client that recorded an earlier session's ciphertexts; the server follows the protocol"),
    defence="every session has a key of its own (`Paillier.key`; CKKS and BFV always do this)",
    control=(
        'with one key for the run (`key="run"`): the victim\'s update, as the difference of the sum with '
        "the recorded ciphertext and the sum of a retry without it"
    ),
    source="own",
)
class TestRecorded:
    def attack(self, protocol: Encrypted) -> tuple[Vector, Vector | None]:
        """The victim's update, and the difference of the two sums."""
        first = begin(protocol, task=make_task(protocol, max_clients=5))
        first.exchange(first.until(Round.INPUT))  # and then the server gives the session up
        with_it = self.opened(protocol, b"2", sent(first, VICTIM))
        without = self.opened(protocol, b"3", None)
        assert without is not None
        return first.updates[VICTIM]["w"], None if with_it is None else with_it - without

    def opened(self, protocol: Encrypted, name: bytes, recorded: bytes | None) -> Vector | None:
        """The sum without the victim, where the last client sends the ``recorded`` ciphertexts or zeros."""
        everyone = parties(protocol, 5)
        cohort, task = everyone.cohort[1:], make_task(protocol, max_clients=5)
        corrupt = cohort[-1]
        session = Session(replace(everyone, cohort=cohort), task=task, session=name, seed=name, contribute=False)
        session.updates[corrupt] = {"w": np.zeros(5)}
        for party in cohort:
            session.contribute(party)
        session.until(contribution_round(protocol))
        if recorded is not None:
            upload = self.renewed(session, recorded)
            digest = commitment(session.server.context.state.session_id, corrupt, upload)
            lies = {
                Round.COMMIT: session.seal(Commitment(digest), b"", corrupt),
                Round.INPUT: session.seal(Ciphertexts(), upload, corrupt),
            }
            session.before_answer = lambda party, answer: lies[session.round] if party == corrupt else None
        try:
            outcome = session.run()
        except Aborted:
            return None
        assert outcome.survivors == cohort
        summed: Vector = outcome.sum["w"]
        return summed

    def renewed(self, session: Session, recorded: bytes) -> bytes:
        """The recorded vector under this session's name for its key, and so that it looks like no copy."""
        scheme = session.task.protocol.scheme(session.task)  # type: ignore[attr-defined]
        public = session.server._public(session.server.context.state.signed_key)
        size = 2 * scheme.bits // 8
        numbers = [int.from_bytes(recorded[at : at + size], "big") for at in range(32, len(recorded), size)]
        renamed = scheme._write([number % public.key.n**2 for number in numbers], public.key)
        return combined(session, [renamed, public.encrypt(np.zeros(Digits(session.task).length, np.int64))], [])

    def test_refused(self) -> None:
        assert self.attack(Paillier(bits=2048))[1] is None

    def test_control_succeeds(self) -> None:
        update, difference = self.attack(Paillier(bits=2048, key="run"))
        assert has(difference, update)
