"""Inputs that wait for the members' recount, and which of them are then left out."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from secagg.errors import ConfigError


class Spool:
    """Encrypted vectors of one size in a temporary file (mode 0600), by number. They are not secret.

    The file is in the folder that ``tempfile`` chooses (``TMPDIR``), and outlives a crash of the server.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path, self._size = path, size
        self._file = os.open(path, os.O_RDWR)
        self._close = weakref.finalize(self, os.close, self._file)

    @classmethod
    def create(cls, size: int) -> Self:
        """An empty one, for vectors of ``size`` bytes. ``OSError`` if there is no room."""
        descriptor, path = tempfile.mkstemp(prefix="secagg-", suffix=".inputs")
        os.close(descriptor)
        return cls(path, size)

    @classmethod
    def reopen(cls, path: str, size: int) -> Self | None:
        """The one that a restored server left at ``path``, None for ``""``; ``ConfigError`` if it is gone."""
        try:
            return cls(path, size) if path else None
        except OSError as error:
            raise ConfigError(
                f"got a state whose inputs wait in {path}, which can't be opened: {error}; leave this session out"
            ) from error

    def write(self, number: int, vector: bytes) -> None:
        """Write a vector. ``OSError`` if the disk is full."""
        at, rest = number * self._size, memoryview(vector)
        while rest:
            written = os.pwrite(self._file, rest, at)
            at, rest = at + written, rest[written:]

    def sync(self) -> None:
        """Return when all is on the disk."""
        os.fsync(self._file)

    def read(self, number: int) -> bytes:
        """The vector that was written under ``number``."""
        return os.pread(self._file, self._size, number * self._size)

    def remove(self) -> None:
        """Delete the file."""
        self._close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)


def left_out(lacking: Sequence[bytes], needed: int) -> set[int]:
    """The clients to leave out so that ``needed`` members or more hold good shares of all others.

    ``lacking`` has, for each member, a byte for each client, which is 0 for a good share. The members that lack
    most are given up first, so many that the fewest clients are left out, and no more.
    """
    lists = [{number for number, kind in enumerate(one) if kind} for one in lacking]
    lists.sort(key=len)
    choices = [set().union(*lists[:kept]) for kept in range(needed, len(lists) + 1)]
    return min(reversed(choices), key=len)
