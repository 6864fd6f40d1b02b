"""The memory of uploads is used again, and only when nobody looks at it."""

from __future__ import annotations

import numpy as np

from secagg.service.buffers import Buffers
from secagg.service.memory import trimmer

MEGABYTE = 1 << 20


def test_a_buffer_is_used_again_for_a_body_of_nearly_its_length() -> None:
    buffers = Buffers(lambda: 10 * MEGABYTE)
    first = buffers.take(MEGABYTE)
    address = first.ctypes.data
    buffers.give(first)
    del first
    assert buffers.idle_bytes == MEGABYTE
    again = buffers.take(MEGABYTE - 100)
    assert again.ctypes.data == address
    assert buffers.idle_bytes == 0
    assert buffers.take(MEGABYTE).ctypes.data != address


def test_a_buffer_that_somebody_looks_at_is_not_used_again() -> None:
    buffers = Buffers(lambda: 10 * MEGABYTE)
    buffer = buffers.take(MEGABYTE)
    view = buffer.data[:100]
    buffers.give(buffer)
    assert buffers.idle_bytes == 0
    view.release()
    buffers.give(buffer)
    assert buffers.idle_bytes == MEGABYTE


def test_idle_buffers_have_no_more_room_than_the_budget_leaves() -> None:
    room = 2 * MEGABYTE
    buffers = Buffers(lambda: room)
    taken = [buffers.take(MEGABYTE) for _ in range(3)]
    while taken:
        buffers.give(taken.pop())
    assert buffers.idle_bytes == 2 * MEGABYTE
    room = MEGABYTE  # others hold the rest now
    assert buffers.take(8 * MEGABYTE).size == 8 * MEGABYTE
    assert buffers.idle_bytes <= MEGABYTE
    buffers.give(np.empty(100, np.uint8))  # small ones are the allocator's
    assert buffers.idle_bytes <= MEGABYTE


def test_the_c_library_can_give_memory_back() -> None:
    trim = trimmer()
    assert trim is None or trim(0) in (0, 1)
