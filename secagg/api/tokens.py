"""Who calls: a JSON Web Token that a party signs with the key that the roster lists for it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secagg.errors import ConfigError
from secagg.identity import Roster

#: Seconds for which a token holds.
LIFETIME: Final = 300.0
_LEEWAY: Final = 60.0  # seconds that two clocks may differ
_LONGEST: Final = 2048  # characters
_ALGORITHM: Final = "EdDSA"  # never the one that the token's header names
_CACHED: Final = 1 << 14
#: Random bytes of a token.
TOKEN_BYTES: Final = 32


def audience(url: str, task: bytes) -> str:
    """For whom a token is: one service and one task.

    ``url`` is the service's address as its clients know it, and ``task`` is the digest of the task (32 bytes).
    """
    return f"{url.rstrip('/')}/v1/tasks/{task.hex()}"


def sign_token(party: str, identity: Ed25519PrivateKey, url: str, task: bytes, now: float) -> str:
    """A token of ``party``, valid for five minutes from ``now`` (seconds since 1970).

    ``identity`` is the party's private key. ``url`` and ``task`` are those of :func:`audience`.
    """
    claims = {
        "sub": party,
        "aud": audience(url, task),
        "iat": int(now),
        "exp": int(now + LIFETIME),
        "jti": secrets.token_hex(16),
    }
    return jwt.encode(claims, identity, algorithm=_ALGORITHM)


class TokenError(ConfigError):
    """A token that is not valid here; the text says why, for the caller's own log."""


class Callers:
    """Finds out which party calls, from the ``Authorization`` header alone; run by the service.

    ``url`` and ``task`` are those of :func:`audience`. ``clock`` returns seconds since 1970. A valid token is
    remembered by its hash until it expires, so a poll costs no signature check.
    """

    def __init__(self, roster: Roster, url: str, task: bytes, clock: Callable[[], float] = time.time) -> None:
        self._roster, self._audience, self._clock = roster, audience(url, task), clock
        self._known: dict[bytes, tuple[str, float]] = {}
        self._nobody = Ed25519PrivateKey.generate().public_key()  # so that nobody learns who is enrolled

    def party(self, header: str | None) -> str:
        """The id of the party whose token is in ``header``; ``TokenError`` if there is no valid one."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > _LONGEST:
            raise TokenError("got no bearer token; sign one with the key that the roster lists")
        name, now = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(), self._clock()
        known = self._known.get(name)
        if known is not None and now < known[1]:
            return known[0]
        party, until = self._verify(token, now)
        if len(self._known) >= _CACHED:
            self._known = {key: one for key, one in self._known.items() if now < one[1]}
            if len(self._known) >= _CACHED:
                self._known.clear()
        self._known[name] = party, until
        return party

    def _verify(self, token: str, now: float) -> tuple[str, float]:
        try:
            claimed = jwt.decode(token, options={"verify_signature": False}).get("sub")
            enrolled = self._roster.get(claimed) if isinstance(claimed, str) else None
            claims = jwt.decode(
                token,
                self._nobody if enrolled is None else Ed25519PublicKey.from_public_bytes(enrolled.signing_key),
                algorithms=[_ALGORITHM],
                audience=self._audience,
                options={"require": ["sub", "aud", "iat", "exp", "jti"], "verify_exp": False, "verify_iat": False},
            )
            if enrolled is None:
                raise TokenError("got a token of a party that is not enrolled")
            issued, expires = float(claims["iat"]), float(claims["exp"])
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, TokenError):
                raise
            raise TokenError(f"got a token that is not valid: {error!s:.100}") from error
        if not now < expires + _LEEWAY or not issued - _LEEWAY <= now or not 0 < expires - issued <= LIFETIME:
            raise TokenError("got a token that has expired, or is not valid yet; compare the clocks")
        return enrolled.id, expires + _LEEWAY


def new_token() -> str:
    """A join token for a task without identities: 256 random bits."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> bytes:
    """What the service stores of the join token ``token``."""
    return hashlib.sha256(b"secagg/v1/join-token" + token.encode("utf-8", "surrogatepass")).digest()
