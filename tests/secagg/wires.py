"""Transports in memory between threads, with a clock that moves only when no party has anything to do."""

import asyncio
import threading
from collections import defaultdict, deque
from typing import Any


class GoneError(Exception):
    """What a transport of a party that falls silent raises."""


class Wires:
    """The server's transport. A deadline passes only while every party waits for the server.

    ``sent`` has all that the server sent, and ``times`` is how often each message is delivered.
    """

    def __init__(self, parties: list[str], *, times: int = 1) -> None:
        self.now, self.times = 0.0, times
        self.sent: list[tuple[str, bytes]] = []
        self._alive, self._waiting = set(parties), set[str]()
        self._inbox = deque[tuple[str, bytes]]()
        self._boxes = defaultdict[str, deque[bytes]](deque)
        self._news = threading.Condition()

    def clock(self) -> float:
        """Seconds; to be set in the place of ``time.monotonic``."""
        return self.now

    def send(self, party: str, message: bytes) -> None:
        with self._news:
            self.sent.append((party, message))
            self._boxes[party].extend([message] * (self.times if message else 1))
            self._news.notify_all()

    def receive(self, timeout: float) -> tuple[str, bytes] | None:
        with self._news:
            assert self._news.wait_for(lambda: self._inbox or self._idle(), 60)
            if self._inbox:
                return self._inbox.popleft()
            self.now += timeout
            return None

    def _idle(self) -> bool:
        return all(party in self._waiting and not self._boxes[party] for party in self._alive)

    def put(self, party: str, message: bytes) -> None:
        with self._news:
            self._inbox.extend([(party, message)] * self.times)
            self._news.notify_all()

    def take(self, party: str) -> bytes:
        with self._news:
            self._waiting.add(party)
            self._news.notify_all()
            assert self._news.wait_for(lambda: self._boxes[party], 60)
            self._waiting.discard(party)
            return self._boxes[party].popleft()

    def leave(self, party: str) -> None:
        """The party's process has ended."""
        with self._news:
            self._alive.discard(party)
            self._news.notify_all()


class Wire:
    """A party's transport, over which it falls silent before its answer number ``answers`` (from 0)."""

    def __init__(self, wires: Wires, party: str, answers: int | None = None) -> None:
        self._wires, self._party, self._left = wires, party, answers

    def send(self, message: bytes) -> None:
        if self._left == 0:
            raise GoneError(self._party)
        self._left = None if self._left is None else self._left - 1
        self._wires.put(self._party, message)

    def receive(self) -> bytes:
        return self._wires.take(self._party)


class Awaited:
    """A transport in memory, for asyncio."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    async def send(self, *arguments: Any) -> None:
        await asyncio.to_thread(self._transport.send, *arguments)

    async def receive(self, *arguments: Any) -> Any:
        return await asyncio.to_thread(self._transport.receive, *arguments)
