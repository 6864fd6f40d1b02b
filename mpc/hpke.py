"""One-way sealing: HPKE in base mode (RFC 9180), single-shot, by ``cryptography``.

Anyone can seal to a public key, and the receiver can't tell who did: where that matters, sign the
plaintext. The suite is a KEM with HKDF-SHA256 and AES-256-GCM. A private key is 32 random bytes for
either KEM. Every call of :func:`seal` takes fresh randomness from the system, which can't be seeded:
the same plaintext sealed twice gives two unrelated texts.
"""

import hashlib
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mpc import keys
from mpc.errors import MPCError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

PRIVATE_BYTES = 32
"""Bytes of a private key."""

_TAG_BYTES = 16
_LATTICE_KEY_BYTES = 1184  # ML-KEM-768, FIPS 203, table 3


class Kem(StrEnum):
    """How a key is encapsulated.

    ``MLKEM768-X25519`` is X-Wing (draft-connolly-cfrg-xwing-kem, KEM 0x647A of draft-ietf-hpke-pq). It is
    secure as long as ML-KEM-768 or X25519 is, so that sealed texts stay confidential against a later
    quantum computer. ``X25519`` is DHKEM(X25519, HKDF-SHA256) of RFC 9180: short, and not post-quantum.
    """

    MLKEM768_X25519 = "MLKEM768-X25519"
    X25519 = "X25519"

    @property
    def post_quantum(self) -> bool:
        """Whether sealed texts stay confidential against a quantum computer: ML-KEM-768 is in NIST's category 3."""
        return self is Kem.MLKEM768_X25519

    @property
    def public_bytes(self) -> int:
        """Bytes of a public key."""
        return 32 if self is Kem.X25519 else _LATTICE_KEY_BYTES + 32

    @property
    def overhead(self) -> int:
        """Bytes by which a sealed text is longer than its plaintext."""
        return _TAG_BYTES + (32 if self is Kem.X25519 else 1088 + 32)

    @property
    def available(self) -> bool:
        """Whether the installed ``cryptography`` has this KEM."""
        try:
            _ = PrivateKey(self, bytes(PRIVATE_BYTES)).public
        except MPCError:
            return False
        return True


class PrivateKey:
    """A private key for texts that are sealed to ``public``: a ``kem`` and 32 random bytes, ``private``.

    For X-Wing the bytes are its seed (section 5.2 of the draft), for X25519 the private key itself. Raises
    :class:`MPCError` for any other length, and if ``cryptography`` lacks the KEM.
    """

    def __init__(self, kem: Kem, private: bytes) -> None:
        if not isinstance(private, bytes) or len(private) != PRIVATE_BYTES:
            got = f"{len(private)} bytes" if isinstance(private, bytes) else type(private).__name__
            raise MPCError(f"got {got} for a private sealing key; expected {PRIVATE_BYTES} bytes")
        self._suite = _suite(kem)
        expanded = private if kem is Kem.X25519 else hashlib.shake_256(private).digest(96)
        self._lattice: Any = None
        self._curve = X25519PrivateKey.from_private_bytes(expanded[-32:])
        if kem is Kem.MLKEM768_X25519:
            try:
                from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

                self._lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
            except (ImportError, UnsupportedAlgorithm) as error:
                raise _missing(kem) from error

    @cached_property
    def public(self) -> bytes:
        """The public key, of ``kem.public_bytes`` bytes."""
        lattice = b"" if self._lattice is None else self._lattice.public_key().public_bytes_raw()
        return bytes(lattice) + self._curve.public_key().public_bytes_raw()

    @cached_property
    def _key(self) -> Any:
        from cryptography.hazmat.primitives import hpke

        return self._curve if self._lattice is None else hpke.MLKEM768X25519PrivateKey(self._lattice, self._curve)

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """The plaintext that :func:`seal` sealed to this key's public half with the same ``info``.

        Raises :class:`MPCError` if any bit of ``sealed``, the key or ``info`` has changed.
        """
        _check_bytes(sealed=sealed, info=info)
        try:
            return self._suite.decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError) as error:
            raise MPCError(
                f"got {len(sealed)} sealed bytes that do not open; expected the result of seal for this key "
                "and this info: treat them as tampered with"
            ) from error


def seal(kem: Kem, public: bytes, plaintext: bytes, *, info: bytes) -> bytes:
    """``plaintext`` sealed for the holder of ``public``: encapsulation, ciphertext, tag.

    ``info`` is not sent, but must be the same when opening. It should name the session, the sender, the
    receiver and the kind of plaintext. Raises :class:`MPCError` on a ``public`` that is not a key of
    ``kem``, and if ``cryptography`` lacks the KEM.
    """
    _check_bytes(plaintext=plaintext, info=info)
    suite = _suite(kem)
    check_public_key(kem, public)
    try:
        return suite.encrypt(plaintext, _public(public), info)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MPCError(f"got an invalid public key of {kem}: {error}; refuse its holder") from error


def check_public_key(kem: Kem, public: bytes) -> None:
    """Raise :class:`MPCError` if ``public`` does not have ``kem``'s length, or if its X25519 part is invalid.

    :func:`mpc.keys.check_public_key` checks that part: it accepts one encoding a point, and no point of
    small order.
    """
    if not isinstance(public, bytes) or len(public) != kem.public_bytes:
        got = f"{len(public)} bytes" if isinstance(public, bytes) else type(public).__name__
        raise MPCError(f"got {got} for a public key of {kem}; expected {kem.public_bytes} bytes")
    keys.check_public_key(public[-32:])


def _check_bytes(**arguments: object) -> None:
    for name, value in arguments.items():
        if not isinstance(value, bytes):
            raise MPCError(f"got {name} of type {type(value).__name__}; expected bytes")


def _public(public: bytes) -> Any:
    curve = X25519PublicKey.from_public_bytes(public[-32:])
    if len(public) == 32:
        return curve
    from cryptography.hazmat.primitives import hpke
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

    return hpke.MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(public[:-32]), curve)


def _suite(kem: Kem) -> "Suite":
    try:
        from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

        return Suite(getattr(KEM, kem.name), KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    except (ImportError, AttributeError, UnsupportedAlgorithm) as error:
        raise _missing(kem) from error


def _missing(kem: Kem) -> MPCError:
    import cryptography

    return MPCError(
        f"got {kem}, which cryptography {cryptography.__version__} does not have here; install cryptography 47 or "
        "later as a wheel, or, for ML-KEM alone, choose Kem.X25519, which is not post-quantum"
    )
