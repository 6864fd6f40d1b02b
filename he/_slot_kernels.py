"""Compiled loops that pack values into slots of large integers, and unpack them.

Bits are laid out least significant first: slot i of a plaintext is its bits i * width to
(i + 1) * width, and byte j its bits 8j to 8j + 8. :mod:`he._powers` also cuts integers into limbs, and
joins limbs to integers, in this way.
"""

import numpy as np
from numpy.typing import NDArray

from he._compiling import kernel

Words = NDArray[np.uint64]


@kernel
def pack(values: Words, slots: int, width: int, out: Words) -> None:
    """Write ``values``, ``slots`` to a row of ``out`` and each below 2^``width``, into the words of ``out``.

    ``out`` is (rows, words), zero, with at least ``slots * width`` bits a row and room for all values;
    ``width`` is 1 to 63.
    """
    for row in range(out.shape[0]):
        start = row * slots
        word = 0
        filled = 0
        held = np.uint64(0)
        for i in range(start, min(start + slots, values.size)):
            value = values[i]
            held |= value << np.uint64(filled)
            filled += width
            if filled >= 64:
                out[row, word] = held
                word += 1
                filled -= 64
                # A shift by 64 would be undefined: if nothing is left over, all bits are in the full word.
                held = value >> np.uint64(width - filled) if filled else np.uint64(0)
        if filled:
            out[row, word] = held


@kernel
def unpack(words: Words, slots: int, width: int, out: Words) -> None:
    """Undo :func:`pack`: write every slot of every row to ``out``, (rows * slots,)."""
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for row in range(words.shape[0]):
        for i in range(slots):
            word, shift = divmod(i * width, 64)
            value = words[row, word] >> np.uint64(shift)
            if shift + width > 64:
                value |= words[row, word + 1] << np.uint64(64 - shift)
            out[row * slots + i] = value & mask
