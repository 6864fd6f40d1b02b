"""Rows that follow a saved state: what a role took since, each in a few bytes instead of the whole state again."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from secagg.errors import ConfigError, LocalProtocolError

LINK = 32
_LENGTH = 4
JOINED = b"secagg/v1/state and rows"  # how what join_rows makes begins


def join_rows(state: bytes, rows: Sequence[bytes]) -> bytes:
    """A saved state with the rows that follow it, as one piece; the state alone if there are none."""
    if not rows:
        return state
    return b"".join((JOINED, *(part for one in (state, *rows) for part in (_length(one), one))))


def split_rows(data: bytes) -> tuple[bytes, list[bytes]]:
    """The state and the rows in what :func:`join_rows` made; ``ConfigError`` if it is damaged."""
    if not data.startswith(JOINED):
        return data, []
    parts, at = [], len(JOINED)
    while at < len(data):
        end = at + _LENGTH + int.from_bytes(data[at : at + _LENGTH], "big")
        if end > len(data) or at + _LENGTH > len(data):
            raise ConfigError("got a damaged state; leave this session out")
        parts.append(data[at + _LENGTH : end])
        at = end
    if not parts:
        raise ConfigError("got a damaged state; leave this session out")
    return parts[0], parts[1:]


def chained(*parts: bytes) -> bytes:
    """SHA-256 of ``parts``, which chains each row to what is before it."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.digest()


@dataclass(frozen=True)
class Written:
    """What stands in a file of rows: their number, the last link, where the last good one ends, the file's size."""

    count: int
    chain: bytes
    end: int
    size: int


class RowFile:
    """The rows that follow one saved state, in a file of their own (mode 0600), which only grows.

    The file begins with the checksum of that state, so the rows of another state are not taken for it. A row is its
    length, its bytes, and 32 bytes that chain it to all before. Each row is on the disk (``fsync``) before
    :meth:`append` returns, so a crash can damage the last row only. A last row that is cut short or doesn't fit is
    dropped. A row before it that doesn't fit is a ``ConfigError``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, state: bytes, rows: list[bytes] | None = None) -> Written:
        """What follows the state with the checksum ``state``; appends the rows to ``rows`` if that is given."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Written(0, state, 0, 0)
        except OSError as error:
            raise ConfigError(f"got rows {self._path}, which can't be read: {error}") from error
        if data[:LINK] != state:
            return Written(0, state, 0, len(data))
        count, chain, end = 0, state, LINK
        for row, stated in _frames(data):
            after, following = end + _LENGTH + len(row) + LINK, chained(chain, _length(row), row)
            if following != stated:
                if after == len(data):
                    break
                raise ConfigError(f"got rows {self._path}, damaged at byte {end}; leave this session out")
            count, chain, end = count + 1, following, after
            if rows is not None:
                rows.append(row)
        return Written(count, chain, end, len(data))

    def append(self, state: bytes, before: Written, row: bytes) -> Written:
        """Write ``row`` behind ``before``, what :meth:`read` or the last call returned.

        ``OSError`` if the file can't be written, and then nothing is in it that was not before.
        ``LocalProtocolError`` if others wrote to the file or replaced it.
        """
        chain = chained(before.chain, _length(row), row)
        data = b"".join((b"" if before.end else state, _length(row), row, chain))
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            if os.fstat(descriptor).st_size not in (before.size, before.end):
                raise LocalProtocolError(
                    f"got rows {self._path}, which others wrote to or deleted; stop this role, and restore it from "
                    "what its store holds now"
                )
            file.truncate(before.end)  # of a row that a crash cut short, or of rows of an older state
            file.seek(before.end)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, "the file took only a part of a row", str(self._path))
                os.fsync(descriptor)
            except OSError:
                file.truncate(before.end)
                raise
        if not before.end:
            sync_folder(self._path.parent)
        end = before.end + len(data)
        return Written(before.count + 1, chain, end, end)

    def erase(self) -> None:
        """Delete the file, if there is one."""
        self._path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each whole row and its link, without zeros at the end, where the file was extended and never written."""
    at = LINK
    while (start := at + _LENGTH) < len(data):
        end = start + int.from_bytes(data[at:start], "big")
        if end + LINK > len(data) or (end == start and not any(data[at:])):  # no row is empty
            return
        yield data[start:end], data[end : end + LINK]
        at = end + LINK


def _length(row: bytes) -> bytes:
    return len(row).to_bytes(_LENGTH, "big")
