"""The requests of a round to its clients, in a file: together they may be larger than what the round keeps."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from secagg.errors import ConfigError
from secagg.service.spool import write_at

_IN_MEMORY: Final = 1 << 20  # bytes; fewer are not worth a file


def kept_apart(outbox: Mapping[str, bytes], folder: Path) -> Mapping[str, bytes]:
    """``outbox`` as it is, or in a file without a name in ``folder`` if its different messages are large together.

    A restarted server asks again, so the file is not brought to the disk. ``OSError`` if it can't be written.
    """
    different = {id(data): data for data in outbox.values()}
    return _InFile(outbox, folder) if sum(map(len, different.values())) > _IN_MEMORY else outbox


class _InFile(Mapping[str, bytes]):
    """Messages by party in a file, each read when it is asked for. Bytes that many parties get are stored once.

    A message is in memory once, however many connections it is on its way to: they may all be slow.
    """

    def __init__(self, outbox: Mapping[str, bytes], folder: Path) -> None:
        with tempfile.TemporaryFile(dir=folder) as nameless:
            self._file = file = os.dup(nameless.fileno())
        weakref.finalize(self, os.close, file)
        places: dict[int, tuple[int, int]] = {}
        end = 0
        for data in outbox.values():
            if id(data) not in places:
                places[id(data)] = end, len(data)
                end = write_at(file, (data,), end)
        self._places = {party: places[id(data)] for party, data in outbox.items()}
        self._read = weakref.WeakValueDictionary[tuple[int, int], memoryview]()  # bytes can't be referred to weakly

    def __getitem__(self, party: str) -> bytes:
        place = self._places[party]
        if (view := self._read.get(place)) is None:
            view = self._read[place] = memoryview(self._from_file(*place))
        return cast("bytes", view)

    def _from_file(self, start: int, length: int) -> bytes:
        parts, done = list[bytes](), 0
        while done < length:  # Linux reads less than 2 GiB at once
            part = os.pread(self._file, length - done, start + done)
            if not part:
                raise ConfigError(f"got a file of requests that is cut short at byte {start + done}")
            parts.append(part)
            done += len(part)
        return b"".join(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
