"""The compiled loops of ring arithmetic, for CKKS and BFV.

Residues are 64-bit words below a prime p < 2^60. Every factor w is known beforehand and comes with
its quotient floor(w * 2^64 / p): the product then costs two multiplications and no division
(V. Shoup's method, in D. Harvey, *Faster arithmetic for number-theoretic transforms*, 2014). The low
halves of products wrap, on purpose. No branch and no memory address depends on a residue, except when
residues of a *ciphertext* are refused.
"""

import numpy as np
from numpy.typing import NDArray

from he._compiling import kernel

Words = NDArray[np.uint64]
Reals = NDArray[np.float64]

LANES = 8
"""Nodes of the generator's tree that are hashed in parallel lanes."""

_0, _1, _32, _64 = (np.uint64(n) for n in (0, 1, 32, 64))
_LOW = np.uint64(0xFFFFFFFF)
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


@kernel
def _high(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 bits of a product."""
    low, high = b & _LOW, b >> _32
    first = (a >> _32) * low + (((a & _LOW) * low) >> _32)
    second = (a & _LOW) * high + (first & _LOW)
    return (a >> _32) * high + (first >> _32) + (second >> _32)


@kernel
def _below(a: np.uint64, p: np.uint64) -> np.uint64:
    """``a`` in [0, 2p), reduced below p. The difference wraps where it is negative, so the minimum is right."""
    return min(a, a - p)


@kernel
def quotients(values: Words, p: np.uint64, out: Words) -> None:
    """Write floor(w * 2^64 / p) for each w of ``values``, below p, to ``out``."""
    for i in range(values.size):
        rest, quotient = values[i], _0
        for _ in range(64):
            rest <<= _1
            bit = np.uint64(rest >= p)
            rest -= p * bit
            quotient = (quotient << _1) | bit
        out[i] = quotient


@kernel
def multiply(a: Words, factors: Words, of: Words, p: np.uint64) -> None:
    """Multiply ``a``, words below 2^64, by ``factors`` with their quotients ``of``; results below p, in place."""
    for i in range(a.size):
        a[i] = _below(factors[i] * a[i] - _high(of[i], a[i]) * p, p)


@kernel
def scale(a: Words, factor: Words, p: np.uint64) -> None:
    """Multiply ``a``, words below 2^64, by ``factor`` (a number, its quotient); results below p, in place."""
    for i in range(a.size):
        a[i] = _below(factor[0] * a[i] - _high(factor[1], a[i]) * p, p)


@kernel
def add(a: Words, b: Words, p: np.uint64) -> None:
    """Add ``b`` to ``a``, both below p, in place."""
    for i in range(a.size):
        a[i] = _below(a[i] + b[i], p)


@kernel
def round_up(values: Reals, step: float, above: np.uint64, out: Words) -> None:
    """Write ``values`` times ``step``, rounded to even, plus ``above`` to ``out``.

    The products are below 2^63 in size. ``above`` is larger than each of them, so that the sums, taken
    modulo 2^64 as unsigned words, are positive and do not wrap.
    """
    for i in range(values.size):
        out[i] = np.uint64(np.int64(np.rint(values[i] * step))) + above


@kernel
def divide(values: Words, half: np.uint64, factor: Words, p: np.uint64, out: Words) -> None:
    """Write -r / m modulo p to ``out``, where m = 2 * ``half`` + 1.

    r is each of ``values``, minus m if it is above ``half``. ``factor`` is the inverse of -m modulo p,
    and its quotient.
    """
    for i in range(values.size):
        scaled = _below(factor[0] * values[i] - _high(factor[1], values[i]) * p, p)
        out[i] = _below(scaled + np.uint64(values[i] > half), p)


@kernel
def _spread(x: np.uint64, y: np.uint64, w: np.uint64, wq: np.uint64, p: np.uint64) -> tuple[np.uint64, np.uint64]:
    """x + w y and x - w y, below 4p, of numbers below 4p."""
    x = _below(x, p + p)
    y = w * y - _high(wq, y) * p
    return x + y, x + (p + p) - y


@kernel
def _gather(x: np.uint64, y: np.uint64, w: np.uint64, wq: np.uint64, p: np.uint64) -> tuple[np.uint64, np.uint64]:
    """x + y and w (x - y), below 2p, of numbers below 2p."""
    z = x + (p + p) - y
    return _below(x + y, p + p), w * z - _high(wq, z) * p


@kernel
def forward(rows: Words, roots: Words, of: Words, p: np.uint64) -> None:
    """The negacyclic transform of each row (n residues), in place.

    ``roots`` holds powers of a primitive 2n-th root of unity in bit-reversed order, ``of`` their
    quotients. Place i of the result is the value of the polynomial at the root's power with
    exponent 2r + 1, r being i with its bits reversed.
    """
    for k in range(rows.shape[0]):
        a = rows[k]
        half, groups = a.size >> 1, 1
        while half > 2:
            for g in range(groups):
                w, wq = roots[groups + g], of[groups + g]
                left, right = a[2 * g * half : (2 * g + 1) * half], a[(2 * g + 1) * half : (2 * g + 2) * half]
                for j in range(half):
                    left[j], right[j] = _spread(left[j], right[j], w, wq, p)
            half >>= 1
            groups <<= 1
        # The last two steps have no inner loop.
        for g in range(groups):
            w, wq, b = roots[groups + g], of[groups + g], a[4 * g : 4 * g + 4]
            b[0], b[2] = _spread(b[0], b[2], w, wq, p)
            b[1], b[3] = _spread(b[1], b[3], w, wq, p)
        groups <<= 1
        for g in range(groups):
            w, wq, b = roots[groups + g], of[groups + g], a[2 * g : 2 * g + 2]
            b[0], b[1] = _spread(b[0], b[1], w, wq, p)
        for j in range(a.size):
            a[j] = _below(_below(a[j], p + p), p)


@kernel
def backward(rows: Words, roots: Words, of: Words, last: Words, p: np.uint64) -> None:
    """Undo :func:`forward` in each row, in place, and multiply by n times ``last``.

    ``roots`` and ``of`` hold the inverse powers, bit-reversed; ``last`` is a factor and its quotient.
    The factor 1/n undoes :func:`forward` exactly.
    """
    for k in range(rows.shape[0]):
        a = rows[k]
        groups = a.size >> 1
        for g in range(groups):
            w, wq, b = roots[groups + g], of[groups + g], a[2 * g : 2 * g + 2]
            b[0], b[1] = _gather(b[0], b[1], w, wq, p)
        groups >>= 1
        for g in range(groups):
            w, wq, b = roots[groups + g], of[groups + g], a[4 * g : 4 * g + 4]
            b[0], b[2] = _gather(b[0], b[2], w, wq, p)
            b[1], b[3] = _gather(b[1], b[3], w, wq, p)
        groups >>= 1
        half = 4
        while groups > 0:
            for g in range(groups):
                w, wq = roots[groups + g], of[groups + g]
                left, right = a[2 * g * half : (2 * g + 1) * half], a[(2 * g + 1) * half : (2 * g + 2) * half]
                for j in range(half):
                    left[j], right[j] = _gather(left[j], right[j], w, wq, p)
            half <<= 1
            groups >>= 1
        for j in range(a.size):
            a[j] = _below(last[0] * a[j] - _high(last[1], a[j]) * p, p)


@kernel
def pack(values: Words, bits: int, words: Words) -> None:
    """Write the low ``bits`` bits of each value, first value lowest, to ``words``, which they fill exactly."""
    filled, at, word = 0, 0, _0
    for i in range(values.size):
        word |= values[i] << np.uint64(filled)
        filled += bits
        if filled >= 64:
            words[at] = word
            at += 1
            filled -= 64
            word = values[i] >> np.uint64(bits - filled)


@kernel
def add_and_pack(values: Words, others: Words, p: np.uint64, bits: int, words: Words) -> None:
    """Write the sums, modulo p, of two rows to ``words``, as :func:`pack` does."""
    filled, at, word = 0, 0, _0
    for i in range(others.size):
        total = _below(values[i] + others[i], p)
        word |= total << np.uint64(filled)
        filled += bits
        if filled >= 64:
            words[at] = word
            at += 1
            filled -= 64
            word = total >> np.uint64(bits - filled)


@kernel
def unpack(words: Words, bits: int, out: Words) -> None:
    """Undo :func:`pack`."""
    mask = (_1 << np.uint64(bits)) - _1
    held, at, word = 0, 0, _0
    for i in range(out.size):
        if held >= bits:
            out[i] = word & mask
            word >>= np.uint64(bits)
            held -= bits
        else:
            following = words[at]
            at += 1
            out[i] = (word | (following << np.uint64(held))) & mask
            word = following >> np.uint64(bits - held)
            held += 64 - bits


@kernel
def first_unreduced(words: Words, bits: int, stride: int, primes: Words, degree: int, rows: int) -> int:
    """The index of the first residue that isn't below its prime, or -1.

    ``words`` holds one ciphertext every ``stride`` words: ``rows`` rows of ``degree`` residues, each
    of ``bits`` bits, and in some formats a seed. Rows take the primes in turn.
    """
    row_words = degree * bits // 64
    row = np.empty(degree, dtype=np.uint64)
    for c in range(words.size // stride):
        for r in range(rows):
            start = c * stride + r * row_words
            unpack(words[start : start + row_words], bits, row)
            p = primes[r % primes.size]
            largest = _0
            for i in range(degree):
                largest = max(largest, row[i])
            if largest >= p:
                for i in range(degree):
                    if row[i] >= p:
                        return (c * rows + r) * degree + i
    return -1


@kernel
def fold(words: Words, bits: int, stride: int, primes: Words, rows: int, total: Words) -> None:
    """Add the residues of ``words``, laid out as in :func:`first_unreduced`, to ``total``.

    ``total`` is (ciphertexts, rows or more, degree); both sides are below their primes.
    """
    row_words = total.shape[2] * bits // 64
    row = np.empty(total.shape[2], dtype=np.uint64)
    for c in range(total.shape[0]):
        for r in range(rows):
            start = c * stride + r * row_words
            unpack(words[start : start + row_words], bits, row)
            add(total[c, r], row, primes[r % primes.size])


@kernel
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
