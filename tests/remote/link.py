"""A link between clients and a service that is slow, drops connections, and can be cut for a while."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 4096


class Link:
    """Forwards connections to ``port`` on this machine.

    ``dropped`` is the share of the connections that break after a random number of bytes below ``most``; all others
    break after ten times as many, so that no connection lives long. ``rate`` is in bytes a second, for each
    connection and direction.
    """

    def __init__(self, port: int, *, dropped: float, most: int, rate: float, seed: int = 0) -> None:
        self._port, self._dropped, self._most, self._rate = port, dropped, most, rate
        self._random = random.Random(seed)
        self._writers: set[asyncio.StreamWriter] = set()
        self._up = threading.Event()
        self._up.set()
        self.connections = self.broken = self.cuts = 0

    @contextmanager
    def open(self) -> Iterator[int]:
        """Serve until the block ends; yields the port."""
        ready, port = threading.Event(), list[int]()
        loop = asyncio.new_event_loop()

        async def serve() -> None:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            port.append(server.sockets[0].getsockname()[1])
            self._stop = asyncio.Event()
            ready.set()
            await self._stop.wait()
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        ready.wait()
        self._loop = loop
        try:
            yield port[0]
        finally:
            loop.call_soon_threadsafe(self._stop.set)
            thread.join(30)
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def cut(self, seconds: float) -> None:
        """Break all connections, and let none through for so long."""
        self.cuts += 1
        self._up.clear()
        self._loop.call_soon_threadsafe(self._cut, seconds)

    def _cut(self, seconds: float) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        self._loop.call_later(seconds, self._up.set)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self._up.is_set():
            writer.transport.abort()
            return
        drops = self._random.random() < self._dropped
        budget = [self._random.randrange(self._most) if drops else 10 * self._most]
        behind, ahead = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, ahead}
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await asyncio.gather(self._carry(reader, ahead, budget), self._carry(behind, writer, budget))
        finally:
            self._writers -= {writer, ahead}
            writer.transport.abort()
            ahead.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, budget: list[int]) -> None:
        while piece := await source.read(_PIECE):
            budget[0] -= len(piece)
            if budget[0] < 0:
                self.broken += 1
                raise ConnectionResetError("the link broke")
            target.write(piece)
            await target.drain()
            await asyncio.sleep(len(piece) / self._rate)
        raise ConnectionResetError("one side closed")
