"""The messages of SecAgg and SecAggPlus, and the data that keys, shares and commitments are bound to.

U1 ⊇ U2 ⊇ U3 are the clients that advertised keys, dealt shares, and sent their input. A set of clients travels as a
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

_SHARE_LENGTH = SHARE_BYTES.to_bytes(4, "big")  # as encode_parts writes it before a share

SELF, KEY = "self-mask", "masking-key"  # the two secrets that a client deals


class Advert(wire.Message, frozen=True):
    """AdvertiseKeys, client to all: two fresh X25519 public keys, one for sealing and one for masking."""

    TYPE: ClassVar[int] = 2
    sealing_key: bytes
    masking_key: bytes


class Adverts(wire.Message, frozen=True):
    """ShareKeys, server to U1: the signed adverts of all U1, as received, sorted by id."""

    TYPE: ClassVar[int] = 3
    adverts: list[bytes]


class ShownAdverts(wire.Message, frozen=True):
    """ShareKeys, server to U1 on a sparse graph: U1, and the adverts of the client and its neighbours.

    ``present`` is U1 as a bitmap over the cohort. ``adverts`` are as received, sorted by id. Each of ``paths``
    leads from one of these adverts to the root of the tree over all adverts. A subclass adds the value from which
    the graph is drawn.
    """

    present: bytes
    adverts: list[bytes]
    paths: list[bytes]


class NearAdverts(ShownAdverts, frozen=True):
    """ShareKeys, server to U1: the same, and the 32 bytes that the server drew once U1 was fixed."""

    TYPE: ClassVar[int] = 11
    graph_nonce: bytes


class Frozen(wire.Message, frozen=True):
    """FreezeKeys, server to U1: U1 as a bitmap over the cohort, and the Merkle root over all adverts."""

    TYPE: ClassVar[int] = 14
    present: bytes
    root: bytes


class NextRound(wire.Message, frozen=True):
    """FreezeKeys, client to server: the beacon's first round whose value nobody knows yet by the client's clock."""

    TYPE: ClassVar[int] = 15
    number: int


class DrawnAdverts(ShownAdverts, frozen=True):
    """ShareKeys, server to U1: the same, and the beacon's value from which the graph is drawn."""

    TYPE: ClassVar[int] = 16
    number: int
    value: bytes


class DealtShares(wire.Message, frozen=True):
    """ShareKeys, client to server: shares of both secrets, sealed to their holders.

    ``sealed`` has 82 bytes for each holder except the dealer itself. ``commitments`` has the hashes of both shares,
    64 bytes for each holder. The holders are all of U1 on the complete graph, else the dealer's neighbours.
    """

    TYPE: ClassVar[int] = 4
    self_mask_commitment: bytes
    commitments: bytes
    sealed: bytes


class HeldShares(wire.Message, frozen=True):
    """MaskedInput, server to U2: the sealed shares that the others of U2 dealt to this client, with commitments."""

    TYPE: ClassVar[int] = 5
    dealers: bytes
    commitments: bytes
    sealed: bytes


class MaskedInput(wire.Message, frozen=True):
    """MaskedInput, client to server: the masked vectors follow."""

    TYPE: ClassVar[int] = 6


class VouchedInput(wire.Message, frozen=True):
    """MaskedInput, client to server: the masked vectors follow.

    ``vouchers`` has 16 bytes for each neighbour in U2. That neighbour alone can tell from them under which U2 this
    input was masked.
    """

    TYPE: ClassVar[int] = 12
    vouchers: bytes


class Survivors(wire.Message, frozen=True):
    """ConsistencyCheck, server to U3: the clients whose inputs are in the sum that it will open."""

    TYPE: ClassVar[int] = 7
    survivors: bytes


class VouchedSurvivors(wire.Message, frozen=True):
    """ConsistencyCheck, server to U3: the same, with the vouchers of the client's neighbours in U3."""

    TYPE: ClassVar[int] = 13
    survivors: bytes
    vouchers: bytes


