"""Stores for a role's state, and ledgers of what the role may say only once.

A state may be lost or old; a ledger must not. It is append-only and kept apart from the state,
because rolling back both lets a client contradict what it sent.
"""

import contextlib
import errno
import glob
import os
import secrets
import threading
import weakref
from pathlib import Path
from typing import Protocol, Self

from secagg._rows import (
    LINK,
    RowFile,
    Written,
    chained,
    join_rows as join_rows,
    split_rows as split_rows,
    sync_folder,
)
from secagg.errors import ConfigError, LocalProtocolError

_OPEN: "weakref.WeakSet[FileLedger]" = weakref.WeakSet()  # the ledgers that this process has locked

_NUMBER = 8  # bytes of a state's number
_ENTRY = 32
_ROW = 3 * _ENTRY


class Ledger(Protocol):
    """Write-once entries that outlive the role."""

    def claim(self, entry: bytes, value: bytes) -> bytes:
        """Write ``value`` (32 bytes) under ``entry`` (32 bytes) durably, unless it is taken.

        Returns what is written there now: ``value``, or an earlier claim's value.
        """
        ...


class ReadableLedger(Ledger, Protocol):
    """A ledger that also says whether an entry is taken, as :class:`secagg.store.FileLedger` does."""

    def __contains__(self, entry: bytes) -> bool:
        """Whether something was claimed under ``entry``; nothing is written."""
        ...


class Store(Protocol):
    """What ``save=`` takes: a store for a role's newest state, with the role's ledger if it has one."""

    ledger: Ledger | None

    def __call__(self, number: int, state: bytes) -> None:
        """Keep ``state`` durably before returning; ``LocalProtocolError`` unless ``number`` rises."""
        ...


class AppendingStore(Store, Protocol):
    """A store that also takes rows: what a role took since its newest state, without the whole state again.

    What it gives back is :func:`secagg.store.join_rows` of the newest state and the rows that followed it.
    """

    def append(self, number: int, row: bytes) -> bool:
        """Keep ``row``, which is not empty, durably behind the newest state and its rows.

        Returns False, and keeps nothing, unless ``number`` follows the number of what was saved last; the role then
        saves its whole state. ``OSError`` if the row can't be written; nothing was kept then.
        """
        ...


class MemoryLedger:
    """A ledger in memory, for simulations and tests: it is lost when the process ends."""

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}

    def claim(self, entry: bytes, value: bytes) -> bytes:
        """See :meth:`Ledger.claim`."""
        return self._entries.setdefault(entry, value)

    def __contains__(self, entry: bytes) -> bool:
        """Whether something was claimed under ``entry``."""
        return entry in self._entries


