"""Protocol buffers, as far as TenSEAL's messages need them.

A field is a key (its number and kind), then a number, eight bytes, or a length and as many bytes. Readers
take nothing but what they expect, and allocate nothing by a number that they read.
"""

import struct
from typing import Any

from he.errors import HEError

Data = bytes | memoryview


def varint(number: int) -> bytes:
    """``number``, seven bits a byte, the lowest first."""
    out = bytearray()
    while number >> 7:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def number(key: int, value: int) -> bytes:
    """A field with a number."""
    return varint(key << 3) + varint(value)


def octets(key: int, data: bytes) -> bytes:
    """A field with bytes."""
    return varint(key << 3 | 2) + varint(len(data)) + data


def double(key: int, value: float) -> bytes:
    """A field with a float."""
    return varint(key << 3 | 1) + struct.pack("<d", value)


class Reader:
    """Reads a message from its front."""

    def __init__(self, data: Data, error: type[HEError]) -> None:
        self._data, self._error, self._at = memoryview(data), error, 0

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes."""
        if count > self.left:
            raise self._error(f"got a message of TenSEAL's that ends {count - self.left} bytes early")
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self) -> int:
        """The next number, below 2^35."""
        number = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise self._error("got a message of TenSEAL's with a number of more than five bytes")


def fields(data: Data, what: str, kinds: dict[int, int]) -> dict[int, Any]:
    """The fields of a message by number, each at most once and of the kind that ``kinds`` states."""
    reader = Reader(data, HEError)
    out: dict[int, Any] = {}
    while reader.left:
        key = reader.varint()
        number, kind = key >> 3, key & 7
        if kinds.get(number) != kind or number in out:
            raise HEError(f"got {what} with an unknown or repeated field {number}")
        if kind == 0:
            out[number] = reader.varint()
        elif kind == 1:
            out[number] = struct.unpack("<d", reader.take(8))[0]
        else:
            out[number] = reader.take(reader.varint())
    return out
