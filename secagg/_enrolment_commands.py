"""The commands with which parties are enrolled: keys, rosters, their signatures, certificates."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpc.hpke import Kem
from secagg import registrar as signing
from secagg._warnings import on_stderr
from secagg.enrolment import build_roster, load_request
from secagg.errors import ConfigError
from secagg.identity import Party, PartyRole, Roster, load_identity, load_roster
from secagg.keygen import write_identities, write_registrar

if TYPE_CHECKING:
    from secagg.task import Task

_MOST_BYTES = 1 << 26  # the largest file that is read
_SHOWN_DIGITS = 32  # hexadecimal digits of a fingerprint in the table: 128 bits
_DAY = 86400.0  # seconds
_MOST_DAYS = 3650


def keygen(
    ids: Sequence[str], out: Path, role: str, kem: str, paillier: int, shared_he: bool, registrar: bool
) -> None:
    """Write a private key for each ID, its request to be enrolled, and the roster of all in the same folder."""
    party_role = PartyRole(role)
    try:
        if registrar:
            _registrar_keygen(ids, out)
            return
        roster = write_identities(ids, out, party_role, kem=Kem(kem), paillier=paillier, shared_he=shared_he)
    except OSError as error:
        raise ConfigError(f"got --out {out}: {error.strerror}; choose a folder that can be written") from error
    for party in ids:
        print(f"{out / party}.pem: private key of {party}; it stays with its owner")
        if party_role is PartyRole.AGGREGATOR:
            print(f"{out / party}.sealing.json: private sealing key of {party}; it stays with its owner")
        if paillier:
            print(f"{out / party}.he.json: private Paillier key of {party}; it stays with its owner")
    if shared_he:
        print(f"{out / 'shared.he.json'}: secret key for {ids[0]} and every client, and for nobody else")
    for party in ids:
        print(f"{out / party}.enrol: public keys of {party}, signed by itself; send it to the registrar")
    print(f"{roster}: public keys of all parties in this folder; give others this file and .enrol files only")


def _registrar_keygen(ids: Sequence[str], out: Path) -> None:
    if len(ids) != 1:
        raise ConfigError(f"got --registrar and {len(ids)} names; a registrar has one key: pass one name")
    private, public = write_registrar(ids[0], out)
    print(f"{private}: private key of the registrar; it stays off the server")
    print(f"{public}: public key of the registrar; every party pins it")
    print(f"Fingerprint, to compare with every party: {fingerprint(signing.load_registrar(public))}")


def roster_list(roster: Path, json: bool) -> None:
    """Print the parties of a roster, the fingerprints of their keys, and the roster's digest."""
    listed = read_roster_file(roster)
    if json:
        print_json(
            {
                "digest": listed.digest.hex(),
                "parties": {
                    party.id: {
                        "role": str(party.role),
                        "signing_key_sha256": fingerprint(party.signing_key),
                        "encryption_key_sha256": fingerprint(party.encryption_key) or None,
                    }
                    for party in listed.values()
                },
            }
        )
        return
    _print_parties(listed)
    print(f"{_counted(listed)}. Digest, the same for everyone who has this roster: {listed.digest.hex()}")


def _counted(roster: Roster) -> str:
    return "1 party" if len(roster) == 1 else f"{len(roster)} parties"


