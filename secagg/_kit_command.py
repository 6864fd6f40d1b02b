"""The command that writes kits, with what it doesn't get read from the service's own settings."""

import hashlib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secagg._enrolment_commands import fingerprint, kind_of_file, read_file, read_roster_file, write_text
from secagg.errors import ConfigError, shown
from secagg.identity import PartyRole, Roster, check_party_id
from secagg.kit import Kit
from secagg.registrar import load_registrar
from secagg.task import Task

_SETTINGS = Path("service.toml")
_SHARED_KIT = "open"  # the name of the one kit for everybody


@dataclass(frozen=True)
class KitOptions:
    """The options of ``secagg kit``; None where the command line doesn't say."""

    url: str | None = None
    task: Path | None = None
    auth: str | None = None
    registrar: Path | None = None
    roster_digest: str | None = None
    trust: str | None = None
    ca: Path | None = None


def kit(ids: Sequence[str], role: str | None, service: Path | None, out: Path | None, show: Path | None,
        **options: Any) -> None:  # fmt: skip
    """Write a kit for each ID, or show one."""
    if show is not None:
        _show(show)
        return
    filled, roster = _filled(KitOptions(**options), service)
    kits = [_kit(party, role, filled, roster) for party in _parties(ids, filled.auth)]
    for path, made in zip(_paths(kits, out), kits, strict=True):
        write_text(path, made.to_json())
        print(f"{path}: kit of {made.party or 'everybody'}, a {made.role}; no secret is in it")
        print(f"  fingerprint, to compare with its party: {made.fingerprint}")


def _parties(ids: Sequence[str], auth: str | None) -> list[str | None]:
    if auth == "open":
        if ids:
            raise ConfigError("got ids with auth='open', where the server draws them; one kit is for everybody")
        return [None]
    if not ids:
        raise ConfigError("got no ID; name the party that the kit is for, such as secagg kit c1")
    return [check_party_id(party) for party in ids]


def _paths(kits: Sequence[Kit], out: Path | None) -> list[Path]:
    """Where each kit goes; ``ConfigError`` if something other than that party's own kit is there."""
    names = [f"{made.party or _SHARED_KIT}.kit" for made in kits]
    if len(kits) == 1 and (out is None or not out.is_dir()):
        paths = [Path(names[0]) if out is None else out]
    else:
        folder = Path() if out is None else out
        if not folder.is_dir():
            raise ConfigError(f"got --out {folder} for {len(kits)} kits; expected a folder that exists")
        paths = [folder / name for name in names]
    for path, made in zip(paths, kits, strict=True):
        if path.exists() and not path.is_dir() and Kit.load(path).party != made.party:
            raise ConfigError(f"got --out {path}, which is the kit of another party; name another file")
    return paths


def _kit(party: str | None, role: str | None, options: KitOptions, roster: Roster | None) -> Kit:
    entry = None if roster is None or party is None else roster.get(party)
    if roster is not None and entry is None:
        raise ConfigError(f"got {party}, which the service's roster doesn't list; enrol it first")
    if entry is not None and role is not None and role != entry.role:
        raise ConfigError(f"got {party} as a {role}, which the service's roster lists as a {entry.role}")
    task = _task(options.task)
    made = Kit(
        party=party,
        role=PartyRole(role or (PartyRole.CLIENT if entry is None else entry.role)),
        url=_needed("--url", options.url),
        task=task.digest.hex(),
        auth=options.auth or "roster",
        registrar=None if options.registrar is None else load_registrar(options.registrar),
        roster=None if options.roster_digest is None else options.roster_digest.lower(),
        trust=options.trust,
        ca=None if options.ca is None else _text(options.ca),
    )
    made.check_task(task)
    return made


def _task(path: Path | None) -> Task:
    where = Path(_needed("--task", path))
    data = read_file(where, "task")
    try:
        return Task.from_bytes(data)
    except ConfigError as error:
        raise ConfigError(f"got {kind_of_file(data) or 'no task'} at {where}: {error}") from error


