"""What the server handed on to the listeners of a session: aggregators, decryptors, committee members.

Together these messages may be as large as all uploads, so they are in a file, and only their places in memory.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib
from array import array
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple, Self

from secagg._rows import sync_folder
from secagg.errors import ConfigError
from secagg.service.spool import write_at

_HEAD: Final = struct.Struct(">QIII")  # the body's length, the round, the length of the names, a CRC-32 of all that
_LARGE: Final = 1 << 20  # bytes of a batch
_NAMES: Final = 1 << 24  # the most bytes that the listeners' ids of one message take


class Relayed(NamedTuple):
    """A message that was handed on, and the number of the round in which it was."""

    round: int
    data: bytes | memoryview


class Relays:
    """The messages of one session to its listeners, in one file in ``folder``; each has a number for each listener.

    The file is not brought to the disk with each message: the spool has what they follow from. :meth:`sync` does
    that when a round is closed, and returns where the file ends. That is saved with the state. After a crash
    :meth:`truncate` cuts off what follows, and the role hands it on again when the spool is replayed.

    One thread writes while others read. Where :meth:`append` raises ``OSError``, nothing was kept.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._path = Path(folder) / "relays"
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"got relays {self._path}, which can't be opened: {error}") from error
        self._lock, self._end = threading.Lock(), 0
        self._reading = threading.Lock()  # nobody may cut or close the file while its bytes are read
        self._forget()
        self._find(os.fstat(self._file).st_size)

    @property
    def size(self) -> int:
        """The bytes of the messages and their heads."""
        return self._end

    def append(self, party: str, round: int, data: bytes | memoryview) -> None:
        """Hand ``data`` on to ``party`` in the round with the number ``round``."""
        self.broadcast((party,), round, data)

    def broadcast(self, parties: Collection[str], round: int, data: bytes | memoryview) -> None:
        """Hand ``data`` on to each of ``parties``; the bytes are stored once."""
        names = "\n".join(parties).encode()
        if not parties or isinstance(parties, str) or len(names) > _NAMES:
            raise ConfigError("got no list of listeners, or one that is too long; expected their ids")
        head = _HEAD.pack(len(data), round, len(names), 0)[:-4]
        head += zlib.crc32(names, zlib.crc32(head)).to_bytes(4, "big")
        end = write_at(self._file, (head, names, data), self._end)
        self._enter(parties, round, self._end + len(head) + len(names), len(data))
        self._end = end

    def count(self, party: str) -> int:
        """How many messages ``party`` has."""
        with self._lock:
            return len(self._of.get(party, ()))

    def read(self, party: str, index: int, most: int, most_bytes: int) -> list[Relayed]:
        """The messages of ``party`` from number ``index`` on: at most ``most``, and ``most_bytes`` in all.

        If the first alone is longer than ``most_bytes``, it comes alone. There are none after :meth:`close`.
        """
        with self._reading:
            places, size = list[tuple[int, int, int]](), 0
            for place in self._places(party, index, max(most, 0)):
                if places and size + place[2] > most_bytes:
                    break
                places.append(place)
                size += place[2]
            # One piece of memory, which goes back to the system as a whole: a thread's own allocator would keep it.
            memory = memoryview(mmap.mmap(-1, size) if size > _LARGE else bytearray(size))
            messages, at = list[Relayed](), 0
            for number, start, length in places:
                piece = memory[at : at + length]
                self._fill(piece, start)
                messages.append(Relayed(number, piece.toreadonly() if size > _LARGE else bytes(piece)))
                at += length
        return messages

    def sync(self) -> int:
        """Bring all messages to the disk; returns where the file ends, for :meth:`truncate`."""
        os.fdatasync(self._file)
        sync_folder(self._path.parent)
        return self._end

    def truncate(self, end: int) -> None:
        """Forget the messages that were handed on after the :meth:`sync` that returned ``end``; 0 forgets all.

        ``ConfigError`` if the messages up to there are not all in the file.
        """
        with self._reading:
            with self._lock:
                self._forget()
            self._find(min(end, os.fstat(self._file).st_size))
            if self._end != end:
                raise ConfigError(
                    f"got relays {self._path}, damaged at byte {self._end} of {end}; give this session up"
                )
            os.ftruncate(self._file, end)

    def delete(self) -> None:
        """Delete the file with its folder, and close it."""
        self._path.unlink(missing_ok=True)
        self._path.parent.rmdir()
        self.close()

    def close(self) -> None:
        """Release the file; the messages stay in it, and readers see none from now on."""
        with self._reading, self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1
            self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _places(self, party: str, index: int, most: int) -> list[tuple[int, int, int]]:
        """The round, the start and the length of each of a listener's messages."""
        with self._lock:
            numbers = self._of.get(party, array("Q"))[index : index + most]
            return [(self._rounds[n], self._starts[n], self._lengths[n]) for n in numbers]

    def _forget(self) -> None:
        self._end = 0
        self._of: dict[str, array[int]] = {}
        self._rounds, self._starts, self._lengths = array("I"), array("Q"), array("Q")

    def _enter(self, parties: Collection[str], round: int, start: int, length: int) -> None:
        """Make a message that is in the file visible to readers."""
        with self._lock:
            number = len(self._starts)
            self._rounds.append(round)
            self._starts.append(start)
            self._lengths.append(length)
            for party in parties:
                self._of.setdefault(party, array("Q")).append(number)

    def _find(self, size: int) -> None:
        """Walk over the heads up to ``size``, or to the first one that doesn't fit."""
        while self._end + _HEAD.size <= size:
            head = os.pread(self._file, _HEAD.size, self._end)
            if len(head) < _HEAD.size:
                return
            length, round, names_length, crc = _HEAD.unpack(head)
            start = self._end + _HEAD.size + names_length
            if names_length > _NAMES or start + length > size:
                return
            names = os.pread(self._file, names_length, self._end + _HEAD.size)
            if zlib.crc32(names, zlib.crc32(head[:-4])) != crc:
                return
            try:
                parties = names.decode().split("\n")
            except UnicodeDecodeError:
                return
            self._enter(parties, round, start, length)
            self._end = start + length

    def _fill(self, piece: memoryview, start: int) -> None:
        done = 0
        while done < len(piece):  # Linux reads less than 2 GiB at once
            read = os.preadv(self._file, [piece[done:]], start + done)
            if not read:
                raise ConfigError(f"got relays {self._path}, cut short at byte {start}; give this session up")
            done += read
