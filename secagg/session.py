"""What names one aggregation: the session id, and the tree over the keys advertised in it."""

import hashlib
from collections.abc import Sequence

from mpc.keys import encode_parts

NONCE_BYTES = 32


def session_id(
    *, task: bytes, roster: bytes, session: bytes, nonce: bytes, adverts: Sequence[bytes] | None = None
) -> bytes:
    """The 32-byte id that every party computes and none takes from a message.

    ``task`` and ``roster`` are digests, ``session`` is what the caller named this aggregation
    (the round number, the hash of the model that was sent), ``nonce`` the server's 32 random bytes.
    From the round on in which there are any, ``adverts`` are the signed key adverts of U1, sorted by
    id, as received: the id then holds each client's own fresh keys, so that nothing of
    another session fits.
    """
    parts = [b"secagg/v1/session", task, roster, session, nonce]
    if adverts is not None:
        parts += [len(adverts).to_bytes(8, "big"), merkle_root(adverts)]
    return hashlib.sha256(encode_parts(*parts)).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of ``leaves`` (RFC 9162, section 2.1.1)."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    # Pairing neighbours and carrying an odd one up gives the RFC's tree, which splits at the
    # largest power of two below the number of leaves.
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = paired + level[2 * len(paired) :]
    return level[0]
