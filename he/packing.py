"""Many small non-negative integers in one large integer, so that sums stay separate.

A slot is as wide as the largest sum that it may have to hold; then no slot carries into the next.
Slot 0 is the least significant.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from he import _slot_kernels
from he._numbers import whole
from he.errors import HEError

MAX_WIDTH = 63
"""Bits of the widest slot: sums are returned as int64."""


@dataclass(frozen=True)
class Slots:
    """``count`` slots of ``width`` bits in an integer below 2^(``count`` * ``width``).

    Raises :class:`HEError` unless ``width`` is 1 to 63 and ``count`` at least 1.
    """

    width: int
    count: int

    def __post_init__(self) -> None:
        for name in ("width", "count"):
            object.__setattr__(self, name, whole(getattr(self, name)) or 0)
        if not 1 <= self.width <= MAX_WIDTH or self.count < 1:
            raise HEError(
                f"got {self.count} slots of {self.width} bits; expected at least 1, of 1 to {MAX_WIDTH} bits"
            )

    def integers(self, length: int) -> int:
        """How many integers hold ``length`` values."""
        return -(-length // self.count)

    def pack(self, values: NDArray[np.uint64]) -> list[int]:
        """The integers that hold ``values``, (length,), each below 2^``width``; unused slots of the last one are 0.

        Raises :class:`HEError`, naming the first index, if a value does not fit.
        """
        over = np.flatnonzero(values >> np.uint64(self.width))
        if over.size:
            raise HEError(f"value {over[0]} has more bits than the {self.width} of a slot")
        words = np.zeros((self.integers(values.size), self._words()), np.uint64)
        _slot_kernels.pack(np.ascontiguousarray(values), self.count, self.width, words)
        return [int.from_bytes(row, "little") for row in words.astype("<u8", copy=False)]

    def unpack(self, integers: Sequence[int]) -> NDArray[np.uint64]:
        """All slots of ``integers``, (len(integers) * count,).

        Raises :class:`HEError` if an integer is negative or has bits above its slots.
        """
        size = 8 * self._words()
        for i, integer in enumerate(integers):
            if integer < 0 or integer.bit_length() > self.count * self.width:
                raise HEError(f"integer {i} has bits outside its {self.count} slots of {self.width} bits")
        data = b"".join(int(integer).to_bytes(size, "little") for integer in integers)
        words = np.frombuffer(data, "<u8").reshape(len(integers), -1).astype(np.uint64, copy=False)
        values = np.empty(len(integers) * self.count, np.uint64)
        _slot_kernels.unpack(words, self.count, self.width, values)
        return values

    def _words(self) -> int:
        return -(-self.count * self.width // 64)
