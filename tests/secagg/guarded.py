"""Packing and masking of vectors that begin and end at pages of memory that nobody may read; run as a process.

The process dies at the first byte that a loop reads or writes outside of what it was given. Its argument says what
it does: ``packing``, ``masks``, or ``control``, which reads one byte too many.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
ROOM = 2 * PAGE
READ = mmap.PROT_READ
WRITE = mmap.PROT_READ | mmap.PROT_WRITE
LENGTHS = (*range(1, 26), 31, 64, 65, 127, 200)

C = ctypes.CDLL(None)
C.mmap.restype = ctypes.c_void_p
C.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
C.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """Two pages of memory between two that nobody may read."""

    def __init__(self) -> None:
        start = C.mmap(None, ROOM + 2 * PAGE, WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert start not in (None, ctypes.c_void_p(-1).value)
        self.start = start + PAGE
        for page in (start, self.start + ROOM):
            assert C.mprotect(page, PAGE, 0) == 0

    def holding(self, array: Any, *, at_end: bool, fixed: bool = False) -> Any:
        """A copy of ``array`` at the first byte or at the last, in memory that is ``fixed`` or can be written."""
        assert C.mprotect(self.start, ROOM, WRITE) == 0
        start = self.start + (ROOM - array.nbytes) * at_end
        copy = np.frombuffer((ctypes.c_uint8 * array.nbytes).from_address(start), np.uint8).view(array.dtype)
        copy[:] = array
        if fixed:
            assert C.mprotect(self.start, ROOM, READ) == 0
        return copy


def vectors(most: int = 64) -> Iterator[tuple[Any, Any, int, bool]]:
    """A vector and a sum of each kind of lanes and of each length, how many bits fit, and at which end they go."""
    random = np.random.default_rng(0)
    for kind in (np.uint32, np.uint64):
        for length in LENGTHS:
            vector, total = random.integers(0, 2**64, (2, length), np.uint64).astype(kind)
            for at_end in (False, True):
                yield vector, total, min(most, 8 * total.itemsize), at_end


def pack_and_add(source: Guarded, wire: Guarded, sums: Guarded) -> None:
    """Every width of a coordinate."""
    from secagg.packing import pack, unpack_add

    for vector, total, most, at_end in vectors():
        for bits in range(1, most + 1):
            packed = pack(source.holding(vector, at_end=at_end, fixed=True), bits)
            data = wire.holding(np.frombuffer(packed, np.uint8), at_end=at_end, fixed=True)
            into = sums.holding(total, at_end=at_end)
            unpack_add(memoryview(data), bits, into)
            assert (into == total + (vector & vector.dtype.type(2**bits - 1))).all(), (bits, vector.size)


def mask(sums: Guarded) -> None:
    """Streams that begin anywhere in a block, in a piece, and close to their end."""
    from mpc.masks import add_masks

    keyed = [(bytes(range(32)), 1), (bytes(range(1, 33)), -1)]
    for _, total, _, at_end in vectors():
        for offset in (0, 1, 2, 3, 31, 33, 127, 2**32 - 5, 2**64 - total.size):
            into = sums.holding(total, at_end=at_end)
            add_masks(into, keyed, offset=offset)
            add_masks(into, [(key, -sign) for key, sign in keyed], offset=offset)
            assert (into == total).all()


def main(what: str) -> None:
    """Do it, and print that it was done."""
    source, wire, sums = Guarded(), Guarded(), Guarded()
    if what == "control":
        ctypes.string_at(sums.holding(np.zeros(3, np.uint64), at_end=True).ctypes.data, 25)
    elif what == "masks":
        mask(sums)
    else:
        from secagg import _bits

        for eights in {_bits.available(), False}:
            _bits.available = lambda eights=eights: eights  # type: ignore[assignment]
            pack_and_add(source, wire, sums)
    print("inside")


if __name__ == "__main__":
    main(sys.argv[1])
