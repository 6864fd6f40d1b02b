"""Vectors of integers as bytes, at exactly k bits a coordinate.

Coordinate i is bits i·k to i·k + k − 1 of one little-endian bit string: bit b of the string is bit
b mod 8 of byte ⌊b/8⌋. The unused bits of the last byte are zero, and are checked to be.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ConfigError, EncodingError

Lanes = NDArray[np.uint32] | NDArray[np.uint64]
AnyArray = TypeVar("AnyArray", bound=NDArray[Any])

MAX_BITS = 64


def lane_dtype(bits: int) -> type[np.uint32] | type[np.uint64]:
    """The lanes that hold ``bits`` bits: uint32 up to 32, else uint64; ``ConfigError`` beyond 1 to 64."""
    _check_bits(bits)
    return np.uint32 if bits <= 32 else np.uint64


def packed_size(length: int, bits: int) -> int:
    """The bytes that ``length`` coordinates of ``bits`` bits (1 to 64) take; ``ConfigError`` otherwise."""
    _check_bits(bits)
    if length < 0:
        raise ConfigError(f"got a length of {length} coordinates; expected 0 or more")
    return (length * bits + 7) // 8


def pack(lanes: Lanes, bits: int) -> bytes:
    """The low ``bits`` bits of every lane, packed: the lanes reduced mod 2^bits.

    ``lanes`` is a 1-D array of uint32 or uint64 with at least ``bits`` bits; ``ConfigError`` if not.
    Allocates nothing but the returned bytes.
    """
    return pack_all([lanes], [bits])


def pack_all(vectors: Sequence[Lanes], widths: Sequence[int]) -> bytes:
    """Several vectors, each with its own number of bits, packed one after the other; see :func:`pack`."""
    for lanes, bits in zip(vectors, widths, strict=True):
        _check_lanes(lanes, bits)
    sizes = [packed_size(lanes.size, bits) for lanes, bits in zip(vectors, widths, strict=True)]
    # BytesIO takes over bytes that nobody else has, and gives them away again, without a copy.
    buffer = BytesIO(bytes(sum(sizes)))
    if any(sizes):
        with buffer.getbuffer() as view:
            start = 0
            for lanes, bits, size in zip(vectors, widths, sizes, strict=True):
                _pack_into(np.frombuffer(view, np.uint8, size, start), lanes, bits)
                start += size
    return buffer.getvalue()


def _pack_into(data: NDArray[np.uint8], lanes: Lanes, bits: int) -> None:
    from secagg import _bits

    lanes = _fixed(lanes if lanes.flags.c_contiguous else lanes.copy())
    if _bits.available() and lanes.dtype == np.uint32:
        rows, far = _bits.packing(bits), _eights_with_room(data.size, bits, lanes.size)
        _bits.pack_eights(lanes[: _bits.EIGHT * far], bits, rows, data)
        last = _padded(lanes[_bits.EIGHT * far :], _bits.EIGHT)
        rest = np.zeros(last.size * bits // 8 + _bits.ROOM, np.uint8)
        _bits.pack_eights(_fixed(last), bits, rows, rest)
        data[far * bits :] = rest[: data.size - far * bits]
        return
    finished = 8 * (lanes.size * bits // 64)
    target = data[:finished].view(np.uint64)
    words = target if target.flags.aligned else np.empty_like(target)  # one compiled loop again
    word = int(_bits.pack(lanes, bits, words))
    if words is not target:
        target[:] = words
    data[finished:] = np.frombuffer(word.to_bytes(8, "little"), np.uint8)[: data.size - finished]


def unpack_add(data: bytes | memoryview, bits: int, into: Lanes) -> None:
    """Adds the packed coordinates in ``data`` to ``into``, wrapping in its lanes.

    ``into`` is a writable, contiguous 1-D array of uint32 or uint64 with at least ``bits`` bits;
    ``ConfigError`` if not. ``EncodingError`` if ``data`` is not exactly as long as ``into.size``
    coordinates are, or an unused bit is set; ``into`` is then unchanged. No temporary grows with the
    vector.
    """
    from secagg import _bits

    _check_lanes(into, bits)
    if not (into.flags.writeable and into.flags.c_contiguous):
        raise ConfigError("got an array to add to that is read-only or not contiguous")
    check_packed(data, bits, into.size)
    packed = _fixed(np.frombuffer(data, np.uint8))
    if _bits.available():
        rows = _bits.unpacking(bits, into.itemsize == 8)
        last_vector = int(rows[-1].max())  # where the second half of eight wide lanes is read from
        far = _eights_with_room(len(data) - last_vector, bits, into.size)
        _bits.unpack_add_eights(packed, bits, rows, into[: _bits.EIGHT * far])
        last = into[_bits.EIGHT * far :]
        sums = _padded(last, _bits.EIGHT)
        rest = np.zeros(sums.size * bits // 8 + _bits.ROOM, np.uint8)
        rest[: len(data) - far * bits] = packed[far * bits :]
        _bits.unpack_add_eights(_fixed(rest), bits, rows, sums)
        last[:] = sums[: last.size]
        return
    whole = len(data) - len(data) % 8
    words = packed[:whole].view(np.uint64)  # aligned or not
    with np.errstate(over="ignore"):  # with the JIT off, lanes wrap as NumPy's scalars
        _bits.unpack_add(words, np.uint64(int.from_bytes(data[whole:], "little")), bits, into)


def _eights_with_room(size: int, bits: int, lanes: int) -> int:
    """How many times eight lanes can be moved at once, to or from ``size`` bytes of ``lanes`` coordinates."""
    from secagg import _bits

    return max(0, min(lanes // _bits.EIGHT, (size - _bits.ROOM) // bits + 1))


def _padded(lanes: Lanes, multiple: int) -> Lanes:
    """A copy of a few lanes, with zeros behind them up to a ``multiple``."""
    copy = np.zeros(-(-lanes.size // multiple) * multiple, lanes.dtype)
    copy[: lanes.size] = lanes
    return copy


def _fixed(array: AnyArray) -> AnyArray:
    """A read-only view, so that one compiled loop serves all arrays."""
    view = array.view()
    view.flags.writeable = False
    return view


def check_packed(data: bytes | memoryview, bits: int, length: int) -> None:
    """``EncodingError`` unless ``data`` is as long as ``length`` coordinates are and its spare bits are zero."""
    size = packed_size(length, bits)
    if len(data) != size:
        raise EncodingError(f"got {len(data)} bytes; expected {size} for {length} coordinates of {bits} bits")
    if size and data[-1] >> (8 - (8 * size - length * bits)):
        raise EncodingError("got a packed vector whose unused last bits are not zero")


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ConfigError(f"got {bits} bits a coordinate; expected 1 to {MAX_BITS}")


def _check_lanes(lanes: NDArray[Any], bits: int) -> None:
    _check_bits(bits)
    if lanes.ndim != 1 or lanes.dtype not in (np.uint32, np.uint64) or lanes.itemsize * 8 < bits:
        raise ConfigError(
            f"got an array of {lanes.ndim} dimensions and dtype {lanes.dtype}; "
            f"expected 1-D lanes of {lane_dtype(bits).__name__}" + (" or uint64" if bits <= 32 else "")
        )
