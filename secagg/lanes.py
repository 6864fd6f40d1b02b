"""Vectors under masks and in shares: each segment is in Z mod 2^k, and bit-packed on the wire.

k is large enough for the sum of ``max_clients`` terms, so no sum can overflow. In memory a coordinate has a *lane*
of 32 or 64 bits, and sums are taken modulo the size of the lane. Only the low k bits are sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpc.masks import add_masks, mask_sum
from secagg.errors import ConfigError, EncodingError, FaultKind, shown
from secagg.packing import check_packed, lane_dtype, pack_all, packed_size, unpack_add
from secagg.wire import Reject
from secagg.workers import threads

if TYPE_CHECKING:
    from secagg.encoding import SegmentLike
    from secagg.task import Task

#: The most bits of a masked value.
MAX_MASK_BITS = 62

_INLINE_LANES = 1 << 22  # less work than this is done before a second thread has started
_RANGE_LANES = 1 << 18
_KEYS_IN_TASK = 64
_IN_FLIGHT = 32  # tasks whose results are held at once


def mask_bits(segment: SegmentLike, max_clients: int) -> int:
    """The k of the group Z mod 2^k that carries ``segment``: the sum of ``max_clients`` terms fits."""
    if segment.modulus is None:
        return max(2, (max_clients * segment.bound).bit_length())
    bits = segment.modulus.bit_length() - 1
    if segment.modulus != 1 << bits:
        raise ConfigError(
            f"got a segment modulo {segment.modulus}; masks and shares carry powers of two: "
            "choose bits for the encoding"
        )
    return bits


def check_mask_bits(task: Task) -> None:
    """``ConfigError`` if a sum of ``max_clients`` terms does not fit into 62 bits."""
    for segment in task.segments:
        bits = mask_bits(segment, task.max_clients)
        if not 2 <= bits <= MAX_MASK_BITS:
            raise ConfigError(
                f"got sums of up to {bits} bits ({task.max_clients} clients x {segment.bound}); "
                f"expected 2 to {MAX_MASK_BITS}: lower max_clients, max_weight or the encoding's bits"
            )


def widths(task: Task) -> list[int]:
    """Bits of a coordinate, for each segment."""
    return [mask_bits(segment, task.max_clients) for segment in task.segments]


def vectors_size(task: Task) -> int:
    """Bytes of all segments on the wire."""
    return sum(packed_size(segment.length, bits) for segment, bits in zip(task.segments, widths(task), strict=True))


def to_lanes(task: Task, encoded: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Copies of the segments in ``encoded``, one array each, in lanes that can be masked in place."""
    return [v.astype(lane_dtype(bits)) for v, bits in zip(encoded, widths(task), strict=True)]


def zero_lanes(task: Task) -> list[NDArray[Any]]:
    """An empty sum."""
    pairs = zip(task.segments, widths(task), strict=True)
    return [np.zeros(segment.length, lane_dtype(bits)) for segment, bits in pairs]


def mask_lanes(lanes: Sequence[NDArray[Any]], keyed: Sequence[tuple[bytes, int]]) -> None:
    """Add the mask streams of keys, each times its sign, in place; a segment starts at the next 16-byte block.

    ``lanes`` and ``keyed`` are those of :func:`mask_all`.
    """
    for lane, first in stream_offsets(lanes):
        add_masks(lane, keyed, offset=first)


