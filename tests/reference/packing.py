"""Packing with Python's integers: the whole vector is one number."""

from collections.abc import Sequence


def pack(values: Sequence[int], bits: int) -> bytes:
    number = 0
    for i, value in enumerate(values):
        number |= (value % (1 << bits)) << (i * bits)
    return number.to_bytes(-(-len(values) * bits // 8), "little")


def unpack(data: bytes, bits: int, length: int) -> list[int]:
    number = int.from_bytes(data, "little")
    return [(number >> (i * bits)) % 2**bits for i in range(length)]
