"""The spool: the messages of one open round that the server has acknowledged, or is about to.

A message is in the spool, on the disk, before the role takes it and before its sender gets a 200. After a crash the
session restores the state that it saved when the round opened, and hands the role each message of the spool again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import mmap
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secagg._rows import sync_folder
from secagg.errors import ConfigError
from secagg.service.folder import hold_here_alone

log = logging.getLogger("secagg")

DIGEST_BYTES: Final = 32
_MAGIC: Final = b"secagg/v1/spool\n"
_KEY: Final = 32
_START: Final = len(_MAGIC) + DIGEST_BYTES + _KEY  # of the records: behind the magic, the name's hash and the key
_HEAD: Final = struct.Struct(f">QB{DIGEST_BYTES}s")  # the body's length, the sender's length, the digest
_TAG: Final = 16
_SENDER: Final = 255  # the most bytes of a sender's id
_PIECES: Final = 1023  # buffers in one call of writev; Linux takes 1,024
_AT_ONCE: Final = 1 << 30  # OpenSSL takes no 2 GiB in a call


class Record(NamedTuple):
    """A message in a spool. ``digest`` is its envelope's, which the uploader checked; it is not computed again."""

    sender: str
    digest: bytes
    data: bytes | memoryview


class Spool:
    """The append-only file (mode 0600) of one round of one session; its name says which.

    :meth:`append` returns when the records are on the disk. :meth:`replay` gives them back in order, also after a
    crash. A crash can damage only what no call of :meth:`append` has returned for, and :meth:`replay` cuts that
    off. Opening a spool twice is a ``ConfigError``, in the same process too. One thread at a time may use it.

    Each record ends with a tag (AES-GMAC) over the record and the tag before, under a random key that stands in the
    file's head. So a record does not fit behind other records or in another file, and no sender can put bytes into
    a message that look like a record. The tag detects damage; it does not stop a person who can write the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"got spool {self._path}, which can't be opened: {error}") from error
        try:
            self._lock()
            self._key, self._end = self._begin()
            self._tag = bytes(_TAG)
            self._records = self._find()
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def size(self) -> int:
        """How many bytes of the file are on the disk and good."""
        return self._end

    def __len__(self) -> int:
        """The number of records."""
        return self._records

    def append(self, records: Iterable[Record]) -> None:
        """Write ``records`` and bring them to the disk, with one ``fdatasync`` for all.

        Where it raises ``OSError``, such as on a full disk, none of them is in the spool, and the spool can be used
        again. ``ConfigError`` for a sender or a digest that no message has.
        """
        records = list(records)
        tag, pieces = self._tag, list[bytes | memoryview]()
        for one in records:
            head = _head(one)
            tag = self._tag_of(tag, head, one.data)
            pieces += (head, one.data, tag)
        if not records:
            return
        try:
            end = write_at(self._file, pieces, self._end)
            os.fdatasync(self._file)
        except OSError:
            # It is unknown how much of this is on the disk. If the file can't be cut now, the next records
            # replace it, and what follows them doesn't fit.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end, self._tag, self._records = end, tag, self._records + len(records)

    def replay(self) -> Iterator[Record]:
        """All records in the order in which they were appended.

        Their bytes are read-only views of the file, which stay valid after :meth:`delete`.
        """
        if self._end == _START:
            return
        view = memoryview(mmap.mmap(self._file, self._end, access=mmap.ACCESS_READ))
        at = _START
        while at < self._end:
            record, at = _read(view, at)
            yield record

    def delete(self) -> None:
        """Delete the file and close the spool."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Release the file and its lock; the records stay."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"got spool {self._path}, which is open already; close it there first") from error
        hold_here_alone(self)

    def _begin(self) -> tuple[bytes, int]:
        """Read the head, or write it into a new file; returns the key and where the records begin."""
        name = hashlib.sha256(self._path.name.encode()).digest()
        if os.fstat(self._file).st_size <= _START:
            # New, or a crash came before the head was on the disk; there is no record in either.
            key = secrets.token_bytes(_KEY)
            os.ftruncate(self._file, 0)
            write_at(self._file, [_MAGIC, name, key], 0)
            os.fdatasync(self._file)
            sync_folder(self._path.parent)
            return key, _START
        head = os.pread(self._file, _START, 0)
        if head[:-_KEY] != _MAGIC + name:
            raise ConfigError(
                f"got spool {self._path}, whose head is damaged or belongs to another file; put the right file "
                "there, or delete it: its round then asks the parties again"
            )
        return head[-_KEY:], _START

    def _find(self) -> int:
        """Walk over the records to the last good one, and cut off what follows; returns how many are good."""
        size, count = os.fstat(self._file).st_size, 0
        if size == _START:
            return 0
        with mmap.mmap(self._file, size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            while (tag := self._fitting(view)) is not None:
                self._tag, count = tag, count + 1
        if self._end < size:
            log.warning("spool %s: cut off %d bytes that a crash left unfinished", self._path, size - self._end)
            os.ftruncate(self._file, self._end)
            os.fdatasync(self._file)
        return count

    def _fitting(self, view: memoryview) -> bytes | None:
        """The tag of the record at the end, which moves behind it; None if there is no good one."""
        start = self._end + _HEAD.size
        if start > len(view):
            return None
        length, sender, _ = _HEAD.unpack_from(view, self._end)
        body, end = start + sender, start + sender + length + _TAG
        if not sender or end > len(view):
            return None
        with view[self._end : body] as head, view[body : end - _TAG] as data:
            tag = self._tag_of(self._tag, head, data)
        if view[end - _TAG : end] != tag:
            return None
        self._end = end
        return tag

    def _tag_of(self, before: bytes, head: bytes | memoryview, data: bytes | memoryview) -> bytes:
        """What chains a record to those before; four times as fast as CRC-32 on large messages."""
        mac = Cipher(algorithms.AES(self._key), modes.GCM(before[:12])).encryptor()
        mac.authenticate_additional_data(before)
        mac.authenticate_additional_data(head)
        with memoryview(data) as view:
            for at in range(0, len(view), _AT_ONCE):
                mac.authenticate_additional_data(view[at : at + _AT_ONCE])
        mac.finalize()
        return mac.tag


def _head(record: Record) -> bytes:
    sender = record.sender.encode()
    if not 0 < len(sender) <= _SENDER or len(record.digest) != DIGEST_BYTES:
        raise ConfigError(
            f"got a sender of {len(sender)} bytes and a digest of {len(record.digest)}; expected 1 to {_SENDER} "
            f"and {DIGEST_BYTES}"
        )
    return _HEAD.pack(len(record.data), len(sender), record.digest) + sender


def _read(view: memoryview, at: int) -> tuple[Record, int]:
    """The record at ``at``, which fits, and where the next begins."""
    length, sender, digest = _HEAD.unpack_from(view, at)
    start = at + _HEAD.size
    body = start + sender
    return Record(str(view[start:body], "utf-8"), digest, view[body : body + length]), body + length + _TAG


def write_at(file: int, pieces: Sequence[bytes | memoryview], at: int) -> int:
    """Write ``pieces`` at an offset without joining them; returns where they end. ``OSError`` if not all fit."""
    left = [view for one in pieces if len(view := memoryview(one))]
    while left:
        written = os.pwritev(file, left[:_PIECES], at)
        if not written:
            raise OSError(errno.ENOSPC, "the file took no more bytes")
        at += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
    return at
