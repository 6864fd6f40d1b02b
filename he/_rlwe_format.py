"""What CKKS and BFV have in common below their keys: one scheme's parameters and byte formats.

**An encrypted vector** is 16 bytes of the scheme's digest, as many ciphertexts as the vector takes, and,
if the scheme is seeded, the seeds of their second polynomials. A ciphertext is rows of residues: the
first polynomial comes first, and each polynomial has one row for each prime. A row is N residues of
exactly ``bits`` bits, least significant bit first, in 64-bit little-endian words. A seeded ciphertext
has rows of its first polynomial only. Ciphertexts go in groups of eight, the last one perhaps smaller.
A group is row after row, and in a row the words of its ciphertexts take turns (:mod:`he.ring.packing`).
All polynomials are kept as values (:meth:`he.ring.Field.forward`), so that opening takes one transform
for each prime.

**The seeds**: one of 32 bytes for the whole vector, from which :func:`he.ring.sampling.uniform` draws;
under ``engine="seal"`` 64 bytes for each ciphertext, from which SEAL's generator draws.

A sum is laid out in the same way, always with both polynomials, after a digest of its own.

Bytes from others reach Python's ``len``, two comparisons, and kernels that read residues of a
fixed width: no parser and no decompression.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from he._numbers import whole
from he.errors import HEError, OpenError
from he.params import MAX_LENGTH, Parameters
from he.ring import LANES, Field, field, lanes, packing

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

DIGEST_BYTES = 16
"""How many bytes of a digest every encrypted vector, sum and key begins with."""

ENGINES = ("ring", "seal")
"""What encrypts: this package's kernels, or SEAL through TenSEAL."""

SEED_BYTES = 32
"""Bytes of the seed of a vector's second polynomials."""

SEAL_SEED_BYTES = 64
"""Bytes of a seed of SEAL's generator."""