class FileLedger:
    """A ledger in the file at ``path`` (mode 0600), flushed to the disk (``fsync``) before a claim returns.

    A party has one for as long as it is enrolled: its roles in all sessions share the object. A row is 32 bytes of
    entry, 32 of value and 32 that chain it to the rows before. A last row that a crash cut short or left as zeros
    is dropped, because its claim never returned. Any other damage is a ``ConfigError``. The file is locked: opening
    it twice is a ``ConfigError`` too. If the file is deleted or replaced while it is open, the ledger takes no more
    claims, because there may be another ledger in its place.

    Threads may share the object, but processes may not: after a fork each would have a copy of the entries, and
    would not see the claims of the others. So the copy in a child process takes no claims.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).resolve()
        self._process = os.getpid()
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise ConfigError(f"got ledger {path}, which can't be opened: {error}") from error
        try:
            self._lock_file(path)
            self._entries: dict[bytes, bytes] = {}
            self._chain = bytes(_ENTRY)
            self._end = self._read_rows(path)
            self._file.truncate(self._end)
            sync_folder(self._path.parent)
            if not self._is_in_place():
                raise ConfigError(f"got ledger {path}, which was replaced while it was opened; open it again")
        except BaseException:
            self._file.close()
            raise
        self._lock = threading.Lock()

    def claim(self, entry: bytes, value: bytes) -> bytes:
        """See :meth:`Ledger.claim`. Where it raises, nothing was claimed.

        ``OSError`` if the file can't be written; ``LocalProtocolError`` if it was deleted or replaced, if others
        wrote to it, or in a forked child.
        """
        self._check_process()
        if len(entry) != _ENTRY or len(value) != _ENTRY:
            raise LocalProtocolError("got a ledger entry or value that is not 32 bytes; hash it first")
        with self._lock:
            if entry not in self._entries:
                if not self._is_in_place():
                    raise LocalProtocolError(
                        f"got ledger {self._path}, which was deleted, replaced or written to by others since it "
                        "was opened; stop this role, and put back the newest file before it is opened again"
                    )
                self._append(entry, value)
            return self._entries[entry]

    def __contains__(self, entry: bytes) -> bool:
        """Whether something was claimed under ``entry``; nothing is written."""
        self._check_process()
        with self._lock:
            return entry in self._entries

    def close(self) -> None:
        """Release the file and its lock, as the end of a ``with`` block does."""
        if not self._file.closed and os.getpid() == self._process:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked child may still have the file open
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_process(self) -> None:
        # Before taking the lock: a thread of the parent may have held it at the fork.
        if os.getpid() != self._process:
            raise LocalProtocolError(
                f"got ledger {self._path}, which process {self._process} opened, in process {os.getpid()}; open "
                "the ledger in the process that uses it, after the fork"
            )

    def _is_in_place(self) -> bool:
        """Whether the path still names this file, which ends where this object's rows do."""
        here = os.fstat(self._file.fileno())
        try:
            return os.path.samestat(here, self._path.stat()) and here.st_size == self._end
        except FileNotFoundError:
            return False

    def _append(self, entry: bytes, value: bytes) -> None:
        row = entry + value + chained(self._chain, entry, value)
        try:
            self._file.seek(self._end)
            if self._file.write(row) != _ROW:
                raise OSError(errno.ENOSPC, "the ledger took only a part of a row", str(self._file.name))
            os.fsync(self._file.fileno())
        except OSError:
            # It is unknown how much of the row is on the disk; the next row takes its place.
            self._file.truncate(self._end)
            raise
        self._end += _ROW
        self._chain = row[-_ENTRY:]
        self._entries[entry] = value

    def _read_rows(self, path: str | os.PathLike[str]) -> int:
        """Read all rows; returns the offset at which the last good one ends."""
        data = self._file.read()
        end = len(data) - len(data) % _ROW
        if end == len(data) > 0 and _is_unwritten(data[-_ROW:]):
            end -= _ROW
        for at in range(0, end, _ROW):
            entry, value, link = (data[at + part : at + part + _ENTRY] for part in (0, _ENTRY, 2 * _ENTRY))
            if link != chained(self._chain, entry, value):
                raise ConfigError(
                    f"got ledger {path}, damaged at byte {at}; what this party sent is no longer known: "
                    "enrol it again, with a new key and an empty ledger"
                )
            self._entries[entry], self._chain = value, link
        return end

    def _lock_file(self, path: str | os.PathLike[str]) -> None:
        import fcntl  # only POSIX has it

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            here = os.fstat(self._file.fileno())
            open_here = (ledger._file for ledger in list(_OPEN) if not ledger._file.closed)
            if any(os.path.samestat(here, os.fstat(file.fileno())) for file in open_here):
                where = (
                    "in this process; close() what has it open, such as a client of an earlier secagg.connect, or "
                    "pass that FileLedger to all roles of the party"
                )
            else:
                where = "in another process; stop that one, or let it play this party"
            raise ConfigError(f"got ledger {path}, which is open already {where}") from error
        _OPEN.add(self)


