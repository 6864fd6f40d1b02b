"""Memory for the bodies of uploads, which is used again.

A page that is touched for the first time costs the kernel more than its share of a body's hash and signature. And
the allocator keeps what it gets back in pieces that fit nothing else, so that memory grows beyond what is in use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_STEP: Final = 1 << 16  # sizes are multiples of it, so that uploads of nearly one length share buffers
_SMALL: Final = 1 << 18  # below which the allocator is as good
_HELD: Final = 3  # references to a buffer that nobody else looks at: here, at the caller's, and the count itself

Buffer = NDArray[np.uint8]


class Buffers:
    """Buffers that are idle, at most ``room()`` bytes of them; for one event loop."""

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._idle: list[Buffer] = []
        self.idle_bytes = 0

    def take(self, length: int) -> Buffer:
        """A buffer of at least ``length`` bytes, which may have bytes of an earlier body in it."""
        fitting = [one for one in self._idle if length <= one.size <= 2 * length + _STEP]
        if fitting:
            best = min(fitting, key=lambda one: one.size)
            self._remove(best)
            return best
        while self._idle and self.idle_bytes > self._room():
            self._remove(self._idle[0])
        return np.empty(length if length < _SMALL else -(-length // _STEP) * _STEP, np.uint8)

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back, unless it is small, there is no room, or somebody still looks at it."""
        if (
            buffer.size >= _SMALL
            and sys.getrefcount(buffer) <= _HELD
            and self.idle_bytes + buffer.size <= self._room()
        ):
            self._idle.append(buffer)
            self.idle_bytes += buffer.size

    def _remove(self, buffer: Buffer) -> None:
        at: Any = next(at for at, one in enumerate(self._idle) if one is buffer)
        del self._idle[at]
        self.idle_bytes -= buffer.size
