"""The keys of CKKS and BFV, which encrypt vectors and open sums, and the sum that needs no key."""

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he import _ring, _ring_kernels, _seal
from he._numbers import whole
from he._rlwe_format import DIGEST_BYTES, Format, Integers, Words, packed, unpacked
from he._workers import run_all
from he.errors import CiphertextError, HEError, OpenError
from he.scheme import Random

NAME_BYTES = 32
"""Bytes of the hash by which a sum knows a vector that it holds."""

COUNTS = struct.Struct("<QQ")
"""The front of a running sum as bytes: length of the vectors, vectors in the sum."""

_BLOCK = 64  # ciphertexts in one piece of work: a few megabytes
_BATCH = 8  # ciphertexts encoded at once: as many as stay in a second-level cache


@dataclass(frozen=True, eq=False)
class PublicKey:
    """Encrypts vectors. Make one from bytes with :meth:`Scheme.load_public`."""

    scheme: Format
    words: Words = field(repr=False)

    def to_bytes(self) -> bytes:
        """The key in ``scheme.public_size`` bytes: 16 of a digest, then its residues, packed."""
        return self.scheme._tag(b"public key") + self.words.tobytes()

    @property
    def digest(self) -> bytes:
        """SHA-256 of :meth:`to_bytes` (32 bytes), by which to pin the key."""
        return hashlib.sha256(self.to_bytes()).digest()

    def encrypt(self, values: NDArray[Any], executor: Executor | None = None, rng: Random = os.urandom) -> bytes:
        """``values``, integers in 0..``bound``, encrypted: ``scheme.size(len(values))`` bytes.

        SEAL ignores ``rng``. The work is split over ``executor``; the default is this thread. TenSEAL holds the
        interpreter's lock, so that only a pool of spawned *processes* saves time, for vectors of
        10^5 values and more. Raises :class:`HEError` on other values.
        """
        return _encrypt(self.scheme, self.to_bytes(), values, executor)

    def _rows(self) -> Words:
        p = self.scheme.parameters
        return unpacked(self.words, p.bits, (2 * len(p.primes), p.degree))


class SecretKey:
    """Opens sums and, if the scheme is seeded, encrypts. ``public`` is its public key; None if seeded.

    This key opens the ciphertexts of each single client, too.
    """

    def __init__(self, scheme: Format, secret: NDArray[np.int8], public: PublicKey | None) -> None:
        self.scheme, self.public, self._secret = scheme, public, secret

    def __repr__(self) -> str:
        return f"SecretKey({self.scheme!r})"

    def to_bytes(self) -> bytes:
        """The key as bytes of a fixed size: 16 of a digest, two bits a coefficient, then the public key's."""
        pairs = (self._secret + 1).astype(np.uint8).reshape(-1, 4)
        octets: NDArray[np.uint8] = np.bitwise_or.reduce(pairs << np.array([0, 2, 4, 6], dtype=np.uint8), axis=1)
        public = b"" if self.public is None else self.public.words.tobytes()
        return self.scheme._tag(b"secret key") + octets.tobytes() + public

    def encrypt(self, values: NDArray[Any], executor: Executor | None = None, rng: Random = os.urandom) -> bytes:
        """As :meth:`PublicKey.encrypt`; if the scheme is seeded, with this key itself."""
        if self.public is not None:
            return self.public.encrypt(values, executor)
        return _encrypt(self.scheme, self.to_bytes(), values, executor)

    def open(self, total: bytes, length: int, count: int, executor: Executor | None = None) -> Integers:
        """The sum (``length`` integers) of ``count`` vectors, from an adder's ``total``, from any sender.

        The work is split over ``executor``, where threads save time; the default is this thread.
        Raises :class:`OpenError`, and returns nothing, unless ``total`` is a sum and every slot of
        every ciphertext, also those after the vector's end, holds a possible sum.
        """
        scheme = self.scheme
        vectors = whole(count)
        if vectors is None or not 1 <= vectors <= scheme.max_clients:
            raise OpenError(f"got a sum of {count!r} vectors; expected 1 to {scheme.max_clients}")
        body = scheme._body(total, b"sum", scheme.total_size(length), OpenError)
        words = scheme._reduced(body, "sum", OpenError)
        ciphertexts = scheme._ciphertexts(length)
        opened = np.empty((ciphertexts, scheme.slots), dtype=np.int64)
        calls = [(part, vectors) for _, part in _blocks(words.reshape(ciphertexts, -1))]
        _ = self._factors  # before threads ask for them
        blocks: Iterable[tuple[Integers, bool]]
        if executor is None:
            blocks = (self._open_block(part, vectors) for part, vectors in calls)
        else:
            blocks = run_all(executor, self._open_block, calls)
        first, grid = 0, True
        for sums, on_grid in blocks:
            opened[first : first + len(sums)] = sums
            first, grid = first + len(sums), grid and on_grid
        flat = opened.reshape(-1)
        scheme._require_possible(grid, flat[:length], flat[length:], vectors)
        return flat[:length].copy()

    def _open_block(self, words: Words, count: int) -> tuple[Integers, bool]:
        """The slots of the ciphertexts ``words`` (k, words each), and whether all are on the grid."""
        scheme = self.scheme
        p = scheme.parameters
        rows = unpacked(words.reshape(-1), p.bits, (len(words), 2 * len(p.primes), p.degree))
        return scheme._decode(self._phases(rows, scheme.transformed), count)

    def _phases(self, rows: Words, transformed: bool) -> list[Words]:
        """For each prime, c0 + c1 s of the ciphertexts ``rows`` (k, 2 * primes, N), as coefficients (k, N)."""
        phases = []
        for j, (field_, secret) in enumerate(zip(self.scheme._fields, self._factors, strict=True)):
            first, second = rows[:, j].copy(), rows[:, j + len(self.scheme._fields)].copy()
            if not transformed:
                field_.forward(second)
            field_.multiply(second, secret)
            if transformed:
                field_.add(second, first)
                field_.backward(second)
            else:
                field_.backward(second)
                field_.add(second, first)
            phases.append(second)
        return phases

    @cached_property
    def _factors(self) -> list[_ring.Factor]:
        values = self._values()
        return [_ring.Factor(row, prime) for row, prime in zip(values, self.scheme.parameters.primes, strict=True)]

    def _values(self) -> Words:
        """The secret's values (primes, N)."""
        rows = np.empty((len(self.scheme._fields), self._secret.size), dtype=np.uint64)
        for row, field_ in zip(rows, self.scheme._fields, strict=True):
            row[:] = self._secret.astype(np.int64) + int(field_.prime)
            field_.reduce(row)
            field_.forward(row[None])
        return rows


