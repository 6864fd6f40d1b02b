"""The compiled loop of SEAL's generator: the leaves of BLAKE2Xb."""

import numpy as np
from numpy.typing import NDArray

from he._compiling import inlined, kernel

Words = NDArray[np.uint64]

LANES = 8
"""Nodes of the generator's tree that are hashed in parallel lanes."""

_64 = np.uint64(64)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

# BLAKE2b (RFC 7693): the initial value, and for each round the order in which words are mixed in.
_IV = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    dtype=np.uint64,
)
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    dtype=np.int64,
)
_MIXED = np.array(
    [
        [0, 4, 8, 12],
        [1, 5, 9, 13],
        [2, 6, 10, 14],
        [3, 7, 11, 15],
        [0, 5, 10, 15],
        [1, 6, 11, 12],
        [2, 7, 8, 13],
        [3, 4, 9, 14],
    ],
    dtype=np.int64,
)


@inlined
def _rotate(a: np.uint64, by: int) -> np.uint64:
    return (a >> np.uint64(by)) | (a << np.uint64(64 - by))


@kernel
def tree_nodes(roots: Words, length: int, out: Words) -> None:
    """Write the leaves of BLAKE2Xb, each 64 bytes, of ``roots`` (n, 8) to ``out`` (n, leaves, 8).

    ``length`` is the output's length in bytes for the parameter block. ``leaves`` is a multiple of
    eight, because eight leaves are hashed in parallel lanes.
    """
    v = np.empty((16, LANES), dtype=np.uint64)
    message = np.zeros(16, dtype=np.uint64)
    for n in range(roots.shape[0]):
        message[:8] = roots[n]
        for first in range(0, out.shape[1], LANES):
            for k in range(8):
                for lane in range(LANES):
                    v[k, lane] = _IV[k]
                    v[k + 8, lane] = _IV[k]
            for lane in range(LANES):
                # Digest of 64 bytes, no key, no fan-out, no depth, leaves of 64; then place and length.
                v[0, lane] ^= np.uint64(64 | (64 << 32))
                v[1, lane] ^= np.uint64((first + lane) | (length << 32))
                v[2, lane] ^= np.uint64(64 << 8)
                v[12, lane] ^= _64
                v[14, lane] ^= _ALL
            for turn in range(12):
                for g in range(8):
                    x, y = message[_SIGMA[turn, 2 * g]], message[_SIGMA[turn, 2 * g + 1]]
                    a, b, c, d = v[_MIXED[g, 0]], v[_MIXED[g, 1]], v[_MIXED[g, 2]], v[_MIXED[g, 3]]
                    for lane in range(LANES):
                        a0, b0, c0, d0 = a[lane], b[lane], c[lane], d[lane]
                        a0 += b0 + x
                        d0 = _rotate(d0 ^ a0, 32)
                        c0 += d0
                        b0 = _rotate(b0 ^ c0, 24)
                        a0 += b0 + y
                        d0 = _rotate(d0 ^ a0, 16)
                        c0 += d0
                        b0 = _rotate(b0 ^ c0, 63)
                        a[lane], b[lane], c[lane], d[lane] = a0, b0, c0, d0
            for lane in range(LANES):
                leaf = out[n, first + lane]
                for k in range(8):
                    leaf[k] = _IV[k] ^ v[k, lane] ^ v[k + 8, lane]
                leaf[0] ^= np.uint64(64 | (64 << 32))
                leaf[1] ^= np.uint64((first + lane) | (length << 32))
                leaf[2] ^= np.uint64(64 << 8)
