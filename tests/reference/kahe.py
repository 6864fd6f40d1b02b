"""The cipher of ``he.kahe`` by its definition: schoolbook products and Python's integers, in rings of any degree.

It imports nothing of ours: parameters are arguments, and streams come from ``cryptography`` and ``hashlib``.
"""

import hashlib
import hmac
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

LANES = 8
COINS = 128


@dataclass(frozen=True)
class Segment:
    """Values of ``width`` bits each, ``fields`` in a coefficient."""

    length: int
    width: int
    fields: int

    @property
    def places(self) -> int:
        return -(-self.length // self.fields)


@dataclass(frozen=True)
class Ring:
    degree: int
    primes: tuple[int, ...]
    shift: int
    segments: tuple[Segment, ...]
    places: int
    digest: bytes

    @cached_property
    def q(self) -> int:
        return prod(self.primes)

    def key(self, secret: bytes, public: bytes) -> list[int]:
        return binomials(self._octets(secret, public, b"key", 0, 16 * self.degree))

    def errors(self, secret: bytes, public: bytes) -> list[int]:
        return binomials(self._octets(secret, public, b"error", 0, 16 * self.places))

    def encrypt(self, values: list[list[int]], secret: bytes, public: bytes) -> bytes:
        masks, errors = self.products(self.key(secret, public), public), self.errors(secret, public)
        messages = self.encoded(values)
        return self.packed([(a + e + m) % self.q for a, e, m in zip(masks, errors, messages, strict=True)])

    def encoded(self, values: list[list[int]]) -> list[int]:
        """The messages of all places."""
        out = []
        for segment, numbers in zip(self.segments, values, strict=True):
            for i in range(segment.places):
                fields = numbers[i :: segment.places]
                out.append(sum(x << self.shift + segment.width * k for k, x in enumerate(fields)))
        return out + [0] * (self.places - len(out))

    def phases(self, total: bytes, keys: list[int], public: bytes) -> list[int]:
        """Errors and messages together, modulo q, of all places, plus half of 2^shift."""
        masks = self.products(keys, public)
        half = 1 << self.shift - 1
        return [(c - a + half) % self.q for c, a in zip(self.unpacked(total), masks, strict=True)]

    def opened(self, total: bytes, keys: list[int], public: bytes) -> tuple[list[list[int]], list[int]]:
        """The sums of each segment, without any check, and the errors of all places."""
        phases, at, sums = self.phases(total, keys, public), 0, []
        for segment in self.segments:
            part = phases[at : at + segment.places]
            at += segment.places
            shifts = [self.shift + segment.width * k for k in range(segment.fields)]
            fields = [y >> shift & (1 << segment.width) - 1 for shift in shifts for y in part]
            sums.append(fields[: segment.length])
        return sums, [y % (1 << self.shift) - (1 << self.shift - 1) for y in phases]

    def products(self, small: list[int], public: bytes) -> list[int]:
        """a s modulo q at all places."""
        out: list[int] = []
        factor = np.array(small, dtype=np.int64)
        for group in range(-(-self.places // (LANES * self.degree))):
            residues = []
            for prime in self.primes:
                values = self._uniform(public, group, prime)
                columns = [negacyclic(c, factor, prime) for c in coefficients(values, prime).T]
                residues.append(np.stack(columns, axis=1).reshape(-1).tolist())
            out += [self._joined(together) for together in zip(*residues, strict=True)]
        return out[: self.places]

    def packed(self, numbers: list[int]) -> bytes:
        size, out = LANES * self.degree, []
        for start in range(0, len(numbers), size):
            for prime in self.primes:
                bits = prime.bit_length()
                lanes = []
                for lane in range(LANES):
                    residues = [x % prime for x in numbers[start : start + size][lane::LANES]]
                    whole = sum(x << bits * i for i, x in enumerate(residues))
                    octets = whole.to_bytes(-(-bits * len(residues) // 64) * 8, "little")
                    lanes.append([octets[i : i + 8] for i in range(0, len(octets), 8)])
                out += [word for row in zip(*lanes, strict=True) for word in row]
        return b"".join(out)

    def unpacked(self, data: bytes) -> list[int]:
        """The numbers modulo q; every byte is read."""
        out, at = [], 0
        for start in range(0, self.places, LANES * self.degree):
            rows = min(self.places - start, LANES * self.degree) // LANES
            residues = []
            for prime in self.primes:
                bits = prime.bit_length()
                size = -(-bits * rows // 64) * 8 * LANES
                words = [data[i : i + 8] for i in range(at, at + size, 8)]
                at += size
                lanes = []
                for lane in range(LANES):
                    whole = int.from_bytes(b"".join(words[lane::LANES]), "little")
                    assert whole >> bits * rows == 0
                    lanes.append([whole >> bits * i & (1 << bits) - 1 for i in range(rows)])
                residues.append([x for row in zip(*lanes, strict=True) for x in row])
                assert max(residues[-1]) < prime
            out += [self._joined(together) for together in zip(*residues, strict=True)]
        assert at == len(data)
        return out

    def _joined(self, residues: tuple[int, ...]) -> int:
        return sum(x * weight for x, weight in zip(residues, self._weights, strict=True)) % self.q

    @cached_property
    def _weights(self) -> list[int]:
        return [self.q // p * pow(self.q // p, -1, p) for p in self.primes]

    def _octets(self, seed: bytes, context: bytes, purpose: bytes, first: int, size: int) -> bytes:
        parts = (b"he/v1/kahe", self.digest, context, purpose)
        info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        key = hmac.digest(seed, info + b"\1", hashlib.sha256)
        encryptor = Cipher(algorithms.AES(key), modes.CTR((first // 16).to_bytes(16, "big"))).encryptor()
        return encryptor.update(bytes(size))

    def _uniform(self, public: bytes, group: int, prime: int) -> np.ndarray:
        """The values (N, 8) of a group's polynomials."""
        count, mask = LANES * self.degree, (1 << prime.bit_length()) - 1
        octets = self._octets(public, b"", b"a/%d" % prime, group * 2**33 * 8, 8 * 4 * count)
        words = [int.from_bytes(octets[i : i + 8], "little") & mask for i in range(0, len(octets), 8)]
        following = iter([word for word in words[count:] if word < prime])
        values = [word if word < prime else next(following) for word in words[:count]]
        return np.array(values, dtype=np.int64).reshape(self.degree, LANES)


def binomials(octets: bytes) -> list[int]:
    """Heads minus 64, of 128 coins each."""
    size = COINS // 8
    return [
        int.from_bytes(octets[i : i + size], "little").bit_count() - COINS // 2 for i in range(0, len(octets), size)
    ]


def coefficients(values: np.ndarray, prime: int) -> np.ndarray:
    """The polynomials (N, 8) with these values: row i is at root^(2r + 1), r being i with its bits reversed."""
    degree = len(values)
    bits = degree.bit_length() - 1
    root = least_root(degree, prime)
    powers = [pow(root, -k, prime) for k in range(2 * degree)]
    exponents = np.array([2 * int(f"{i:0{bits}b}"[::-1], 2) + 1 for i in range(degree)])
    table = np.array(powers, dtype=np.int64)
    out = np.empty(values.shape, dtype=np.int64)
    for start in range(0, degree, 256):
        places = np.arange(start, min(start + 256, degree))
        matrix = table[np.outer(places, exponents) % (2 * degree)]
        out[places] = modular(matrix, values, prime)
    divided = out.astype(object) * pow(degree, -1, prime) % prime
    return divided.astype(np.int64)


def modular(a: np.ndarray, b: np.ndarray, prime: int) -> np.ndarray:
    """The product of two matrices modulo a prime below 2^50: in halves of 25 bits, nothing overflows."""
    half = (1 << 25) - 1
    parts = [[x & half, x >> 25] for x in (a, b)]
    total = np.zeros((len(a), b.shape[1]), dtype=object)
    for i, left in enumerate(parts[0]):
        for j, right in enumerate(parts[1]):
            total += (left @ right).astype(object) << 25 * (i + j)
    return (total % prime).astype(np.int64)


def negacyclic(a: np.ndarray, small: np.ndarray, prime: int) -> np.ndarray:
    """The schoolbook product of a polynomial below ``prime`` and one with coefficients below 2^20 in size."""
    degree, total = len(a), 0
    for low in range(0, prime.bit_length(), 16):
        full = np.convolve(a >> low & 0xFFFF, small)  # below 2^(16 + 20 + 13)
        folded = full[:degree].copy()
        folded[: degree - 1] -= full[degree:]
        total = total + (folded.astype(object) << low)
    return np.asarray(total % prime, dtype=np.int64)


def least_root(degree: int, prime: int) -> int:
    """The least element of order 2 * degree."""
    for base in range(2, prime):
        root = pow(base, (prime - 1) // (2 * degree), prime)
        if pow(root, degree, prime) == prime - 1:
            return min(pow(root, k, prime) for k in range(1, 2 * degree, 2))
    raise AssertionError
