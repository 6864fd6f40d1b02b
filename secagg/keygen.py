"""Make the long-lived keys of parties and write them to files."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mpc.errors import MPCError
from mpc.hpke import PRIVATE_BYTES, Kem, PrivateKey
from secagg.enrolment import request_enrolment
from secagg.errors import ConfigError
from secagg.identity import (
    SHARED_FILE,
    PartyRole,
    Roster,
    check_party_id,
    check_party_ids,
    enrol,
    load_roster,
)


def write_identities(
    ids: Iterable[str],
    folder: str | os.PathLike[str],
    role: PartyRole = PartyRole.CLIENT,
    *,
    kem: Kem = Kem.MLKEM768_X25519,
    paillier: int = 0,
    shared_he: bool = False,
) -> Path:
    """Write ``ID.pem`` (mode 0600) for each id and add them to ``roster.json``; returns its path.

    All of ``ids`` get the role ``role``, and the files are in ``folder``, which is made if it does not exist.
    ``ID.enrol`` holds the public keys, signed by the party itself: its request to a registrar. An aggregator also
    gets a sealing key of ``kem``, in ``ID.sealing.json``. A decryptor gets a Paillier key of ``paillier`` bits, in
    ``ID.he.json``, or with ``shared_he`` the key that clients share with it, in ``shared.he.json``. All files of
    private keys have mode 0600. Raises ``ConfigError`` before anything is written if an id is already enrolled or a
    key file exists: a key is never overwritten.
    """
    wanted = check_party_ids(ids)
    if len(set(wanted)) != len(wanted):
        raise ConfigError("got an id twice; every party is enrolled once")
    where = Path(folder)
    roster_path = where / "roster.json"
    enrolled = list(load_roster(roster_path).values()) if roster_path.exists() else []
    files = {
        name: tuple(where / f"{name}{suffix}" for suffix in (".pem", ".sealing.json", ".he.json", ".enrol"))
        for name in wanted
    }
    if shared_he and (where / SHARED_FILE).exists():
        raise ConfigError(f"got --shared-he, and {where / SHARED_FILE} exists; choose another folder")
    taken = {party.id for party in enrolled} | {name for name in wanted if any(p.exists() for p in files[name])}
    if clash := sorted(taken.intersection(wanted)):
        raise ConfigError(f"got ids that {where} has already: {', '.join(clash)}; choose others or another folder")
    sealing = {name: os.urandom(PRIVATE_BYTES) for name in wanted if role is PartyRole.AGGREGATOR}
    try:
        public = {name: PrivateKey(kem, key).public for name, key in sealing.items()}
    except MPCError as error:
        raise ConfigError(str(error)) from error
    homomorphic = _homomorphic_keys(wanted, role, paillier, shared_he)
    public |= {name: pinned for name, (_, pinned) in homomorphic.items()}
    keys, roster = enrol(wanted, role, encryption_keys=public)
    extended = Roster([*enrolled, *roster.values()])
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, key in keys.items():
        _write_secret(files[name][0], key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for name, private in sealing.items():
        _write_key(files[name][1], {"kem": str(kem)}, private)
    for name, (private, _) in homomorphic.items():
        scheme = {"scheme": "shared" if shared_he else "paillier"}
        _write_key(where / SHARED_FILE if shared_he else files[name][2], scheme, private)
    for name, key in keys.items():
        with files[name][3].open("x", encoding="utf-8") as file:
            file.write(request_enrolment(roster[name], key))
    fresh = roster_path.with_suffix(".json.new")
    fresh.write_text(extended.to_json(), encoding="utf-8")
    fresh.replace(roster_path)
    return roster_path


def write_registrar(name: str, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write a registrar's private key (``NAME.pem``, mode 0600) and public key (``NAME.pub``); returns their paths.

    ``name`` is that of the files, in ``folder``. The registrar signs rosters and is not a party. Its private key
    never belongs on the server. Raises ``ConfigError`` if one of the files exists.
    """
    name, where = check_party_id(name), Path(folder)
    private, public = where / f"{name}.pem", where / f"{name}.pub"
    if private.exists() or public.exists():
        raise ConfigError(f"got a registrar that {where} has already: {name}; choose another name or folder")
    key = Ed25519PrivateKey.generate()
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_secret(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with public.open("xb") as file:
        file.write(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _homomorphic_keys(
    ids: list[str], role: PartyRole, paillier: int, shared: bool
) -> dict[str, tuple[bytes, bytes]]:
    """The key that each decryptor holds for a run: private half, then what the roster pins of it."""
    if not paillier and not shared:
        return {}
    if role is not PartyRole.DECRYPTOR or (paillier and shared) or (shared and len(ids) != 1):
        raise ConfigError(
            "got --paillier or --shared-he that don't fit; they are for --role decryptor, one or the other, and "
            "--shared-he for one ID"
        )
    from secagg.protocols.encrypted import BFV, Paillier

    protocol = BFV(holder="clients") if shared else Paillier(bits=paillier, key="run")
    pairs = {name: protocol.key_pair(role, os.urandom) for name in ids}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def _write_key(path: Path, about: dict[str, str], private: bytes) -> None:
    document = {"version": 1, **about, "key": base64.b64encode(private).decode()}
    _write_secret(path, json.dumps(document).encode() + b"\n")


def _write_secret(path: Path, secret: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
