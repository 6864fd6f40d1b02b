"""The keys of CKKS and BFV, which encrypt vectors and open sums, and the sum that needs no key."""

import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he import scheme as types
from he._buffer import Buffer, Part
from he._merging import united
from he._numbers import whole
from he._rlwe_encryption import BLOCK, EncryptionKey, Engine, RingEngine, encrypt
from he._rlwe_format import DIGEST_BYTES, Format, Integers, Words, blocks
from he._workers import run_all
from he.errors import CiphertextError, HEError, OpenError
from he.ring import LANES, lanes, packing
from he.scheme import Random

NAME_BYTES = 32
"""Bytes of the hash by which a sum knows a vector that it holds."""

COUNTS = struct.Struct("<QQ")
"""The front of a running sum as bytes: length of the vectors, vectors in the sum."""


def engine_of(scheme: Format) -> Engine:
    """What draws the keys of ``scheme``, and encrypts."""
    return _engine(scheme.engine)


@cache
def _engine(name: str) -> Engine:
    if name == "ring":
        return RingEngine()
    from he._rlwe_seal import SealEngine  # loaded by those alone who want SEAL

    return SealEngine()


@dataclass(frozen=True, eq=False)
class PublicKey:
    """Encrypts vectors under ``scheme``. Make one from bytes with :meth:`Scheme.load_public`.

    ``words`` are the key's residues.
    """

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

        The bytes follow from ``rng``, which is asked for 32 bytes; under ``engine="seal"`` from SEAL's own
        generator. The work is split over ``executor``, where threads save time (under ``engine="seal"``
        only spawned processes do, because TenSEAL holds the interpreter's lock); the default is this
        thread. Raises :class:`HEError` on other values.
        """
        return encrypt(engine_of(self.scheme), self._key, values, executor, rng)

    def to_tenseal(self) -> bytes:
        """A public context of TenSEAL's with this key, for ``tenseal.context_from``.

        Raises :class:`HEError` if the parameters have several primes: then only
        :meth:`SecretKey.to_tenseal` can make the context.
        """
        from he import _tenseal

        return _tenseal.context_bytes(self.scheme, None, self._key.rows)

    @cached_property
    def _key(self) -> EncryptionKey:
        return EncryptionKey(self.scheme, self.words, None)


class SecretKey:
    """Opens sums and, if the ``scheme`` is seeded, encrypts. ``public`` is its public key; None if seeded.

    ``secret`` are the coefficients of the key, -1, 0 or 1. This key opens the ciphertexts of each single client,
    too.
    """

    def __init__(self, scheme: Format, secret: NDArray[np.int8], public: PublicKey | None) -> None:
        self.scheme, self.public, self._secret = scheme, public, secret
        self._key = EncryptionKey(scheme, None, secret)

    def __repr__(self) -> str:
        return f"SecretKey({self.scheme!r})"

    def to_bytes(self) -> bytes:
        """The key as bytes of a fixed size: 16 of a digest, two bits a coefficient, then the public key's."""
        pairs = (self._secret + 1).astype(np.uint8).reshape(-1, 4)
        octets: NDArray[np.uint8] = np.bitwise_or.reduce(pairs << np.array([0, 2, 4, 6], dtype=np.uint8), axis=1)
        public = b"" if self.public is None else self.public.words.tobytes()
        return self.scheme._tag(b"secret key") + octets.tobytes() + public

    def to_tenseal(self) -> bytes:
        """A context of TenSEAL's with this key, secret, for ``tenseal.context_from``.

        TenSEAL's ``context.serialize(save_secret_key=False)`` is the context for others. If the parameters have
        several primes, it has another public key than ``public``, of the same secret. What TenSEAL opens
        with it has passed none of the checks of :meth:`open`: a value outside 0..count * ``bound``, or one
        far from an integer, may be made of the key, and must not be shown to anyone.
        """
        from he import _tenseal

        public = None if self.public is None else self.public._key.rows
        return _tenseal.context_bytes(self.scheme, self._secret, public)

    def encrypt(self, values: NDArray[Any], executor: Executor | None = None, rng: Random = os.urandom) -> bytes:
        """As :meth:`PublicKey.encrypt`; if the scheme is seeded, with this key itself."""
        if self.public is not None:
            return self.public.encrypt(values, executor, rng)
        return encrypt(engine_of(self.scheme), self._key, values, executor, rng)

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
        groups = scheme._reduced(body, 2 * len(scheme._fields), "sum", OpenError)
        _ = self._key.factors  # before threads ask for them
        opened = np.empty((scheme._ciphertexts(length), scheme.slots), dtype=np.int64)
        each = BLOCK // LANES
        calls = [
            (groups[place * each : (place + 1) * each], vectors, Part(part))
            for place, part in enumerate(blocks(opened, BLOCK))
        ]
        if executor is None or len(calls) == 1:
            written = [self._open_block(*call) for call in calls]
        else:
            written = run_all(executor, self._open_block, calls)
        for (_, _, part), (sums, _) in zip(calls, written, strict=True):
            part.take(sums)
        flat = opened.reshape(-1)
        scheme._require_possible(all(on_grid for _, on_grid in written), flat[:length], flat[length:], vectors)
        return flat[:length]

    def _open_block(self, groups: list[Words], count: int, part: Part[np.int64]) -> tuple[Integers, bool]:
        """Write the slots of ``groups`` (rows, words, n) of a sum to ``part``.

        Returns the array of ``part``, and whether all slots are on the grid.
        """
        scheme, on_grid = self.scheme, True
        rows = lanes(2 * len(scheme._fields), scheme.parameters.degree)
        for group, sums in zip(groups, blocks(part.array, LANES), strict=True):
            scheme._unpack(group, rows)
            phases = self._phases(rows)
            on_grid = scheme._decode(phases, rows[-1], count, sums) and on_grid
        return part.array, on_grid

    def _phases(self, rows: Words) -> Words:
        """For each prime, c0 + c1 s of a group ``rows`` (2 * primes, N, 8), as coefficients (primes, N, 8).

        They take the place of the first polynomials.
        """
        fields = self.scheme._fields
        firsts, seconds = rows[: len(fields)], rows[len(fields) :]
        for modulo, (secret,), first, second in zip(fields, self._key.factors, firsts, seconds, strict=True):
            modulo.add_product(first, second, secret)
            modulo.backward(first)
        return firsts


class Adder:
    """A running sum of encrypted vectors, for the server, which has no key. :meth:`Scheme.adder` makes one.

    It takes 16 bytes a coefficient and prime, for ciphertexts in groups of eight, and 32 bytes for each vector. It
    refuses a vector that is in the sum already. Any thread may call it: calls take turns.

    The vectors have ``length`` values under ``scheme``. ``sums`` are the sums of ciphertexts so far, and ``seen``
    has a hash of 32 bytes of each vector that is in them.
    """

    def __init__(self, scheme: Format, length: int, sums: Words, seen: set[bytes]) -> None:
        self.scheme, self.length, self._sums, self._seen = scheme, length, sums, seen
        self._lock = threading.RLock()

    @property
    def count(self) -> int:
        """How many vectors are in the sum."""
        return len(self._seen)

    def fold(self, data: bytes) -> None:
        """Add ``data``, an encrypted vector, from any sender.

        Raises :class:`CiphertextError`, and leaves the sum as it was, on bytes that no encryption produces, on a
        vector that is in the sum already, and if the sum is full. (A well-formed ciphertext may still hold
        anything: that shows when the sum is opened.)
        """
        with self._lock:
            self._require_room()
            self._fold(*upload(self.scheme, data, self.length))

    def fold_tenseal(self, data: bytes) -> None:
        """Add ``data``, a vector that TenSEAL encrypted: what its ``serialize()`` returned, from any sender.

        It must be under a context of this scheme (:meth:`PublicKey.to_tenseal`, :meth:`SecretKey.to_tenseal`) and
        padded with zeros to a multiple of ``scheme.slots`` values, because TenSEAL fills what is free with copies.
        Under CKKS it has twice the error's variance of this package's own, and counts twice in ``max_clients``: if
        more are added, a sum may stay closed, but none opens wrong.

        Raises :class:`CiphertextError`, as :meth:`fold` does. No TenSEAL runs here.
        """
        from he import _tenseal_vectors

        with self._lock:
            self._require_room()
            words = _tenseal_vectors.vector_words(self.scheme, data, self.scheme._ciphertexts(self.length))
            self._fold(self.scheme._groups(words, 2 * len(self.scheme._fields)), b"")

    def merge(self, other: types.Adder) -> None:
        """Add ``other``, another sum of this scheme and length; see :meth:`he.scheme.Adder.merge`."""
        if (
            not isinstance(other, Adder)
            or other is self
            or (other.scheme, other.length) != (self.scheme, self.length)
        ):
            raise HEError("got a running sum of other parameters or of vectors of another length, or this very sum")
        with other._lock:
            sums, seen = other._sums.copy(), set(other._seen)
        with self._lock:
            names = united(self._seen, seen, self.scheme.max_clients)
            for ours, theirs in zip(self._sums, sums, strict=True):
                for r, field in enumerate(self.scheme._fields * 2):
                    field.add(ours[r], theirs[r])
            self._seen = set(names)

    def _require_room(self) -> None:
        if self.count >= self.scheme.max_clients:
            raise CiphertextError(
                f"the sum holds {self.count} vectors, as many as the scheme allows; begin another"
            )

    def total(self) -> bytes:
        """The sum, for :meth:`SecretKey.open`: ``scheme.total_size(length)`` bytes."""
        with self._lock:
            return self._bytes(self.scheme._tag(b"sum"))

    def to_bytes(self) -> bytes:
        """The state, for :meth:`Scheme.load_adder`. It holds ciphertexts only."""
        with self._lock:
            names = b"".join(sorted(self._seen))
            counts = COUNTS.pack(self.length, self.count)
            return self._bytes(self.scheme._tag(b"running sum") + counts + names)

    def _bytes(self, front: bytes) -> bytes:
        """``front``, and the sum."""
        ciphertexts = self.scheme._ciphertexts(self.length)
        out = Buffer(len(front) + 16 * ciphertexts * self.scheme._half)
        out.write(0, front)
        self.scheme._pack_groups(self._sums, out.words(len(front), 2 * ciphertexts * self.scheme._half))
        return out.contents()

    def _fold(self, groups: list[Words], seeds: bytes) -> None:
        # Fresh ciphertexts agree nowhere: a copy of a vector is recognised by the first words of its ciphertexts.
        name = hashlib.sha256(b"".join(group[0, :4].tobytes() for group in groups)).digest()
        if name in self._seen:
            raise CiphertextError("the same encrypted vector is in the sum already")
        scheme, primes, bits = self.scheme, self.scheme.parameters.primes, self.scheme.parameters.bits
        second = engine_of(scheme).second(scheme, seeds) if seeds else None
        for g, (sums, group) in enumerate(zip(self._sums, groups, strict=True)):
            for r, words in enumerate(group):
                packing.fold(words, bits, primes[r % len(primes)], sums[r])
            if second is not None:
                for j, polynomials in enumerate(second(g)):
                    scheme._fields[j].add(sums[len(primes) + j], polynomials)
        self._seen.add(name)


def upload(scheme: Format, data: bytes, length: int) -> tuple[list[Words], bytes]:
    """The groups of an encrypted vector, from any sender, and the seeds of their second polynomials.

    Raises :class:`CiphertextError` on bytes that no encryption produces.
    """
    body = scheme._body(data, b"", scheme.size(length), CiphertextError)
    end = 8 * scheme._ciphertexts(length) * scheme._stride
    groups = scheme._reduced(body[:end], scheme._rows, "encrypted vector", CiphertextError)
    return groups, bytes(body[end:])


def polynomials(scheme: Format, groups: list[Words], seeds: bytes) -> Iterator[Words]:
    """The values (2 * primes, N, 8) of packed groups. The next ones overwrite them.

    ``seeds`` stand for the second polynomials; without any, ``groups`` hold these, too.
    """
    half = len(scheme._fields)
    rows = lanes(2 * half, scheme.parameters.degree)
    second = engine_of(scheme).second(scheme, seeds) if seeds else None
    for g, group in enumerate(groups):
        scheme._unpack(group, rows if second is None else rows[:half])
        if second is not None:
            rows[half:] = second(g)
        yield rows


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
    public = PublicKey(scheme, _public_words(scheme, body[degree // 4 :]))
    return paired(scheme, secret, public)


def paired(scheme: Format, secret: NDArray[np.int8], public: PublicKey) -> SecretKey:
    """The secret key with its public key. Raises :class:`HEError` if they don't belong together."""
    key = SecretKey(scheme, secret, public)
    phases = key._phases(scheme._unpacked(scheme._groups(public.words, 2 * len(scheme._fields)))[0])[:, :, 0]
    # The public key is an encryption of zero: it opens to an error of at most 21 in size.
    if any(((e > 21) & (e < p - 21)).any() for e, p in zip(phases, scheme._primes, strict=True)):
        raise HEError("got a secret key and a public key that don't belong together: the bytes are damaged")
    return key


def load_public(scheme: Format, data: bytes) -> PublicKey:
    """The public key in ``data``, from any sender. Raises :class:`HEError` if it is not a key."""
    if scheme.seeded:
        raise HEError("got a public key for a seeded scheme, which has none: its secret key encrypts")
    body = scheme._body(data, b"public key", scheme.public_size, HEError)
    return PublicKey(scheme, _public_words(scheme, body))


def _public_words(scheme: Format, body: memoryview) -> Words:
    (group,) = scheme._reduced(body, 2 * len(scheme._fields), "public key", HEError)
    return group.reshape(-1)
