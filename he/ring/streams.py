"""Keystreams: the source of all randomness of the ring, as arguments of the functions that draw from it.

A :data:`Stream` is any function that writes a part of an endless, pseudorandom sequence of 64-bit words.
Each part is computed by itself, so that threads can share a stream. A stream must be used for one
purpose only, and each of its words once: :func:`derive` makes a key for each purpose.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

Words = NDArray[np.uint64]

Stream = Callable[[Words, int], None]
"""``stream(out, first)`` fills ``out`` (flat, contiguous) with the words of the stream from word ``first`` on."""

KEY_BYTES = 32
_BLOCK = 16  # bytes of AES's block: two words
_ZEROS = memoryview(bytes(1 << 18))


def aes_ctr(key: bytes) -> Stream:
    """AES-256 in counter mode, from a zero block on, as little-endian words. ``key`` has 32 bytes."""
    return _AesCtr(key)


@dataclass(frozen=True, repr=False)
class _AesCtr:
    """What :func:`aes_ctr` returns: an object that workers in other processes can be sent."""

    key: bytes

    def __call__(self, out: Words, first: int) -> None:
        """See :data:`Stream`."""
        block, skipped = divmod(first, 2)
        encryptor = Cipher(algorithms.AES(self.key), modes.CTR(block.to_bytes(_BLOCK, "big"))).encryptor()
        encryptor.update(_ZEROS[: 8 * skipped])
        octets = out.data.cast("B")
        at, size = 0, len(octets)
        # ``update_into`` asks for room for 15 bytes more than it writes.
        while size - at >= 2 * _BLOCK:
            piece = min(size - at - _BLOCK, len(_ZEROS))
            at += encryptor.update_into(_ZEROS[:piece], octets[at:])
        octets[at:] = encryptor.update(_ZEROS[: size - at])


def derive(seed: bytes, *purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose, by HKDF-Expand with SHA-256 (RFC 5869) from 32 secret bytes."""
    info = b"".join(len(part).to_bytes(4, "big") + part for part in purpose)
    return HKDFExpand(SHA256(), KEY_BYTES, info).derive(seed)
