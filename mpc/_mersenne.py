"""Numbers modulo p = 2^31 - 1: their bytes, and the weights that interpolate them.

:mod:`mpc.packed` and its kernels stand on this module. Nothing heavy is loaded here.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc.errors import MPCError

Numbers = NDArray[np.uint32]

BITS = 31
PRIME = 2**BITS - 1

NUMBER_BYTES = 4


def reduced(totals: NDArray[np.int64]) -> NDArray[np.int64]:
    """``totals``, from 0 to 2^63 - 1, modulo p, without a branch or a division."""
    for _ in range(2):
        totals = (totals & PRIME) + (totals >> BITS)
    return non_negative(totals - PRIME)


def non_negative(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """``numbers`` above -p, where p is added to the negative ones, without a branch."""
    added: NDArray[np.int64] = numbers + (PRIME & (numbers >> 63))
    return added


def from_bytes(data: bytes, count: int, what: str) -> Numbers:
    """The ``count`` numbers that ``data`` holds; :class:`MPCError`, naming ``what``, for any other bytes."""
    if not isinstance(data, bytes) or len(data) != NUMBER_BYTES * count:
        raise MPCError(f"got {what} of {size(data)}; expected {NUMBER_BYTES * count} bytes")
    read: Numbers = np.frombuffer(data, "<u4")
    if read.max() >= PRIME:
        raise MPCError(f"got {what} with a number that is not below 2^31 - 1; expected numbers modulo 2^31 - 1")
    return read


def to_bytes(numbers: NDArray[Any]) -> bytes:
    """The bytes of numbers below p."""
    return numbers.astype("<u4").tobytes()


def weights(points: Sequence[int], targets: Sequence[int]) -> Numbers:
    """Lagrange's weights of the distinct ``points``, in a read-only array: a row for each of ``targets``."""
    spreads = [prod(p - q for q in points if q != p) % PRIME for p in points]
    rows = []
    for target in targets:
        numerator = prod(target - p for p in points) % PRIME
        offsets = ((target - p) * spread for p, spread in zip(points, spreads, strict=True))
        one = [int(target == p) for p in points]
        rows.append(one if target in points else [numerator * pow(offset, -1, PRIME) % PRIME for offset in offsets])
    table = np.array(rows, np.uint32)
    table.flags.writeable = False
    return table


def size(value: object) -> str:
    """How long ``value`` is, or what it is if it isn't bytes, for an error."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
