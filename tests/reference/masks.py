"""The mask stream block by block from the bare AES permutation: the naive twin of ``mpc.masks``."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def lanes(key: bytes, width: int, offset: int, count: int) -> list[int]:
    """``count`` lanes of ``width`` bytes from lane ``offset`` on."""
    first, last = offset * width // 16, (offset + count) * width // 16
    aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    octets = b"".join(aes.update(block.to_bytes(16, "big")) for block in range(first, last + 1))
    skipped = offset * width - 16 * first
    return [
        int.from_bytes(octets[at : at + width], "little") for at in range(skipped, skipped + count * width, width)
    ]


def add_mask(vector: list[int], key: bytes, width: int, sign: int, offset: int) -> list[int]:
    """``vector`` plus or minus its lanes."""
    stream = lanes(key, width, offset, len(vector))
    return [(v + sign * s) % 2 ** (8 * width) for v, s in zip(vector, stream, strict=True)]
