"""Bytes that are written where they stay, by this thread, by others and by other processes."""

import pickle

import numpy as np

from he._buffer import Buffer, Part


def address(data: bytes) -> int:
    return int(np.frombuffer(data, dtype=np.uint8).ctypes.data)


def test_what_was_written_is_given_up_without_a_copy() -> None:
    buffer = Buffer(40)
    words = buffer.words(8, 3)
    at = words.ctypes.data
    words[:] = [1, 2, 3]
    del words
    buffer.write(0, b"front")
    buffer.write(32, b"end")
    data = buffer.contents()
    assert data == b"front\0\0\0" + np.array([1, 2, 3], dtype="<u8").tobytes() + b"end\0\0\0\0\0"
    assert address(data) == at - 8


def test_control_bytes_do_not_change_while_their_memory_can_still_be_written() -> None:
    buffer = Buffer(8)
    words = buffer.words(0, 1)
    data = buffer.contents()
    words[:] = 1
    assert data == bytes(8)


def test_a_part_is_written_in_place_or_copied_from_another_process() -> None:
    array = np.zeros(3, dtype=np.uint64)
    here, elsewhere = Part(array), pickle.loads(pickle.dumps(Part(array)))
    here.array[:] = 1
    here.take(here.array)
    assert array.tolist() == [1, 1, 1]
    assert (elsewhere.array.shape, elsewhere.array.dtype) == ((3,), np.uint64)
    elsewhere.array[:] = 2
    assert array.tolist() == [1, 1, 1]
    here.take(elsewhere.array)
    assert array.tolist() == [2, 2, 2]


def test_a_part_for_another_process_is_small() -> None:
    assert len(pickle.dumps(Part(np.zeros(1 << 20, dtype=np.uint64)))) < 300