class FileStore:
    """One role's state in one file (mode 0600): written beside it, flushed, then renamed over the old one.

    ``FileStore(path, ledger=FileLedger(other))``. A file holds one session: use a path for each, and
    delete it when the session is over. It holds the state's number, a checksum and the state;
    :meth:`load` returns the newest state or None. ``ConfigError`` for a damaged file.

    A role that takes many messages in a round, such as a committee member of ``OneShot``, appends what it keeps of
    each to a second file, ``path`` with ``.rows`` behind it, which belongs to the newest state. It is deleted when
    the next state is saved, as at the end of the session and after an abort.
    """

    def __init__(self, path: str | os.PathLike[str], *, ledger: Ledger | None = None) -> None:
        self._path = Path(path).resolve()  # a save must replace the target of a symbolic link, not the link
        self._rows = RowFile(self._path.with_name(f"{self._path.name}.rows"))
        self.ledger = ledger
        self._deleted = False
        if not self._path.parent.is_dir():
            raise ConfigError(
                f"got state {path} in a folder that does not exist; make it first, for its owner alone"
            )
        self._delete_unfinished()
        self._saved, _ = self._read()
        self._written = self._rows.read(self._saved[_NUMBER:])
        if self._written.size and not self._written.end and self._head() == self._saved:
            self._rows.erase()  # a crash left the rows of an older state
            self._written = self._rows.read(self._saved[_NUMBER:])

    def __call__(self, number: int, state: bytes) -> None:
        """See :meth:`Store.__call__`. ``OSError`` if it can't be written; the old state then remains."""
        import fcntl

        if self._deleted:
            raise LocalProtocolError(f"got a state after {self._path} was deleted, because its session is over")
        newest = max(_number(self._saved) + self._written.count, self._newest())
        if number <= newest:
            raise LocalProtocolError(
                f"got state number {number} after {newest}; a role restored from an older state "
                "must not overwrite a newer one, and each session has a file of its own"
            )
        # A unique name: another process may be writing too, and its unfinished file must not become the state.
        fresh = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed, nobody takes it for what a crash left
                head = number.to_bytes(_NUMBER, "big")
                checksum = chained(head, state)
                file.write(head + checksum)
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        finally:
            fresh.unlink(missing_ok=True)
        self._rows.erase()
        sync_folder(self._path.parent)
        self._saved, self._written = head + checksum, Written(0, checksum, 0, 0)

    def _delete_unfinished(self) -> None:
        """Delete what a crash left of saves that it cut short: it holds secrets too."""
        import fcntl

        for path in self._path.parent.glob(f"{glob.escape(self._path.name)}.*.new"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another process may be writing it now
                path.unlink(missing_ok=True)

    def append(self, number: int, row: bytes) -> bool:
        """See :meth:`AppendingStore.append`."""
        follows = _number(self._saved) + self._written.count + 1
        if number != follows or not self._saved or self._head() != self._saved:
            return False
        self._written = self._rows.append(self._saved[_NUMBER:], self._written, row)
        return True

    def load(self) -> bytes | None:
        """The newest state with its rows, or None if nothing was saved; ``ConfigError`` if it is damaged."""
        head, state = self._read()
        if state is None:
            return None
        rows: list[bytes] = []
        self._rows.read(head[_NUMBER:], rows)
        return join_rows(state, rows)

    def delete(self) -> None:
        """Delete the state and its rows, when the session is over. The store then takes no state any more."""
        self._deleted = True
        self._path.unlink(missing_ok=True)
        self._rows.erase()
        sync_folder(self._path.parent)

    def _head(self) -> bytes:
        """The number and the checksum of the state in the file; empty if there is no file."""
        try:
            with self._path.open("rb") as file:
                return file.read(_NUMBER + LINK)
        except FileNotFoundError:
            return b""

    def _newest(self) -> int:
        """The number of what was saved last, maybe by another process; -1 if nothing was."""
        head = self._head()
        return _number(head) + self._rows.read(head[_NUMBER:]).count

    def _read(self) -> tuple[bytes, bytes | None]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return b"", None
        except OSError as error:
            raise ConfigError(f"got state {self._path}, which can't be read: {error}") from error
        head, state = data[: _NUMBER + LINK], data[_NUMBER + LINK :]
        if head[_NUMBER:] != chained(head[:_NUMBER], state):
            raise ConfigError(f"got a damaged state in {self._path}; leave this session out")
        return head, state


def _number(head: bytes) -> int:
    return int.from_bytes(head[:_NUMBER], "big") if head else -1


def _is_unwritten(row: bytes) -> bool:
    """Whether a crash may have left this row: the file was extended, but nothing was written.

    Any other complete row may belong to a claim that returned, so damage to it must not free its entry.
    """
    return not any(row)
