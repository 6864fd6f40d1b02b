"""Masks on one core: our kernel, the raw keystream of OpenSSL, and a memory copy, in turn.

The raw keystream is AES-256-CTR in pieces of 64 KiB into one buffer, through ``cryptography``: what the cipher
alone costs, before anything is added to anything. A copy reads and writes a vector as a mask does.
The vectors have 64 MiB, which no cache holds, and 256 KiB, which the second-level cache of a core does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.amounts import duration
from bench.bounds import Bound
from bench.measure import Spread, Timer, Turns
from bench.oneshot_calls import Cpu
from bench.peers import require, times
from bench.report import Grid
from bench.ring import one_core
from mpc import masks

LARGE, SMALL = 1 << 24, 1 << 16  # lanes of 32 bits: 64 MB, and 256 KiB
MANY = 64  # keys that a server's task has
PIECE = 64 * 1024
OURS, MANY_OURS, RAW, COPY = "add_mask", f"add_masks, {MANY} keys", "raw AES-256-CTR of OpenSSL", "memory copy"

#: Bits of a vector of AES instructions → times the speed of the raw keystream that a mask of 64 MB is held to.
OVER_RAW = {512: 1.5, 256: 1.2}
OVER_COPY = 0.8  # of a memory copy, where that is less
OVER_RAW_IN_CACHE = 1.7


@dataclass(frozen=True)
class Compared:
    """One side: seconds of the processor for a whole vector and one key, and how many times as long as ours.

    ``peer`` is the side, ``work`` the size of the vector. ``our_bytes`` is there for ``bench compare``.
    """

    work: str
    peer: str
    seconds: Spread
    gigabytes_a_second: float
    ratio: Spread
    our_bytes: float | None = None


class Measuring:
    """The comparisons in progress. ``compared`` has the sides so far; ``path`` says what computes the masks."""

    def __init__(self, sizes: Sequence[int] = (LARGE, SMALL)) -> None:
        self.sizes = sizes
        self.compared: list[Compared] = []
        self.width = masks.width()
        self.path = f"{self.width}-bit vectors of AES instructions" if self.width else "OpenSSL"

    @property
    def steps(self) -> int:
        """How often :meth:`run` calls ``step``."""
        return len(self.sizes)

    def run(self, repeats: int, seconds: float, step: Callable[[str, str], None]) -> None:
        """Time all sides at each size, in turn, on one core."""
        for size in self.sizes:
            step("masks", work_of(size))
            with one_core(max(os.sched_getaffinity(0))):
                turns = Turns.of(calls(size), repeats, seconds)
            for side, taken in turns.seconds.items():
                keys = MANY if side == MANY_OURS else 1
                each = Spread.of(one / keys for one in taken)
                ratio = Spread.of(one / keys / own for one, own in zip(taken, turns.seconds[OURS], strict=True))
                self.compared.append(Compared(work_of(size), side, each, 4e-9 * size / each.median, ratio))

    def bounds(self) -> list[Bound]:
        """The bounds that the sides so far are held to. A path without AES instructions has none."""
        ratios = {(one.work, one.peer): one.ratio.median for one in self.compared}
        large, small = (work_of(size) for size in (self.sizes[0], self.sizes[-1]))
        held = []
        if self.width in OVER_RAW and (large, RAW) in ratios:
            raw, copy = ratios[large, RAW] / OVER_RAW[self.width], ratios[large, COPY] / OVER_COPY
            over = OVER_RAW[self.width]
            what = f"{large}: the raw keystream's speed over {over:g}, or a copy's over {OVER_COPY:g}"
            held.append(Bound(what, max(raw, copy), least=1.0))
        if self.width in OVER_RAW and (small, RAW) in ratios:
            held.append(Bound(f"{small}: times the raw keystream", ratios[small, RAW], least=OVER_RAW_IN_CACHE))
        return held


def work_of(size: int) -> str:
    """A vector of ``size`` lanes in words."""
    return f"{4 * size / 2**20:g} MiB" if size >= 1 << 18 else f"{4 * size / 2**10:g} KiB"


def calls(size: int) -> Mapping[str, Timer]:
    """All sides for a vector of ``size`` lanes, after our stream was compared with OpenSSL's."""
    key, vector = os.urandom(32), np.zeros(size, np.uint32)
    keyed = [(os.urandom(32), 1 if number % 2 else -1) for number in range(MANY)]
    zeros, buffer = bytes(PIECE), bytearray(PIECE + 15)
    source, target = np.frombuffer(os.urandom(4 * size), np.uint32), np.zeros(size, np.uint32)

    def raw() -> None:
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        for _ in range(0, 4 * size, PIECE):
            stream.update_into(zeros, buffer)

    expected = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * size))
    masks.add_mask(vector, key)
    require(vector.tobytes() == expected, "mpc.masks.add_mask")
    return {
        OURS: Cpu(lambda: masks.add_mask(vector, key)),
        RAW: Cpu(raw),
        COPY: Cpu(lambda: np.copyto(target, source)),
        MANY_OURS: Cpu(lambda: masks.add_masks(vector, keyed)),
    }


def masks_grid(measuring: Measuring, processor: str) -> Grid:
    """The table: a row for each side and size."""
    rows = [
        (
            one.work,
            one.peer,
            duration(one.seconds.median),
            f"{one.gigabytes_a_second:.1f} GB/s",
            times(one.ratio.median),
            f"{times(one.ratio.least)} – {times(one.ratio.most)}",
        )
        for one in measuring.compared
    ]
    note = (
        f"One core of {processor}; masks by {measuring.path}. Seconds of the processor for the whole vector and "
        f"one key. The ratio is how many times as long a side takes as {OURS}, turn by turn."
    )
    return Grid("Masks", ("vector", "side", "seconds", "rate", "times ours", "from – to"), rows, [note])
