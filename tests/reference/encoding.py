"""Fixed-point rounding one coordinate at a time, with Python's floats and OpenSSL's AES."""

import math
from collections.abc import Sequence
from fractions import Fraction

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def random_words(key: bytes, count: int) -> list[int]:
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * count))
    return [int.from_bytes(stream[4 * i : 4 * i + 4], "little") for i in range(count)]


def quantize(
    vector: Sequence[float], clips: Sequence[float], bits: int, share: float = 1.0, key: bytes | None = None
) -> tuple[list[int], int]:
    """The integers, stochastically rounded if there is a key, and how many coordinates were clipped."""
    top = 2 ** (bits - 1) - 1
    words = random_words(key, len(vector)) if key is not None else []
    values, clipped = [], 0
    for i, (x, clip) in enumerate(zip(vector, clips, strict=True)):
        clipped += abs(x) > clip
        y = (math.copysign(float(top), x) if abs(x) >= clip else x * (top / clip)) * share
        down = math.floor(y)
        q = round(y) if key is None else down + (words[i] < (Fraction(y) - down) * 2**32)
        values.append(min(max(q + top, 0), 2 * top))
    return values, clipped


def dequantize(
    sums: Sequence[int], clips: Sequence[float], bits: int, survivors: int, max_weight: int = 1
) -> list[float]:
    top = 2 ** (bits - 1) - 1
    return [max_weight * (clip / top) * (s - survivors * top) for s, clip in zip(sums, clips, strict=True)]
