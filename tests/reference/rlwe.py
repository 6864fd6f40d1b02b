"""Polynomials modulo x^N + 1, packing, BLAKE2Xb and the two encodings by their definitions: twins of ``he``."""

import math
from collections.abc import Iterator
from fractions import Fraction

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

MASK = 2**64 - 1

IV = [
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
]  # fmt: skip
SIGMA = [
    "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
    "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
]  # fmt: skip


def reversed_bits(number: int, count: int) -> int:
    return sum((number >> i & 1) << (count - 1 - i) for i in range(count))


def least_root(degree: int, prime: int) -> int:
    """The least element of order 2 * degree."""
    return next(r for r in range(2, prime) if pow(r, degree, prime) == prime - 1)


def values(coefficients: list[int], root: int, prime: int) -> list[int]:
    """The polynomial at root^(2r + 1), r being the place with its bits reversed."""
    bits = len(coefficients).bit_length() - 1
    points = [pow(root, 2 * reversed_bits(i, bits) + 1, prime) for i in range(len(coefficients))]
    return [sum(c * pow(x, k, prime) for k, c in enumerate(coefficients)) % prime for x in points]


def at(coefficients: list[int], x: int, prime: int) -> int:
    """The polynomial at ``x``, by Horner's rule."""
    value = 0
    for c in reversed(coefficients):
        value = (value * x + c) % prime
    return value


def product(a: list[int], b: list[int], prime: int) -> list[int]:
    """Modulo x^N + 1."""
    n = len(a)
    out = [0] * n
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[(i + j) % n] += x * y if i + j < n else -x * y
    return [x % prime for x in out]


