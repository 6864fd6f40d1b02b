"""The compiled loops of :mod:`mpc.packed`: arithmetic modulo p = 2^31 - 1 on arrays of numbers below p.

2^31 is 1 modulo p. So the product of two numbers, which is below 2^62, may be replaced by the sum of its
low 31 bits and its high bits, which is below 2^32. An int64 holds 2^31 such sums before it must be reduced. No
branch and no memory address depends on a number.
"""

import numpy as np

from mpc._compiling import inlined, kernel
from mpc._mersenne import BITS, PRIME, Numbers


@kernel
def cut(words: Numbers) -> int:
    """Clear the top bit of each of ``words``, and count those that are then p."""
    skipped = 0
    for i in range(words.shape[0]):
        word = words[i] & PRIME
        words[i] = word
        skipped += int(word == PRIME)
    return skipped


@inlined
def reduced(a: int) -> int:
    """``a``, from 0 to 2^63 - 1, modulo p."""
    a = (a & PRIME) + (a >> BITS)
    a = (a & PRIME) + (a >> BITS)  # at most 2^31 + 1
    a -= PRIME
    return int(a + (PRIME & (a >> 63)))


@inlined
def dot(a: Numbers, b: Numbers) -> int:
    """The inner product of two rows, modulo p. ``b`` may be longer."""
    total = 0
    for i in range(a.shape[0]):
        product = np.int64(a[i]) * np.int64(b[i])
        total += (product & PRIME) + (product >> BITS)
    return reduced(total)


@kernel
def transform(weights: Numbers, rows: Numbers, out: Numbers) -> None:
    """Write the matrix product of ``weights`` (n, r) and ``rows`` (r, w), modulo p, to ``out`` (n, w)."""
    totals = np.empty(rows.shape[1], np.int64)
    for j in range(weights.shape[0]):
        totals[:] = 0
        for i in range(rows.shape[0]):
            weight = np.int64(weights[j, i])
            for column in range(totals.shape[0]):
                product = weight * np.int64(rows[i, column])
                totals[column] += (product & PRIME) + (product >> BITS)
        for column in range(totals.shape[0]):
            out[j, column] = reduced(totals[column])


@kernel
def products(a: Numbers, b: Numbers, out: Numbers) -> None:
    """Write the inner product, modulo p, of each row of ``a`` and each, no shorter, of ``b`` to ``out``."""
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            out[i, j] = dot(a[i], b[j])


@kernel
def misses(challenge: Numbers, share: Numbers, weights: Numbers, proof: Numbers) -> bool:
    """Whether ``share`` (w + c) misses ``proof`` (c, r) at the point that ``weights`` (r) are for.

    Combination i of the share is its inner product with challenge i, plus its number w + i.
    """
    differences = 0
    for i in range(challenge.shape[0]):
        mask = int(share[challenge.shape[1] + i])
        differences |= reduced(dot(challenge[i], share) + mask) ^ dot(weights, proof[i])
    return differences != 0
