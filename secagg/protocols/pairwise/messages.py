"""What SecAgg and SecAggPlus say: the messages, and what keys, shares and commitments are bound to.

U1 ⊇ U2 ⊇ U3 are the clients that advertised keys, dealt shares, sent their input. A set travels as a
bitmap over U1 sorted by id.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

from mpc.errors import MPCError
from mpc.keys import check_public_key, encode_parts
from secagg import wire
from secagg.errors import FaultKind
from secagg.wire import Reject

KEY_BYTES = 32
SHARE_BYTES = 33
HASH_BYTES = 32
SEALED_BYTES = 2 * SHARE_BYTES + 16  # both shares and the AES-GCM tag
COMMITMENT_BYTES = 2 * HASH_BYTES
VOUCHER_BYTES = 16

SELF, KEY = "self-mask", "masking-key"  # the two secrets that a client deals


class Advert(wire.Message, frozen=True):
    """AdvertiseKeys, client to all: fresh X25519 public keys, one to seal and one to mask with."""

    TYPE: ClassVar[int] = 2
    sealing_key: bytes
    masking_key: bytes


class Adverts(wire.Message, frozen=True):
    """ShareKeys, server to U1: the signed adverts of all U1, as received, sorted by id."""

    TYPE: ClassVar[int] = 3
    adverts: list[bytes]


class ShownAdverts(wire.Message, frozen=True):
    """ShareKeys, server to U1 on a sparse graph: who U1 is, and the adverts of the client and its neighbours.

    ``present`` is a bitmap over the cohort; ``adverts`` are as received, sorted by id; each of ``paths`` leads
    from an advert to the root of the tree over all. A subclass adds what the graph is drawn from.
    """

    present: bytes
    adverts: list[bytes]
    paths: list[bytes]


class NearAdverts(ShownAdverts, frozen=True):
    """ShareKeys, server to U1: the same, and the 32 bytes that the server drew when U1 stood."""

    TYPE: ClassVar[int] = 11
    graph_nonce: bytes


class Frozen(wire.Message, frozen=True):
    """FreezeKeys, server to U1: who U1 is, as a bitmap over the cohort, and the root over all adverts."""

    TYPE: ClassVar[int] = 14
    present: bytes
    root: bytes


class NextRound(wire.Message, frozen=True):
    """FreezeKeys, client to server: the first round of the beacon whose value the client could not know."""

    TYPE: ClassVar[int] = 15
    number: int


class DrawnAdverts(ShownAdverts, frozen=True):
    """ShareKeys, server to U1: the same, and the beacon's value from which the graph is drawn."""

    TYPE: ClassVar[int] = 16
    number: int
    value: bytes


class DealtShares(wire.Message, frozen=True):
    """ShareKeys, client to server: both secrets in shares, each sealed to its holder.

    ``sealed`` has 82 bytes for each holder but the dealer itself; ``commitments`` has the hashes of both
    shares, 64 bytes for each holder. Holders are all of U1 on the complete graph, else the neighbours.
    """

    TYPE: ClassVar[int] = 4
    self_mask_commitment: bytes
    commitments: bytes
    sealed: bytes


class HeldShares(wire.Message, frozen=True):
    """MaskedInput, server to U2: what the others of U2 dealt to this client, with the commitments."""

    TYPE: ClassVar[int] = 5
    dealers: bytes
    commitments: bytes
    sealed: bytes


class MaskedInput(wire.Message, frozen=True):
    """MaskedInput, client to server: the masked vectors follow."""

    TYPE: ClassVar[int] = 6


class VouchedInput(wire.Message, frozen=True):
    """MaskedInput, client to server: the masked vectors follow.

    ``vouchers`` has 16 bytes for each neighbour in U2, by which that neighbour alone can tell under
    which U2 this input was masked.
    """

    TYPE: ClassVar[int] = 12
    vouchers: bytes