def packed(numbers: list[int], bits: int) -> bytes:
    """All numbers in one, the first lowest."""
    whole = sum(number << (bits * i) for i, number in enumerate(numbers))
    return whole.to_bytes(len(numbers) * bits // 8, "little")


def blake2b(message: bytes, parameters: bytes, key: bytes = b"") -> bytes:
    """RFC 7693, with all 64 bytes of the parameter block."""
    h = [v ^ int.from_bytes(parameters[8 * i : 8 * i + 8], "little") for i, v in enumerate(IV)]
    data = (key.ljust(128, b"\0") if key else b"") + message
    blocks = [data[i : i + 128] for i in range(0, len(data), 128)] or [b""]
    done = 0
    for block in blocks:
        done += len(block)
        m = [int.from_bytes(block.ljust(128, b"\0")[8 * i : 8 * i + 8], "little") for i in range(16)]
        v = h + IV
        v[12] ^= done
        if block is blocks[-1]:
            v[14] ^= MASK
        for turn in range(12):
            order = [int(c, 16) for c in SIGMA[turn % 10]]
            columns = [(i, i + 4, i + 8, i + 12) for i in range(4)]
            diagonals = [(i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12) for i in range(4)]
            for g, (a, b, c, d) in enumerate(columns + diagonals):
                for word, (first, second) in ((m[order[2 * g]], (32, 24)), (m[order[2 * g + 1]], (16, 63))):
                    v[a] = (v[a] + v[b] + word) & MASK
                    v[d] = _right(v[d] ^ v[a], first)
                    v[c] = (v[c] + v[d]) & MASK
                    v[b] = _right(v[b] ^ v[c], second)
        h = [x ^ v[i] ^ v[i + 8] for i, x in enumerate(h)]
    return b"".join(x.to_bytes(8, "little") for x in h)


def blake2xb(message: bytes, key: bytes, length: int) -> bytes:
    """``length`` bytes, a multiple of 64."""
    root = blake2b(message, bytes([64, len(key), 1, 1]) + bytes(8) + length.to_bytes(4, "little") + bytes(48), key)
    leaves = []
    for i in range(length // 64):
        place = i.to_bytes(4, "little") + length.to_bytes(4, "little") + bytes([0, 64]) + bytes(46)
        leaves.append(blake2b(root, bytes([64, 0, 0, 0]) + (64).to_bytes(4, "little") + place))
    return b"".join(leaves)


def words(seed: bytes) -> Iterator[int]:
    """What SEAL's generator makes of ``seed``, 64 bits at a time."""
    counter = 0
    while True:
        buffer = blake2xb(counter.to_bytes(8, "little"), seed, 4096)
        yield from (int.from_bytes(buffer[i : i + 8], "little") for i in range(0, 4096, 8))
        counter += 1


def uniform(seed: bytes, degree: int, primes: list[int]) -> list[list[int]]:
    """The polynomials that SEAL samples: all words first, then new ones in place of those too large."""
    source = words(seed)
    rows = [[next(source) for _ in range(degree)] for _ in primes]
    for row, prime in zip(rows, primes, strict=True):
        limit = MASK - MASK % prime - 1
        for i in range(degree):
            while row[i] >= limit:
                row[i] = next(source)
            row[i] %= prime
    return rows


def complex_slots(coefficients: list[float]) -> list[float]:
    """The real polynomial's values at zeta^(4j + 1): all real parts, then all imaginary ones."""
    n = len(coefficients)
    parts = []
    for j in range(n // 2):
        angles = [math.pi * (4 * j + 1) * k / n for k in range(n)]
        parts.append(
            [sum(c * part(x) for c, x in zip(coefficients, angles, strict=True)) for part in (math.cos, math.sin)]
        )
    return [value[0] for value in parts] + [value[1] for value in parts]


def plain_coefficients(slots: list[int], root: int, modulus: int) -> list[int]:
    """The polynomial modulo ``modulus`` whose :func:`values` are ``slots``."""
    n, bits = len(slots), len(slots).bit_length() - 1
    inverse = pow(n, -1, modulus)
    exponents = [2 * reversed_bits(i, bits) + 1 for i in range(n)]
    return [
        inverse * sum(s * pow(root, -k * e, modulus) for s, e in zip(slots, exponents, strict=True)) % modulus
        for k in range(n)
    ]


def scaled(coefficients: list[int], q: int, t: int) -> list[int]:
    """q m / t, rounded, modulo q."""
    return [math.floor(Fraction(q * m, t) + Fraction(1, 2)) % q for m in coefficients]


def _right(word: int, by: int) -> int:
    return (word >> by | word << (64 - by)) & MASK


def standard_deviation(place: str, degree: int, clients: int, seeded: bool) -> float:
    """Of the encryptions' error in a sum, in its own units: of a coefficient, or of one part of a slot."""
    one = 21 / 2 * (1 if seeded else 4 * degree / 3 + 1)
    return math.sqrt(clients * one * (degree / 2 if place == "slot" else 1))


def counter_words(key: bytes, first: int, count: int) -> list[int]:
    """Words of AES-256 in counter mode, from word ``first`` on: each block is the cipher of its own number."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    out: list[int] = []
    for number in range(first // 2, (first + count + 1) // 2):
        block = cipher.update(number.to_bytes(16, "big"))
        out += [int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")]
    return out[first % 2 :][:count]


def coins(word: int) -> int:
    """Heads of the 21 lowest bits minus those of the 21 next ones."""
    bits = [word >> i & 1 for i in range(42)]
    return sum(bits[:21]) - sum(bits[21:])


def third(number: int, bits: int) -> int:
    """-1, 0 or 1: in which third of the numbers below 2^bits a number is."""
    return math.floor(Fraction(3 * number, 2**bits)) - 1


def kept(source: Iterator[int], count: int, prime: int) -> list[int]:
    """Residues below ``prime``: the low bits of words; then, in place of those too large, of the next words."""
    mask = 2 ** prime.bit_length() - 1
    out = [next(source) & mask for _ in range(count)]
    for i in range(count):
        while out[i] >= prime:
            out[i] = next(source) & mask
    return out


def balanced(number: int, modulus: int) -> int:
    """``number`` modulo an odd ``modulus``, between its halves."""
    rest = number % modulus
    return rest - modulus if rest > modulus // 2 else rest


def digits(number: int, primes: list[int]) -> list[int]:
    """Balanced digits of a number with mixed radices, the lowest first."""
    out = []
    for prime in primes:
        out.append(balanced(number, prime))
        number = (number - out[-1]) // prime
    return out
