"""The service's folder: one process has it at a time, on a local disk, and files in it are whole or not there."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from secagg._rows import sync_folder
from secagg.errors import ConfigError

#: File systems that several hosts share: their locks, or their shared memory, don't hold between hosts.
NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "glusterfs", "beegfs", "gpfs", "ocfs2"),
        *("gfs", "gfs2", "orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"),
        *("fuse.gcsfuse", "fuse.davfs", "davfs", "fuse.mount-s3"),
    )
)
_MOUNTS: Final = "/proc/self/mountinfo"
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that ``folder`` is on, by ``mounts``, the text of Linux's ``mountinfo``.

    Empty if it is unknown.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[4]))
        if folder.is_relative_to(point) and len(point.parts) >= best:  # of two on one point, the later covers
            best, kind = len(point.parts), after.split(" ")[0]
    return kind


def check_local(folder: Path) -> None:
    """``ConfigError`` if ``folder`` is on a network file system."""
    try:
        mounts = Path(_MOUNTS).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # not Linux
    kind = file_system(folder.resolve(), mounts)
    if kind in NETWORK:
        raise ConfigError(
            f"got folder {folder} on a network file system ({kind}), on which SQLite loses data; use a folder on a "
            "local disk"
        )


class Holder(Protocol):
    """What has a lock by an open file."""

    def close(self) -> None:
        """Close the file; the lock stays with a process that has it open too."""
        ...


_HOLDERS: weakref.WeakSet[Holder] = weakref.WeakSet()


def hold_here_alone(holder: Holder) -> None:
    """Close the file of ``holder`` in every process that is forked from this one.

    Otherwise the worker of a process pool that outlives a killed server would keep the server's locks.
    """
    _HOLDERS.add(holder)


def _close_in_child() -> None:
    for holder in list(_HOLDERS):
        holder.close()


os.register_at_fork(after_in_child=_close_in_child)


class FolderLock:
    """A lock on a folder, held until :meth:`close` or the process's end; ``ConfigError`` if it is taken."""

    def __init__(self, folder: Path) -> None:
        try:
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"got folder {folder}, which can't be written: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise ConfigError(
                f"got folder {folder}, which another server has open; stop that one, or use another folder"
            ) from error
        hold_here_alone(self)

    def close(self) -> None:
        """Release the lock."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Make the file ``path`` (mode 0600) of what ``write`` writes, on the disk; replaces an older one whole."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)
