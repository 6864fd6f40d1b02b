"""What the checks are made of: repeatable randomness, exact integers, a store in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpc.keys import seeded_rng
from secagg.encoding import Decoded, PlainEncoding, Rng, Segment
from secagg.layout import AnyFloat, Layout
from secagg.packing import Lanes
from secagg.store import Ledger, MemoryLedger, join_rows, split_rows


def rng_for_tests(seed: bytes) -> Callable[[int], bytes]:
    """Return a generator in the place of ``os.urandom`` that repeats itself, so that sessions can be replayed.

    For tests and published transcripts: anyone who knows ``seed`` (any bytes) knows everything that a
    role draws. The stream is AES-256-CTR under HKDF-SHA256 of SHA-256(``seed``); see ``mpc.keys.seeded_rng``.
    """
    return seeded_rng(hashlib.sha256(seed).digest(), salt=b"", info=b"secagg/v1/rng-for-tests")


def clock_for_tests() -> float:
    """A clock that stands still."""
    return 1_800_000_000.0


class RequirementError(AssertionError):
    """A requirement that does not hold: its arguments are what was expected, and what happened."""


def require(holds: object, expected: str, got: object) -> None:
    """Raise :class:`RequirementError` with ``expected`` and ``got`` unless ``holds``."""
    if not holds:
        raise RequirementError(expected, f"{got!s:.500}")


@dataclass(frozen=True)
class Integers(PlainEncoding):
    """An encoding whose sums can be read to the last bit, over segments of any kind.

    ``shapes`` has (length, bound, modulus) of each segment. An update is one float64 vector: the upper parts of all
    integers, then their lower 31 bits; so is the sum. Its methods are those of :class:`secagg.encoding.Encoding`,
    with the same arguments.
    """

    shapes: tuple[tuple[int, int, int | None], ...]

    @property
    def layout(self) -> Layout:
        """The layout of the updates that this encoding takes."""
        return Layout.of({"halves": np.zeros(2 * sum(length for length, *_ in self.shapes))})

    def segments(self, layout: Layout, max_weight: int | None) -> tuple[Segment, ...]:
        """See :class:`secagg.encoding.Encoding`."""
        return tuple(Segment(*shape) for shape in self.shapes)

    def encode(
        self, vector: AnyFloat, *, layout: Layout, weight: int | None, max_weight: int | None, rng: Rng
    ) -> list[Lanes]:
        """The integers in ``vector`` themselves; ``rng`` is not used."""
        high, low = vector.astype(np.uint64).reshape(2, -1)
        cuts = np.cumsum([length for length, *_ in self.shapes])[:-1]
        parts = np.split(high << np.uint64(31) | low, cuts)
        return [
            part.astype(np.uint32 if bound < 1 << 32 else np.uint64)
            for part, (_, bound, _) in zip(parts, self.shapes, strict=True)
        ]

    def decode(self, sums: Sequence[Lanes], *, layout: Layout, survivors: int, max_weight: int | None) -> Decoded:
        """The ``sums`` themselves, modulo what only matters modulo that, over ``survivors`` clients."""
        reduced = [
            [int(total) % (modulus or 1 << 64) for total in part]
            for part, (_, _, modulus) in zip(sums, self.shapes, strict=True)
        ]
        total = self.halves([number for part in reduced for number in part])
        return Decoded(total, total / survivors, survivors, None)

    def halves(self, numbers: Sequence[int]) -> NDArray[np.float64]:
        """``numbers`` as an update."""
        return np.array([n >> 31 for n in numbers] + [n & (1 << 31) - 1 for n in numbers], np.float64)


class MemoryStore:
    """A ``save`` in memory, with a ledger: it keeps all states, and requires that their numbers rise.

    ``ledger`` is by default a new one. Raises :class:`RequirementError` where the numbers don't rise.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger: Ledger | None = MemoryLedger() if ledger is None else ledger
        self.number = -1
        self.states: list[bytes] = []

    @property
    def state(self) -> bytes:
        """The newest state."""
        return self.states[-1] if self.states else b""

    def __call__(self, number: int, state: bytes) -> None:
        """Keep ``state`` under ``number``, which must be above the last one."""
        require(number > self.number, "rising numbers of saved states", f"{number} after {self.number}")
        self.number = number
        self.states.append(state)

    def append(self, number: int, row: bytes) -> bool:
        """See :meth:`secagg.store.AppendingStore.append`."""
        if not self.states or number != self.number + 1:
            return False
        state, rows = split_rows(self.state)
        self(number, join_rows(state, [*rows, row]))
        return True
