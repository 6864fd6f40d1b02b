"""Paillier's scheme with Python's integers and pow(), as the papers write it; slots as one sum of shifts."""

import hashlib
import math
from collections.abc import Sequence
from functools import cache


def pack(values: Sequence[int], width: int) -> int:
    return sum(value << i * width for i, value in enumerate(values))


def unpack(integer: int, width: int, slots: int) -> list[int]:
    return [(integer >> i * width) % 2**width for i in range(slots)]


@cache
def base(n: int) -> int:
    """h = x^(2n) mod n²."""
    size = -(-n.bit_length() // 8)
    seed = hashlib.shake_256(b"secagg/v1/paillier-base" + n.to_bytes(size, "big")).digest(size + 16)
    return pow(int.from_bytes(seed, "big") % n, 2 * n, n**2)


@cache
def encrypt(n: int, plaintext: int, exponent: int) -> int:
    """Under an exponent α of half the bits of n (Damgård, Jurik and Nielsen)."""
    return pow(1 + n, plaintext, n**2) * pow(base(n), exponent, n**2) % n**2


def encrypt_textbook(n: int, plaintext: int, r: int) -> int:
    """Under a unit r (Paillier)."""
    return pow(1 + n, plaintext, n**2) * pow(r, n, n**2) % n**2


def decrypt(p: int, q: int, ciphertext: int) -> int:
    n = p * q
    order = math.lcm(p - 1, q - 1)
    return (pow(ciphertext, order, n**2) - 1) // n * pow(order, -1, n) % n
