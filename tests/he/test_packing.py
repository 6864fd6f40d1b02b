"""Slots against one sum of shifts, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from he.errors import HEError
from he.packing import Slots
from tests.reference import paillier as reference


@st.composite
def packings(draw: st.DrawFn) -> tuple[Slots, list[int]]:
    width, count = draw(st.integers(1, 63)), draw(st.integers(1, 130))
    top = (1 << width) - 1
    length = draw(st.integers(1, 3 * count))
    values = draw(st.lists(st.sampled_from([0, 1, top]) | st.integers(0, top), min_size=length, max_size=length))
    return Slots(width, count), values


@given(packings())
def test_slots_are_shifts(packing: tuple[Slots, list[int]]) -> None:
    slots, values = packing
    rows = [values[i : i + slots.count] for i in range(0, len(values), slots.count)]
    integers = slots.pack(np.array(values, np.uint64))
    assert integers == [reference.pack(row, slots.width) for row in rows]
    assert len(integers) == slots.integers(len(values))
    unpacked = slots.unpack(integers)
    assert unpacked.tolist() == [
        value for integer in integers for value in reference.unpack(integer, slots.width, slots.count)
    ]
    assert unpacked[: len(values)].tolist() == values
    assert not unpacked[len(values) :].any()


def test_sums_of_integers_are_sums_of_slots() -> None:
    slots = Slots(width=24, count=127)
    values = np.full(300, 65534, np.uint64)
    total = [256 * integer for integer in slots.pack(values)]
    assert (slots.unpack(total)[:300] == 256 * 65534).all()


def test_control_one_more_addend_than_there_is_room_for_carries_into_the_neighbour() -> None:
    slots = Slots(width=24, count=127)
    total = [257 * integer for integer in slots.pack(np.array([65534, 0], np.uint64))]
    assert slots.unpack(total)[:2].tolist() == [257 * 65534 - 2**24, 1]


@pytest.mark.parametrize(("width", "count"), [(0, 1), (64, 1), (-1, 1), (8, 0), (8, -3)])
def test_slots_that_cannot_be(width: int, count: int) -> None:
    with pytest.raises(HEError, match="expected at least 1, of 1 to 63 bits"):
        Slots(width, count)


def test_a_value_that_does_not_fit_is_named() -> None:
    with pytest.raises(HEError, match="value 2 has more bits than the 8"):
        Slots(8, 4).pack(np.array([255, 0, 256, 300], np.uint64))


@pytest.mark.parametrize("integer", [-1, 1 << 32])
def test_an_integer_that_is_no_slots_is_named(integer: int) -> None:
    with pytest.raises(HEError, match="integer 1 has bits outside"):
        Slots(8, 4).unpack([0, integer])