def _needed(name: str, value: Any) -> Any:
    if value is None:
        raise ConfigError(f"got no {name}; pass it, or run the command beside the service's {_SETTINGS}")
    return value


def _text(path: Path) -> str:
    try:
        return read_file(path, "certificate").decode("ascii")
    except UnicodeError as error:
        raise ConfigError(
            f"got no certificates in PEM at {path}; expected ca.crt, as secagg tls writes it"
        ) from error


def _filled(options: KitOptions, service: Path | None) -> tuple[KitOptions, Roster | None]:
    """``options`` with what the service's settings say where they are silent, and the service's roster."""
    if service is None and not _SETTINGS.exists():
        return options, None
    path = _SETTINGS if service is None else service
    settings = _Settings(path, options.task)
    auth = options.auth or settings.text("auth")
    filled = KitOptions(
        url=options.url or settings.text("url", of_service=True),
        task=options.task or settings.file("file"),
        auth=auth,
        registrar=options.registrar,
        roster_digest=options.roster_digest,
        trust=options.trust,
        ca=options.ca or settings.file("ca", of_service=True),
    )
    if auth in ("tokens", "open"):
        return filled, None
    listed = settings.file("roster")
    roster = None if listed is None else read_roster_file(listed)
    if (options.registrar, options.roster_digest, options.trust) == (None, None, None):
        pinned = settings.file("registrar")
        digest = roster.digest.hex() if pinned is None and roster is not None else None
        filled = KitOptions(**vars(filled) | {"registrar": pinned, "roster_digest": digest})
    return filled, roster


class _Settings:
    """What ``service.toml`` says of the service, and of one of its tasks."""

    def __init__(self, path: Path, task: Path | None) -> None:
        self._path = path
        try:
            document = tomllib.loads(read_file(path, "service's settings").decode())
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"got settings at {path} that are not TOML: {error!s:.200}") from error
        self._service = self._table(document.get("service", {}), "[service]")
        tasks = document.get("task", [])
        if not isinstance(tasks, list):
            raise ConfigError(f"got a task in {path} that is not [[task]]; write double brackets")
        tables = [self._table(one, "[[task]]") for one in tasks]
        if task is not None:
            tables = [one for one in tables if self._names(one, task)]
        elif len(tables) > 1:
            raise ConfigError(f"got {len(tables)} tasks in {path}; name the file of one: --task")
        self._task: Mapping[str, Any] = tables[0] if tables else {}

    def _names(self, table: Mapping[str, Any], task: Path) -> bool:
        file = table.get("file")
        return isinstance(file, str) and os.path.realpath(self._path.parent / file) == os.path.realpath(task)

    def _table(self, value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ConfigError(f"got {shown(value)} as {what} in {self._path}; expected a table")
        return value

    def text(self, name: str, *, of_service: bool = False) -> str | None:
        """A field as text; None if it is not there."""
        value = (self._service if of_service else self._task).get(name)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"got {name} = {shown(value)} in {self._path}; expected text")
        return value

    def file(self, name: str, *, of_service: bool = False) -> Path | None:
        """A field as the path of a file, from the folder of the settings; None if it is not there."""
        value = self.text(name, of_service=of_service)
        return None if value is None else self._path.parent / value


def _show(path: Path) -> None:
    made = Kit.load(path)
    certificates = "" if made.ca is None else hashlib.sha256(made.ca.encode()).hexdigest()
    for name, value in (
        ("party", made.party or "drawn by the server"),
        ("role", made.role),
        ("service", made.url),
        ("task, digest", made.task),
        ("authentication", made.auth),
        ("registrar, SHA-256", fingerprint(made.registrar) or "-"),
        ("roster, digest", made.roster or "-"),
        ("trust", made.trust or "-"),
        ("certificates, SHA-256", certificates or "those of the system"),
        ("fingerprint of the kit", made.fingerprint),
    ):
        print(f"{name:<22}  {value}")
