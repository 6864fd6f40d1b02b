"""What all parts of :mod:`he.kahe` share: a scheme's parameters, its streams, and the bytes of vectors and sums.

**Places.** Coefficients are numbered through all polynomials: place 8 N g + 8 i + j is coefficient i of
polynomial 8 g + j. Group g is the polynomials 8 g to 8 g + 7. Places after the last one are not sent.

**An encrypted vector** holds, group after group and for each prime, the residues of the group's places. Those
of one polynomial are a string of bits: residues of exactly as many bits as the prime has, one after another,
least significant bit first, cut into 64-bit little-endian words, the last of them filled up with zeros. The
words of the eight polynomials take turns. A sum has the same form.

**Streams** are AES-256 in counter mode (:func:`he.ring.streams.aes_ctr`), under keys of their own. The
values of polynomial a_j, for each prime, come from a public seed, by :func:`he.ring.sampling.uniform`. Word 2x
and word 2x + 1 of the stream of the errors are the coins of place x, those of the stream of the key the
coins of coefficient x. So no word is used twice, whatever the segments are.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from he import _kahe_kernels, kahe_params
from he._numbers import whole
from he.errors import CiphertextError, HEError
from he.kahe_params import MAX_CLIENTS, Parameters, words
from he.ring import LANES, Field, field, packing, sampling
from he.ring.streams import KEY_BYTES, Stream, aes_ctr, derive

Words = NDArray[np.uint64]
Small = NDArray[np.int8]
Integers = NDArray[np.int64]

SEED_BYTES = KEY_BYTES
"""Bytes of a secret or a public seed."""

_PIECE = 1 << 14  # places: two words of each are 256 KiB, a part of a second-level cache


@dataclass(frozen=True)
class Format:
    """Segments (length, bound) of up to ``max_clients`` vectors, and the ring that carries their sums."""

    segments: tuple[tuple[int, int], ...]
    max_clients: int
    key_bytes: int = 4

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.segments, self.max_clients, self.key_bytes)  # none of the tables

    def __post_init__(self) -> None:
        try:
            segments = tuple((whole(length) or 0, whole(bound) or 0) for length, bound in self.segments)
        except (TypeError, ValueError):
            segments = ()
        if not segments or min(min(pair) for pair in segments) < 1:
            raise HEError(
                f"got segments={self.segments!r:.200}; expected at least one pair of a length and the largest "
                "value, integers of at least 1"
            )
        clients, key_bytes = whole(self.max_clients), whole(self.key_bytes)
        if clients is None or not 1 <= clients <= MAX_CLIENTS:
            raise HEError(f"got max_clients={self.max_clients!r}; expected an integer from 1 to {MAX_CLIENTS}")
        if key_bytes is None or key_bytes < 0:
            raise HEError(f"got key_bytes={self.key_bytes!r}; expected an integer of at least 0")
        object.__setattr__(self, "segments", segments)
        object.__setattr__(self, "max_clients", clients)
        object.__setattr__(self, "key_bytes", key_bytes)
        _ = self.parameters

    @cached_property
    def parameters(self) -> Parameters:
        """Chosen by :func:`he.kahe_params.choose`."""
        return kahe_params.choose(self.segments, self.max_clients, self.key_bytes)

    @property
    def degree(self) -> int:
        """The ring degree N: coefficients of a key."""
        return self.parameters.degree

    @cached_property
    def size(self) -> int:
        """Bytes of an encrypted vector, and of a sum."""
        return self.parameters.size

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of everything that fixes the parameters and the formats (32 bytes)."""
        return hashlib.sha256(
            f"he/v1/kahe/{self.segments!r}/{self.max_clients}/{self.parameters!r}".encode()
        ).digest()

    def describe(self) -> str:
        """The parameters in one line, for people."""
        values = sum(length for length, _ in self.segments)
        return (
            f"KAHE (one-time keys that add up): {self.parameters.summary()}; {self.size / values:.3g} bytes a value"
        )

    def check(self, upload: bytes) -> None:
        """Raise :class:`CiphertextError` unless ``upload`` could be an encrypted vector.

        Its size, every residue and the bits after the last residue are checked. A well-formed vector may
        still hold anything: that shows when a sum is opened.
        """
        self._check(self._groups(upload, CiphertextError), CiphertextError)

    @cached_property
    def _fields(self) -> list[Field]:
        return [field(self.degree, prime) for prime in self.parameters.primes]

    @cached_property
    def _primes(self) -> Words:
        return np.array(self.parameters.primes, dtype=np.uint64)

    @property
    def _middle(self) -> int:
        return prod(self.parameters.primes) // 2

    def _groups(self, data: bytes, error: type[HEError]) -> list[list[Words]]:
        """For each group and prime, the packed words (w, 8) in ``data``, once its size is right."""
        if type(data) is not bytes or len(data) != self.size:
            got = f"{len(data)} bytes" if type(data) is bytes else type(data).__name__
            raise error(
                f"got {got} for an encrypted vector or sum; expected {self.size} bytes, for these parameters"
            )
        flat = np.frombuffer(data, dtype="<u8").reshape(-1, LANES)
        groups, at = [], 0
        for rows in self.parameters.rows:
            ends = np.cumsum([at, *(words(rows, bits) for bits in self.parameters.bits)]).tolist()
            groups.append([flat[first:end] for first, end in pairwise(ends)])
            at = ends[-1]
        return groups

    def _check(self, groups: list[list[Words]], error: type[HEError]) -> None:
        """Refuse residues that are not below their prime, and bits after the last of them."""
        for g, rows in enumerate(self.parameters.rows):
            for packed, prime in zip(groups[g], self.parameters.primes, strict=True):
                used = rows * prime.bit_length() % 64
                spare = packed[-1] >> np.uint64(used) if used else packed[:0]
                if spare.any() or not packing.all_below(packed, prime.bit_length(), prime):
                    raise error(
                        f"got a residue that is not below {prime}, or bits after the last one, in group {g}; no "
                        "encryption produces them"
                    )

    def _spans(self, group: int) -> Iterator[tuple[int | None, int, int, int]]:
        """Where segments, and at last the empty places, lie in a group.

        Each is the segment (None for empty places), the first and the last place plus 1, both counted from
        the group's beginning, and the first place counted from the segment's beginning.
        """
        p = self.parameters
        start = group * p.degree * LANES
        end = start + p.rows[group] * LANES
        after = 0
        for s, plane in enumerate(p.planes):
            first, after = plane.first, plane.first + plane.places
            if max(first, start) < min(after, end):
                yield s, max(first, start) - start, min(after, end) - start, max(first, start) - first
        if after < end:
            yield None, max(after, start) - start, end - start, 0

    def _uniform(self, public: bytes) -> "Uniform":
        """The polynomials a of a public seed."""
        _require_seed("public seed", public)
        streams = [self._stream(public, b"", b"a/%d" % prime) for prime in self.parameters.primes]
        return Uniform(self._fields, streams)

    def _coins(self, secret: bytes, public: bytes, purpose: bytes) -> Stream:
        """The coins of the errors or of the key, which are others for each public seed."""
        _require_seed("secret seed", secret)
        _require_seed("public seed", public)
        return self._stream(secret, public, purpose)

    def _stream(self, seed: bytes, context: bytes, purpose: bytes) -> Stream:
        return aes_ctr(derive(seed, b"he/v1/kahe", self.digest, context, purpose))

    def _binomials(self, stream: Stream, first: int, out: Small) -> Small:
        """Fill ``out`` (flat) with binomials of 128 coins, those of place ``first`` and after it."""
        coins = np.empty(2 * min(_PIECE, out.size), dtype=np.uint64)
        for at in range(0, out.size, _PIECE):
            part = out[at : at + _PIECE]
            stream(coins[: 2 * part.size], 2 * (first + at))
            _kahe_kernels.coins(coins, part)
        return out


@dataclass(frozen=True, eq=False)
class Uniform:
    """The public polynomials a, as values, from a stream for each prime."""

    fields: list[Field]
    streams: list[Stream]

    def write(self, group: int, k: int, out: Words) -> None:
        """Write the group's polynomials modulo prime ``k`` to ``out`` (N, 8)."""
        sampling.uniform(self.streams[k], group, self.fields[k], out)


def _require_seed(name: str, octets: bytes) -> None:
    if type(octets) is not bytes or len(octets) != SEED_BYTES:
        got = f"{len(octets)} bytes" if type(octets) is bytes else type(octets).__name__
        raise HEError(f"got {got} for a {name}; expected {SEED_BYTES} bytes")
