"""What happens to the service's folder as a whole: upgrades, what crashes left, backups."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import select, update

from secagg._rows import sync_folder
from secagg.errors import ConfigError
from secagg.service import migrations
from secagg.service.engine import Writer
from secagg.service.tables import OUTCOMES, SESSIONS

FILE: Final = "service.db"
FOLDERS: Final = ("states", "spools", "relays", "models", "outcomes")
_KEPT: Final = ("models", "outcomes")  # in a backup
RESTORED: Final = "running when the backup was made"


def make_folders(folder: Path) -> None:
    """Make what is missing of the service's folder, for its owner alone; SQLite takes an empty file."""
    try:
        for one in (folder, *(folder / name for name in FOLDERS)):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(f"got folder {folder}, which can't be used: {error}") from error


def upgrade(folder: Path, writer: Writer, *versions: Path) -> None:
    """Bring the tables to the newest version in one transaction; an older database is copied first.

    The copy is ``service.db.version-`` and the old version. ``ConfigError`` for a newer database.
    """
    with writer.reading() as connection:
        here = migrations.version(connection)
    if here is not None and here != migrations.newest(*versions):
        copy = folder / f"{FILE}.version-{here}"
        copy.unlink(missing_ok=True)
        writer.copy(copy)
    with writer.writing() as connection:
        migrations.upgrade(connection, *versions)


def sweep(folder: Path, writer: Writer) -> None:
    """Delete the files that no row needs: what crashes left between a row and its file."""
    with writer.reading() as connection:
        rows = connection.execute(select(SESSIONS).where(SESSIONS.c.state == "running")).all()
        arrays = set(connection.execute(select(OUTCOMES.c.file)).scalars())
    states, positions = {row.file for row in rows}, {row.key: row.position for row in rows}
    for file in (folder / "states").iterdir():
        if file.name not in states:
            file.unlink()
    for file in (folder / "spools").iterdir():
        key, _, position = file.name.rpartition(".")
        if key not in positions or (positions[key] is not None and str(positions[key]) != position):
            file.unlink()
    for one in (folder / "relays").iterdir():
        if one.name not in positions:
            shutil.rmtree(one)
    for file in (folder / "outcomes").iterdir():
        if file.name not in arrays:
            file.unlink()
    for file in (folder / "models").glob("*.new"):
        file.unlink()


def delete_session(folder: Path, key: str) -> None:
    """Delete the states, the spools and the relays of a session that has ended."""
    for name in ("states", "spools"):
        for file in (folder / name).glob(f"{key}.*"):
            with contextlib.suppress(OSError):  # the session has ended all the same; :func:`sweep` deletes it later
                file.unlink(missing_ok=True)
    shutil.rmtree(folder / "relays" / key, ignore_errors=True)


def backup(folder: Path, target: Path) -> None:
    """Copy the database, the models and the outcomes of a service's ``folder`` to the new folder ``target``.

    The server may run. A session that is running is failed in the copy, and its states and messages are not copied:
    two servers that went on with one session would ask its parties for what each gives only once. ``ConfigError``
    if ``folder`` has no database of this version, or ``target`` is here already.
    """
    if not (folder / FILE).is_file():
        raise ConfigError(f"got {folder}, which is not the folder of a service; expected {FILE} in it")
    fresh = target.with_name(f"{target.name}.unfinished")
    if target.exists() or fresh.exists():
        raise ConfigError(
            f"got {target} for a backup, which is here already, as itself or unfinished; name a new one"
        )
    try:
        fresh.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"got {target} for a backup, which can't be made: {error}") from error
    # The database comes first. Files are written before the rows that name them, so all of them are there by now.
    _copy_database(folder / FILE, fresh / FILE)
    for name in _KEPT:
        (fresh / name).mkdir(mode=0o700)
        for file in (folder / name).iterdir():
            if not file.name.endswith(".new"):
                with contextlib.suppress(FileNotFoundError):  # an old model that the server deleted meanwhile
                    _copy(file, fresh / name / file.name)
        sync_folder(fresh / name)
    sync_folder(fresh)
    fresh.replace(target)
    sync_folder(target.parent)


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database, and fail the sessions that run in the copy; their rounds stay open for the next attempt."""
    with closing(Writer(source)) as writer:
        with writer.reading() as connection:
            here = migrations.version(connection)
        if here != migrations.newest():
            raise ConfigError(
                f"got a database of version {here}; this secagg copies version {migrations.newest()}: use the "
                "secagg that the service runs"
            )
        writer.copy(target)
    ended = {"state": "failed", "reason": RESTORED, "file": None, "changed": time.time()}
    with closing(Writer(target)) as writer, writer.writing() as connection:
        connection.execute(update(SESSIONS).where(SESSIONS.c.state == "running").values(ended))


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        shutil.copyfileobj(reading, file)
        file.flush()
        os.fsync(file.fileno())
