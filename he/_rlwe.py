"""What CKKS and BFV share: keys, encrypted vectors as bytes, and their addition.

**An encrypted vector.** 16 bytes of the scheme's digest, then as many ciphertexts as the vector takes, each its
residues, row after row, first polynomial first and its primes in turn: N residues of exactly ``bits`` bits,
least significant bit first, in 64-bit little-endian words. A seeded one has rows of its first polynomial only, and
the 64 bytes from which SEAL's generator draws the second. All sizes follow from the scheme and the length.

A sum is laid out in the same way, always with both polynomials, behind a digest of its own.

Bytes from others meet Python's ``len``, two comparisons, and kernels that read residues of a fixed width:
no parser and no decompression.
"""

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from he import _kernels, _ring, _seal
from he._numbers import whole
from he._workers import run_all
from he.errors import CiphertextError, HEError, OpenError
from he.params import MAX_LENGTH, SECURITY_BITS, Parameters

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

DIGEST_BYTES = 16
"""The part of a digest that goes first in every encrypted vector, sum and key."""

SEED_BYTES = 32

NAME_BYTES = 32

_BLOCK = 64  # ciphertexts that are worked on at once: a few megabytes
_BATCH = 8  # of them that are encoded at once: as many as stay in a second-level cache
_STATE = struct.Struct("<QQ")  # length, vectors folded in


