"""``service.toml``: what ``secagg serve`` reads."""

from __future__ import annotations

import logging
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from secagg._documents import read_file
from secagg.errors import ConfigError
from secagg.identity import AUTHS, load_roster
from secagg.kit import check_url
from secagg.registrar import load_registrar, verify_signature
from secagg.service.limits import Limits
from secagg.service.schedule import Schedule
from secagg.service.service import Service
from secagg.task import Task

log = logging.getLogger("secagg.service")

_LARGEST = 1 << 20
_PORT = re.compile(r"[0-9]{1,5}\Z", re.ASCII)


class Address(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[service]``. Paths are relative to the file."""

    url: str
    listen: str = "0.0.0.0:8443"
    status: str | None = "127.0.0.1:8081"
    folder: str = "state"
    certificate: str | None = None
    key: str | None = None
    ca: str | None = None  # for kits
    behind_proxy: bool = False
    pseudonyms: bool = False
    limits: dict[str, int | float] = {}


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table ``[[task]]``. ``model`` and ``rounds`` are for the training loop that the service brings."""

    file: str
    roster: str | None = None
    signature: str | None = None
    registrar: str | None = None  # for kits, and to check the signature with
    auth: str = "roster"
    model: str | None = None
    rounds: int = 1
    config: dict[str, Any] = {}
    schedule: dict[str, Any] = {}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    service: Address
    task: list[Entry]


def read_settings(path: Path) -> Settings:
    """The settings in the file ``path``; ``ConfigError`` says what is wrong with it."""
    data = read_file(path, "the service's settings; docs/service.md has a file to begin with", _LARGEST)
    try:
        return msgspec.convert(tomllib.loads(data.decode()), Settings)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise ConfigError(f"got settings {path} that can't be read: {error!s:.300}") from error


def make_service(settings: Settings, beside: Path) -> tuple[Service, list[Task]]:
    """The service that ``settings`` describe, with its tasks; paths are relative to the folder ``beside``."""
    about = settings.service
    service = Service(
        beside / about.folder,
        url=check_url(about.url),  # as kits spell it: tokens are for this address
        listen=_address(about.listen),
        tls=_tls(about, beside),
        status=None if about.status is None else _address(about.status),
        pseudonyms=about.pseudonyms,
        limits=_made(Limits, about.limits, "[service.limits]"),
    )
    tasks = [_add(service, entry, beside) for entry in settings.task]
    if not tasks:
        raise ConfigError("got settings without a task; expected a table [[task]] with the file of a task")
    return service, tasks


def _add(service: Service, entry: Entry, beside: Path) -> Task:
    if entry.auth not in AUTHS:
        raise ConfigError(f"got auth={entry.auth!r}; expected {' or '.join(AUTHS)}")
    task = read_task(entry, beside)
    signature = None if entry.signature is None else _signature(beside / entry.signature)
    roster = None if entry.roster is None else load_roster(beside / entry.roster)
    if roster is not None and signature is not None and entry.registrar is not None:
        # What every client would refuse is not served.
        verify_signature(roster.to_json(), signature, registrar=load_registrar(beside / entry.registrar))
    if roster is not None and signature is None:
        log.warning("the roster %s is not signed; clients must pin its digest in their kits", entry.roster)
    schedule = _made(Schedule, entry.schedule, "[task.schedule]")
    service.add(task, roster=roster, signature=signature, auth=entry.auth, schedule=schedule)
    return task


def _signature(path: Path) -> str:
    try:
        return read_file(path, "the signature of a roster").decode()
    except UnicodeError as error:
        raise ConfigError(
            f"got no signature of a roster at {path}: it is not text; secagg roster sign makes one"
        ) from error


def _made(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"got {where} with a field that it does not have: {error!s:.200}") from error


def read_task(entry: Entry, beside: Path) -> Task:
    """The task that ``entry`` names; ``ConfigError`` if its file can't be read."""
    return Task.from_bytes(read_file(beside / entry.file, "a task, as file= of service.toml says"))


def _tls(about: Address, beside: Path) -> tuple[Path, Path] | Literal["proxy"] | None:
    if about.behind_proxy:
        return "proxy"
    if about.certificate is None and about.key is None:
        return None
    if about.certificate is None or about.key is None:
        raise ConfigError("got a certificate without its key, or a key without its certificate; expected both")
    return beside / about.certificate, beside / about.key


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not _PORT.match(port) or int(port) > 65535:
        raise ConfigError(f"got the address {text!r}; expected host:port, such as 0.0.0.0:8443")
    return host.strip("[]"), int(port)
