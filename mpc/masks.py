"""Mask streams: AES-256 in counter mode, read as lanes and added to a vector.

The stream of a key is AES-256-CTR (NIST SP 800-38A) from an all-zero counter block, read as
little-endian lanes of 32 or 64 bits. Any AES library reproduces it, and any slice of it can be
computed alone. A key has only one stream: never use it for a second vector.

A kernel computes the stream if the processor has AES instructions, otherwise OpenSSL. The bits are the
same: each process compares the kernel with OpenSSL before it uses it. The environment variable
``SECAGG_KERNEL`` forces a path: ``openssl``, or ``128``, ``256`` or ``512``, the bits of the vectors of
the kernel.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mpc._numbers import whole
from mpc.errors import MPCError

#: A vector of unsigned integers, which are residues modulo a power of two.
Lanes = NDArray[np.unsignedinteger[Any]]

#: Bytes of the key of a mask.
KEY_BYTES = 32

VARIABLE = "SECAGG_KERNEL"
"""The environment variable that forces a path."""

_OPENSSL = "openssl"

_BLOCK_BYTES = 16
_PIECE_BYTES = 64 * 1024  # fits the cache of a core, with the zeros that are encrypted
_SLACK_BYTES = _BLOCK_BYTES - 1  # the extra room that update_into may ask for
_LONGEST_PIECE = 512  # bytes that a kernel computes at once
_ZEROS = bytes(_PIECE_BYTES)
_DTYPES = (np.dtype("<u4"), np.dtype("<u8"))
_MAX_LANES = 2**64

_log = logging.getLogger("secagg.kernels")


def add_mask(vector: Lanes, key: bytes, *, sign: int = 1, offset: int = 0) -> None:
    """Add the stream of ``key`` to ``vector``, in place, modulo 2^32 or 2^64.

    ``vector`` is one-dimensional, C-contiguous and writable, of little-endian uint32 or uint64;
    ``key`` has 32 bytes. ``sign=-1`` subtracts instead. ``offset``, at least 0, is the lane of the
    stream that is added to ``vector[0]``. So a vector may be masked slice by slice, in any order and by
    any number of threads, with the same result. Raises :class:`MPCError` for any other argument.
    """
    add_masks(vector, [(key, sign)], offset=offset)


def add_masks(vector: Lanes, keyed: Sequence[tuple[bytes, int]], *, offset: int = 0) -> None:
    """Add the streams of many keys, each times its sign: faster than :func:`add_mask` for each of them.

    ``keyed`` has pairs of a key and a sign, as in :func:`add_mask`.
    """
    keyed = list(keyed)  # what can be read once only would be checked, and then not be added
    for key, sign in keyed:
        _check(key, sign)
    block, skipped = _start(vector, offset)
    if keyed and vector.size:
        _add(vector, keyed, block, skipped)


def keystream(key: bytes, out: Lanes, *, offset: int = 0) -> None:
    """Fill ``out`` with the stream of ``key`` from lane ``offset`` on.

    The stream, the arguments and the errors are those of :func:`add_mask`.
    """
    _check(key, 1)
    block, skipped = _start(out, offset)
    out[:] = 0
    if out.size:
        _add(out, [(key, 1)], block, skipped)


def mask_sum(keyed: Sequence[tuple[bytes, int]], first: int, length: int, dtype: str) -> Lanes:
    """The sum of many masks over ``length`` lanes from lane ``first`` on, as a new vector of ``dtype``.

    ``keyed`` are keys with their signs, 1 or -1; ``dtype`` is ``"<u4"`` or ``"<u8"``. It shares no
    memory with the caller, so that any process or machine with the keys can compute it.
    """
    total: Lanes = np.zeros(length, np.dtype(dtype))
    add_masks(total, keyed, offset=first)
    return total


def compiled() -> bool:
    """Whether a kernel computes the stream in this process; otherwise OpenSSL does."""
    return width() > 0


@cache
def width() -> int:
    """The path of this process: the bits of the kernel's vectors (128, 256 or 512), or 0 for OpenSSL.

    The widest that the CPU has, unless :data:`VARIABLE` forces a path. A kernel whose results are not
    OpenSSL's is not used, which is logged as one WARNING. Raises :class:`MPCError` if the variable names
    no path, or one that is not available here.
    """
    forced = os.environ.get(VARIABLE, "")
    if forced == _OPENSSL:
        return 0
    widest: int = _kernels().widest()
    names = {str(bits): bits for bits in _kernels().WIDTHS if bits <= widest}
    if forced and forced not in names:
        if widest:
            here = f"on a CPU with AES instructions for vectors of up to {widest} bits"
        else:
            here = "on a CPU without AES instructions, or with the compiler off (NUMBA_DISABLE_JIT)"
        raise MPCError(
            f"got {VARIABLE}={forced!r}, {here}; expected {', '.join((_OPENSSL, *names))}, or no such variable"
        )
    bits = names[forced] if forced else widest
    if not bits or _agrees(bits):
        return bits
    _log.warning(
        "the compiled AES kernel for vectors of %d bits does not return OpenSSL's bits, so OpenSSL is used, which "
        "is slower. Empty the folder of Numba's cache (NUMBA_CACHE_DIR) if it may hold damaged files; %s=%s "
        "avoids this check",
        bits,
        VARIABLE,
        _OPENSSL,
    )
    return 0


def _agrees(bits: int) -> bool:
    """Whether the kernel adds and subtracts the lanes of OpenSSL's stream, of both sizes.

    The vector begins within a block, has whole pieces of every kernel, and ends within a piece. The
    counter passes 2^32. This takes a fifth of a millisecond.
    """
    keyed = [(bytes(range(first, first + KEY_BYTES)), sign) for first, sign in ((0, 1), (64, -1), (128, -1))]
    for dtype in _DTYPES:
        by_kernel: Lanes = np.arange(2 * _LONGEST_PIECE // dtype.itemsize + 3, dtype=dtype)
        by_openssl = by_kernel.copy()
        _add_by_kernel(bits, by_kernel, keyed, 2**32 - 9, 1)
        _add_by_openssl(by_openssl, keyed, 2**32 - 9, 1)
        if not np.array_equal(by_kernel, by_openssl):
            return False
    return True


def _add(vector: Lanes, keyed: Sequence[tuple[bytes, int]], block: int, skipped: int) -> None:
    bits = width()
    if bits:
        _add_by_kernel(bits, vector, keyed, block, skipped)
    else:
        _add_by_openssl(vector, keyed, block, skipped)


def _add_by_kernel(bits: int, vector: Lanes, keyed: Sequence[tuple[bytes, int]], block: int, skipped: int) -> None:
    kernels = _kernels()
    lane_bytes, rows = vector.itemsize, kernels.schedules(keyed)
    kernels.kernel(bits)(vector.view(np.uint8), lane_bytes, rows, block, skipped * lane_bytes)


@cache
def _kernels() -> ModuleType:
    """The module that loads Numba; an import statement in each call would take a tenth of a short mask's time."""
    from mpc import _aes

    return _aes