@dataclass(frozen=True)
class Format(ABC):
    """Parameters and formats for sums of up to ``max_clients`` vectors of integers in 0..``bound``."""

    bound: int
    max_clients: int
    seeded: bool = False
    engine: str = "ring"

    name: ClassVar[str]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.bound, self.max_clients, self.seeded, self.engine)  # none of the tables

    def __post_init__(self) -> None:
        for name in ("bound", "max_clients"):
            number = whole(getattr(self, name))
            if number is None or number < 1:
                raise HEError(f"got {name}={getattr(self, name)!r}; expected an integer of at least 1")
            object.__setattr__(self, name, number)
        if not isinstance(self.seeded, bool):
            raise HEError(f"got seeded={self.seeded!r}; expected True or False")
        if type(self.engine) is not str or self.engine not in ENGINES:
            raise HEError(f"got engine={self.engine!r}; expected one of {', '.join(ENGINES)}")
        _ = self.parameters

    @property
    @abstractmethod
    def parameters(self) -> Parameters:
        """The ring and its moduli, derived in :mod:`he.params`."""

    @abstractmethod
    def _encode(self, values: Words, out: Words, spare: Words) -> None:
        """Write the residues, as coefficients, of encodings of ``values`` (8, slots) to ``out`` (primes, N, 8).

        ``spare`` (N, 8) is overwritten.
        """

    @abstractmethod
    def _decode(self, rows: Words, spare: Words, count: int, sums: Integers) -> bool:
        """Write the slots of a sum of ``count`` vectors to ``sums`` (at most 8, slots).

        ``rows`` (primes, N, 8) are its coefficients; they and ``spare`` (N, 8) are overwritten. Returns whether
        all slots are on the grid.
        """

    @property
    def slots(self) -> int:
        """Values that one ciphertext holds: as many as the ring's degree N."""
        return self.parameters.degree

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of everything that fixes the parameters and the formats (32 bytes)."""
        return hashlib.sha256(f"he/v2/{self.name}/{self!r}/{self.parameters!r}".encode()).digest()

    def size(self, length: int) -> int:
        """Bytes of an encrypted vector of ``length`` values."""
        ciphertexts = self._ciphertexts(length)
        return DIGEST_BYTES + self._seed_bytes(ciphertexts) + 8 * ciphertexts * self._stride

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
            f"{self.name.upper()} ({key}): {p.summary()}; {self.slots} slots, "
            f"{8 * self._stride / self.slots:.2f} bytes a value in full ciphertexts"
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
        return self._half * (1 if self.seeded else 2)

    @property
    def _rows(self) -> int:
        """Rows of one ciphertext."""
        return len(self.parameters.primes) * (1 if self.seeded else 2)

    def _seed_bytes(self, ciphertexts: int) -> int:
        """Bytes of the seeds of a vector."""
        if not self.seeded:
            return 0
        return SEED_BYTES if self.engine == "ring" else SEAL_SEED_BYTES * ciphertexts

    @cached_property
    def _primes(self) -> Words:
        return np.array(self.parameters.primes, dtype=np.uint64)

    @cached_property
    def _fields(self) -> list[Field]:
        return [field(self.parameters.degree, prime) for prime in self.parameters.primes]

    def _ciphertexts(self, length: int) -> int:
        number = whole(length)
        if number is None or not 1 <= number <= MAX_LENGTH:
            raise HEError(f"got a length of {length!r}; expected an integer from 1 to {MAX_LENGTH}")
        return -(-number // self.slots)

    def _empty(self, length: int) -> Words:
        """The sum of no vectors: groups (g, 2 * primes, N, 8) of eight ciphertexts."""
        p = self.parameters
        sums = lanes(-(-self._ciphertexts(length) // LANES), 2 * len(p.primes), p.degree)
        sums[:] = 0
        return sums

    def _tag(self, kind: bytes) -> bytes:
        return (hashlib.sha256(self.digest + kind).digest() if kind else self.digest)[:DIGEST_BYTES]

    def _body(self, data: bytes, kind: bytes, expected: int, error: type[HEError]) -> memoryview:
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
        return memoryview(data)[DIGEST_BYTES:]

    def _reduced(self, body: bytes | memoryview, rows: int, what: str, error: type[HEError]) -> list[Words]:
        """The groups (rows, words, n) of ``body``, once all residues are below their primes."""
        primes = self.parameters.primes
        groups = self._groups(np.frombuffer(body, dtype="<u8"), rows)
        for g, group in enumerate(groups):
            for r, row in enumerate(group):
                if not packing.all_below(row, self._bits, primes[r % len(primes)]):
                    raise error(
                        f"got a {what} with a residue that is not below {primes[r % len(primes)]}, in row {r} of "
                        f"group {g}; no encryption produces such a residue"
                    )
        return groups

    def _groups(self, words: Words, rows: int) -> list[Words]:
        """The groups (rows, words, n) of packed ciphertexts, as views of ``words``."""
        width = packing.words_of(self.parameters.degree, self._bits)
        return [part.reshape(rows, width, -1) for part in blocks(words, rows * width * LANES)]

    def _packed(self, groups: Words, ciphertexts: int) -> Words:
        """Groups (g, rows, N, 8) as packed ciphertexts, in one row of words."""
        rows = groups.shape[1]
        words = np.empty(ciphertexts * rows * packing.words_of(self.parameters.degree, self._bits), dtype=np.uint64)
        self._pack_groups(groups, words)
        return words

    def _pack_groups(self, groups: Words, words: Words) -> None:
        """Write groups (g, rows, N, 8) to ``words``, as packed ciphertexts."""
        for group, part in zip(groups, self._groups(words, groups.shape[1]), strict=True):
            self._pack(group, part)

    def _pack(self, rows: Words, part: Words) -> None:
        """Write ``rows`` (rows, N, 8) to a group (rows, words, n)."""
        for row, words in zip(rows, part, strict=True):
            packing.pack(row, self._bits, words)

    def _unpacked(self, parts: list[Words]) -> Words:
        """The groups (g, rows, N, 8) that :meth:`_packed` wrote."""
        groups = lanes(len(parts), len(parts[0]), self.parameters.degree)
        for rows, part in zip(groups, parts, strict=True):
            self._unpack(part, rows)
        return groups

    def _unpack(self, part: Words, rows: Words) -> None:
        """Write a group (rows, words, n) to ``rows`` (rows, N, 8); the other lanes become 0."""
        for words, row in zip(part, rows, strict=True):
            packing.unpack(words, self._bits, row)


def blocks(rows: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """``rows``, ``size`` at a time."""
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
