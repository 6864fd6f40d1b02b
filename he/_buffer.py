"""Memory for long bytes that are written where they stay.

The first write to fresh memory costs as much as encryption. So it should happen once, and nothing be copied.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Number = TypeVar("Number", bound=np.generic)


class Buffer:
    """Zeros to be written, in ``size`` bytes."""

    def __init__(self, size: int) -> None:
        # The system gives out zeros without touching memory. A file in memory takes them over.
        self._file = BytesIO(bytes(size))

    def write(self, first: int, data: bytes) -> None:
        """Write ``data`` from byte ``first`` on."""
        self._octets[first : first + len(data)] = np.frombuffer(data, dtype=np.uint8)

    def words(self, first: int, count: int) -> Words:
        """The memory of ``count`` words from byte ``first`` on, a multiple of 8."""
        return self._octets[first : first + 8 * count].view(np.uint64)

    def contents(self) -> bytes:
        """The bytes, without a copy if nobody refers to their memory any more. Call it once, at the end."""
        return self._file.getvalue()

    @property
    def _octets(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._file.getbuffer(), dtype=np.uint8)


@dataclass(frozen=True, eq=False, repr=False)
class Part(Generic[Number]):
    """A part of an array, for one worker to write. Another process gets memory of its own instead."""

    array: NDArray[Number]

    def __reduce__(self) -> tuple[Any, ...]:
        return _apart, (self.array.shape, self.array.dtype)

    def take(self, written: NDArray[Number]) -> None:
        """Keep what the worker wrote. Copy it only if it was written elsewhere."""
        if written is not self.array:
            self.array[:] = written


def _apart(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Part[Any]:
    return Part(np.empty(shape, dtype))