@dataclass(frozen=True)
class Scheme(ABC):
    """Parameters and formats for sums of up to ``max_clients`` vectors of integers in 0..``bound``."""

    bound: int
    max_clients: int
    seeded: bool = False

    name: ClassVar[str]
    transformed: ClassVar[bool]
    """Whether ciphertexts are kept as values, rather than coefficients."""

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

    @property
    @abstractmethod
    def slots(self) -> int:
        """Values that one ciphertext holds."""

    @abstractmethod
    def _encode(self, values: Words) -> list[Words]:
        """For each prime, the residues (k, N) of encodings of ``values`` (k, slots), as ciphertexts are kept."""

    @abstractmethod
    def _decode(self, rows: list[Words], count: int) -> tuple[Integers, bool]:
        """What the slots (k, slots) of a sum of ``count`` vectors hold, and whether all are on the grid.

        ``rows`` are the coefficients (k, N) for each prime, which may be overwritten.
        """

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of everything that fixes the parameters and the formats (32 bytes)."""
        return hashlib.sha256(f"he/v1/{self.name}/{self!r}/{self.parameters!r}".encode()).digest()

    def size(self, length: int) -> int:
        """Bytes of an encrypted vector of ``length`` values."""
        return DIGEST_BYTES + 8 * self._ciphertexts(length) * self._stride

    def total_size(self, length: int) -> int:
        """Bytes of a sum of such vectors."""
        return DIGEST_BYTES + 16 * self._ciphertexts(length) * self._half

    def describe(self) -> str:
        """One line for people."""
        p = self.parameters
        key = "one shared secret key, seeded" if self.seeded else "public key"
        return (
            f"{self.name.upper()} ({key}): ring degree {p.degree}, modulus {len(p.primes)} x {p.bits} bits, "
            f"{self.slots} slots, {8 * self._stride / self.slots:.2f} bytes a value in full ciphertexts; "
            f"{SECURITY_BITS} bits of security, also against quantum computers"
        )

    def generate(self) -> "SecretKey":
        """A fresh secret key from SEAL's own generator, with its public key unless the scheme is seeded."""
        secret, public = _seal.generate(self.parameters, public=not self.seeded)
        return SecretKey(self, secret, None if public is None else PublicKey(self, _packed(public, self._bits)))

    @property
    def public_size(self) -> int:
        """Bytes of a public key; 0 where the scheme is seeded and has none."""
        return 0 if self.seeded else DIGEST_BYTES + 16 * self._half

    def secret_from_seed(self, seed: bytes) -> "SecretKey":
        """The secret key that ``seed`` (32 uniform, secret bytes) gives: the same for all who know it.

        Each coefficient is uniform in -1, 0, 1: two bits of SHAKE-256(label, digest, seed), drawn again where both
        are set. Only for a seeded scheme. Raises :class:`HEError` otherwise, and for a seed of another length.
        """
        if not self.seeded or len(seed) != SEED_BYTES:
            raise HEError(f"got a seed of {len(seed)} bytes; expected {SEED_BYTES}, and a seeded scheme")
        degree = self.parameters.degree
        # Twice as many pairs of bits as coefficients: short of enough once in 2^400.
        drawn = hashlib.shake_256(b"he/v1/secret-key" + self.digest + seed).digest(degree // 2)
        pairs = (np.frombuffer(drawn, dtype=np.uint8)[:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
        kept = pairs.reshape(-1)[pairs.reshape(-1) < 3][:degree]
        return SecretKey(self, kept.astype(np.int8) - 1, None)

    def load_secret(self, data: bytes) -> "SecretKey":
        """The key that :meth:`SecretKey.to_bytes` wrote. Raises :class:`HEError` on any other bytes."""
        degree = self.parameters.degree
        expected = DIGEST_BYTES + degree // 4 + (0 if self.seeded else 16 * self._half)
        body = self._body(data, b"secret key", expected, HEError)
        octets = np.frombuffer(body[: degree // 4], dtype=np.uint8)
        secret = ((octets[:, None] >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3).reshape(-1).astype(np.int8) - 1
        if secret.max() > 1:
            raise HEError("got a secret key with a coefficient that is none of -1, 0 and 1: the bytes are damaged")
        if self.seeded:
            return SecretKey(self, secret, None)
        public = PublicKey(self, self._reduced(body[degree // 4 :], "public key", HEError))
        key = SecretKey(self, secret, public)
        phases = key._phases(public._rows()[None], transformed=True)
        # The public key is an encryption of zero: what it opens to is SEAL's error, at most 21 in size.
        if any(((e > 21) & (e < p - 21)).any() for e, p in zip(phases, self.parameters.primes, strict=True)):
            raise HEError("got a secret key and a public key that don't belong together: the bytes are damaged")
        return key

    def load_public(self, data: bytes) -> "PublicKey":
        """The key that :meth:`PublicKey.to_bytes` wrote; hostile bytes. Raises :class:`HEError` on any other."""
        if self.seeded:
            raise HEError("got a public key for a seeded scheme, which has none: its secret key encrypts")
        body = self._body(data, b"public key", DIGEST_BYTES + 16 * self._half, HEError)
        return PublicKey(self, self._reduced(body, "public key", HEError))

    def adder(self, length: int, public: "PublicKey | None" = None) -> "Adder":
        """An empty sum of vectors of ``length`` values. It needs no key: ``public`` is not looked at."""
        return Adder(self, length, np.zeros(self._shape(length), dtype=np.uint64), set())

    def load_adder(self, data: bytes, length: int, public: "PublicKey | None" = None) -> "Adder":
        """The sum that :meth:`Adder.to_bytes` wrote. Raises :class:`HEError` on any other bytes."""
        # The count comes first, and says how long the rest is.
        count = (
            int.from_bytes(data[DIGEST_BYTES + 8 : DIGEST_BYTES + 16], "little") if isinstance(data, bytes) else 0
        )
        expected = self.total_size(length) + _STATE.size + min(count, self.max_clients) * NAME_BYTES
        body = self._body(data, b"running sum", expected, HEError)
        stated, count = _STATE.unpack_from(body)
        if stated != length or count > self.max_clients:
            raise HEError(
                f"got the state of a sum of {count} vectors of {stated} values; expected up to {self.max_clients} "
                f"vectors of {length}"
            )
        end = _STATE.size + count * NAME_BYTES
        seen = {body[at : at + NAME_BYTES] for at in range(_STATE.size, end, NAME_BYTES)}
        if len(seen) != count:
            raise HEError("got the state of a sum that names a vector twice: the bytes are damaged")
        words = self._reduced(body[end:], "sum", HEError)
        return Adder(self, length, _unpacked(words, self._bits, self._shape(length)), seen)

    def _require_possible(self, on_grid: bool, sums: Integers, unused: Integers, count: int) -> None:
        """Refuse what ``count`` honest vectors can't add up to, whichever slot shows it.

        ``on_grid``: whether all slots were where the encoding puts integers. ``sums`` are the slots of
        values, ``unused`` those past the last one. Raises :class:`OpenError`.
        """
        if not on_grid or unused.any() or sums.min() < 0 or sums.max() > count * self.bound:
            raise OpenError(
                f"some slot is no possible sum of {count} vectors with values in 0..{self.bound}: a ciphertext was "
                "malformed, the key or the count is another's, or the sum was altered; it isn't opened. Ask for "
                "a new session"
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
        """``data`` after its digest, once that and its length are right."""
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
        at = _kernels.first_unreduced(words, self._bits, stride, self._primes, p.degree, rows)
        if at >= 0:
            row, place = divmod(at, p.degree)
            raise error(
                f"got a {what} with a residue that is not below {p.primes[row % len(p.primes)]}, at place {place} "
                f"of row {row}; no encryption makes such a one"
            )
        return words


@dataclass(frozen=True, eq=False)
class PublicKey:
    """Encrypts. For whoever holds vectors; bytes of others become one by :meth:`Scheme.load_public`."""

    scheme: Scheme
    words: Words = field(repr=False)

    def to_bytes(self) -> bytes:
        """The key as bytes of a fixed size: 16 of a digest, then its residues, packed."""
        return self.scheme._tag(b"public key") + self.words.tobytes()

    @property
    def digest(self) -> bytes:
        """SHA-256 of :meth:`to_bytes` (32 bytes): what to pin."""
        return hashlib.sha256(self.to_bytes()).digest()

    def encrypt(self, values: NDArray[Any], executor: Executor | None = None) -> bytes:
        """``values``, integers in 0..``bound``, encrypted: ``scheme.size(len(values))`` bytes.

        TenSEAL holds the interpreter's lock: what pays as ``executor`` is a pool of spawned *processes*, for
        vectors of some 10^5 values and more. Raises :class:`HEError` on other values.
        """
        return _encrypt(self.scheme, self.to_bytes(), values, executor)

    def _rows(self) -> Words:
        p = self.scheme.parameters
        return _unpacked(self.words, p.bits, (2 * len(p.primes), p.degree))


class SecretKey:
    """Opens sums and, where the scheme is seeded, encrypts. ``public`` is its public key, or None if seeded.

    Whoever has a ciphertext of one client and this key reads that client's vector.
    """

    def __init__(self, scheme: Scheme, secret: NDArray[np.int8], public: PublicKey | None) -> None:
        self.scheme, self.public, self._secret = scheme, public, secret

    def __repr__(self) -> str:
        return f"SecretKey({self.scheme!r})"

    def to_bytes(self) -> bytes:
        """The key as bytes of a fixed size: 16 of a digest, two bits a coefficient, then the public key's."""
        pairs = (self._secret + 1).astype(np.uint8).reshape(-1, 4)
        octets: NDArray[np.uint8] = np.bitwise_or.reduce(pairs << np.array([0, 2, 4, 6], dtype=np.uint8), axis=1)
        public = b"" if self.public is None else self.public.words.tobytes()
        return self.scheme._tag(b"secret key") + octets.tobytes() + public

    def encrypt(self, values: NDArray[Any], executor: Executor | None = None) -> bytes:
        """As :meth:`PublicKey.encrypt`; seeded, with this key itself."""
        if self.public is not None:
            return self.public.encrypt(values, executor)
        return _encrypt(self.scheme, self.to_bytes(), values, executor)

    def open(self, total: bytes, length: int, count: int) -> Integers:
        """The sum (``length`` integers) of ``count`` vectors, from an adder's ``total``; hostile bytes.

        Nothing is shown unless every slot of every ciphertext, those past the vector's end too, holds a
        possible sum: otherwise, and on bytes that are no sum, :class:`OpenError`.
        """
        scheme = self.scheme
        summed = whole(count)
        if summed is None or not 1 <= summed <= scheme.max_clients:
            raise OpenError(f"got a sum of {count!r} vectors; expected 1 to {scheme.max_clients}")
        count = summed
        body = scheme._body(total, b"sum", scheme.total_size(length), OpenError)
        words = scheme._reduced(body, "sum", OpenError)
        shape = scheme._shape(length)
        opened = np.empty((shape[0], scheme.slots), dtype=np.int64)
        grid = True
        for first, part in _blocks(words.reshape(shape[0], -1)):
            rows = _unpacked(part.reshape(-1), scheme._bits, (len(part), *shape[1:]))
            sums, on_grid = scheme._decode(self._phases(rows, scheme.transformed), count)
            opened[first : first + len(part)] = sums
            grid = grid and on_grid
        flat = opened.reshape(-1)
        scheme._require_possible(grid, flat[:length], flat[length:], count)
        return flat[:length].copy()

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
    """A running sum of encrypted vectors; :meth:`Scheme.adder` makes an empty one. For the server, without a key.

    It takes 16 bytes a coefficient and prime, and 32 for each vector that is folded in. One that was folded in
    before is refused.
    """

    def __init__(self, scheme: Scheme, length: int, sums: Words, seen: set[bytes]) -> None:
        self.scheme, self.length, self._sums, self._seen = scheme, length, sums, seen

    @property
    def count(self) -> int:
        """How many vectors are in the sum."""
        return len(self._seen)

    def fold(self, data: bytes) -> None:
        """Add an encrypted vector; hostile bytes.

        Raises :class:`CiphertextError` on bytes that no client's encryption makes, on those of a vector that is
        in the sum, and when the sum is full;
        the sum is then what it was. (A well-formed ciphertext may still hold anything: that shows when the sum
        is opened.)
        """
        scheme = self.scheme
        if self.count >= scheme.max_clients:
            raise CiphertextError(
                f"the sum holds {self.count} vectors, as many as the scheme allows; begin another"
            )
        body = scheme._body(data, b"", scheme.size(self.length), CiphertextError)
        words = scheme._reduced(body, "encrypted vector", CiphertextError, seeded=scheme.seeded)
        # Fresh ciphertexts agree nowhere: the first words of each are enough to know a copy of all of them.
        name = hashlib.sha256(words.reshape(len(self._sums), -1)[:, :4].tobytes()).digest()
        if name in self._seen:
            raise CiphertextError("the same encrypted vector is in the sum already")
        rows = self._sums.shape[1] // (2 if scheme.seeded else 1)
        _kernels.fold(words, scheme._bits, scheme._stride, scheme._primes, rows, self._sums)
        if scheme.seeded:
            self._add_seconds(words.reshape(len(self._sums), -1)[:, -_ring.SEED_WORDS :], rows)
        self._seen.add(name)

    def total(self) -> bytes:
        """The sum, for :meth:`SecretKey.open`: ``scheme.total_size(length)`` bytes."""
        return self.scheme._tag(b"sum") + _packed(self._sums, self.scheme._bits).tobytes()

    def to_bytes(self) -> bytes:
        """The state, for :meth:`Scheme.load_adder`: it holds ciphertexts only."""
        packed = _packed(self._sums, self.scheme._bits).tobytes()
        names = b"".join(sorted(self._seen))
        return self.scheme._tag(b"running sum") + _STATE.pack(self.length, self.count) + names + packed

    def _add_seconds(self, seeds: Words, rows: int) -> None:
        """Add the polynomials that ``seeds`` (ciphertexts, 8) stand for."""
        p = self.scheme.parameters
        for first, part in _blocks(seeds):
            drawn = _ring.expand(part, p.degree, p.primes)
            for c, polynomials in enumerate(drawn, start=first):
                for j, field_ in enumerate(self.scheme._fields):
                    field_.add(self._sums[c, rows + j], polynomials[j])


def _encrypt(scheme: Scheme, key: bytes, values: NDArray[Any], executor: Executor | None) -> bytes:
    rows = _padded(scheme, values)
    parts: Iterable[bytes]
    if executor is None:
        parts = _ciphertexts(scheme, key, rows)
    else:
        parts = run_all(executor, encrypt_block, [(scheme, key, block) for _, block in _blocks(rows)])
    return b"".join([scheme._tag(b""), *parts])


def encrypt_block(scheme: Scheme, key: bytes, values: NDArray[Any]) -> bytes:
    """The ciphertexts of ``values`` (k, slots), under ``key`` as bytes: what another process is given to do."""
    return b"".join(_ciphertexts(scheme, key, values))


def _ciphertexts(scheme: Scheme, key: bytes, values: NDArray[Any]) -> Iterator[bytes]:
    """The same, a few at a time."""
    p = scheme.parameters
    width = p.degree * p.bits // 64
    out = np.empty((_BATCH, scheme._stride), dtype=np.uint64)
    if scheme.seeded:
        zeros = _seal.Zeros(p, secret=scheme.load_secret(key)._values())
    else:
        zeros = _seal.Zeros(p, public=scheme.load_public(key)._rows())
    with zeros:
        for first in range(0, len(values), _BATCH):
            batch = values[first : first + _BATCH].astype(np.uint64)
            messages = scheme._encode(batch)
            for k, words in enumerate(out[: len(batch)]):
                rows, seed = zeros.next()
                for r, row in enumerate(rows):
                    place = words[r * width : (r + 1) * width]
                    if r < len(messages):
                        _kernels.add_and_pack(row, messages[r][k], scheme._primes[r], p.bits, place)
                    else:
                        _kernels.pack(row, p.bits, place)
                if seed is not None:
                    words[-_ring.SEED_WORDS :] = seed
            yield out[: len(batch)].tobytes()


def _padded(scheme: Scheme, values: NDArray[Any]) -> NDArray[Any]:
    """``values`` in range, as rows of slots, padded with zeros, in the narrowest words that hold them."""
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


def digits(rows: list[Words], p: Parameters) -> tuple[list[Words], NDArray[np.bool_]]:
    """The mixed-radix digits of the numbers below q with residues ``rows``, and which of them lie above q/2.

    The number is digit 0 + prime 0 * (digit 1 + prime 1 * ...) (H. L. Garner, 1959). Two primes at most.
    """
    if len(rows) == 1:
        return rows, rows[0] > np.uint64(p.primes[0] // 2)
    low, high = rows
    first, second = p.primes
    other = _ring.field(p.degree, second)
    inverse = pow(first, -1, second)
    digit, part = high.copy(), low.copy()
    other.scale(digit, inverse)
    other.scale(part, -inverse)
    other.add(digit, part)
    middle = np.uint64(second // 2)
    return [low, digit], (digit > middle) | ((digit == middle) & (low > np.uint64(first // 2)))


def _packed(rows: Words, bits: int) -> Words:
    words = np.empty(rows.size * bits // 64, dtype=np.uint64)
    _kernels.pack(rows.reshape(-1), bits, words)
    return words


def _unpacked(words: Words, bits: int, shape: tuple[int, ...]) -> Words:
    rows = np.empty(shape, dtype=np.uint64)
    _kernels.unpack(words, bits, rows.reshape(-1))
    return rows
