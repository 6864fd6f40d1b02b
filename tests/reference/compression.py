"""What a session's name chooses, coordinate by coordinate, by the rule of :mod:`secagg.federated.compression`."""

import hashlib
from statistics import median

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def parts(*values: str | bytes | int) -> bytes:
    """Each part after its length in 4 bytes, big-endian; an integer has 8 bytes."""
    octets = [
        p.encode() if isinstance(p, str) else p.to_bytes(8, "big") if isinstance(p, int) else p for p in values
    ]
    return b"".join(len(part).to_bytes(4, "big") + part for part in octets)


def words(count: int, label: str, session: bytes, *more: int) -> list[int]:
    """The first ``count`` 64-bit words of the stream, little-endian."""
    key = hashlib.sha256(parts(f"secagg/v1/{label}", session, *more)).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * count))
    return [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 8 * count, 8)]


def random_k(size: int, k: int, session: bytes) -> list[int]:
    """The coordinates with the ``k`` smallest words."""
    ranks = words(size, "random-k", session)
    return sorted(sorted(range(size), key=lambda j: (ranks[j], j))[:k])


def public_mask(changes: list[float], k: int, exploring: int, threshold: float, session: bytes) -> list[int]:
    """The largest changes above the threshold, then the coordinates with the smallest words among the others."""
    ranks = words(len(changes), "public-mask", session)
    by_size = sorted(range(len(changes)), key=lambda j: (-abs(changes[j]), j))
    top = [j for j in by_size if abs(changes[j]) > threshold][: k - exploring]
    others = sorted(set(range(len(changes))) - set(top), key=lambda j: (ranks[j], j))
    return sorted(top + others[: k - len(top)])


def count_sketch(vector: list[float], width: int, rows: int, session: bytes) -> list[float]:
    """Row after row: each coordinate times its sign, added into its bucket."""
    sketch = [0.0] * (width * rows)
    for row in range(rows):
        for value, word in zip(vector, words(len(vector), "count-sketch", session, row), strict=True):
            sketch[row * width + (word * width >> 64)] += -value if word & 1 else value
    return sketch


def expanded_sketch(sketch: list[float], size: int, width: int, session: bytes) -> list[float]:
    """The median over the rows of each coordinate's bucket times its sign."""
    rows = [sketch[start : start + width] for start in range(0, len(sketch), width)]
    streams = [words(size, "count-sketch", session, row) for row in range(len(rows))]

    def estimate(row: int, j: int) -> float:
        value = rows[row][streams[row][j] * width >> 64]
        return -value if streams[row][j] & 1 else value

    return [median(estimate(row, j) for row in range(len(rows))) for j in range(size)]
