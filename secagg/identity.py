"""Enrolment: identities, their roles, and the roster that every party pins.

The roster comes from a file, from configuration or from an operator, never from the server that
it defends against.
"""

import base64
import hashlib
import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import islice, pairwise
from operator import lt
from pathlib import Path
from typing import Any

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mpc.hpke import PRIVATE_BYTES, Kem
from secagg import _canonical
from secagg._numbers import is_a, whole
from secagg._private_files import warn_if_shared
from secagg.errors import ConfigError, blaming, shown

_PARTY_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,63}\Z")

#: The file name of a key that clients share.
SHARED_FILE = "shared.he.json"
_MOST_IDS = (1 << 24) + 1  # one more than any task allows
_MOST_BYTES = 1 << 26  # of a file
_FIELD_PRIME = 2**255 - 19
_EIGHTH = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # y of two points of order 8
_SMALL_ORDER = frozenset({0, 1, _FIELD_PRIME - 1, _EIGHTH, _FIELD_PRIME - _EIGHTH})  # y, of the orders 1 to 8


def check_signing_key(key: bytes, what: str) -> None:
    """``ConfigError`` if ``key`` (32 bytes) can't be an Ed25519 public key of one party.

    ``what`` names the key in the error. Anyone can sign under a key of small order (RFC 8032's cofactor is 8). A y
    of 2^255 - 19 or more is a second encoding of another key.
    """
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)
    if y >= _FIELD_PRIME or y in _SMALL_ORDER:
        kind = "of small order" if y in _SMALL_ORDER else "in a second encoding"
        raise ConfigError(
            f"got a key {kind} as {what}; expected an Ed25519 public key, such as secagg keygen writes"
        )


class PartyRole(StrEnum):
    """What an enrolled party does."""

    CLIENT = "client"
    DECRYPTOR = "decryptor"
    AGGREGATOR = "aggregator"


#: How a service knows who calls: by the roster's keys, by tokens, or not at all.
AUTHS = ("roster", "tokens", "open")


def check_party_id(party_id: object) -> str:
    """``party_id`` as a str (NumPy's text too), or ``ConfigError``: 1 to 64 letters, digits and ``_ . : @ + -``."""
    if type(party_id) is str and _PARTY_ID.match(party_id) and party_id != "server":
        return party_id  # at once: every message has a sender
    plain = str.__str__(party_id) if is_a(party_id, str) else ""
    if not _PARTY_ID.match(plain) or plain == "server":
        hint = "; write a number as str(node_id)" if whole(party_id) is not None else ""
        raise ConfigError(
            f"got party id {shown(party_id)}; expected 1 to 64 letters A to Z and a to z, digits or any of "
            f"_ . : @ + -, beginning with a letter, a digit or _, no space or umlaut, and not 'server'{hint}"
        )
    return plain


def check_party_ids(ids: Any, most: int = _MOST_IDS) -> list[str]:
    """The first ``most`` of ``ids``, in order; ``ConfigError`` for a single id in the place of a list."""
    if is_a(ids, str | bytes) or not is_a(ids, (Iterable,)):
        raise ConfigError(
            f"got {shown(ids)} where ids are listed; expected a list, such as ['c1', 'c2'], also for a single id"
        )
    with blaming(ConfigError, "got ids that can't be listed; expected a list, such as ['c1', 'c2']"):
        return [check_party_id(party_id) for _, party_id in zip(range(most), ids, strict=False)]


def is_listed(party_id: str, ids: Sequence[str]) -> bool:
    """Whether ``party_id`` is in ``ids``, a sorted list such as a cohort, without a look at each."""
    place = bisect_left(ids, party_id)
    return place < len(ids) and ids[place] == party_id


@dataclass(frozen=True, slots=True)
class Party:
    """One enrolled party: its ``id``, its ``role``, and its public keys.

    ``signing_key`` is its Ed25519 public key (32 bytes). ``encryption_key``, where its role has one, is a public
    sealing key or the digest of a homomorphic public key.
    """

    id: str
    role: PartyRole
    signing_key: bytes
    encryption_key: bytes | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", check_party_id(self.id))
        if not is_a(self.signing_key, bytes) or len(self.signing_key) != 32:
            raise ConfigError(f"got a signing key of {self.id} that is not 32 bytes of Ed25519 public key")
        check_signing_key(self.signing_key, f"the signing key of {self.id}")


