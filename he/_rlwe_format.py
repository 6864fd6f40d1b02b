"""What CKKS and BFV have in common below their keys: one scheme's parameters and byte formats.

**An encrypted vector** is 16 bytes of the scheme's digest, then as many ciphertexts as the vector
takes. A ciphertext is its residues, row after row: the first polynomial comes first, and each
polynomial has one row for each prime. A row is N residues of exactly ``bits`` bits, least
significant bit first, in 64-bit little-endian words. A seeded ciphertext has rows of its first
polynomial only, then the 64 bytes from which SEAL's generator draws the second. All sizes follow
from the scheme and the length.

A sum is laid out in the same way, always with both polynomials, after a digest of its own.

Bytes from others reach Python's ``len``, two comparisons, and kernels that read residues of a
fixed width: no parser and no decompression.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from he import _ring, _ring_kernels
from he._numbers import whole
from he.errors import HEError, OpenError
from he.params import MAX_LENGTH, SECURITY_BITS, Parameters

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

DIGEST_BYTES = 16
"""How many bytes of a digest every encrypted vector, sum and key begins with."""


@dataclass(frozen=True)
class Format(ABC):
    """Parameters and formats for sums of up to ``max_clients`` vectors of integers in 0..``bound``."""

    bound: int
    max_clients: int
    seeded: bool = False

    name: ClassVar[str]
    transformed: ClassVar[bool]
    """Whether ciphertexts are kept as values rather than coefficients."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.bound, self.max_clients, self.seeded)  # none of the tables

    def __post_init__(self) -> None:
        for name in ("bound", "max_clients"):
            number = whole(getattr(self, name))
            if number is None or number < 1:
                raise HEError(f"got {name}={getattr(self, name)!r}; expected an integer of at least 1")
            object.__setattr__(self, name, number)
        if not isinstance(self.seeded, bool):
            raise HEError(f"got seeded={self.seeded!r}; expected True or False")
        _ = self.parameters

    @property
    @abstractmethod
    def parameters(self) -> Parameters:
        """The ring and its moduli, derived in :mod:`he.params`."""

    @abstractmethod
    def _encode(self, values: Words) -> list[Words]:
        """For each prime, the residues (k, N) of encodings of ``values`` (k, slots), as ciphertexts are kept."""

    @abstractmethod
    def _decode(self, rows: list[Words], count: int) -> tuple[Integers, bool]:
        """The slots (k, slots) of a sum of ``count`` vectors, and whether all of them are on the grid.

        ``rows`` are the coefficients (k, N) for each prime; they may be overwritten.
        """

    @property
    def slots(self) -> int:
        """Values that one ciphertext holds: as many as the ring's degree N."""
        return self.parameters.degree

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of everything that fixes the parameters and the formats (32 bytes)."""
        return hashlib.sha256(f"he/v1/{self.name}/{self!r}/{self.parameters!r}".encode()).digest()

    def size(self, length: int) -> int:
        """Bytes of an encrypted vector of ``length`` values."""
        return DIGEST_BYTES + 8 * self._ciphertexts(length) * self._stride

    def total_size(self, length: int) -> int:
        """Bytes of an encrypted sum of vectors of ``length`` values."""
        return DIGEST_BYTES + 16 * self._ciphertexts(length) * self._half

    @property
    def public_size(self) -> int:
        """Bytes of a public key; 0 if the scheme is seeded, because it then has none."""
        return 0 if self.seeded else DIGEST_BYTES + 16 * self._half

    def describe(self) -> str:
        """The parameters in one line, for people."""
        p = self.parameters
        key = "one shared secret key, seeded" if self.seeded else "public key"
        return (
            f"{self.name.upper()} ({key}): ring degree {p.degree}, modulus {len(p.primes)} x {p.bits} bits, "
            f"{self.slots} slots, {8 * self._stride / self.slots:.2f} bytes a value in full ciphertexts; "
            f"{SECURITY_BITS} bits of security, also against quantum computers"
        )

    def _require_possible(self, on_grid: bool, sums: Integers, unused: Integers, count: int) -> None:
        """Refuse slots to which ``count`` honest vectors can't add up, whichever slot shows it.

        ``on_grid`` says whether all slots were where the encoding puts integers. ``sums`` are the
        slots of values, ``unused`` those after the last value. Raises :class:`OpenError`.
        """
        if not on_grid or unused.any() or sums.min() < 0 or sums.max() > count * self.bound:
            raise OpenError(
                f"some slot is not a possible sum of {count} vectors with values in 0..{self.bound}: a ciphertext "
                "was malformed, the key or the count belongs to another sum, or the sum was altered. The sum "
                "stays closed; run a new session"
            )

    @property
    def _bits(self) -> int:
        return self.parameters.bits

    @cached_property
    def _half(self) -> int:
        """Words of one polynomial."""
        return len(self.parameters.primes) * self.parameters.degree * self._bits // 64

    @property
    def _stride(self) -> int:
        """Words of one ciphertext."""
        return self._half + (_ring.SEED_WORDS if self.seeded else self._half)

    @cached_property
    def _primes(self) -> Words:
        return np.array(self.parameters.primes, dtype=np.uint64)

    @cached_property
    def _fields(self) -> list[_ring.Field]:
        return [_ring.field(self.parameters.degree, prime) for prime in self.parameters.primes]

    def _ciphertexts(self, length: int) -> int:
        number = whole(length)
        if number is None or not 1 <= number <= MAX_LENGTH:
            raise HEError(f"got a length of {length!r}; expected an integer from 1 to {MAX_LENGTH}")
        return -(-number // self.slots)

    def _shape(self, length: int) -> tuple[int, int, int]:
        p = self.parameters
        return self._ciphertexts(length), 2 * len(p.primes), p.degree

    def _tag(self, kind: bytes) -> bytes:
        return (hashlib.sha256(self.digest + kind).digest() if kind else self.digest)[:DIGEST_BYTES]

    def _body(self, data: bytes, kind: bytes, expected: int, error: type[HEError]) -> bytes:
        """``data`` after its digest, once the digest and the length of ``data`` are right."""
        what = (kind or b"encrypted vector").decode()
        if not isinstance(data, bytes) or len(data) != expected:
            got = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
            raise error(f"got {got} for a {what}; expected {expected} bytes, for {self.name} and these parameters")
        if data[:DIGEST_BYTES] != self._tag(kind):
            raise error(
                f"got a {what} that begins with {data[:DIGEST_BYTES].hex()}; expected {self._tag(kind).hex()}, the "
                "digest of these parameters: both sides must use the same scheme"
            )
        return data[DIGEST_BYTES:]

    def _reduced(self, body: bytes, what: str, error: type[HEError], *, seeded: bool = False) -> Words:
        """``body`` as words, once all its residues are below their primes."""
        words = np.frombuffer(body, dtype="<u8")
        p = self.parameters
        rows = len(p.primes) * (1 if seeded else 2)
        stride = self._stride if seeded else 2 * self._half
        at = _ring_kernels.first_unreduced(words, self._bits, stride, self._primes, p.degree, rows)
        if at >= 0:
            row, place = divmod(at, p.degree)
            raise error(
                f"got a {what} with a residue that is not below {p.primes[row % len(p.primes)]}, at place {place} "
                f"of row {row}; no encryption produces such a residue"
            )
        return words


def packed(rows: Words, bits: int) -> Words:
    """All residues of ``rows``, ``bits`` bits each, in as many words as they fill."""
    words = np.empty(rows.size * bits // 64, dtype=np.uint64)
    _ring_kernels.pack(rows.reshape(-1), bits, words)
    return words


def unpacked(words: Words, bits: int, shape: tuple[int, ...]) -> Words:
    """The residues that :func:`packed` wrote, in an array of ``shape``."""
    rows = np.empty(shape, dtype=np.uint64)
    _ring_kernels.unpack(words, bits, rows.reshape(-1))
    return rows
