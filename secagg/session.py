"""What names one aggregation: its cohort, the session id, and the tree over the keys advertised in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mpc.keys import encode_parts
from secagg.errors import ConfigError, blaming, shown
from secagg.identity import PartyRole, Roster, check_party_id

if TYPE_CHECKING:
    from secagg.task import Task

NONCE_BYTES = 32
MAX_SESSION_BYTES = 1024

_HASH_BYTES = 32


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
    if not isinstance(session, bytes):
        raise ConfigError(f"got session={shown(session)}; expected bytes, such as b'round 3'")
    plain = bytes(memoryview(session))  # NumPy's bytes are a subclass
    if len(plain) > MAX_SESSION_BYTES:
        raise ConfigError(f"got a session of {len(plain)} bytes; at most {MAX_SESSION_BYTES}: hash it")
    return plain


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of ``leaves`` (RFC 9162, section 2.1.1)."""
    return hashlib.sha256(b"").digest() if not leaves else merkle_levels(leaves)[-1][0]


def merkle_levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All nodes of the Merkle tree over at least one leaf, level by level, from the leaves' hashes to the root."""
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    levels = [level]
    # Pairing neighbours and carrying an odd one up gives the RFC's tree, which splits at the
    # largest power of two below the number of leaves.
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = paired + level[2 * len(paired) :]
        levels.append(level)
    return levels


def merkle_path(levels: Sequence[Sequence[bytes]], index: int) -> bytes:
    """The inclusion proof of leaf ``index``: the hashes beside its way up (RFC 9162, section 2.1.3), joined."""
    path = []
    for level in levels[:-1]:
        if (beside := index ^ 1) < len(level):
            path.append(level[beside])
        index >>= 1
    return b"".join(path)


def path_length(index: int, size: int) -> int:
    """Hashes in the inclusion proof of leaf ``index`` of ``size``."""
    length, last = 0, size - 1
    while last:
        length += index ^ 1 <= last
        index, last = index >> 1, last >> 1
    return length


def root_of_path(leaf: bytes, index: int, size: int, path: bytes) -> bytes | None:
    """The root of the tree of ``size`` leaves to which ``path`` leads from leaf ``index`` (RFC 9162, section
    2.1.3.2); None for a path of another length or an index out of range.
    """
    if not 0 <= index < size:
        return None
    node, at, last = hashlib.sha256(b"\x00" + leaf).digest(), 0, size - 1
    while last:
        if index ^ 1 <= last:
            beside = path[at : at + _HASH_BYTES]
            if len(beside) != _HASH_BYTES:
                return None
            left, right = (beside, node) if index & 1 else (node, beside)
            node, at = hashlib.sha256(b"\x01" + left + right).digest(), at + _HASH_BYTES
        index, last = index >> 1, last >> 1
    return node if at == len(path) else None


def roster_digest(roster: Roster | None) -> bytes:
    """The roster's digest; zeros where nobody is enrolled."""
    return bytes(hashlib.sha256().digest_size) if roster is None else roster.digest


def check_cohort(task: Task, cohort: list[str], roster: Roster | None) -> None:
    """``ConfigError`` for a cohort that ``task`` and ``roster`` don't allow."""
    if not task.min_survivors <= len(cohort) <= task.max_clients:
        raise ConfigError(
            f"got a cohort of {len(cohort)}; expected {task.min_survivors} (min_survivors) to "
            f"{task.max_clients} (max_clients)"
        )
    for before, member in pairwise(["", *cohort]):
        check_party_id(member)
        if member <= before:
            raise ConfigError(f"got a cohort with {member} twice or out of order; every id stands in it once")
        if roster is not None and ((party := roster.get(member)) is None or party.role is not PartyRole.CLIENT):
            raise ConfigError(
                f"got {member} in the cohort, which the roster doesn't list as a client; leave it out, or enrol it "
                "and give everyone the new roster (secagg keygen, secagg roster merge)"
            )
    task.protocol.validate_cohort(task, cohort, roster)
    task.check_honest(len(cohort), roster)


def draw(rng: Callable[[int], bytes], count: int) -> bytes:
    """``count`` bytes from ``rng``; ``ConfigError`` if it gives anything else."""
    with blaming(ConfigError, f"got no {count} bytes from rng; expected os.urandom, or rng_for_tests in tests"):
        drawn = rng(count)
    if not isinstance(drawn, bytes) or len(drawn) != count:
        raise ConfigError(f"got no {count} bytes from rng; expected os.urandom, or rng_for_tests in tests")
    return drawn