class Adder:
    """A running sum of encrypted vectors, for the server, which has no key. :meth:`Scheme.adder` makes one.

    It takes 16 bytes a coefficient and prime, and 32 bytes for each vector. It refuses a vector
    that is in the sum already.
    """

    def __init__(self, scheme: Format, length: int, sums: Words, seen: set[bytes]) -> None:
        self.scheme, self.length, self._sums, self._seen = scheme, length, sums, seen

    @property
    def count(self) -> int:
        """How many vectors are in the sum."""
        return len(self._seen)

    def fold(self, data: bytes) -> None:
        """Add an encrypted vector, from any sender.

        Raises :class:`CiphertextError`, and leaves the sum as it was, on bytes that no encryption
        produces, on a vector that is in the sum already, and if the sum is full. (A well-formed
        ciphertext may still hold anything: that shows when the sum is opened.)
        """
        scheme = self.scheme
        if self.count >= scheme.max_clients:
            raise CiphertextError(
                f"the sum holds {self.count} vectors, as many as the scheme allows; begin another"
            )
        body = scheme._body(data, b"", scheme.size(self.length), CiphertextError)
        words = scheme._reduced(body, "encrypted vector", CiphertextError, seeded=scheme.seeded)
        # Fresh ciphertexts agree nowhere: the first words of each are enough to recognise a copy of any.
        name = hashlib.sha256(words.reshape(len(self._sums), -1)[:, :4].tobytes()).digest()
        if name in self._seen:
            raise CiphertextError("the same encrypted vector is in the sum already")
        rows = self._sums.shape[1] // (2 if scheme.seeded else 1)
        _ring_kernels.fold(words, scheme._bits, scheme._stride, scheme._primes, rows, self._sums)
        if scheme.seeded:
            self._add_seconds(words.reshape(len(self._sums), -1)[:, -_ring.SEED_WORDS :], rows)
        self._seen.add(name)

    def total(self) -> bytes:
        """The sum, for :meth:`SecretKey.open`: ``scheme.total_size(length)`` bytes."""
        return self.scheme._tag(b"sum") + packed(self._sums, self.scheme._bits).tobytes()

    def to_bytes(self) -> bytes:
        """The state, for :meth:`Scheme.load_adder`. It holds ciphertexts only."""
        words = packed(self._sums, self.scheme._bits).tobytes()
        names = b"".join(sorted(self._seen))
        return self.scheme._tag(b"running sum") + COUNTS.pack(self.length, self.count) + names + words

    def _add_seconds(self, seeds: Words, rows: int) -> None:
        """Add the second polynomials that ``seeds`` (ciphertexts, 8) stand for."""
        p = self.scheme.parameters
        for first, part in _blocks(seeds):
            expanded = _ring.expand(part, p.degree, p.primes)
            for c, polynomials in enumerate(expanded, start=first):
                for j, field_ in enumerate(self.scheme._fields):
                    field_.add(self._sums[c, rows + j], polynomials[j])


