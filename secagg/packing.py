"""Vectors of integers as bytes, at exactly k bits a coordinate.

Coordinate i is bits i·k to i·k + k − 1 of one little-endian bit string: bit b of the string is bit
b mod 8 of byte ⌊b/8⌋. The unused bits of the last byte are zero, and are checked to be.
"""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ConfigError, EncodingError

Lanes = NDArray[np.uint32] | NDArray[np.uint64]

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
    from secagg import _kernels

    _check_lanes(lanes, bits)
    size = packed_size(lanes.size, bits)
    finished = 8 * (lanes.size * bits // 64)
    # BytesIO gives its buffer away as bytes without a copy, once it has its final size.
    buffer = BytesIO()
    if size:
        buffer.seek(size - 1)
        buffer.write(b"\0")
        with buffer.getbuffer() as view:
            words = np.frombuffer(view[:finished], np.uint64)
            last = int(_kernels.pack(lanes if lanes.flags.c_contiguous else lanes.copy(), bits, words))
            del words
            view[finished:] = last.to_bytes(8, "little")[: size - finished]
    return buffer.getvalue()


def unpack_add(data: bytes | memoryview, bits: int, into: Lanes) -> None:
    """Adds the packed coordinates in ``data`` to ``into``, wrapping in its lanes.

    ``into`` is a writable, contiguous 1-D array of uint32 or uint64 with at least ``bits`` bits;
    ``ConfigError`` if not. ``EncodingError`` if ``data`` is not exactly as long as ``into.size``
    coordinates are, or an unused bit is set; ``into`` is then unchanged. No temporary grows with the
    vector.
    """
    from secagg import _kernels

    _check_lanes(into, bits)
    if not (into.flags.writeable and into.flags.c_contiguous):
        raise ConfigError("got an array to add to that is read-only or not contiguous")
    check_packed(data, bits, into.size)
    whole = len(data) - len(data) % 8
    words = np.frombuffer(memoryview(data)[:whole], np.uint64)  # aligned or not
    words.flags.writeable = False  # as bytes are, so that one compiled kernel serves all buffers
    with np.errstate(over="ignore"):  # with the JIT off, lanes wrap as NumPy's scalars
        _kernels.unpack_add(words, np.uint64(int.from_bytes(data[whole:], "little")), bits, into)


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
