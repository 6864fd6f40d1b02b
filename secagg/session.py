"""What names one aggregation: its cohort, the session id, and the tree over the keys advertised in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mpc.keys import encode_parts
from secagg._numbers import is_a
from secagg.errors import ConfigError, blaming, shown
from secagg.identity import Roster
from secagg.merkle import merkle_root

if TYPE_CHECKING:
    pass

NONCE_BYTES = 32
MAX_SESSION_BYTES = 1024


def session_id(
    *,
    task: bytes,
    roster: bytes,
    session: bytes,
    nonce: bytes,
    cohort: Sequence[str],
    adverts: Sequence[bytes] | None = None,
    tree: tuple[int, bytes] | None = None,
    present: bytes = b"",
    graph_nonce: bytes = b"",
    drawn: tuple[int, bytes] | None = None,
) -> bytes:
    """The 32-byte id that every party computes and none takes from a message.

    ``task`` and ``roster`` are digests, ``session`` is what the caller named this aggregation
    (the round number, the hash of the model that was sent), ``nonce`` the server's 32 random bytes,
    ``cohort`` the sorted ids that it chose, on whose number thresholds may depend.
    From the round on in which there are any, ``adverts`` are the signed key adverts of U1, sorted by
    id, as received: the id then holds each client's own fresh keys, so that nothing of
    another session fits. Who doesn't see all of them gives ``tree`` instead, |U1| and their Merkle
    root, and with it who of the cohort is ``present``, as a bitmap: adverts that are seen name their
    senders, those that aren't do not. The graph of a sparse session is drawn from the id, so the id also
    holds what nobody knew before U1 stood: ``graph_nonce``, 32 bytes that the server draws only then, or
    ``drawn``, a round of a public beacon and its value.
    """
    parts = [b"secagg/v1/session", task, roster, session, nonce, encode_parts(*cohort)]
    if adverts is not None:
        tree = len(adverts), merkle_root(adverts)
    if tree is not None:
        parts += [tree[0].to_bytes(8, "big"), tree[1]]
    if present:
        parts.append(present)
    if graph_nonce:
        parts.append(graph_nonce)
    if drawn is not None:
        parts += [drawn[0].to_bytes(8, "big"), drawn[1]]
    return hashlib.sha256(encode_parts(*parts)).digest()


def check_session(session: object) -> bytes:
    """``session`` as bytes; ``ConfigError`` unless it is, and no more than :data:`MAX_SESSION_BYTES` of them.

    ``b""`` is a name like any other, and not the same as None.
    """
    if not is_a(session, bytes):
        raise ConfigError(f"got session={shown(session)}; expected bytes, such as b'round 3'")
    with blaming(ConfigError, "got a session whose bytes can't be read"):
        plain = bytes(memoryview(session))  # NumPy's bytes are a subclass
    if len(plain) > MAX_SESSION_BYTES:
        raise ConfigError(f"got a session of {len(plain)} bytes; at most {MAX_SESSION_BYTES}: hash it")
    return plain


def roster_digest(roster: Roster | None) -> bytes:
    """The roster's digest; zeros where nobody is enrolled."""
    return bytes(hashlib.sha256().digest_size) if roster is None else roster.digest


def draw(rng: Callable[[int], bytes], count: int) -> bytes:
    """``count`` bytes from ``rng``; ``ConfigError`` if it gives anything else."""
    with blaming(ConfigError, f"got no {count} bytes from rng; expected os.urandom, or rng_for_tests in tests"):
        drawn = rng(count)
    if not is_a(drawn, bytes) or len(drawn) != count:
        raise ConfigError(f"got no {count} bytes from rng; expected os.urandom, or rng_for_tests in tests")
    return drawn