def load_secret(scheme: Format, data: bytes) -> SecretKey:
    """The key that :meth:`SecretKey.to_bytes` wrote. Raises :class:`HEError` for any other bytes."""
    degree = scheme.parameters.degree
    expected = DIGEST_BYTES + degree // 4 + (0 if scheme.seeded else 16 * scheme._half)
    body = scheme._body(data, b"secret key", expected, HEError)
    octets = np.frombuffer(body[: degree // 4], dtype=np.uint8)
    secret = ((octets[:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3).reshape(-1).astype(np.int8) - 1
    if secret.max() > 1:
        raise HEError("got a secret key with a coefficient other than -1, 0 or 1: the bytes are damaged")
    if scheme.seeded:
        return SecretKey(scheme, secret, None)
    public = PublicKey(scheme, scheme._reduced(body[degree // 4 :], "public key", HEError))
    key = SecretKey(scheme, secret, public)
    phases = key._phases(public._rows()[None], transformed=True)
    # The public key is an encryption of zero: it opens to SEAL's error, at most 21 in size.
    if any(((e > 21) & (e < p - 21)).any() for e, p in zip(phases, scheme.parameters.primes, strict=True)):
        raise HEError("got a secret key and a public key that don't belong together: the bytes are damaged")
    return key


def load_public(scheme: Format, data: bytes) -> PublicKey:
    """The public key in ``data``, from any sender. Raises :class:`HEError` if it is not a key."""
    if scheme.seeded:
        raise HEError("got a public key for a seeded scheme, which has none: its secret key encrypts")
    body = scheme._body(data, b"public key", scheme.public_size, HEError)
    return PublicKey(scheme, scheme._reduced(body, "public key", HEError))


def encrypt_block(scheme: Format, key: bytes, values: NDArray[Any]) -> bytes:
    """The ciphertexts of ``values`` (k, slots) under ``key``, as bytes: the work of another process."""
    return b"".join(_ciphertexts(scheme, key, values))


def _encrypt(scheme: Format, key: bytes, values: NDArray[Any], executor: Executor | None) -> bytes:
    rows = _padded(scheme, values)
    parts: Iterable[bytes]
    if executor is None:
        parts = _ciphertexts(scheme, key, rows)
    else:
        parts = run_all(executor, encrypt_block, [(scheme, key, block) for _, block in _blocks(rows)])
    return b"".join([scheme._tag(b""), *parts])


def _ciphertexts(scheme: Format, key: bytes, values: NDArray[Any]) -> Iterator[bytes]:
    """The ciphertexts of ``values`` (k, slots), a few at a time."""
    p = scheme.parameters
    width = p.degree * p.bits // 64
    out = np.empty((_BATCH, scheme._stride), dtype=np.uint64)
    if scheme.seeded:
        zeros = _seal.Zeros(p, secret=load_secret(scheme, key)._values())
    else:
        zeros = _seal.Zeros(p, public=load_public(scheme, key)._rows())
    with zeros:
        for first in range(0, len(values), _BATCH):
            batch = values[first : first + _BATCH].astype(np.uint64)
            messages = scheme._encode(batch)
            for k, words in enumerate(out[: len(batch)]):
                rows, seed = zeros.next()
                for r, row in enumerate(rows):
                    place = words[r * width : (r + 1) * width]
                    if r < len(messages):
                        _ring_kernels.add_and_pack(row, messages[r][k], scheme._primes[r], p.bits, place)
                    else:
                        _ring_kernels.pack(row, p.bits, place)
                if seed is not None:
                    words[-_ring.SEED_WORDS :] = seed
            yield out[: len(batch)].tobytes()


def _padded(scheme: Format, values: NDArray[Any]) -> NDArray[Any]:
    """``values``, checked, as rows of slots, padded with zeros, in the narrowest words that hold them."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise HEError(f"got an array of {array.dtype} with shape {array.shape}; expected a flat one of integers")
    count = scheme._ciphertexts(array.size)
    if array.min() < 0 or array.max() > scheme.bound:
        at = int(np.argmax((array < 0) | (array > scheme.bound)))
        raise HEError(f"the value at {at} is {array[at]}; expected integers in 0..{scheme.bound}")
    rows = np.zeros(count * scheme.slots, dtype=np.min_scalar_type(scheme.bound))
    rows[: array.size] = array
    return rows.reshape(count, scheme.slots)


def _blocks(rows: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    for first in range(0, len(rows), _BLOCK):
        yield first, rows[first : first + _BLOCK]
