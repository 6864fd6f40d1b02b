"""What only a corrupt client of OneShot can send: shares of its key that are wrong, under a root that holds."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from mpc import packed
from secagg.protocols.oneshot.messages import HASH_BYTES, Dealing, KeyedInput, dealing_tree
from secagg.testing import Session
from secagg.wire import Envelope


def dealt_badly(rng: Random, session: Session, answer: bytes, places: Sequence[int]) -> bytes:
    """A client's input, its ciphertext as it was, with a commitment, a sealed share or the proof changed.

    ``places`` are those of the members that showed a session key. All is signed again by its own client.
    """
    envelope = Envelope.parse(answer, len(answer))
    message, payload = envelope.open(KeyedInput)
    dealing, _ = Envelope.parse(message.dealing, len(answer)).open(Dealing)
    commitments = [
        message.commitments[start : start + HASH_BYTES] for start in range(0, len(message.commitments), HASH_BYTES)
    ]
    sealed, proof = list(message.sealed), dealing.proof
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(sealed))
        match rng.randrange(4):
            case 0:
                commitments[rng.randrange(len(commitments))] = rng.randbytes(HASH_BYTES)
            case 1:
                at = rng.randrange(len(sealed[place]))
                sealed[place] = sealed[place][:at] + rng.randbytes(1) + sealed[place][at + 1 :]
            case 2:
                same = [other for other in sealed if len(other) == len(sealed[place])]
                sealed[place] = rng.choice((*same, bytes(len(sealed[place]))))
            case _:
                at = 4 * rng.randrange(len(proof) // 4)
                proof = proof[:at] + rng.randrange(packed.PRIME).to_bytes(4, "little") + proof[at + 4 :]
    root = dealing_tree(commitments, dict(zip(places, sealed, strict=True)))[-1][0]
    signed = session.seal(Dealing(root, proof), sender=envelope.sender)
    return session.seal(KeyedInput(signed, b"".join(commitments), sealed), bytes(payload), envelope.sender)
