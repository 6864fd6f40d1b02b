"""Keys: agreement, derivation, sealing and seeded randomness, all by ``cryptography``.

X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), AES-256-GCM (NIST SP 800-38D) and AES-256-CTR (NIST SP
800-38A). Every key serves one purpose. The ``info`` of its derivation names the purpose; build it with
:func:`encode_parts`.
"""

from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mpc._numbers import whole
from mpc.errors import MPCError

KEY_BYTES = 32
"""Bytes of every key here: X25519 private and public keys, AES keys."""

TAG_BYTES = 16
"""Bytes by which a sealed text is longer than its plaintext."""

_MAX_DERIVED_BYTES = 255 * 32  # RFC 5869, section 2.3
_CURVE_PRIME = 2**255 - 19
_SMALL_ORDER = frozenset(  # the curve and its twist have no other such points below the prime
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
    )
)
_SHA256 = SHA256()
_ZERO_NONCE = bytes(12)
_ZERO_COUNTER = bytes(16)


def encode_parts(*parts: bytes | str | int) -> bytes:
    """``parts`` as one byte string, for a KDF or a hash. Different parts give different strings.

    Each part follows its length in 4 bytes, big-endian. A ``str`` is written in UTF-8, a non-negative
    ``int`` in 8 bytes, big-endian. Types are not encoded: let the label, which comes first, fix the
    types of the parts. Raises :class:`MPCError` for any other part.
    """
    encoded: list[bytes] = []
    for part in parts:
        # Most parts are bytes or the ids of clients: a session encodes millions of them.
        octets = part if type(part) is bytes else part.encode() if type(part) is str else _part_bytes(part)
        encoded += (len(octets).to_bytes(4, "big"), octets)
    return b"".join(encoded)


def derive(secret: bytes, *, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """``length`` bytes (1 to 8160) from ``secret`` by HKDF-SHA256.

    ``secret`` must have the entropy of a key. ``salt`` is public, such as a session id. ``info``
    names the purpose. Raises :class:`MPCError` for any other length.
    """
    if not 1 <= length <= _MAX_DERIVED_BYTES:
        raise MPCError(f"got a length of {length} bytes to derive; expected 1 to {_MAX_DERIVED_BYTES}")
    return HKDF(_SHA256, length, salt, info).derive(secret)


def check_public_key(key: bytes) -> bytes:
    """``key``; raises :class:`MPCError` unless it is an X25519 public key in the form of :func:`public_key`.

    X25519 (RFC 7748) itself accepts any 32 bytes: it ignores the top bit and reduces the rest. So one
    point has several encodings, and two keys that differ as bytes could be the same key. This function
    refuses keys with the top bit set or a value of 2^255 - 19 or more. It also refuses points of small
    order, with which every private key agrees on zero.
    """
    _check_key(key, "an X25519 public key")
    if int.from_bytes(key, "little") >= _CURVE_PRIME:
        raise MPCError(
            f"got the X25519 public key {key.hex()}, another encoding of a key; expected the one that public_key "
            "returns, below 2^255 - 19: refuse its sender"
        )
    if key in _SMALL_ORDER:
        raise MPCError(
            f"got the X25519 public key {key.hex()}, a point of small order; expected one that "
            "public_key returns: refuse its sender"
        )
    return key


class PrivateKey:
    """An X25519 private key, from the 32 random bytes ``private``, for any number of agreements."""

    __slots__ = ("_key",)

    def __init__(self, private: bytes) -> None:
        _check_key(private, "an X25519 private key")
        self._key = X25519PrivateKey.from_private_bytes(private)

    @property
    def public(self) -> bytes:
        """The public key (32 bytes)."""
        return self._key.public_key().public_bytes_raw()

    def exchange(self, peer: bytes) -> bytes:
        """The 32-byte secret shared with the holder of the public key ``peer``: use it only in :func:`derive`.

        Raises :class:`MPCError` on a ``peer`` that :func:`check_public_key` refuses.
        """
        return self._key.exchange(X25519PublicKey.from_public_bytes(check_public_key(peer)))


def public_key(private: bytes) -> bytes:
    """The X25519 public key (32 bytes) of ``private`` (32 random bytes)."""
    return PrivateKey(private).public


def agree(private: bytes, peer: bytes, *, salt: bytes, info: bytes) -> bytes:
    """The 32-byte key that ``private`` shares with the holder of the public key ``peer``.

    X25519, then HKDF-SHA256 with ``salt`` and ``info``; both sides must pass the same ones. Raises
    :class:`MPCError` on a key that does not have 32 bytes, and on a ``peer`` that
    :func:`check_public_key` refuses.
    """
    return derive(PrivateKey(private).exchange(peer), salt=salt, info=info)


def seal(key: bytes, plaintext: bytes, *, associated_data: bytes) -> bytes:
    """``plaintext`` under AES-256-GCM: ciphertext, then a tag of 16 bytes.

    **Seal only one plaintext under each key.** The nonce is always zero: two different plaintexts
    under one key reveal their difference and let anyone forge. Derive a fresh key for every message
    (session, sender and receiver in the ``info``), and never seal another plaintext under it.
    ``associated_data`` is not sent, but must be the same when opening. Raises :class:`MPCError` if
    ``key`` does not have 32 bytes.
    """
    _check_key(key, "a sealing key")
    return AESGCM(key).encrypt(_ZERO_NONCE, plaintext, associated_data)


def open_sealed(key: bytes, sealed: bytes, *, associated_data: bytes) -> bytes:
    """The plaintext that :func:`seal` sealed with the same key and associated data.

    Raises :class:`MPCError` if ``key`` does not have 32 bytes, and if any bit of key, ``sealed`` or
    associated data has changed.
    """
    _check_key(key, "a sealing key")
    try:
        return AESGCM(key).decrypt(_ZERO_NONCE, sealed, associated_data)
    except InvalidTag as error:
        raise MPCError(
            f"got {len(sealed)} sealed bytes that do not open; expected the result of seal with this key "
            "and this associated data: treat them as tampered with"
        ) from error


def seeded_rng(seed: bytes, *, salt: bytes, info: bytes) -> Callable[[int], bytes]:
    """A generator that is called like ``os.urandom``, and repeats itself: rng(n) returns the next n bytes.

    The bytes are those of AES-256-CTR from a zero counter block. Its key is :func:`derive` of ``seed``
    (32 bytes), ``salt`` and ``info``. The sizes of the calls do not matter. Two threads must not use
    one generator at once. Raises :class:`MPCError` if ``seed`` does not have 32 bytes or n is negative.
    """
    _check_key(seed, "a seed")
    key = derive(seed, salt=salt, info=info)
    stream = Cipher(algorithms.AES(key), modes.CTR(_ZERO_COUNTER)).encryptor()

    def rng(count: int) -> bytes:
        if count < 0:
            raise MPCError(f"got a request for {count} random bytes; expected 0 or more")
        return stream.update(bytes(count))

    return rng


def _part_bytes(part: bytes | str | int) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode()
    number = part if type(part) is int else whole(part)
    if number is None:
        raise MPCError(f"got a part of type {type(part).__name__}; expected bytes, str or int")
    if not 0 <= number < 2**64:
        raise MPCError(f"got {number} as a part; expected an integer from 0 to 2^64 - 1")
    return number.to_bytes(8, "big")


def _check_key(key: bytes, what: str) -> None:
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        got = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise MPCError(f"got {got} for {what}; expected {KEY_BYTES} bytes")
