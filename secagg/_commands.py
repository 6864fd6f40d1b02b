"""The commands of the console script. Heavy imports are inside the commands that need them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mpc.hpke import Kem
from secagg.errors import ConfigError
from secagg.identity import Party, PartyRole, Roster, load_roster
from secagg.keygen import write_identities

_MOST_BYTES = 1 << 26  # the largest file that is read
_SHOWN_DIGITS = 32  # hexadecimal digits of a fingerprint in the table: 128 bits


def show_version() -> None:
    """Print the installed version."""
    try:
        text = f"secagg {version('secagg')}"
    except PackageNotFoundError:
        text = "secagg, from a source tree that is not installed"
    print(text, flush=True)


def demo(
    protocol: Sequence[str] | None,
    task: str,
    clients: int,
    rounds: int,
    dropouts: int | None,
    seed: int,
    epsilon: float | None,
    optimizer: str,
    compression: str | None,
    robust: str | None,
    local_epochs: int | None,
    attack: str | None,
    json: bool,
    plot: Path,
    no_plot: bool,
) -> None:
    """Train one classifier over several clients under each protocol, without sharing their data."""
    from secagg.demo.settings import Settings
    from secagg.demo.show import show
    from secagg.demo.training import usual_dropouts
    from secagg.protocols import chosen

    settings = Settings(
        clients=clients,
        rounds=rounds,
        dropouts=dropouts or 0,
        seed=seed,
        epsilon=epsilon,
        task=task,
        optimizer=optimizer,
        compression=compression,
        robust=robust,
        local_epochs=local_epochs,
        attack=attack,
    )
    protocols = chosen(protocol or [])
    if dropouts is None:
        settings = replace(settings, dropouts=usual_dropouts(settings, protocols.values()))
    show(protocols, settings, as_json=json, plot=None if no_plot else plot)


def keygen(ids: Sequence[str], out: Path, role: str, kem: str, paillier: int, shared_he: bool) -> None:
    """Write a private key for each ID, and add them all to the roster in the same folder."""
    party_role = PartyRole(role)
    try:
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
    print(
        f"{roster}: public keys of all enrolled parties; of these files, give this one to all parties, and no other"
    )


def roster_list(roster: Path, json: bool) -> None:
    """Print the parties of a roster, the fingerprints of their keys, and the roster's digest."""
    listed = _read_roster(roster)
    if json:
        _print_json(
            {
                "digest": listed.digest.hex(),
                "parties": {
                    party.id: {
                        "role": str(party.role),
                        "signing_key_sha256": _fingerprint(party.signing_key),
                        "encryption_key_sha256": _fingerprint(party.encryption_key) or None,
                    }
                    for party in listed.values()
                },
            }
        )
        return
    rows = [("id", "role", "signing key, SHA-256", "encryption key, SHA-256"), *map(_row, listed.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{len(listed)} parties. Digest, the same for everyone who has this roster: {listed.digest.hex()}")


def _row(party: Party) -> tuple[str, str, str, str]:
    signing, encryption = (_fingerprint(key)[:_SHOWN_DIGITS] for key in (party.signing_key, party.encryption_key))
    return party.id, str(party.role), signing, encryption or "-"


def _fingerprint(key: bytes | None) -> str:
    return "" if key is None else hashlib.sha256(key).hexdigest()


def roster_merge(rosters: Sequence[Path], out: Path) -> None:
    """Write one roster of all parties in ``rosters``; ``ConfigError`` for an id with two different entries."""
    parties: dict[str, tuple[Party, Path]] = {}
    for path in rosters:
        for party in _read_roster(path).values():
            known, where = parties.setdefault(party.id, (party, path))
            if known != party:
                raise ConfigError(
                    f"got {party.id} in {where} and, with another role or key, in {path}; ask its owner which "
                    "is right"
                )
    merged = Roster(party for party, _ in parties.values())
    if out.exists() and not any(out.samefile(path) for path in rosters):
        raise ConfigError(f"got --out {out}, which exists and isn't among the files; merge it too, or name another")
    draft = out.with_name(out.name + ".new")
    try:
        draft.write_text(merged.to_json(), encoding="utf-8")
        draft.replace(out)
    except OSError as error:
        raise ConfigError(
            f"got --out {out}: {error.strerror}; name a file in a folder that can be written"
        ) from error
    print(f"{out}: {len(merged)} parties. Digest, to compare with every party: {merged.digest.hex()}")


def status(url: str, json: bool, watch: bool) -> None:
    """Show the status document of a running service."""
    from secagg.service.terminal import show_status

    show_status(url, as_json=json, watch=watch)


def describe(task: Path) -> None:
    """Describe a task in words: rounds, bytes, precision, and who would have to collude."""
    from secagg.task import Task

    data = _read(task, "task")
    try:
        decoded = Task.from_bytes(data)
    except ConfigError as error:
        if kind := _kind(data):
            raise ConfigError(f"got {kind} at {task}; expected the bytes of task.to_bytes()") from error
        raise ConfigError(f"got no task at {task}: {error}") from error
    print(decoded.describe())


def _read_roster(path: Path) -> Roster:
    data = _read(path, "roster")
    kind = _kind(data)
    if kind and not kind.startswith("a roster"):
        raise ConfigError(f"got {kind} at {path}; expected a roster, as secagg keygen writes it")
    return load_roster(path)


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"got no {what} at {path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"got more than {_MOST_BYTES >> 20} MiB at {path}; a {what} is smaller")
    return data


def _kind(data: bytes) -> str:
    """The kind of file that ``data`` is, by its beginning or its fields; empty if it is not one of ours."""
    if data.startswith(b"-----BEGIN "):
        return "a key in PEM"
    try:
        fields = set(json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return ""
    for expected, kind in (
        ({"version", "parties"}, "a roster (secagg roster list shows it)"),
        ({"version", "kem", "key"}, "a private sealing key"),
        ({"version", "scheme", "key"}, "a private homomorphic key"),
    ):
        if fields == expected:
            return kind
    return "JSON of another kind"


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