class Roster(Mapping[str, Party]):
    """A frozen, read-only mapping id → :class:`Party` of everyone enrolled, made of ``parties`` in any order.

    ``digest`` is in every session id, so parties with different rosters can't share a session.
    """

    __slots__ = ("_digest", "_ids", "_parties", "_sets")

    def __init__(self, parties: Iterable[Party]) -> None:
        listed = sorted(parties, key=lambda party: party.id)
        self._parties = {party.id: party for party in listed}
        if len(self._parties) != len(listed):
            raise ConfigError("got a roster that lists an id twice; every party has one entry")
        keys = {party.signing_key for party in listed}
        if len(keys) != len(listed):
            raise ConfigError("got a roster in which two ids share a signing key; expected one key for each party")
        self._ids = {role: tuple(party.id for party in listed if party.role is role) for role in PartyRole}
        self._sets = {role: frozenset(ids) for role, ids in self._ids.items()}
        self._digest = hashlib.sha256(b"secagg/v1/roster" + _canonical.encode(tuple(listed))).digest()

    def __getitem__(self, party_id: str) -> Party:
        return self._parties[party_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parties)

    def __len__(self) -> int:
        return len(self._parties)

    @property
    def digest(self) -> bytes:
        """SHA-256 over all entries."""
        return self._digest

    def ids(self, role: PartyRole) -> tuple[str, ...]:
        """The ids of everyone with the role ``role``, sorted."""
        return self._ids[role]

    def enrols(self, ids: AbstractSet[str], role: PartyRole) -> bool:
        """Whether all of ``ids`` have the role ``role``; much faster than a look at each."""
        return ids <= self._sets[role]

    def to_json(self) -> str:
        """The roster as JSON text; keys are base64."""
        rows = {
            party.id: {"role": str(party.role), "signing_key": base64.b64encode(party.signing_key).decode()}
            | (
                {"encryption_key": base64.b64encode(party.encryption_key).decode()}
                if party.encryption_key is not None
                else {}
            )
            for party in self._parties.values()
        }
        return json.dumps({"version": 1, "parties": rows}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Roster":
        """The roster that :meth:`to_json` wrote as ``text``; ``ConfigError`` for anything else."""
        text = str.__str__(text) if is_a(text, str) else shown(text)
        try:
            document = json.loads(text, object_pairs_hook=_no_duplicates)
            if document["version"] != 1 or set(document) != {"version", "parties"}:
                raise ConfigError(f"got a roster of version {document['version']!r}; this library reads 1")
            return cls(_party(party_id, row) for party_id, row in document["parties"].items())
        except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            detail = "it is not JSON" if isinstance(error, json.JSONDecodeError) else repr(error)
            raise ConfigError(
                f"got a roster that can't be read: {detail}; expected a file that secagg keygen wrote"
            ) from error


def _party(party_id: str, row: dict[str, str]) -> Party:
    if not {"role", "signing_key"} <= set(row) <= {"role", "signing_key", "encryption_key"}:
        raise ConfigError(f"got fields {sorted(row)} for {party_id}; expected role, signing_key, encryption_key")
    encryption_key = row.get("encryption_key")
    return Party(
        id=party_id,
        role=PartyRole(row["role"]),
        signing_key=base64.b64decode(row["signing_key"], validate=True),
        encryption_key=None if encryption_key is None else base64.b64decode(encryption_key, validate=True),
    )


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ConfigError("got a roster that names something twice; every party has one entry")
    return dict(pairs)


def _path(path: object, what: str) -> Path:
    with blaming(ConfigError, f"got {shown(path)} as the path of a file"):
        empty = isinstance(path, str) and not path
        read = Path(path)  # type: ignore[arg-type]
    if empty:  # Path("") is the current folder
        raise ConfigError(
            f"got an empty {what} path; expected the path of a file that secagg keygen wrote, or no {what} at all "
            "where none is needed"
        )
    return read


def _read(path: Path) -> bytes:
    """The bytes of a file; ``ConfigError`` for one that is larger than any roster or key."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"got more than {_MOST_BYTES >> 20} MiB at {path}; a roster or key is smaller")
    return data


def load_roster(path: str | os.PathLike[str]) -> Roster:
    """Read the roster file at ``path``, which ``secagg keygen`` wrote; ``ConfigError`` says what is wrong."""
    path = _path(path, "roster")
    try:
        text = _read(path).decode()
    except OSError as error:
        raise ConfigError(f"got no roster at {path}: {error.strerror}; make one with secagg keygen") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"got no roster at {path}: it is not text; expected a file that secagg keygen wrote"
        ) from error
    try:
        return Roster.from_json(text)
    except ConfigError as error:
        raise ConfigError(f"{error} (in {path})") from error


def load_identity(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """Read a party's own private key from the file at ``path``.

    It is PEM (PKCS #8, unencrypted), as ``secagg keygen`` writes it; ``ConfigError`` for anything else.
    """
    path = _path(path, "private key")
    try:
        key = load_pem_private_key(_read(path), password=None)
    except OSError as error:
        raise ConfigError(f"got no private key at {path}: {error}; make one with secagg keygen") from error
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"got no private key at {path}; expected a PEM file without a password: make one with secagg keygen"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"got a {type(key).__name__} at {path}; identities are Ed25519 keys")
    warn_if_shared(path)
    return key


def load_sealing_key(path: str | os.PathLike[str]) -> bytes:
    """Read an aggregator's own private sealing key from the file at ``path``.

    It is JSON, as ``secagg keygen --role aggregator`` writes it; ``ConfigError`` for anything else.
    """
    path = _path(path, "sealing key")
    try:
        document = json.loads(_read(path).decode())
        if set(document) != {"version", "kem", "key"} or document["version"] != 1:
            raise ValueError("not a sealing key of version 1")
        key = base64.b64decode(document["key"], validate=True)
        if len(key) != PRIVATE_BYTES or document["kem"] not in list(Kem):
            raise ValueError(f"{len(key)} bytes of kem {document['kem']!r:.40}")
    except (OSError, TypeError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"got no sealing key at {path}: {error}; make one with secagg keygen --role aggregator"
        ) from error
    warn_if_shared(path)
    return key


def load_he_key(path: str | os.PathLike[str]) -> bytes:
    """Read a long-lived key for ``key=``: a decryptor's Paillier key, or the one that clients share.

    The file at ``path`` is JSON, as ``secagg keygen --paillier`` and ``--shared-he`` write it; ``ConfigError`` for
    anything else.
    """
    path = _path(path, "homomorphic key")
    try:
        document = json.loads(_read(path).decode())
        if set(document) != {"version", "scheme", "key"} or document["version"] != 1:
            raise ValueError("not a homomorphic key of version 1")
        if document["scheme"] not in ("paillier", "shared"):
            raise ValueError(f"a key of scheme {document['scheme']!r:.40}")
        key = base64.b64decode(document["key"], validate=True)
    except (OSError, TypeError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"got no homomorphic key at {path}: {error}; make one with secagg keygen --role decryptor"
        ) from error
    warn_if_shared(path)
    return key


def enrol(
    ids: Iterable[str], role: PartyRole = PartyRole.CLIENT, *, encryption_keys: Mapping[str, bytes] | None = None
) -> tuple[dict[str, Ed25519PrivateKey], Roster]:
    """Generate an identity for each id; returns the private keys and the roster of the public keys.

    All of ``ids`` get the role ``role``. ``encryption_keys`` are other public keys by id, such as an aggregator's
    sealing key. For simulations and operators; in a deployment each party keeps its own private keys.
    """
    keys = {party_id: Ed25519PrivateKey.generate() for party_id in check_party_ids(ids)}
    public = encryption_keys or {}
    return keys, Roster(
        Party(party_id, role, key.public_key().public_bytes_raw(), public.get(party_id))
        for party_id, key in keys.items()
    )


def check_clients(cohort: Sequence[str], roster: Roster | None) -> None:
    """``ConfigError`` unless the ids in ``cohort`` are sorted, and each is there once.

    With a ``roster`` each must also be an enrolled client.
    """
    # Every client of a session checks as many ids as there are clients, so the loop is only for the error's text.
    if set(map(type, cohort)) == {str}:
        enrolled = roster is not None and roster.enrols(set(cohort), PartyRole.CLIENT)
        if enrolled and all(map(lt, cohort, islice(cohort, 1, None))):
            return
        if roster is None and _are_sorted_ids(tuple(cohort)):
            return
    for before, member in pairwise(["", *cohort]):
        check_party_id(member)
        if member <= before:
            raise ConfigError(f"got a cohort with {member} twice or out of order; list every id once, sorted")
        if roster is not None and ((party := roster.get(member)) is None or party.role is not PartyRole.CLIENT):
            raise ConfigError(
                f"got {member} in the cohort, which the roster doesn't list as a client; leave it out, or "
                "enrol it and give everyone the new roster (secagg keygen, secagg roster merge)"
            )


@lru_cache(maxsize=2)  # simulated clients all check the same cohort
def _are_sorted_ids(ids: tuple[str, ...]) -> bool:
    return all(map(lt, ids, ids[1:])) and all(map(_PARTY_ID.match, ids)) and "server" not in ids


def check_enrolled(
    member_id: str, role: PartyRole, identity: Ed25519PrivateKey | None, roster: Roster | None
) -> None:
    """``ConfigError`` unless ``identity`` and ``roster`` are both there and agree, or are both None.

    They agree if the roster lists the party ``member_id`` with this ``role`` and the public half of the identity.
    """
    if (identity is None) != (roster is None):
        raise ConfigError("got an identity without a roster or a roster without an identity; pass both or none")
    if identity is None or roster is None:
        return
    party = roster.get(member_id)
    if party is None or party.role is not role:
        raise ConfigError(f"got {member_id}, which the roster doesn't list as a {role}; enrol it first")
    if party.signing_key != identity.public_key().public_bytes_raw():
        raise ConfigError(
            f"got an identity that is not the one the roster lists for {member_id}; load the one that was made "
            f"with this roster's entry ({member_id}.pem), or enrol the new one and give everyone the new roster"
        )
