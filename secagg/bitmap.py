"""A set of parties as a bitmap over a sorted list of ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress

import numpy as np

from secagg.errors import FaultKind
from secagg.wire import Reject


def to_bitmap(members: Iterable[str], u1: Sequence[str]) -> bytes:
    """``members``, a subset of the sorted ids ``u1``, as a bitmap: bit i of byte j stands for id 8j + i."""
    inside = set(members)
    if not inside:
        return bytes(bitmap_bytes(len(u1)))
    marks = np.fromiter(map(inside.__contains__, u1), np.bool_, len(u1))
    return np.packbits(marks, bitorder="little").tobytes()


def from_bitmap(bitmap: bytes, u1: Sequence[str]) -> list[str]:
    """The ids in ``u1`` that ``bitmap`` marks, sorted.

    ``Reject`` for a wrong length or a bit beyond the last id.
    """
    if len(bitmap) == bitmap_bytes(len(u1)) and not bitmap.strip(b"\0"):
        return []  # without a look at each id: holders mark the shares that did not open, mostly none
    marks = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    if len(bitmap) != bitmap_bytes(len(u1)) or marks[len(u1) :].any():
        raise Reject(FaultKind.INVALID, f"got a set of {len(bitmap)} bytes for {len(u1)} clients")
    return list(compress(u1, marks.tobytes()))


def bitmap_bytes(clients: int) -> int:
    """Bytes of a bitmap over so many ``clients``."""
    return (clients + 7) // 8
