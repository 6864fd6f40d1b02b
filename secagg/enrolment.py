"""Enrolment: a party asks for it with keys of its own making, and the registrar builds the roster.

A party makes its keys on its own machine, and sends a request with the public halves to the *registrar*, on any
channel. The registrar builds a roster from the requests, and signs it (:mod:`secagg.registrar`).
"""

import os
from collections.abc import Iterable
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secagg import _canonical
from secagg._documents import Document, read_document, read_file, write_document
from secagg.errors import ConfigError
from secagg.identity import Party, PartyRole, Roster, check_party_ids

#: What a request's signature begins with.
REQUEST_LABEL = b"secagg/v1/enrolment"

_REQUEST = "a request to be enrolled (ID.enrol), as secagg keygen writes it"


class _Request(Document, kw_only=True):
    version: Literal[1]
    id: str
    role: PartyRole
    signing_key: bytes
    encryption_key: bytes | None = None
    signature: bytes


def request_enrolment(party: Party, identity: Ed25519PrivateKey) -> str:
    """A request to be enrolled as ``party``, signed with its own key, as JSON. Run by the party.

    ``identity`` is the private half of that key. The signature proves that the party which asks holds it, and binds
    id, role and encryption key to it. It doesn't prove that the party holds the private half of the encryption key:
    with a copied one, it could open nothing that is sealed to it.
    """
    if identity.public_key().public_bytes_raw() != party.signing_key:
        raise ConfigError(f"got an identity that is not the signing key of {party.id}; pass the one of this party")
    signature = identity.sign(_request_bytes(party))
    return write_document(
        _Request(
            version=1,
            id=party.id,
            role=party.role,
            signing_key=party.signing_key,
            encryption_key=party.encryption_key,
            signature=signature,
        )
    )


def read_request(text: str | bytes) -> Party:
    """The party that asks to be enrolled in ``text``, which :func:`request_enrolment` wrote. Run by the registrar.

    ``ConfigError`` for a file that can't be read, or whose own signature is wrong.
    """
    request = read_document(text, _Request, _REQUEST)
    party = Party(request.id, request.role, request.signing_key, request.encryption_key)
    if not is_signed(party.signing_key, request.signature, _request_bytes(party)):
        raise ConfigError(
            f"got a request of {party.id} whose signature is wrong: it was changed on the way, or its sender "
            "doesn't have the private key; ask its owner for the file that secagg keygen wrote"
        )
    return party


def load_request(path: str | os.PathLike[str]) -> Party:
    """The party that asks to be enrolled by the file at ``path``; see :func:`read_request`."""
    try:
        return read_request(read_file(path, _REQUEST))
    except ConfigError as error:
        raise ConfigError(f"{error} (in {path})") from error


def _request_bytes(party: Party) -> bytes:
    return REQUEST_LABEL + _canonical.encode(party)


def build_roster(
    requests: Iterable[Party],
    *,
    base: Roster | None = None,
    replace: Iterable[str] = (),
    remove: Iterable[str] = (),
) -> Roster:
    """The roster of ``base`` and of everyone who asks to be enrolled. Run by the registrar.

    ``requests`` are the parties that ask, from :func:`read_request`. ``replace`` are the ids in ``base`` that get
    the new key of their request. ``remove`` are the ids that leave. Raises ``ConfigError`` if an id asks twice, if
    one in ``base`` asks with another key and is not in ``replace``, or if two parties share a signing key or an
    encryption key.
    """
    enrolled = dict(base or {})
    replaced, removed = set(check_party_ids(replace)), set(check_party_ids(remove))
    asking: dict[str, Party] = {}
    for party in requests:
        if asking.setdefault(party.id, party) != party:
            raise ConfigError(
                f"got two requests of {party.id} with different keys or roles; ask its owner which is right"
            )
    _check_flags(enrolled, asking, replaced, removed)
    for party in asking.values():
        known = enrolled.get(party.id)
        if known is not None and known != party:
            _check_replacement(known, party, replaced)
        enrolled[party.id] = party
    for party_id in removed:
        del enrolled[party_id]
    if not enrolled:
        raise ConfigError("got a roster without a party; pass the requests (.enrol files) of those to enrol")
    _check_encryption_keys(enrolled.values())
    return Roster(enrolled.values())


def _check_flags(
    enrolled: dict[str, Party], asking: dict[str, Party], replaced: set[str], removed: set[str]
) -> None:
    """``ConfigError`` unless those replaced and removed are enrolled, and the replaced ask with another key."""
    if unknown := sorted((replaced | removed) - enrolled.keys()):
        raise ConfigError(f"got {', '.join(unknown)} to replace or remove, which the roster to extend doesn't list")
    if torn := sorted(removed & asking.keys()):
        raise ConfigError(f"got {', '.join(torn)} to remove, with a request to be enrolled; pass one of both")
    for party_id in sorted(replaced):
        asked = asking.get(party_id)
        if asked is None or asked.signing_key == enrolled[party_id].signing_key:
            raise ConfigError(
                f"got {party_id} to replace, and no request of it with a new key; pass the new .enrol file"
            )


def _check_replacement(known: Party, party: Party, replaced: set[str]) -> None:
    """``ConfigError`` unless ``party`` may take the place of ``known``, an entry with another key or role."""
    if known.role is not party.role:
        raise ConfigError(
            f"got {party.id} as a {party.role}, which is enrolled as a {known.role}; a role is for good, so choose "
            "another id"
        )
    if party.id not in replaced:
        raise ConfigError(
            f"got {party.id} with another key than the one that is enrolled; if its owner says so, replace it "
            f"(--replace {party.id})"
        )


def _check_encryption_keys(parties: Iterable[Party]) -> None:
    """``ConfigError`` if two parties share an encryption key: its holder would open what is sealed to both."""
    holders: dict[bytes, str] = {}
    for party in parties:
        key = party.encryption_key
        if key is not None and (other := holders.setdefault(key, party.id)) != party.id:
            raise ConfigError(
                f"got {other} and {party.id} with one encryption key; expected one for each party: make a new one "
                "with secagg keygen"
            )


def is_signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is the Ed25519 signature of ``message`` under the public key ``key``."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
