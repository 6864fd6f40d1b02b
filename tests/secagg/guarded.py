"""Compiled loops on arrays that begin and end at pages of memory that nobody may read; run as a process.

The process dies at the first byte that a loop reads or writes outside of what it was given. Its argument says what
it does: ``packing``, ``masks``, ``kernels`` (those of ``he``, ``dp`` and ``mpc``), ``control``, which reads one
byte too many, or ``kernel control``, in which a kernel does.
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
    """``room`` bytes of memory, whole pages, between two pages that nobody may read."""

    def __init__(self, room: int = ROOM) -> None:
        start = C.mmap(None, room + 2 * PAGE, WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert start not in (None, ctypes.c_void_p(-1).value)
        self.start, self.room = start + PAGE, room
        for page in (start, self.start + room):
            assert C.mprotect(page, PAGE, 0) == 0

    def holding(self, array: Any, *, at_end: bool, fixed: bool = False) -> Any:
        """A copy of ``array`` at the first byte or at the last, in memory that is ``fixed`` or can be written."""
        assert C.mprotect(self.start, self.room, WRITE) == 0
        assert array.nbytes <= self.room
        start = self.start + (self.room - array.nbytes) * at_end
        octets = np.frombuffer((ctypes.c_uint8 * array.nbytes).from_address(start), np.uint8)
        copy = octets.view(array.dtype).reshape(array.shape)
        copy[...] = array
        if fixed:
            assert C.mprotect(self.start, self.room, READ) == 0
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


def kernels() -> None:
    """Each kernel is called, and computes the same from guarded arrays as from others."""
    from he._rows import has_ifma
    from tests.constant_time import lists
    from tests.secagg.guarded_kernels import calls

    pages = [Guarded(1 << 21) for _ in range(9)]
    missing = {name for name in lists.kernels() if not name.startswith("secagg.")}
    if not has_ifma():
        missing.remove("he._montgomery._follow")
    for function, arguments in calls():
        missing.discard(f"{function.__module__}.{function.__name__}")
        arrays = {i: a for i, a in enumerate(arguments) if isinstance(a, np.ndarray)}
        results = []
        for at_end in (None, False, True):
            copies = {
                i: a.copy() if at_end is None else pages[i].holding(a, at_end=at_end) for i, a in arrays.items()
            }
            for i, copy in copies.items():
                copy.flags.writeable = arrays[i].flags.writeable
            returned = function(*(copies.get(i, a) for i, a in enumerate(arguments)))
            results.append((returned, [copy.tobytes() for copy in copies.values()]))
        assert results[0] == results[1] == results[2], (function, arguments)
    assert not missing, missing


def main(what: str) -> None:
    """Do it, and print that it was done."""
    source, wire, sums = Guarded(), Guarded(), Guarded()
    if what == "control":
        ctypes.string_at(sums.holding(np.zeros(3, np.uint64), at_end=True).ctypes.data, 25)
    elif what == "kernel control":
        from dp import _rotation

        _rotation.flip(np.ones(9), sums.holding(np.zeros(1, np.uint8), at_end=True), 0.5)  # needs 9 bits
    elif what == "masks":
        mask(sums)
    elif what == "kernels":
        kernels()
    else:
        from secagg import _bits

        for eights in {_bits.available(), False}:
            _bits.available = lambda eights=eights: eights  # type: ignore[assignment]
            pack_and_add(source, wire, sums)
    print("inside")


if __name__ == "__main__":
    main(sys.argv[1])