def _print_parties(roster: Roster) -> None:
    rows = [("id", "role", "signing key, SHA-256", "encryption key, SHA-256"), *map(_row, roster.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(party: Party) -> tuple[str, str, str, str]:
    signing_key, encryption = (
        fingerprint(key)[:_SHOWN_DIGITS] for key in (party.signing_key, party.encryption_key)
    )
    return party.id, str(party.role), signing_key, encryption or "-"


def fingerprint(key: bytes | None) -> str:
    """SHA-256 of a key in hexadecimal; empty for None."""
    return "" if key is None else hashlib.sha256(key).hexdigest()


def roster_merge(rosters: Sequence[Path], out: Path) -> None:
    """Write one roster of all parties in ``rosters``; ``ConfigError`` for an id with two different entries."""
    parties: dict[str, tuple[Party, Path]] = {}
    for path in rosters:
        for party in read_roster_file(path).values():
            known, where = parties.setdefault(party.id, (party, path))
            if known != party:
                raise ConfigError(
                    f"got {party.id} in {where} and, with another role or key, in {path}; ask its owner which "
                    "is right"
                )
    merged = Roster(party for party, _ in parties.values())
    if out.exists() and not any(out.samefile(path) for path in rosters):
        raise ConfigError(f"got --out {out}, which exists and isn't among the files; merge it too, or name another")
    write_text(out, merged.to_json())
    print(f"{out}: {_counted(merged)}. Digest, to compare with every party: {merged.digest.hex()}")


def roster_build(
    requests: Sequence[Path], extend: Path | None, replace: Sequence[str], remove: Sequence[str], out: Path
) -> None:
    """Build a roster from requests whose signatures are right, and print the fingerprints to compare."""
    base = None if extend is None else read_roster_file(extend)
    built = build_roster(map(load_request, requests), base=base, replace=replace, remove=remove)
    if out.exists() and (extend is None or not out.samefile(extend)):
        raise ConfigError(f"got --out {out}, which exists; extend it (--extend {out}), or name another file")
    write_text(out, built.to_json())
    _print_parties(built)
    for word, ids in _changes(base or {}, built):
        print(f"{word}: {', '.join(ids)}")
    print("Compare each fingerprint with its owner by voice before you sign; secagg roster list shows it there.")
    print(f"{out}: {_counted(built)}. Digest, to compare with every party: {built.digest.hex()}")


def _changes(before: Mapping[str, Party], after: Mapping[str, Party]) -> Iterator[tuple[str, list[str]]]:
    """What became of the parties of an extended roster, in words; a party that returns by mistake is seen here."""
    for word, ids in (
        ("new", [party for party in after if party not in before]),
        ("replaced", [party for party in after if party in before and before[party] != after[party]]),
        ("removed", [party for party in before if party not in after]),
    ):
        if ids and before:
            yield word, ids


@on_stderr()
def roster_sign(roster: Path, key: Path, version: int | None, expires: float, out: Path | None) -> None:
    """Sign a roster by the registrar's private key; a ledger beside the key remembers each version."""
    from secagg.store import FileLedger

    signed, private = read_roster_file(roster), load_identity(key)
    path = roster.with_suffix(".sig") if out is None else out
    if path.exists() and (kind := kind_of_file(read_file(path, "signature"))) != _SIGNATURE_KIND:
        raise ConfigError(f"got --out {path}, which exists and is {kind or 'no signature'}; name another file")
    if not 0 < expires <= _MOST_DAYS:
        raise ConfigError(f"got --expires {expires:g}; expected more than 0 days and at most {_MOST_DAYS}")
    public = private.public_key().public_bytes_raw()
    signing.check_own_key(public, signed)
    with FileLedger(key.with_suffix(".versions")) as ledger:
        number = signing.newest_version(ledger, public) + 1 if version is None else version
        until = time.time() + expires * _DAY
        text = signing.sign_roster(signed, private, version=number, expires=until, ledger=ledger)
    write_text(path, text)
    print(f"{path}: version {number} of {roster}, digest {signed.digest.hex()}")
    print(f"expires {json.loads(text)['expires']}; give both files to the server")


def roster_verify(roster: Path, registrar: Path, signature: Path | None) -> None:
    """Print what the registrar signed; an error unless it signed this roster and it hasn't expired."""
    path = roster.with_suffix(".sig") if signature is None else signature
    text = read_file(path, "signature")
    key = signing.load_registrar(registrar)
    signed = signing.verify_signature(read_file(roster, "roster"), text, registrar=key)
    print(f"{roster}: {_counted(signed.roster)}, version {signed.version}, signed by registrar {fingerprint(key)}")
    print(f"expires {json.loads(text)['expires']}. Digest: {signed.roster.digest.hex()}")


def tls(names: Sequence[str], out: Path, days: int) -> None:
    """Make a private certificate authority and a server's certificate for these names."""
    from secagg.certificates import write_certificates

    try:
        folder = write_certificates(names, out, days)
    except OSError as error:
        raise ConfigError(f"got --out {out}: {error.strerror}; choose a folder that can be written") from error
    print(f"{folder / 'server.key'}: private key of the server; it stays on the server")
    print(f"{folder / 'server.crt'}: certificate for {', '.join(names)}, valid for {days} days")
    print(
        f"{folder / 'ca.crt'}: certificate of the authority that signed it, for kits (--ca); its key was not kept"
    )


def read_roster_file(path: Path) -> Roster:
    """The roster in a file; ``ConfigError`` that names the kind of file if it is another."""
    data = read_file(path, "roster")
    kind = kind_of_file(data)
    if kind and not kind.startswith("a roster ("):
        raise ConfigError(f"got {kind} at {path}; expected a roster, as secagg keygen writes it")
    return load_roster(path)


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a file; ``ConfigError`` if there is none or it is larger than any file of ours."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"got no {what} at {path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"got more than {_MOST_BYTES >> 20} MiB at {path}; a {what} is smaller")
    return data


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise ConfigError(
            f"got --out {path}: {error.strerror}; name a file in a folder that can be written"
        ) from error


_SIGNATURE_KIND = "the signature of a roster"
_KINDS = (
    ({"version", "parties"}, "a roster (secagg roster list shows it)"),
    ({"version", "kem", "key"}, "a private sealing key"),
    ({"version", "scheme", "key"}, "a private homomorphic key"),
    ({"version", "roster_digest", "roster_version", "expires", "signature"}, _SIGNATURE_KIND),
)


def kind_of_file(data: bytes) -> str:
    """The kind of file that ``data`` is, by its beginning or its fields; empty if it is not one of ours."""
    if data.startswith(b"-----BEGIN "):
        return "a key in PEM"
    try:
        fields = set(json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return ""
    for expected, kind in _KINDS:
        if fields == expected:
            return kind
    if {"version", "id", "role", "signing_key", "signature"} <= fields:
        return "a request to be enrolled (secagg roster build takes it)"
    if {"version", "role", "url", "task"} <= fields:
        return "a kit (secagg kit --show shows it)"
    return "JSON of another kind"


def print_json(value: object) -> None:
    """Print ``value`` as JSON for machines."""
    print(json.dumps(value, indent=2))


def read_task(path: Path) -> Task:
    """The task whose bytes the file at ``path`` holds; ``ConfigError`` if it holds anything else."""
    from secagg.task import Task

    data = read_file(path, "task")
    try:
        return Task.from_bytes(data)
    except ConfigError as error:
        if kind := kind_of_file(data):
            raise ConfigError(f"got {kind} at {path}; expected the bytes of task.to_bytes()") from error
        raise ConfigError(f"got no task at {path}: {error}") from error
