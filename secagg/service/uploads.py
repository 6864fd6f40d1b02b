"""Large messages, which arrive in parts: each in a file that the next part continues."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import mmap
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from secagg.api.problems import Kind, Problem


class Uploads:
    """The unfinished messages in one folder, at most one of each party in each session.

    A part is on the disk before its answer leaves. What a crash of the whole machine left damaged is noticed when
    the message is whole: it then has another digest than its address, and its sender begins again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._busy: set[str] = set()  # sessions and parties, as in the names of files
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, session: str, party: str, digest: bytes) -> Path:
        name = hashlib.sha256(party.encode()).hexdigest()[:32]  # a party's id never becomes part of a path
        return self._folder / f"{session[:32]}.{name}.{digest.hex()[:32]}"

    async def offset(self, session: str, party: str, digest: bytes) -> int:
        """How many bytes of the message are here."""
        return await asyncio.to_thread(_size, self._path(session, party, digest))

    @asynccontextmanager
    async def append(
        self, session: str, party: str, digest: bytes, at: int, part: bytes | memoryview, last: bool, most: int
    ) -> AsyncIterator[memoryview | None]:
        """Add a part at the offset ``at``. With the ``last`` one, yields the whole message while the block runs.

        The message is mapped, not read, so that it needs no memory; its file is deleted with the block.
        """
        if last and not at + len(part):
            raise Problem(Kind.BAD_REQUEST, "the message is empty")
        path = self._path(session, party, digest)
        message = path.name.rpartition(".")[0]
        if message in self._busy:  # so a party can't fill the disk with messages that it begins at the same time
            raise Problem(Kind.UPLOAD_OFFSET, "another part is being written", retry_after=1.0)
        self._busy.add(message)
        try:
            await asyncio.to_thread(self._write, path, at, part, most)
            if not last:
                yield None
                return
            try:
                with _mapped(path) as whole:
                    yield whole
            finally:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        finally:
            self._busy.discard(message)

    def _write(self, path: Path, at: int, part: bytes | memoryview, most: int) -> None:
        size = _size(path)
        if at != size:
            raise Problem(Kind.UPLOAD_OFFSET, f"the upload continues at {size}")
        if at + len(part) > most:
            raise Problem(Kind.TOO_LARGE)
        if not at:
            stem = path.name.rpartition(".")[0]
            for other in self._folder.glob(f"{stem}.*"):
                other.unlink(missing_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                view, done = memoryview(part), 0
                while done < len(view):
                    done += os.pwrite(descriptor, view[done:], at + done)
                os.fdatasync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Problem(Kind.STORAGE_FULL, retry_after=5.0) from error

    def forget(self, session: str) -> None:
        """Delete what is left of a session that has ended."""
        for path in self._folder.glob(f"{session[:32]}.*"):
            if path.name.rpartition(".")[0] not in self._busy:
                path.unlink(missing_ok=True)

    def forget_others(self, sessions: set[str]) -> None:
        """Delete what is left of all sessions but these."""
        keep = {one[:32] for one in sessions}
        for path in self._folder.iterdir():
            if path.name.partition(".")[0] not in keep:
                path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(mapped)
        try:
            yield view
        finally:
            with contextlib.suppress(BufferError):  # an answer still looks at it; the collector closes the map
                view.release()
                mapped.close()