def mask_all(lanes: Sequence[NDArray[Any]], keyed: Sequence[tuple[bytes, int]], executor: Executor | None) -> None:
    """Add the mask streams of many keys, each times its sign, in place.

    ``lanes`` has one array for each segment, and ``keyed`` has a pair of 32-byte key and sign (1 or -1) for each
    stream. A large sum is split by ranges of coordinates and by keys over ``executor``, by default threads of this
    process. However it is split, the result is the same bit for bit. The calling thread, which may be a worker of
    ``executor`` itself, does tasks that no worker has started, instead of waiting. An exception of the executor is
    raised, and leaves ``lanes`` with some of the masks: to be able to try again, pass a copy.
    """
    if len(keyed) * sum(lane.size for lane in lanes) < _INLINE_LANES:
        mask_lanes(lanes, keyed)
        return
    workers = executor or threads()
    waiting: deque[tuple[Future[Any], NDArray[Any], int, Sequence[tuple[bytes, int]]]] = deque()

    def settle() -> None:
        """Add a result that is ready; else do a task that no worker has started; else wait for the oldest."""
        for place, (result, part, _, _) in enumerate(waiting):
            if result.done():
                del waiting[place]
                _take(part, result)
                return
        # Workers start with the oldest task. Some executors (Dask's) also let a running task be cancelled.
        for place in reversed(range(len(waiting))):
            result, part, first, some = waiting[place]
            if result.cancel():
                del waiting[place]
                add_masks(part, some, offset=first)
                return
        result, part, _, _ = waiting.popleft()
        _take(part, result)

    try:
        for part, first, some in _tasks(lanes, keyed):
            if len(waiting) == _IN_FLIGHT:
                settle()
            result = workers.submit(mask_sum, some, first, part.size, part.dtype.str)
            waiting.append((result, part, first, some))
        while waiting:
            settle()
    finally:
        for result, *_ in waiting:
            result.cancel()


def _take(part: NDArray[Any], result: Future[Any]) -> None:
    """Add what a worker returned; ``ConfigError`` for anything but lanes like those of ``part``."""
    mask = result.result()
    if not isinstance(mask, np.ndarray) or mask.shape != part.shape or mask.dtype != part.dtype:
        raise ConfigError(
            f"got {shown(mask)} of the executor; expected {part.size} lanes of {part.dtype}: pass an executor that "
            "returns what its tasks return"
        )
    part += mask


def _tasks(
    lanes: Sequence[NDArray[Any]], keyed: Sequence[tuple[bytes, int]]
) -> Iterator[tuple[NDArray[Any], int, Sequence[tuple[bytes, int]]]]:
    """The tasks: a range of coordinates, the place of its first lane in the stream, and some of the keys."""
    for lane, offset in stream_offsets(lanes):
        for at in range(0, lane.size, _RANGE_LANES):
            for some in range(0, len(keyed), _KEYS_IN_TASK):
                yield lane[at : at + _RANGE_LANES], offset + at, keyed[some : some + _KEYS_IN_TASK]


def stream_offsets(lanes: Sequence[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], int]]:
    """Each segment of ``lanes``, with the place in the stream at which it starts, in lanes."""
    start = 0
    for lane in lanes:
        yield lane, start // lane.itemsize
        start += -(-lane.nbytes // 16) * 16


def pack_lanes(task: Task, lanes: Sequence[NDArray[Any]]) -> bytes:
    """The segments in ``lanes``, one array each, one after the other, bit-packed to k bits for each coordinate."""
    return pack_all(lanes, widths(task))


def fold_lanes(task: Task, payload: memoryview, into: Sequence[NDArray[Any]]) -> None:
    """Add the packed segments in ``payload`` to the sums ``into``, one array a segment, in place.

    ``Reject`` for wrong bytes, with the sums unchanged.
    """
    if len(payload) != vectors_size(task):
        raise Reject(FaultKind.MALFORMED, f"got {len(payload)} bytes of vectors; expected {vectors_size(task)}")
    parts, at = [], 0
    for segment, bits in zip(task.segments, widths(task), strict=True):
        end = at + packed_size(segment.length, bits)
        parts.append(payload[at:end])
        at = end
    try:
        for part, segment, bits in zip(parts, task.segments, widths(task), strict=True):
            check_packed(part, bits, segment.length)
    except EncodingError as error:
        raise Reject(FaultKind.MALFORMED, str(error)) from error
    for part, bits, total in zip(parts, widths(task), into, strict=True):
        unpack_add(part, bits, total)


def reduce_lanes(task: Task, lanes: Sequence[NDArray[Any]]) -> None:
    """Reduce the sums in ``lanes``, one array for each segment, modulo 2^k, in place."""
    for total, bits in zip(lanes, widths(task), strict=True):
        total &= total.dtype.type((1 << bits) - 1)