def _add_by_openssl(vector: Lanes, keyed: Sequence[tuple[bytes, int]], block: int, skipped: int) -> None:
    for key, sign in keyed:
        combine = np.add if sign == 1 else np.subtract
        for part, lanes in _pieces(vector, key, block, skipped):
            combine(part, lanes, out=part)


def _pieces(vector: Lanes, key: bytes, block: int, skipped: int) -> Iterator[tuple[Lanes, Lanes]]:
    """Each part of ``vector`` with its lanes of OpenSSL's stream, in a buffer that the next part reuses."""
    counter = block.to_bytes(_BLOCK_BYTES, "big")
    stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    stream.update(_ZEROS[: skipped * vector.itemsize])
    buffer = bytearray(min(_PIECE_BYTES, vector.nbytes) + _SLACK_BYTES)
    step = _PIECE_BYTES // vector.itemsize
    for first in range(0, vector.size, step):
        part = vector[first : first + step]
        stream.update_into(_ZEROS[: part.nbytes], buffer)
        yield part, np.frombuffer(buffer, vector.dtype, count=part.size)


def _check(key: bytes, sign: int) -> None:
    if (sign if type(sign) is int else whole(sign)) not in (1, -1):
        raise MPCError(f"got sign {sign!r}; expected 1 to add the mask or -1 to subtract it")
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        got = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise MPCError(f"got a mask key of {got}; expected {KEY_BYTES} bytes: derive it with keys.derive")


def _start(vector: Lanes, offset: int) -> tuple[int, int]:
    """Check both; return the block of lane ``offset``, and how many of its lanes come before."""
    if not isinstance(vector, np.ndarray) or vector.dtype not in _DTYPES:
        got = str(vector.dtype) if isinstance(vector, np.ndarray) else type(vector).__name__
        raise MPCError(f"got a vector of {got}; expected a NumPy array of little-endian uint32 or uint64")
    if vector.ndim != 1 or not vector.flags.c_contiguous or not vector.flags.writeable:
        raise MPCError(
            f"got a vector of shape {vector.shape}, C-contiguous: {vector.flags.c_contiguous}, writable: "
            f"{vector.flags.writeable}; expected one dimension, contiguous and writable: pass a flat copy"
        )
    start = offset if type(offset) is int else whole(offset)
    if start is None or start < 0 or start + vector.size > _MAX_LANES:
        raise MPCError(f"got offset {offset} for {vector.size} lanes; expected a slice of lanes 0 to 2^64")
    return divmod(start, _BLOCK_BYTES // vector.itemsize)
