"""Lock a file against other processes, and tell whether a path still names it."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dp.errors import DPError


@contextmanager
def locked(path: Path, flags: int = 0) -> Iterator[None]:
    """Nobody else has ``path`` locked meanwhile: the file of that name, not one that was deleted or replaced."""
    import fcntl  # only POSIX has it

    while True:
        try:
            lock = os.open(path, os.O_RDWR | flags, 0o600)
        except OSError as error:
            raise DPError(f"got ledger file {path}, which can't be locked: {error}") from error
        try:
            if flags and not _is_lock(lock):
                raise DPError(
                    f"got {path}, which is another file as well (a hard link) or no file; to wait for that could "
                    "take for ever: remove it while nobody has the ledger open"
                )
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_at(lock, path):
                try:
                    yield
                finally:
                    fcntl.flock(lock, fcntl.LOCK_UN)  # a child that was forked meanwhile has it open still
                return
        finally:
            os.close(lock)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still names the file that is open as ``descriptor``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_lock(descriptor: int) -> bool:
    """Whether an open file is only a lock: were it the ledger too, its second lock would wait for the first."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode) and names_of(descriptor) <= 1


def names_of(descriptor: int) -> int:
    """How many names (hard links) an open file has."""
    return os.fstat(descriptor).st_nlink
