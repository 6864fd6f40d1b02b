"""Rosters that a registrar signs with a key that is not on the server.

Clients pin the registrar's public key, or the digest of one roster. After that the roster may reach them through
anybody, also through the server that it defends against.
"""

import datetime as dt
import hashlib
import os
import time
from dataclasses import dataclass
from itertools import count
from typing import Literal

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from mpc.keys import encode_parts
from secagg import _canonical
from secagg._documents import Document, read_document, read_file, write_document
from secagg._numbers import is_a, real, whole
from secagg.enrolment import is_signed
from secagg.errors import ConfigError, shown
from secagg.identity import Roster, check_signing_key
from secagg.store import ReadableLedger

#: What a roster's signature begins with.
SIGNATURE_LABEL = b"secagg/v1/roster-signature"
#: The most bytes of a roster's JSON.
MOST_ROSTER_BYTES = 1 << 26

_MOST_VERSIONS = (1 << 32) - 1
_LAST_SECOND = int(dt.datetime(9999, 12, 31, tzinfo=dt.UTC).timestamp())
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SIGNATURE = "the signature of a roster, as secagg roster sign writes it"


class _Signature(Document, kw_only=True):
    version: Literal[1]
    roster_digest: str
    roster_version: int
    expires: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """What a ``signature`` says: of which roster, as which version, until when.

    ``digest`` is that of the roster (32 bytes), ``version`` a positive integer, and ``expires`` is in seconds since
    1970.
    """

    digest: bytes
    version: int
    expires: int
    signature: bytes

    def check_roster(self, roster: Roster) -> None:
        """``ConfigError`` if the signature is of another roster than ``roster``."""
        _check_digest(roster, self.digest)


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """A ``roster`` that a registrar signed under the number ``version``; ``expires`` is in seconds since 1970."""

    roster: Roster
    version: int
    expires: int


def sign_roster(
    roster: Roster, registrar: Ed25519PrivateKey, *, version: int, expires: float, ledger: ReadableLedger
) -> str:
    """The registrar's signature of ``roster`` under ``version``, as JSON; ``expires`` is in seconds since 1970.

    ``registrar`` is the registrar's private key, and ``ledger`` is its own. The ledger keeps the registrar from
    signing two rosters under one version, or a lower version after a higher one: clients would refuse both. The
    same roster may be signed again, to expire later.
    """
    number = whole(version)
    if number is None or not 1 <= number <= _MOST_VERSIONS:
        raise ConfigError(f"got version {shown(version)}; expected an integer from 1 to {_MOST_VERSIONS}")
    if not 0 < real(expires) <= _LAST_SECOND:
        raise ConfigError(f"got expiry {shown(expires)}; expected seconds since 1970, at most {_LAST_SECOND}")
    until = int(expires)
    public = registrar.public_key().public_bytes_raw()
    check_own_key(public, roster)
    _check_newest(ledger, public, number, roster.digest)
    signature = registrar.sign(_signed_bytes(roster.digest, number, until))
    return write_document(
        _Signature(
            version=1,
            roster_digest=roster.digest.hex(),
            roster_version=number,
            expires=_time(until),
            signature=signature,
        )
    )


def verify_roster(
    roster: str | bytes,
    signature: str | bytes | None,
    *,
    registrar: bytes | None = None,
    digest: bytes | None = None,
    ledger: ReadableLedger | None,
    now: float | None = None,
) -> Roster:
    """The roster of the JSON text ``roster``, if what this party pinned vouches for it. Run by each party.

    ``registrar`` is the 32-byte public key of the registrar, and ``signature`` the JSON that it signed. ``digest``
    is the digest of the one roster to accept. With both, both must hold. ``ledger`` is the party's own: it
    remembers the newest version, so that an older roster is refused from then on, as is a second roster under one
    version. Pass None only where nothing is remembered, such as to look at a file. ``now`` is the time in seconds
    since 1970, by default this machine's.

    Raises ``ConfigError`` if the roster is of another digest, was signed by another key, is expired, is older than
    one that was seen, or if neither ``registrar`` nor ``digest`` is there.
    """
    if registrar is None and digest is None:
        raise ConfigError(
            "got a roster that nothing vouches for; pass registrar=, the registrar's public key, or digest=, the "
            "digest of the roster to accept"
        )
    if registrar is None:
        accepted = read_roster(roster)
    else:
        signed = verify_signature(roster, signature, registrar=check_registrar(registrar), now=now)
        accepted = signed.roster
    if digest is not None and accepted.digest != digest:
        raise ConfigError(
            f"got a roster with digest {accepted.digest.hex()}; this party pinned {digest.hex()}: ask the registrar"
        )
    if registrar is not None and ledger is not None:
        _check_newest(ledger, registrar, signed.version, accepted.digest)
    return accepted


