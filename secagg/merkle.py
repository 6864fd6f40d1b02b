"""The Merkle tree over the key adverts of a session (RFC 9162, section 2.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_HASH_BYTES = 32


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of ``leaves`` (RFC 9162, section 2.1.1)."""
    return hashlib.sha256(b"").digest() if not leaves else merkle_levels(leaves)[-1][0]


def merkle_levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All nodes of the Merkle tree over ``leaves``, at least one: by level, from the leaves' hashes to the root."""
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    levels = [level]
    # The RFC splits a tree at the largest power of two below the number of leaves. Pairing neighbours, and moving
    # a last node without a neighbour up, gives the same tree.
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = paired + level[2 * len(paired) :]
        levels.append(level)
    return levels


def merkle_path(levels: Sequence[Sequence[bytes]], index: int) -> bytes:
    """The inclusion proof of leaf ``index`` (RFC 9162, section 2.1.3): the hashes next to its path, joined.

    ``levels`` are those of :func:`merkle_levels`.
    """
    path = []
    for level in levels[:-1]:
        if (beside := index ^ 1) < len(level):
            path.append(level[beside])
        index >>= 1
    return b"".join(path)


def path_lengths(size: int) -> dict[int, int]:
    """How many leaves of a tree of ``size`` leaves have an inclusion proof of each length, in hashes."""
    lengths: dict[int, int] = {}
    above = 0
    while size:
        depth = max(0, (size - 1).bit_length() - 1)
        left = 1 << depth  # leaves of the left subtree: the largest power of two below ``size``
        length = above + depth + (left < size)
        lengths[length] = lengths.get(length, 0) + left
        above, size = above + 1, size - left
    return lengths


def root_of_path(
    leaf: bytes, index: int, size: int, path: bytes, known: dict[bytes, bytes] | None = None
) -> bytes | None:
    """The root of the tree of ``size`` leaves to which ``path`` leads from ``leaf``, the bytes at ``index``.

    See RFC 9162, section 2.1.3.2. It is None for a path of another length or an index out of range. Paths of one
    tree share the nodes near its root. Pass one dict, at first empty, as ``known`` with all of them, and no node is
    hashed twice.
    """
    if not 0 <= index < size:
        return None
    parents = {} if known is None else known
    node, at, last = hashlib.sha256(b"\x00" + leaf).digest(), 0, size - 1
    while last:
        if index ^ 1 <= last:
            beside = path[at : at + _HASH_BYTES]
            if len(beside) != _HASH_BYTES:
                return None
            pair = beside + node if index & 1 else node + beside
            node, at = parents.get(pair, b""), at + _HASH_BYTES
            if not node:
                node = parents[pair] = hashlib.sha256(b"\x01" + pair).digest()
        index, last = index >> 1, last >> 1
    return node if at == len(path) else None
