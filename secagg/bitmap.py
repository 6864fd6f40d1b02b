"""A set of parties as a bitmap over a sorted list of ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from secagg.errors import FaultKind
from secagg.wire import Reject


def to_bitmap(members: Iterable[str], u1: Sequence[str]) -> bytes:
    """A subset of the sorted ids ``u1`` as a bitmap: bit i of byte j stands for id 8j + i."""
    marks, inside = bytearray((len(u1) + 7) // 8), set(members)
    for position, party in enumerate(u1):
        marks[position >> 3] |= (party in inside) << (position & 7)
    return bytes(marks)


def from_bitmap(bitmap: bytes, u1: Sequence[str]) -> list[str]:
    """The ids in ``u1`` that a bitmap marks, sorted; ``Reject`` for a wrong length or a bit beyond the last id."""
    marked: list[int] = []
    if whole := len(bitmap) == (len(u1) + 7) // 8:
        marked = np.flatnonzero(np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")).tolist()
    if not whole or (marked and marked[-1] >= len(u1)):
        raise Reject(FaultKind.INVALID, f"got a set of {len(bitmap)} bytes for {len(u1)} clients")
    return [u1[position] for position in marked]


def bitmap_bytes(clients: int) -> int:
    """Bytes of a bitmap over so many ``clients``."""
    return (clients + 7) // 8
