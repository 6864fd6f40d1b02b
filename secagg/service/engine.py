"""The SQLite engine: whole transactions, on the disk when they are committed, one writer at a time."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError

from secagg._rows import sync_folder

BUSY_SECONDS: Final = 10.0
_ERRNO: Final = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_BUSY: errno.EAGAIN}


def make_engine(path: Path) -> Engine:
    """An engine for the database file ``path``; any thread may connect."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
        pool_size=4,
        max_overflow=-1,
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: sqlite3.Connection, _: Any) -> None:
    """Settings that hold for a connection; WAL alone stays with the file."""
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin(connection: Connection) -> None:
    # Python's module would begin only before a write, so a migration's statements would not be one transaction.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Writer:
    """Transactions that write, one at a time, and those that read, beside them."""

    def __init__(self, path: Path) -> None:
        self._engine, self._lock = make_engine(path), threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction, on the disk when the block ends; nothing of it stays if the block raises.

        ``OSError`` if it can't be written, such as on a full disk.
        """
        with _as_os_error(), self._lock, self._engine.connect() as connection:
            connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database; ``OSError`` if it can't be read."""
        with _as_os_error(), self._engine.connect() as connection, connection.begin():
            yield connection

    def copy(self, path: Path) -> None:
        """Write a copy of the whole database, as of now, to the new file ``path`` (mode 0600), on the disk."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with _as_os_error(), self._engine.connect() as connection:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            with closing(sqlite3.connect(path)) as target:
                source.backup(target)
        sync_folder(path.parent)

    def close(self) -> None:
        """Close all connections; what the write-ahead log holds goes into the database file."""
        self._engine.dispose()


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DatabaseError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DatabaseError) else error
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        raise OSError(_ERRNO.get(code, errno.EIO), f"the database can't be used: {cause}") from error
