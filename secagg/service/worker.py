"""The thread of one session: it alone touches the server and its files.

It writes a message to the spool before the server takes it, and the sender gets its answer after both. So when the
process is killed, the state at the opening of the round and the spool give the same server again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from secagg.errors import Aborted, Fault, FaultKind, LocalProtocolError
from secagg.roles import Incoming, Outcome, Server
from secagg.service.files import SessionFiles
from secagg.service.spool import Record

Result = TypeVar("Result")
Make = Callable[[bytes | None, Any], Server[Any]]
"""Makes the session's server from its saved state, or a new one, and the store for ``save=``."""


class Taken(NamedTuple):
    """What became of a message: ``kept`` if it is on the disk and in the session.

    Otherwise it was ``late``, because its round is over, or ``damaged``, because it is not the message that its
    address names, or ``refused`` for this kind of fault, or it found no room.
    """

    kept: bool
    refused: FaultKind | None = None
    late: bool = False
    damaged: bool = False


class Arrived(NamedTuple):
    """A message that waits for the worker, and the future of its answer."""

    sender: str
    number: int  # of the round that it answers
    digest: bytes  # that its address names
    data: bytes | memoryview
    answer: asyncio.Future[Taken]


class Opened(NamedTuple):
    """What the worker hands to the event loop when a round is open.

    ``outbox`` has the requests, ``forwards`` what was handed on to clients since, in order.
    """

    number: int
    name: str
    asked: frozenset[str]
    pending: frozenset[str]
    outbox: Mapping[str, bytes]
    forwards: Mapping[str, list[bytes]]
    remaining: float | None
    taken: Mapping[str, tuple[bytes, ...]]


class Ended(NamedTuple):
    """What the worker hands to the event loop at the end: the outcome, and the last messages."""

    outcome: Outcome
    outbox: Mapping[str, bytes]


class Drained(NamedTuple):
    """What the worker hands to the event loop when it has taken a batch."""

    number: int
    pending: frozenset[str]
    faults: tuple[Fault, ...]
    results: list[Taken]
    forwards: Mapping[str, list[bytes]]


class Worker:
    """The server of one session in a thread of its own. Methods other than ``call`` and ``stop`` run there."""

    def __init__(self, files: SessionFiles, make: Make, listeners: frozenset[str]) -> None:
        self.files = files
        self._make, self._listeners = make, listeners
        self._server: Server[Any] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"session-{files.key[:8]}")

    def call(self, call: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        """Run ``call`` in the thread, after all that was asked before."""
        return asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def stop(self) -> None:
        """Let the thread end what it does, and release the files."""
        await self.call(self.files.close)
        await asyncio.to_thread(self._thread.shutdown)

    @property
    def server(self) -> Server[Any]:
        """The session's server."""
        assert self._server is not None
        return self._server

    def restore(self) -> Opened | Ended:
        """Make the server as the files have it: its newest state, then the messages that it took since."""
        self._server = None
        store = self.files.store
        server = self._make(store.load(), store)
        self.files.restore_relays()
        try:
            outbox = server.start()
        except LocalProtocolError as error:
            raise Aborted("the session was aborted before the service was restarted") from error
        self._server = server
        if server.outcome is not None:
            return self._end(outbox)
        asked, number = server.pending, server.position
        self.files.relay(number, outbox)
        requests = self.files.requests(outbox)
        del outbox  # a spool may be as large as all inputs
        forwards: dict[str, list[bytes]] = {}
        for record in self.files.open_spool(number).replay():
            self._forward(number, server.take(server.read(record.sender, record.data)), forwards)
        remaining = self.files.remaining
        return Opened(
            number, server.round or "", asked, server.pending, requests, forwards, remaining, server.taken
        )

    def take(self, batch: list[Arrived]) -> Drained:
        """Take messages: all that are new and genuine are on the disk, by one write, before the server takes any.

        ``OSError`` if they can't be written; then nothing was taken.
        """
        server = self.server
        read = server.read_all((one.sender, one.data) for one in batch)
        number = server.position
        new = [
            Record(one.sender, one.digest, one.data)
            for one, incoming in zip(batch, read, strict=True)
            if one.number == number and incoming.digest == one.digest and not server.took(one.sender, one.digest)
        ]
        if new:
            self.files.spool.append(new)
        forwards: dict[str, list[bytes]] = {}
        results = [self._take(one, incoming, forwards) for one, incoming in zip(batch, read, strict=True)]
        return Drained(number, server.pending, server.faults, results, forwards)

    def _take(self, one: Arrived, incoming: Incoming, forwards: dict[str, list[bytes]]) -> Taken:
        server = self.server
        if incoming.digest is not None and incoming.digest != one.digest:
            return Taken(False, damaged=True)
        if one.number != server.position:  # the server would book a fault, and the sender did nothing wrong
            kept = server.took(one.sender, one.digest)
            return Taken(kept, late=not kept)
        before = len(server.faults)
        self._forward(one.number, server.take(incoming), forwards)
        if incoming.digest is not None and server.took(one.sender, one.digest):
            return Taken(True)
        faults = server.faults
        return Taken(False, faults[-1].kind if len(faults) > before else None)

    def _forward(self, number: int, outbox: Mapping[str, bytes], forwards: dict[str, list[bytes]]) -> None:
        """Hand on what the server returned: to listeners by their files, to clients by the event loop."""
        self.files.relay(number, outbox)
        for party, data in outbox.items():
            kept = forwards.setdefault(party, [])
            if party not in self._listeners:
                kept.append(data)

    def write_remaining(self, number: int, seconds: float) -> None:
        """Write how long the round ``number`` has left, if it is still open."""
        if self._server is not None and self._server.position == number:
            self.files.write_remaining(seconds)

    def close(self, name: str) -> Opened | Ended:
        """Close the round ``name``; ``Aborted`` if too few parties answered."""
        server = self.server
        self.files.before_close(server.position + 1)
        outbox = server.close_round(name)
        if server.outcome is not None:
            return self._end(outbox)
        self.files.next_spool(server.position)
        self.files.relay(server.position, outbox)
        pending, requests = server.pending, self.files.requests(outbox)
        return Opened(server.position, server.round or "", pending, pending, requests, {}, None, {})

    def _end(self, outbox: Mapping[str, bytes]) -> Ended:
        server = self.server
        assert server.outcome is not None
        self.files.finish("done", taken=server.taken, outcome=server.outcome)
        return Ended(server.outcome, outbox)

    def fail(self, reason: str) -> None:
        """Write that the session has no outcome."""
        taken = {} if self._server is None else self._server.taken
        self.files.finish("failed", reason=reason, taken=taken)
