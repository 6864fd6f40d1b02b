"""The clock of one connection: how long its peer may take for what the connection waits for."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final

_AGAIN: Final = 1.0  # seconds until the clock looks again while the server itself is not ready
_ACKED: Final = struct.Struct("=Q")
_ACKED_AT: Final = 120  # tcpi_bytes_acked in Linux's struct tcp_info


def unread(peer: socket.socket) -> int:
    """How many of the bytes that the kernel has to send the peer has not acknowledged: 0 once it has them all."""
    try:
        (count,) = struct.unpack("=i", fcntl.ioctl(peer, termios.TIOCOUTQ, bytes(4)))
    except (OSError, ValueError):  # closed
        return 0
    return int(count)


def acknowledged(peer: socket.socket) -> int:
    """How many bytes the peer has acknowledged since it connected.

    A transport's own buffer does not tell this: under TLS it is empty as soon as the bytes are encrypted.
    """
    try:
        info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + _ACKED.size)
        return int(_ACKED.unpack_from(info, _ACKED_AT)[0])
    except (OSError, struct.error):
        return 0


class Deadline:
    """Calls ``expire`` when a peer has taken too long.

    Either for one thing, after ``grace`` seconds; or for a stream of bytes, as soon as fewer than ``rate`` bytes a
    second have moved since ``grace`` seconds after the start. A stream of L bytes ends within ``grace + L / rate``
    seconds, however it is dripped. One timer a connection, and none while nothing is awaited.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[], None]) -> None:
        self._loop, self._expire = loop, expire
        self._timer: asyncio.TimerHandle | None = None
        self._moved: Callable[[], int] | None = None
        self._excused: Callable[[], bool] | None = None

    def start(
        self,
        grace: float,
        rate: float = 0.0,
        moved: Callable[[], int] | None = None,
        excused: Callable[[], bool] | None = None,
    ) -> None:
        """Begin anew. ``moved`` counts the bytes since now. The clock restarts while ``excused`` is true."""
        self.stop()
        self._grace, self._rate, self._moved, self._excused = grace, rate, moved, excused
        self._since, self._before = self._loop.time(), 0
        self._timer = self._loop.call_later(grace, self._look)

    def stop(self) -> None:
        """Wait for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """Wait for nothing any more, and let go of the connection that the callbacks belong to."""
        self.stop()
        self._expire = lambda: None
        self._moved = self._excused = None

    @property
    def running(self) -> bool:
        """Whether something is awaited."""
        return self._timer is not None

    def _look(self) -> None:
        now, moved = self._loop.time(), self._moved() if self._moved else 0
        if self._excused is not None and self._excused():
            self._since, self._before = now, moved
            self._timer = self._loop.call_later(_AGAIN, self._look)
            return
        due = self._since + self._grace
        if self._rate:
            due += (moved - self._before) / self._rate
        if due <= now:
            self._timer = None
            self._expire()
        else:
            self._timer = self._loop.call_at(due, self._look)
