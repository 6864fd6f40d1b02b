"""Where a role keeps its state, and the ledger of what it may say only once.

A state may be lost or be old; the ledger must not. It is append-only and kept apart from the
state, because whoever rolls both back can make a client tell two stories.
"""

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Protocol

from secagg.errors import ConfigError, LocalProtocolError

_ENTRY = 32
_ROW = 2 * _ENTRY


class Ledger(Protocol):
    """Write-once entries that outlive the role."""

    def claim(self, entry: bytes, value: bytes) -> bytes:
        """Write ``value`` (32 bytes) under ``entry`` (32 bytes) durably, unless it is taken.

        Returns what stands there now: ``value``, or what was claimed earlier.
        """
        ...


class Store(Protocol):
    """What ``save=`` takes: keeps a role's newest state, and has its ledger if there is one."""

    ledger: Ledger | None

    def __call__(self, number: int, state: bytes) -> None:
        """Keep ``state`` durably before returning; ``LocalProtocolError`` unless ``number`` rises."""
        ...


class MemoryLedger:
    """A ledger in memory, for simulations and tests: it dies with the process."""

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}

    def claim(self, entry: bytes, value: bytes) -> bytes:
        """See :meth:`Ledger.claim`."""
        return self._entries.setdefault(entry, value)


class FileLedger:
    """A ledger in one file, appended and flushed to the disk (``fsync``) before a claim returns.

    A row is 32 bytes of entry and 32 of value; a row cut short by a crash was never answered for
    and is dropped. The file is locked: a second process at the same ledger is a ``ConfigError``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigError(f"got ledger {path}, which another process has open; stop that one") from error
        data = self._file.read()
        whole = len(data) - len(data) % _ROW
        self._file.truncate(whole)
        self._file.seek(whole)
        self._entries: dict[bytes, bytes] = {}
        for at in range(0, whole, _ROW):
            self._entries.setdefault(data[at : at + _ENTRY], data[at + _ENTRY : at + _ROW])
        _sync_folder(Path(path).parent)

    def claim(self, entry: bytes, value: bytes) -> bytes:
        """See :meth:`Ledger.claim`."""
        if len(entry) != _ENTRY or len(value) != _ENTRY:
            raise LocalProtocolError("got a ledger entry or value that is not 32 bytes; hash it first")
        if entry not in self._entries:
            whole = self._file.tell()
            if self._file.write(entry + value) != _ROW:
                self._file.truncate(whole)
                self._file.seek(whole)
                raise OSError(f"the ledger could not be written: {self._file.name}")
            os.fsync(self._file.fileno())
            self._entries[entry] = value
        return self._entries[entry]

    def close(self) -> None:
        """Let go of the file and its lock."""
        self._file.close()


class FileStore:
    """A role's state in one file: written beside it, flushed, then renamed over the old one.

    ``FileStore(path, ledger=FileLedger(other))``. The file holds the number, a checksum and the
    state; :meth:`load` returns the newest state or None.
    """

    def __init__(self, path: str | os.PathLike[str], *, ledger: Ledger | None = None) -> None:
        self._path = Path(path)
        self.ledger = ledger
        self._number = -1
        self._number, _ = self._read()

    def __call__(self, number: int, state: bytes) -> None:
        """See :meth:`Store.__call__`."""
        if number <= self._number:
            raise LocalProtocolError(
                f"got state number {number} after {self._number}; a role restored from an older state "
                "must not overwrite a newer one"
            )
        fresh = self._path.with_name(self._path.name + ".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(number.to_bytes(8, "big") + hashlib.sha256(state).digest() + state)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        _sync_folder(self._path.parent)
        self._number = number

    def load(self) -> bytes | None:
        """The newest state, or None where nothing was saved; ``ConfigError`` if it is damaged."""
        return self._read()[1]

    def _read(self) -> tuple[int, bytes | None]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return -1, None
        state = data[40:]
        if len(data) < 40 or hashlib.sha256(state).digest() != data[8:40]:
            raise ConfigError(f"got a damaged state in {self._path}; leave this session out")
        return int.from_bytes(data[:8], "big"), state


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