def verify_signature(
    roster: str | bytes, signature: str | bytes | None, *, registrar: bytes, now: float | None = None
) -> SignedRoster:
    """What the registrar signed, if it signed this roster and it hasn't expired; nothing is remembered.

    ``roster`` and ``signature`` are JSON text, and ``registrar`` is the pinned public key (32 bytes). ``now`` is in
    seconds since 1970, by default this machine's time. ``ConfigError`` says what is wrong.
    """
    if signature is None:
        raise ConfigError("got a roster without a signature; this party accepts only what the registrar signed")
    stated = read_signature(signature)
    # Before the roster is parsed, which may be large and from anybody.
    if not is_signed(registrar, stated.signature, _signed_bytes(stated.digest, stated.version, stated.expires)):
        raise ConfigError(
            "got a roster that the pinned registrar did not sign; don't use it, and ask the registrar"
        )
    _check_expiry(stated.expires, time.time() if now is None else now)
    accepted = read_roster(roster)
    stated.check_roster(accepted)
    return SignedRoster(accepted, stated.version, stated.expires)


def read_signature(text: str | bytes) -> Statement:
    """What the signature in ``text`` says; nothing is verified. It is for programs that serve or show it."""
    file = read_document(text, _Signature, _SIGNATURE)
    try:
        digest = bytes.fromhex(file.roster_digest)
    except ValueError as error:
        raise ConfigError("got a roster's signature whose digest is not hexadecimal") from error
    if len(digest) != 32 or not 1 <= file.roster_version <= _MOST_VERSIONS:
        raise ConfigError(
            "got a roster's signature whose digest is not of 32 bytes, or whose version is impossible"
        )
    return Statement(digest, file.roster_version, _seconds(file.expires), file.signature)


def _check_expiry(until: int, now: float) -> None:
    if now >= until:
        here = _time(int(min(now, _LAST_SECOND)))
        raise ConfigError(
            f"got a roster that expired at {_time(until)}, and it is {here} now by this machine's clock; ask the "
            "registrar to sign a newer one, or set the clock"
        )


def _check_digest(roster: Roster, digest: bytes) -> None:
    if roster.digest != digest:
        raise ConfigError("got a roster that is not the one that the registrar signed; the signature is of another")


def read_roster(text: str | bytes) -> Roster:
    """The roster in ``text``, which anybody may have written.

    ``ConfigError`` for JSON that is not a roster, or that is too large.
    """
    if not is_a(text, str | bytes):
        raise ConfigError(f"got {shown(text)}; expected the JSON text of a roster")
    if len(text) > MOST_ROSTER_BYTES:
        raise ConfigError(f"got a roster of {len(text):,} bytes; expected at most {MOST_ROSTER_BYTES:,}")
    try:
        return Roster.from_json(text.decode() if isinstance(text, bytes) else text)
    except UnicodeError as error:
        raise ConfigError(
            "got a roster that is not text; expected a file that secagg roster build wrote"
        ) from error


def newest_version(ledger: ReadableLedger, registrar: bytes) -> int:
    """The highest version of a roster by ``registrar`` that ``ledger`` remembers; 0 if there is none."""
    return _newest(ledger, registrar)[1]