class SignedSurvivors(wire.Message, frozen=True):
    """ConsistencyCheck, client to all: U2 and U3 as this client received them."""

    TYPE: ClassVar[int] = 8
    dealers: bytes
    survivors: bytes


class Unmask(wire.Message, frozen=True):
    """Unmasking, server to the survivors: U3 and, against a malicious server, who signed it.

    ``signers`` is a bitmap over U1, and ``signatures`` has 64 bytes for each of them, in order. A signature is that
    of the signer's :class:`SignedSurvivors`, which every receiver can rebuild, because it signed the same one. Both
    fields are empty where nobody signs.
    """

    TYPE: ClassVar[int] = 17  # 9 carried whole signed envelopes, and is never used again
    survivors: bytes
    signers: bytes
    signatures: bytes


class Revealed(wire.Message, frozen=True):
    """Unmasking, client to server: one share for each client of U2, in order.

    The holder does not say to which of a dealer's two secrets a share belongs: that follows from U3. This message
    can't hold both shares of one dealer. ``unopened`` marks the dealers whose shares did not open, or did not match
    their commitments.
    """

    TYPE: ClassVar[int] = 10
    unopened: bytes
    shares: bytes


def pieces(joined: bytes, size: int, count: int) -> list[bytes]:
    """``joined`` cut into ``count`` pieces of ``size`` bytes; ``Reject`` if it has another length."""
    check_pieces(joined, size, count)
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def check_pieces(joined: bytes, size: int, count: int) -> None:
    """``Reject`` unless ``joined`` can be cut into ``count`` pieces of ``size`` bytes."""
    if len(joined) != size * count:
        raise Reject(FaultKind.INVALID, f"got {len(joined)} bytes for {count} pieces of {size}")


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
    """HKDF's info for the voucher by which a client shows a neighbour under which U2 it masked its input."""
    return encode_parts("secagg/v1/voucher", client, neighbour, dealers)


def share_context(session: bytes, dealer: str, holder: str, point: int) -> bytes:
    """The associated data of a sealed pair of shares."""
    return encode_parts("secagg/v1/share", session, DealtShares.TYPE, dealer, holder, point)


def share_dealer(session: bytes, dealer: str) -> bytes:
    """The start of what :func:`commit_share` hashes: who deals the share, in which session."""
    return encode_parts("secagg/v1/share-commitment", session, dealer)


def share_holder(holder: str, kind: str) -> bytes:
    """What follows :func:`share_dealer`: who holds the share, and of which of the two secrets it is."""
    return encode_parts(holder, kind) + _SHARE_LENGTH


def commit_share(dealer: bytes, holder: bytes, share: bytes) -> bytes:
    """The commitment to a share: a revealed share is checked against it.

    ``dealer`` and ``holder`` are from :func:`share_dealer` and :func:`share_holder`. A caller with many shares
    calls those once for each party.
    """
    return hashlib.sha256(dealer + holder + share).digest()


def commit_seed(session: bytes, dealer: str, seed: bytes) -> bytes:
    """The commitment to a self-mask seed: a rebuilt seed is checked against it."""
    return hashlib.sha256(encode_parts("secagg/v1/self-mask-commitment", session, dealer, seed)).digest()


def open_advert(envelope: wire.Envelope) -> Advert:
    """The advert in a checked envelope; ``Reject`` for keys that :func:`check_advert` refuses."""
    advert, rest = envelope.open(Advert)
    wire.no_vectors(rest)
    check_advert(advert)
    return advert


def check_advert(advert: Advert) -> None:
    """``Reject`` keys that are not canonical X25519 public keys, and one key for both uses."""
    try:
        for key in (advert.sealing_key, advert.masking_key):
            check_public_key(key)
    except MPCError as error:
        raise Reject(FaultKind.INVALID, f"got an advert with a bad key: {error}") from error
    if advert.sealing_key == advert.masking_key:
        raise Reject(FaultKind.INVALID, "got an advert with one key for both uses")
