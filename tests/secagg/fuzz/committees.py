"""What OneShot's committee and server get of clients' keys: shares, proofs, sums of shares.

Only numbers are wrong in it: signatures, seals and paths hold, as a client or a member that lies would make them.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import secagg
from he import kahe
from mpc import hpke, packed
from mpc.errors import MPCError
from mpc.keys import encode_parts
from secagg.merkle import merkle_path
from secagg.protocols.oneshot.messages import (
    Agreed,
    Collect,
    Dealing,
    KeyShare,
    Lack,
    SessionKey,
    challenge_context,
    commitment_context,
    dealing_tree,
    share_info,
)
from secagg.protocols.oneshot.opening import open_sum
from secagg.table import Round
from secagg.testing import MemoryStore, Session, parties_for
from secagg.wire import Envelope
from tests.secagg.fuzz.decoders import Decoder
from tests.secagg.fuzz.mutate import Mutator

LENGTH = 21
DEALER = "c1"
LIMIT = 1 << 20


def committee_decoders() -> list[Decoder]:
    """With one secret in a polynomial and with two; of members with a seed and of members with numbers."""
    listed = []
    for committee in (packed.Committee(4, 1), packed.Committee(8, 2)):
        listed += _shares(committee)
        listed.append(_answers(committee))
    return [*listed, *(_dealt(place) for place in (0, 1))]


def _drawn(purpose: str, place: int) -> bytes:
    return hashlib.sha256(f"{purpose} {place}".encode()).digest()


def _dealing(committee: packed.Committee, secret: Any, client: int = 0) -> packed.Dealing:
    seeds = [_drawn(f"seed of {client}", place) for place in range(committee.corrupt)]
    return packed.deal(committee, secret, seeds, _drawn("masks", client))


def _shares(committee: packed.Committee) -> list[Decoder]:
    """A share and a proof, each beside the true other one: nothing but the dealt one passes."""
    dealt = _dealing(committee, np.arange(-10, LENGTH - 10))
    key = _drawn("challenge", 0)
    proof = dealt.prove(key)

    def share(place: int, data: bytes) -> None:
        packed.read_share(committee, LENGTH, place, data).check(key, proof)
        if data != dealt.shares[place]:
            raise AssertionError("another share passed its proof")

    def proven(data: bytes) -> None:
        packed.check_proof(committee, data)
        for place, true in enumerate(dealt.shares):
            packed.read_share(committee, LENGTH, place, true).check(key, data)
        if data != proof:
            raise AssertionError("a share passed another proof")

    name, last = f"of {committee.members}", committee.members - 1
    return [
        Decoder(f"OneShot seed as a key share {name}", partial(share, 0), [dealt.shares[0]], (MPCError,), _numbers),
        Decoder(f"OneShot key share {name}", partial(share, last), [dealt.shares[last]], (MPCError,), _numbers),
        Decoder(f"OneShot low-degree proof {name}", proven, [proof], (MPCError,), _numbers),
    ]


def _numbers(mutator: Mutator, data: bytes) -> bytes:
    """The same count of numbers, some of them others, mostly below the prime."""
    rng = mutator.rng
    words = [data[i : i + 4] for i in range(0, len(data), 4)]
    for _ in range(rng.choice((1, 1, 2, len(words)))):
        number = rng.choice((0, 1, packed.PRIME - 1, packed.PRIME, rng.randrange(packed.PRIME)))
        words[rng.randrange(len(words))] = number.to_bytes(4, "little")
    return b"".join(words)


def _answers(committee: packed.Committee) -> Decoder:
    """The sums of shares of as many members as may lie: the sum is right all the same, and no other is named."""
    scheme = kahe.Scheme(((40, 1000),), 2)
    adder, public, dealings = scheme.adder(), bytes(32), []
    for client in range(2):
        secret = _drawn("secret", client)
        adder.fold(scheme.encrypt([np.arange(40) + client], secret, public))
        dealings.append(_dealing(committee, scheme.key(secret, public).astype(np.int64), client))
    total, expected = adder.total(), 2 * np.arange(40) + 1
    true: dict[int, bytes] = {}
    for place in range(committee.members):
        shares = [packed.read_share(committee, scheme.degree, place, dealt.shares[place]) for dealt in dealings]
        true[place] = packed.sum_shares(committee, scheme.degree, (share.kept() for share in shares))
    size, liars = len(true[0]), range(1, 1 + committee.corrupt)

    def read(data: bytes) -> None:
        cuts = [*range(0, size * len(liars), size), max(len(data), size * len(liars))]
        answers = true | {place: data[cuts[i] : cuts[i + 1]] for i, place in enumerate(liars)}
        for answer in answers.values():
            packed.check_answer(committee, scheme.degree, answer)
        how: dict[str, Any] = {"total": total, "count": 2, "public": public, "executor": None}
        opened = open_sum(scheme, committee, answers=answers, **how)
        changed = {place for place in liars if answers[place] != true[place]}
        if not np.array_equal(opened.sums[0], expected):
            raise AssertionError("a wrong sum was opened")
        if not {*opened.liars} <= changed or {*opened.differing} != changed:
            raise AssertionError(f"{opened.liars} and {opened.differing} were named; {changed} lied")

    def collude(mutator: Mutator, data: bytes) -> bytes:
        """Lies on one polynomial, which is zero where as many honest members are as its degree allows."""
        rng = mutator.rng
        if rng.random() < 0.5:
            return _numbers(mutator, data)
        honest = rng.sample([p for p in range(committee.members) if p not in liars], committee.threshold - 1)
        factor, first = rng.randrange(1, packed.PRIME), rng.randrange(size // 4)
        changed = b""
        for place in liars:
            amount = factor
            for root in honest:
                amount = amount * (place - root) % packed.PRIME
            numbers = np.frombuffer(true[place], "<u4").astype(np.uint64)
            numbers[first:] = (numbers[first:] + np.uint64(amount)) % packed.PRIME
            changed += numbers.astype("<u4").tobytes()
        return changed

    samples = [b"".join(true[place] for place in liars)]
    return Decoder(f"OneShot sums of key shares of {committee.members}", read, samples, (MPCError,), collude)


def _dealt(place: int) -> Decoder:
    """What a client seals to a member, with the proof beside it, under its commitment, path and signature."""
    protocol = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")
    session, seen = Session(parties_for(protocol, 5)), list[Any]()
    client = session.members[DEALER]
    deal = client._deal

    def watched(*arguments: Any) -> Any:
        seen.extend(deal(*arguments))
        return seen

    client._deal = watched
    session.until(Round.INPUT)
    session.ask(DEALER)
    dealt, salts = seen
    member = f"decryptor-{place + 1}"
    state, session_id = session.members[member].to_bytes(), session.server.context.state.session_id
    key = Envelope.parse(session.answers[member, Round.SESSION_KEY], LIMIT).open(SessionKey)[0].key
    context = commitment_context(session_id, DEALER)
    commitments = dealt.commitments(context, salts)
    info = share_info(session.task, session_id, DEALER, member)
    text, store = salts[place] + dealt.shares[place], MemoryStore()
    size = protocol.committee.proof_bytes
    degree = protocol.scheme(session.task).degree
    true = packed.read_share(protocol.committee, degree, place, dealt.shares[place]).kept()

    def sent(data: bytes) -> KeyShare:
        """A key share of ``data``: a kind of lie, the text to seal, and the bits to flip in the proof."""
        kind, text, added = data[:1], data[1:-size], data[-size:]
        salt, share = text[: packed.SALT_BYTES], text[packed.SALT_BYTES :]
        committed = hashlib.sha256(encode_parts(context, place, salt, share)).digest()
        if kind == b"\1":
            committed = commitments[place]
        sealed = hpke.seal(hpke.Kem.X25519, key, text, info=info + b"other" * (kind == b"\2"))
        tree = dealing_tree([*commitments[:place], committed, *commitments[place + 1 :]], {place: sealed})
        root = tree[-1][0]
        challenge = packed.challenge_key(challenge_context(session_id, DEALER), root)
        proof = replace(dealt, _proven=[]).prove(challenge)
        changed = bytes(a ^ b for a, b in zip(proof, added, strict=False)) + proof[len(added) :]
        signed = session.seal(Dealing(root, changed), sender=DEALER)
        return KeyShare(signed, committed, sealed, merkle_path(tree, place))

    def receive(data: bytes) -> None:
        store.number = -1
        role = session.restore(member, state, save=store)
        role.receive(session.seal(sent(data)))
        part = role._state.parts.get(DEALER)
        if part is None:
            raise MPCError("refused whole")
        # A proof is values at some points, among which is that of a member with a seed; it sees no other value.
        missed = any(data[-size:]) and place >= protocol.corrupt_members
        if part.lack == Lack.NOTHING and (part.share != true or missed or data[:1] == b"\2"):
            raise AssertionError("a member keeps another share than was dealt")
        if (part.lack == Lack.NOTHING) != bool(part.share):
            raise AssertionError("a member keeps what it can't add up, or adds up nothing")
        said = Envelope.parse(role.receive(session.seal(Collect(b"\x1f"))), LIMIT).open(Agreed)[0]
        if said.digest or said.lacking != bytes([part.lack, *[Lack.ABSENT] * 4]) or role._state.key:
            raise AssertionError("a member says something else of a share than it saw")
        if part.lack:
            raise MPCError(Lack(part.lack).name)

    def change(mutator: Mutator, data: bytes) -> bytes:
        kind = mutator.rng.randrange(3)
        text = _numbers(mutator, data[1:-size]) if mutator.rng.random() < 0.5 else mutator.octets(data[1:-size])
        added = _numbers(mutator, data[-size:]) if mutator.rng.random() < 0.2 else bytes(size)
        return bytes([kind]) + (data[1:-size] if mutator.rng.random() < 0.3 else text) + added

    what = "seed" if place < protocol.corrupt_members else "share"
    samples = [b"\0" + text + bytes(size)]
    return Decoder(f"OneShot {what} that its client signed", receive, samples, (MPCError,), change)