def _newest(ledger: ReadableLedger, registrar: bytes) -> tuple[int, int]:
    """The number of versions that were seen, each higher than the one before, and the highest of them."""
    newest = 0
    for place in count():
        entry = _entry(b"seen", registrar, place)
        if entry not in ledger:
            return place, newest
        newest = int.from_bytes(ledger.claim(entry, bytes(32)), "big")  # claims nothing: the entry is taken
    raise AssertionError  # count() has no end


def _check_newest(ledger: ReadableLedger, registrar: bytes, version: int, digest: bytes) -> None:
    """``ConfigError`` if a higher version was seen, or another roster under this one; remembers it otherwise.

    Entries can't be changed, so the versions that were seen are a list: the entry of each place holds a version
    that is higher than the one before. Another entry for each version holds the digest of its roster.
    """
    while True:
        place, newest = _newest(ledger, registrar)
        _check_rollback(version, newest)
        _check_equivocation(ledger, registrar, version, digest)
        number = version.to_bytes(32, "big")
        if version == newest or ledger.claim(_entry(b"seen", registrar, place), number) == number:
            return
        # Another thread took this place in between, so look again.


def _check_rollback(version: int, newest: int) -> None:
    if version < newest:
        raise ConfigError(
            f"got version {version} of the roster after version {newest}; an older roster may list keys that "
            "were replaced since: ask the registrar for the newest"
        )


def _check_equivocation(ledger: ReadableLedger, registrar: bytes, version: int, digest: bytes) -> None:
    if ledger.claim(_entry(b"roster", registrar, version), digest) != digest:
        raise ConfigError(
            f"got a second, different roster as version {version}; the registrar signed both, so ask it which "
            "is right, and for a higher version"
        )


def _entry(kind: bytes, registrar: bytes, number: int) -> bytes:
    parts = encode_parts(b"secagg/v1/registrar", kind, registrar, number.to_bytes(8, "big"))
    return hashlib.sha256(parts).digest()


def _signed_bytes(digest: bytes, version: int, expires: int) -> bytes:
    return SIGNATURE_LABEL + _canonical.encode((digest, version, expires))


def _time(seconds: int) -> str:
    """Seconds since 1970 as the signature states them."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime(_TIME)


def _seconds(text: str) -> int:
    """Seconds since 1970 of a time as the signature states it, such as 2027-01-31T12:00:00Z."""
    try:
        moment = dt.datetime.strptime(text, _TIME).replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise ConfigError(f"got expiry {shown(text)}; expected a time such as 2027-01-31T12:00:00Z") from error
    return int(moment.timestamp())


def check_own_key(registrar: bytes, roster: Roster) -> None:
    """``ConfigError`` if a party in ``roster`` has the public key ``registrar``: each key has one purpose."""
    if any(party.signing_key == registrar for party in roster.values()):
        raise ConfigError(
            "got a registrar's key that a party of the roster has; the registrar has a key of its own"
        )


def check_registrar(key: object) -> bytes:
    """``key`` as the 32 bytes of a registrar's Ed25519 public key, or ``ConfigError``."""
    if not is_a(key, bytes) or len(key) != 32:
        raise ConfigError(f"got {shown(key)} as a registrar's key; expected 32 bytes of Ed25519 public key")
    check_signing_key(key, "the registrar's key")
    return bytes(key)


def load_registrar(path: str | os.PathLike[str]) -> bytes:
    """The registrar's public key (32 bytes) from the file at ``path``.

    It is PEM, as ``secagg keygen --registrar`` writes it; ``ConfigError`` for anything else.
    """
    data = read_file(path, "a registrar's public key (registrar.pub)")
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        hint = " (it is a private key, which stays with the registrar)" if b"PRIVATE KEY" in data else ""
        raise ConfigError(
            f"got no public key at {path}{hint}; expected registrar.pub, as secagg keygen --registrar writes it"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"got a {type(key).__name__} at {path}; a registrar's key is an Ed25519 key")
    return check_registrar(key.public_bytes_raw())
