"""Lock a file against other processes, tell whether a path still names it, and write a file whole or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dp.errors import DPError


@contextmanager
def locked(path: Path, flags: int = 0) -> Iterator[None]:
    """Hold the lock on the file at ``path`` during the block: the file that has this name now, not a former one."""
    import fcntl  # only POSIX has it

    while True:
        try:
            lock = os.open(path, os.O_RDWR | flags, 0o600)
        except OSError as error:
            raise DPError(f"the ledger's file {path} can't be locked: {error}") from error
        try:
            if flags and not _is_lock(lock):
                raise DPError(
                    f"the lock {path} is not a plain file, or has another name (a hard link); waiting for it could "
                    "last for ever: remove it while no process has the ledger open"
                )
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_at(lock, path):
                try:
                    yield
                finally:
                    fcntl.flock(lock, fcntl.LOCK_UN)  # a child that was forked in the block still has the file open
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
    """Whether an open file is only a lock. If it were the ledger too, the second lock would wait for the first."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode) and names_of(descriptor) <= 1


def names_of(descriptor: int) -> int:
    """The number of names (hard links) that an open file has."""
    return os.fstat(descriptor).st_nlink


def write_whole(path: Path, data: bytes, *, new: bool) -> None:
    """Put ``data`` on the disk as the file ``path``, mode 0600: after a crash the file is whole, or as before.

    ``new`` raises ``FileExistsError`` if there is a file; otherwise the file is replaced.
    """
    # Each writer has a name of its own: if the .lock was deleted, two processes may write at once.
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(fresh, path)
        else:
            fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def drop_unfinished(path: Path, descriptor: int) -> None:
    """Remove the second name of an open file that a crash inside :func:`write_whole` left beside ``path``."""
    for other in path.parent.iterdir():
        ours = other.name.startswith(f"{path.name}.") and other.suffix == ".new"
        if ours and is_at(descriptor, other):
            other.unlink(missing_ok=True)
