"""How a homomorphic scheme carries a vector: one stream of integers, all under one bound.

Every slot of a ciphertext must hold the sum of ``max_clients`` terms of the longest segment. One wide
count should not widen the slots of a million coordinates. So a segment whose terms exceed the bound of
the longest segment is written in *digits*, lowest first. The sum's digits add up separately, and are
joined after opening.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EncodingError
from secagg.lanes import widths
from secagg.packing import lane_dtype

if TYPE_CHECKING:
    from secagg.encoding import SegmentLike
    from secagg.task import Task

Slots = NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """The slots of a task's vectors, all integers in 0..``bound``."""

    task: Task

    @cached_property
    def bound(self) -> int:
        """The largest term of the longest segment."""
        longest = max(self.task.segments, key=lambda segment: (segment.length, segment.bound))
        return longest.bound

    @cached_property
    def length(self) -> int:
        """Slots of one vector."""
        return sum(segment.length * self._places(segment) for segment in self.task.segments)

    def _places(self, segment: SegmentLike) -> int:
        """Digits of a term: base ``bound`` + 1."""
        places, reach = 1, self.bound
        while reach < segment.bound:
            places, reach = places + 1, reach * (self.bound + 1) + self.bound
        return places

    def split(self, encoded: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """One client's encoded segments as slots: for each segment, all lowest digits first.

        They are in the narrowest unsigned integers that hold the bound, as schemes want them. If a
        digit is above the bound, all are in 64 bits, so that the scheme refuses it.
        """
        base, digits = np.uint64(self.bound + 1), []
        for segment, values in zip(self.task.segments, encoded, strict=True):
            rest = values
            for _ in range(self._places(segment) - 1):
                rest, digit = np.divmod(rest.astype(np.uint64), base)
                digits.append(digit)
            digits.append(rest)
        fits = all(part.max(initial=0) <= self.bound for part in digits)
        slots = np.empty(sum(part.size for part in digits), np.min_scalar_type(self.bound) if fits else np.uint64)
        return np.concatenate(digits, out=slots, casting="unsafe")

    def join(self, sums: Slots, count: int) -> list[NDArray[Any]]:
        """The segments' sums from the sums of ``count`` clients' slots, each 0 to ``count`` x ``bound``.

        A segment with a modulus is returned reduced. Raises ``EncodingError`` for sums that ``count`` terms
        cannot have.
        """
        joined, at = [], 0
        for segment, bits in zip(self.task.segments, widths(self.task), strict=True):
            places = self._places(segment)
            parts = sums[at : at + segment.length * places].astype(np.uint64).reshape(places, segment.length)
            at += parts.size
            base = np.uint64(self.bound + 1)
            # The highest digit is checked first: then no lower digit can take the total above 64 bits.
            highest = count * (segment.bound // (self.bound + 1) ** (places - 1))
            if (parts[-1] > highest).any():
                raise EncodingError(
                    f"got a sum of {count} terms above {count} x {segment.bound}, the largest possible"
                )
            total = parts[-1].copy()
            for part in parts[-2::-1]:
                total = total * base + part
            if (total > count * segment.bound).any():
                raise EncodingError(
                    f"got a sum of {count} terms above {count} x {segment.bound}, the largest possible"
                )
            if segment.modulus is not None:
                total %= np.uint64(segment.modulus)
            joined.append(total.astype(lane_dtype(bits)))
        return joined
