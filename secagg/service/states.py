"""The state of each session's role: a file of its own, and a row that says which file counts."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import select, update

from secagg._rows import sync_folder
from secagg.errors import ConfigError, LocalProtocolError
from secagg.service.engine import Writer
from secagg.service.tables import SESSIONS
from secagg.store import Ledger

#: What else may be saved with a state: the open round's number, the seconds it may last, where the relays end.
BESIDE: Final = frozenset(("position", "remaining", "relays"))

Beside = Callable[[], Mapping[str, int | float | None]]


class States:
    """The files of all sessions' states, in ``folder``, and the rows that name them.

    A state is written to a new file first. Then the session's row moves to it, if its number is still lower; this
    is what keeps a second server, or a role restored from an older state, from overwriting a newer one. Then the
    older file is deleted. After a crash the row decides which file counts.
    """

    def __init__(self, folder: Path, writer: Writer) -> None:
        self._folder, self._writer = folder, writer

    def save(self, key: str, number: int, state: bytes, beside: Mapping[str, int | float | None]) -> None:
        """Save the state with ``number`` of the session ``key``, and ``beside`` in the same transaction.

        ``LocalProtocolError`` unless the number rises and the session is running. ``OSError`` if the disk is full.
        The older state counts then.
        """
        if not beside.keys() <= BESIDE:
            raise ConfigError(f"got {sorted(beside)} beside a state; expected only {', '.join(sorted(BESIDE))}")
        file = self._folder / f"{key}.{number}.{secrets.token_hex(8)}"
        try:
            _write_new(file, state)
            older = self._move(key, number, file.name, beside)
        except LocalProtocolError:
            file.unlink(missing_ok=True)
            raise
        except OSError:
            with contextlib.suppress(OSError):
                if self._newest(key)[1] != file.name:
                    file.unlink(missing_ok=True)
            raise
        if older is not None:
            (self._folder / older).unlink(missing_ok=True)

    def load(self, key: str) -> tuple[int, bytes | None]:
        """The number of the newest state of the session ``key``, and the state; 0 and None if there is none."""
        number, name = self._newest(key)
        if name is None:
            return number, None
        try:
            return number, (self._folder / name).read_bytes()
        except OSError as error:
            raise ConfigError(f"got state {name}, which can't be read: {error}; give this session up") from error

    def _newest(self, key: str) -> tuple[int, str | None]:
        """The number of the newest state of the session ``key``, and the name of its file."""
        wanted = select(SESSIONS.c.number, SESSIONS.c.file).where(SESSIONS.c.key == key)
        with self._writer.reading() as connection:
            row = connection.execute(wanted).one_or_none()
        if row is None:
            raise ConfigError(f"got session {key}, which is not in the database; begin it first")
        return row.number, row.file

    def _move(self, key: str, number: int, name: str, beside: Mapping[str, int | float | None]) -> str | None:
        """Make the row name the new file; returns the name of the older one."""
        with self._writer.writing() as connection:
            row = connection.execute(select(SESSIONS).where(SESSIONS.c.key == key)).one_or_none()
            moved = connection.execute(
                update(SESSIONS)
                .where(SESSIONS.c.key == key, SESSIONS.c.number < number, SESSIONS.c.state == "running")
                .values(number=number, file=name, changed=time.time(), **beside)
            )
            if row is None or moved.rowcount != 1:
                here = "no row" if row is None else f"number {row.number}, {row.state}"
                raise LocalProtocolError(
                    f"got state number {number} of session {key}, whose row has {here}; another server, or a role "
                    "restored from an older state, must not overwrite a newer one: stop this one"
                )
        older: str | None = row.file
        return older


class SessionStore:
    """What ``save=`` of one session's role takes; ``beside`` returns what is saved in the same transaction.

    ``number`` is the number of the state that was saved or loaded last, None before both.
    """

    ledger: Ledger | None = None
    number: int | None = None

    def __init__(self, states: States, key: str, beside: Beside | None = None) -> None:
        self._states, self._key, self._beside = states, key, beside

    def __call__(self, number: int, state: bytes) -> None:
        """See :meth:`States.save`."""
        self._states.save(self._key, number, state, {} if self._beside is None else self._beside())
        self.number = number

    def load(self) -> bytes | None:
        """The newest state; None if there is none. ``ConfigError`` if its file can't be read."""
        self.number, state = self._states.load(self._key)
        return state


def _write_new(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
