"""What one process shares among its parties: bytes of bodies in memory, and requests a second."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Final

from secagg.api.problems import Kind, Problem

_MEMORY: Final = 10.0  # seconds over which the rate is averaged
_LONGEST: Final = 60.0  # seconds of Retry-After
_MOST_PARTIES: Final = 1 << 14


class ByteBudget:
    """``total`` bytes that uploads hold while they are in memory, in the order in which they came.

    A small upload does not overtake a large one, so a large one is served too. An upload that waits longer than
    ``seconds`` gets a :attr:`Kind.OVERLOADED`, and the time to wait by the rate at which bytes have become free.
    For one event loop.
    """

    def __init__(self, total: int, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self.total, self.free = total, total
        self._seconds, self._clock = seconds, clock
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._mass, self._at = 0.0, clock()

    @property
    def rate(self) -> float:
        """Bytes a second that became free, on average over the last seconds."""
        return self._mass * math.exp((self._at - self._clock()) / _MEMORY) / _MEMORY

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold ``size`` bytes of the budget during the block; ``Problem`` if there is no room in time."""
        await self._take(size)
        try:
            yield
        finally:
            self._give(size)

    async def _take(self, size: int) -> None:
        if size > self.total:
            raise Problem(Kind.TOO_LARGE)
        if not self._waiting and size <= self.free:
            self.free -= size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((granted, size))
        try:
            async with asyncio.timeout(self._seconds):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                self._give(size)  # it was granted in the turn in which the wait ended
            else:
                granted.cancel()
                self._grant()
            if isinstance(error, TimeoutError):
                raise Problem(Kind.OVERLOADED, retry_after=self._wait_for(size)) from None
            raise

    def _give(self, size: int) -> None:
        now = self._clock()
        self._mass = self._mass * math.exp((self._at - now) / _MEMORY) + size
        self._at = now
        self.free += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            granted, size = self._waiting[0]
            if not granted.done():
                if size > self.free:
                    return
                self.free -= size
                granted.set_result(None)
            self._waiting.popleft()

    def _wait_for(self, size: int) -> float:
        """Seconds until there is room for ``size`` bytes behind those that wait, at the rate until now."""
        queued = size + sum(other for granted, other in self._waiting if not granted.done())
        return min(_LONGEST, max(1.0, queued / self.rate if self.rate else self._seconds))


class PartyRate:
    """How often each party may send a request: ``rate`` a second on average, and ``burst`` at once.

    One number a party: the time at which all that it has sent would be due at the even rate (the generic cell rate
    algorithm, ITU-T I.371). At most ``most`` parties are remembered, those that sent last.
    """

    def __init__(
        self, rate: float, burst: int, *, most: int = _MOST_PARTIES, clock: Callable[[], float] = monotonic
    ) -> None:
        self._step, self._slack, self._most, self._clock = 1.0 / rate, burst / rate, most, clock
        self._due: OrderedDict[str, float] = OrderedDict()

    def count(self, party: str) -> None:
        """Count one request of ``party``; a :attr:`Kind.TOO_MANY_REQUESTS` if it is too early."""
        now = self._clock()
        due = max(now, self._due.get(party, now)) + self._step
        if due - now > self._slack * (1 + 1e-9):
            raise Problem(Kind.TOO_MANY_REQUESTS, retry_after=due - self._slack - now)
        self._due[party] = due
        self._due.move_to_end(party)
        if len(self._due) > self._most:
            self._due.popitem(last=False)