class Survivors(wire.Message, frozen=True):
    """ConsistencyCheck, server to U3: whose inputs it will open together."""

    TYPE: ClassVar[int] = 7
    survivors: bytes


class VouchedSurvivors(wire.Message, frozen=True):
    """ConsistencyCheck, server to U3: the same, with the vouchers of the client's neighbours in U3."""

    TYPE: ClassVar[int] = 13
    survivors: bytes
    vouchers: bytes


class SignedSurvivors(wire.Message, frozen=True):
    """ConsistencyCheck, client to all: U2 and U3 as they were told to this client."""

    TYPE: ClassVar[int] = 8
    dealers: bytes
    survivors: bytes


class Unmask(wire.Message, frozen=True):
    """Unmasking, server to the survivors: U3 and, against a malicious server, who signed it."""

    TYPE: ClassVar[int] = 9
    survivors: bytes
    signed: list[bytes]


class Revealed(wire.Message, frozen=True):
    """Unmasking, client to server: one share for each member of U2, in order.

    Which of a dealer's two secrets a share belongs to is not the holder's to say: it follows from U3.
    Both shares of one dealer don't fit into this message. ``unopened`` marks dealers whose
    shares didn't open or didn't fit their commitments.
    """

    TYPE: ClassVar[int] = 10
    unopened: bytes
    shares: bytes


def pieces(joined: bytes, size: int, count: int) -> list[bytes]:
    """``joined`` cut into ``count`` pieces; ``Reject`` if it isn't that long."""
    if len(joined) != size * count:
        raise Reject(FaultKind.INVALID, f"got {len(joined)} bytes for {count} pieces of {size}")
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def seal_info(dealer: str, holder: str) -> bytes:
    """HKDF's info for the key that seals a dealer's shares to a holder."""
    return encode_parts("secagg/v1/seal", dealer, holder)


def mask_info(one: str, other: str) -> bytes:
    """HKDF's info for the pairwise mask of two clients; the same on both sides."""
    return encode_parts("secagg/v1/pairwise-mask", min(one, other), max(one, other))


def self_mask_info(client: str) -> bytes:
    """HKDF's info for a client's self mask."""
    return encode_parts("secagg/v1/self-mask", client)


def voucher_info(client: str, neighbour: str, dealers: bytes) -> bytes:
    """HKDF's info for what a client shows a neighbour to vouch for U2."""
    return encode_parts("secagg/v1/voucher", client, neighbour, dealers)


def share_context(session: bytes, dealer: str, holder: str, point: int) -> bytes:
    """What a sealed pair of shares is bound to."""
    return encode_parts("secagg/v1/share", session, DealtShares.TYPE, dealer, holder, point)


def commit_share(session: bytes, dealer: str, holder: str, kind: str, share: bytes) -> bytes:
    """The hash by which a revealed share is known as the one that was dealt."""
    parts = encode_parts("secagg/v1/share-commitment", session, dealer, holder, kind, share)
    return hashlib.sha256(parts).digest()


def commit_seed(session: bytes, dealer: str, seed: bytes) -> bytes:
    """The hash by which a rebuilt self-mask seed is known as the dealer's."""
    return hashlib.sha256(encode_parts("secagg/v1/self-mask-commitment", session, dealer, seed)).digest()


def open_advert(envelope: wire.Envelope) -> Advert:
    """The advert in a checked envelope; ``Reject`` for keys that :func:`check_advert` refuses."""
    advert, rest = envelope.open(Advert)
    wire.no_vectors(rest)
    check_advert(advert)
    return advert


def check_advert(advert: Advert) -> None:
    """``Reject`` keys that are no X25519 keys, or no key's one encoding, or one key for both uses."""
    try:
        for key in (advert.sealing_key, advert.masking_key):
            check_public_key(key)
    except MPCError as error:
        raise Reject(FaultKind.INVALID, f"got an advert with a key that is none: {error}") from error
    if advert.sealing_key == advert.masking_key:
        raise Reject(FaultKind.INVALID, "got an advert with one key for both uses")
