"""The messages of OneShot, and what is hashed and bound in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

from mpc.keys import encode_parts
from secagg import wire
from secagg.merkle import merkle_levels
from secagg.table import Proposal

if TYPE_CHECKING:
    from secagg.task import Task

HASH_BYTES = 32
NO_TEXT = hashlib.sha256(b"").digest()
"""What stands for a sealed share in the tree where a member showed no session key."""


class SessionKey(wire.Message, frozen=True):
    """SessionKey, member to server: its public sealing key of this session."""

    TYPE: ClassVar[int] = 2
    key: bytes


class KeyedProposal(Proposal, frozen=True):
    """Input, server to clients: the proposal, with the members' signed session keys as received, by id."""

    TYPE: ClassVar[int] = 3
    keys: list[bytes]


class KeyedInput(wire.Message, frozen=True):
    """Input, client to server: its encrypted vector follows.

    ``dealing`` is the signed :class:`Dealing`. ``commitments`` has 32 bytes for each member by id. ``sealed`` has a
    sealed share for each member whose session key was shown, by id.
    """

    TYPE: ClassVar[int] = 4
    dealing: bytes
    commitments: bytes
    sealed: list[bytes]


class Dealing(wire.Message, frozen=True):
    """What a client signs of the shares of its key: the root of the tree over them, and the low-degree proof."""

    TYPE: ClassVar[int] = 5
    root: bytes
    proof: bytes


class KeyShare(wire.Message, frozen=True):
    """Input, server to one member: its share of a client's key, and the path from it to the signed root."""

    TYPE: ClassVar[int] = 6
    dealing: bytes
    commitment: bytes
    sealed: bytes
    path: bytes


class Collect(wire.Message, frozen=True):
    """Agreement, server to members: the set of clients whose inputs were added up, as a bitmap over the cohort."""

    TYPE: ClassVar[int] = 7
    clients: bytes


class Agreed(wire.Message, frozen=True):
    """Agreement, member to all: the digest of the set and of its dealings; see :func:`agreed_digest`.

    A member that lacks a good share of a client in the set agrees to nothing: its ``digest`` is empty, and
    ``lacking`` has a byte for each client in the set, a :class:`Lack`. Otherwise ``lacking`` is empty.
    """

    TYPE: ClassVar[int] = 8
    digest: bytes
    lacking: bytes


class Release(wire.Message, frozen=True):
    """SumOfKeys, server to members: the signed agreements, as received."""

    TYPE: ClassVar[int] = 9
    agreed: list[bytes]


class KeyShareSum(wire.Message, frozen=True):
    """SumOfKeys, member to server: the sum of its shares follows."""

    TYPE: ClassVar[int] = 10


class Recount(wire.Message, frozen=True):
    """Recount, server to members: no more key shares will come. It asks whose they hold."""

    TYPE: ClassVar[int] = 11


class Held(wire.Message, frozen=True):
    """Recount, member to server: a byte for each client of the cohort, a :class:`Lack`."""

    TYPE: ClassVar[int] = 12
    lacking: bytes


class Lack(IntEnum):
    """Why a member has no share of a client that it could add up."""

    NOTHING = 0  # it has one
    ABSENT = 1  # no share reached it
    UNOPENED = 2  # what the client signed for it doesn't open
    UNCOMMITTED = 3  # it opens, and isn't what the client committed to
    MALFORMED = 4  # it opens, and isn't a share
    MISSES_PROOF = 5  # it isn't on the polynomials of the client's proof


def share_info(task: Task, session: bytes, client: str, member: str) -> bytes:
    """HPKE's info for a sealed share: it binds the share to task, session, client and member."""
    return encode_parts("secagg/v1/one-shot/key-share", task.digest, session, client, member)


def commitment_context(session: bytes, client: str) -> bytes:
    """What the commitments to a client's shares are bound to."""
    return encode_parts("secagg/v1/one-shot/commitment", session, client)


def challenge_context(session: bytes, client: str) -> bytes:
    """What the challenge of a client's low-degree proof is bound to, besides the root."""
    return encode_parts("secagg/v1/one-shot/challenge", session, client)


def public_seed(session: bytes) -> bytes:
    """The seed of the session's public ring elements: everyone computes it, and nobody chooses it."""
    return hashlib.sha256(encode_parts("secagg/v1/one-shot/a", session)).digest()


def leaf(commitment: bytes, sealed: bytes | None) -> bytes:
    """A leaf of a dealing's tree: the commitment to a share, and the hash of the text that holds it."""
    return commitment + (NO_TEXT if sealed is None else hashlib.sha256(sealed).digest())


def dealing_tree(commitments: Sequence[bytes], sealed: Mapping[int, bytes]) -> list[list[bytes]]:
    """The tree over all members' leaves, by level; ``sealed`` has the texts by the place of their member."""
    return merkle_levels([leaf(one, sealed.get(place)) for place, one in enumerate(commitments)])


def dealing_digest(dealing: Dealing) -> bytes:
    """What members and server keep of a dealing: its root, and the hash of its proof (64 bytes)."""
    return dealing.root + hashlib.sha256(dealing.proof).digest()


def agreed_digest(session: bytes, dealings: Mapping[str, bytes]) -> bytes:
    """The digest of a set of clients: each with its :func:`dealing_digest`, sorted by id."""
    parts = [part for client in sorted(dealings) for part in (client, dealings[client])]
    return hashlib.sha256(encode_parts("secagg/v1/one-shot/agreed", session, *parts)).digest()
