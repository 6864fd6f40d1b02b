"""Paillier's scheme for sums of vectors: many small values to a ciphertext, opened only as possible sums.

Clients encrypt under a public key. A server that holds no key multiplies their ciphertexts. The
holder of the private key opens one sum. Values are integers in 0..bound; a slot is wide enough for
``max_clients`` of them, so that slots never carry into each other (:mod:`he.packing`).

**The assumption.** An encryption is (1 + m n) h^α mod n², with α of |n| / 2 fresh bits: Damgård,
Jurik and Nielsen, "A generalization of Paillier's public-key system with applications to electronic
voting" (International Journal of Information Security 9, 2010), with s = 1. Paillier's scheme rests
on the decisional composite residuosity assumption. This one also assumes that h^α cannot be told from
a uniform power of h: a *short-exponent* assumption. No party chooses h: h = x^(2n) mod n² for
x = SHAKE-256("secagg/v1/paillier-base" ‖ n) mod n, which each party computes from n. So any modulus
can be used, also one of phe's; the keys of :func:`generate` meet the paper's conditions, too. (Under
other moduli the powers of h may be fewer than all squares of n-th powers; the assumption then covers
that as well.) ``textbook=True`` takes r^n with a uniform r instead. It assumes nothing more than
Paillier did, and takes several times as long.

**What it does not give.** Ciphertexts are malleable: anybody who can change a ciphertext can add to its
plaintext. The caller has to make sure that clients encrypted values within the bound, and that the
count is honest: a slot that overflows carries into the next one, and no check shows it if all
slots stay in range. A modulus from others may not be a product of two primes. GMP's integers are not
constant time, and neither are the table look-ups of short exponents (when encrypting) and of p - 1
and q - 1 (when opening): share no processor with an adversary.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from he import scheme as types
from he._numbers import whole
from he._paillier_sums import MARK, Adder
from he.errors import CiphertextError, HEError, OpenError
from he.packing import MAX_WIDTH, Slots
from he.paillier_keys import (
    DEFAULT_BITS,
    MAX_BITS,
    MIN_BITS,
    PrivateKey,
    PublicKey,
    check_ciphertexts,
    generate,
)
from he.scheme import Random

__all__ = ["Adder", "PrivateKey", "PublicKey", "Scheme", "VectorPrivateKey", "VectorPublicKey", "generate"]

_LABEL = b"secagg/v1/paillier-scheme"

Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Scheme:
    """How vectors are packed and encrypted. All parties of a sum have an equal one.

    ``bound``: every value of one client's vector is an integer in 0..bound. ``max_clients``: how many
    vectors a sum may hold. ``bits`` of the modulus: a multiple of 16, at least 2048. ``textbook``:
    see :mod:`he.paillier`. Raises :class:`HEError` if a number is out of range, or if a sum would not
    fit 63 bits.

    An encrypted vector is 16 bytes of :attr:`digest`, 16 bytes of the public key's digest, and
    ciphertexts of 2 * bits / 8 bytes each, big-endian. A sum of such vectors is laid out in the same
    way.
    """

    bound: int
    max_clients: int
    bits: int = DEFAULT_BITS
    textbook: bool = False

    encrypts_on_threads: ClassVar[bool] = True  # GMP and the kernels release the interpreter's lock
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("bound", "max_clients", "bits"):
            number = whole(getattr(self, name))
            if number is None:
                raise HEError(f"got {name}={getattr(self, name)!r}; expected an integer")
            object.__setattr__(self, name, number)
        if not isinstance(self.textbook, bool):
            raise HEError(f"got textbook={self.textbook!r}; expected True or False")
        if min(self.bound, self.max_clients) < 1 or self.width > MAX_WIDTH:
            raise HEError(
                f"got values up to {self.bound} of {self.max_clients} clients; expected at least 1 each, "
                f"and sums of at most {MAX_WIDTH} bits"
            )
        if self.bits % 16 or not MIN_BITS <= self.bits <= MAX_BITS:
            raise HEError(
                f"got {self.bits} bits of modulus; expected a multiple of 16 from {MIN_BITS} to {MAX_BITS}"
            )

    @property
    def width(self) -> int:
        """Bits of a slot: those of the largest sum."""
        return (self.max_clients * self.bound).bit_length()

    @cached_property
    def slots(self) -> Slots:
        """The slots of a plaintext: as many as fit below the modulus's top bit."""
        return Slots(self.width, (self.bits - 1) // self.width)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for all parameters and the format."""
        parameters = b"".join(
            number.to_bytes(8, "big") for number in (self.bound, self.max_clients, self.bits, self.textbook)
        )
        return hashlib.sha256(_LABEL + parameters).digest()

    def describe(self) -> str:
        """The parameters in one line, for people."""
        obfuscators = "r^n" if self.textbook else "h^α, short exponents"
        return (
            f"Paillier, {self.bits}-bit modulus, {obfuscators}; {self.slots.count} slots of {self.width} bits, "
            f"{self._ciphertext / self.slots.count:.2f} bytes a value"
        )

    def ciphertexts(self, length: int) -> int:
        """How many ciphertexts hold a vector of ``length`` values: the count for ``prepare``."""
        if length < 1:
            raise HEError(f"got a vector of {length} values; expected at least 1")
        return self.slots.integers(length)

    def size(self, length: int) -> int:
        """Bytes of an encrypted vector of ``length`` values."""
        return 2 * MARK + self.ciphertexts(length) * self._ciphertext

    def total_size(self, length: int) -> int:
        """Bytes of an encrypted sum of vectors of ``length`` values."""
        return self.size(length)

    @property
    def public_size(self) -> int:
        """Bytes of a public key."""
        return self.bits // 8

    def generate(self, rng: Random = os.urandom) -> "VectorPrivateKey":
        """A fresh key for this scheme; see :func:`generate`, also for ``rng``."""
        return VectorPrivateKey(self, generate(self.bits, textbook=self.textbook, rng=rng))

    def load_public(self, data: bytes) -> "VectorPublicKey":
        """The public key in ``data``, from any sender. Raises :class:`HEError` if it is not a key."""
        return VectorPublicKey(self, PublicKey.from_bytes(data, self.bits, textbook=self.textbook))

    def load_secret(self, data: bytes) -> "VectorPrivateKey":
        """The key that :meth:`VectorPrivateKey.to_bytes` wrote as ``data``.

        Raises :class:`HEError` for other bytes.
        """
        return VectorPrivateKey(self, PrivateKey.from_bytes(data, self.bits, textbook=self.textbook))

    def adder(self, length: int, public: types.PublicKey | None = None) -> "Adder":
        """An empty sum of vectors of ``length`` values under ``public``, which must be a key of this scheme."""
        return Adder(self, length, self._key_in(public))

    def load_adder(self, data: bytes, length: int, public: types.PublicKey | None = None) -> "Adder":
        """The sum that :meth:`Adder.to_bytes` wrote as ``data``; see :meth:`he.scheme.Scheme.load_adder`.

        Raises :class:`HEError` for other bytes, or another key.
        """
        adder = Adder(self, length, self._key_in(public))
        adder._restore(data)
        return adder

    def _key_in(self, public: types.PublicKey | None) -> PublicKey:
        if not isinstance(public, VectorPublicKey):
            raise HEError(f"got a public key of type {type(public).__name__}; expected one of he.paillier")
        if public.scheme != self:
            raise HEError("the public key belongs to another scheme; load it by this scheme's load_public")
        return public.key

    @property
    def _ciphertext(self) -> int:
        return 2 * self.bits // 8

    def _mark(self, key: PublicKey) -> bytes:
        return self.digest[:MARK] + key.digest[:MARK]

    def _write(self, ciphertexts: Sequence[int], key: PublicKey) -> bytes:
        return self._mark(key) + b"".join(number.to_bytes(self._ciphertext, "big") for number in ciphertexts)

    def _read(self, data: bytes, length: int, key: PublicKey) -> list[Any]:
        """The ciphertexts of an encrypted vector or sum. Raises :class:`CiphertextError` unless all are valid."""
        expected = self.size(length)
        if not isinstance(data, bytes):
            raise CiphertextError(f"got an encrypted vector of type {type(data).__name__}; expected bytes")
        if len(data) != expected:
            raise CiphertextError(f"got {len(data)} bytes; expected {expected} for {length} encrypted values")
        if data[:MARK] != self.digest[:MARK]:
            raise CiphertextError("the vector was encrypted under other parameters; compare both sides' tasks")
        if data[MARK : 2 * MARK] != key.digest[:MARK]:
            raise CiphertextError("the vector was encrypted under another public key; compare the pinned digests")
        size = self._ciphertext
        return check_ciphertexts(
            (int.from_bytes(data[at : at + size], "big") for at in range(2 * MARK, expected, size)), key.n
        )


def _encrypt(
    scheme: Scheme, key: PublicKey | PrivateKey, values: Integers, executor: Executor | None, rng: Random
) -> bytes:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.size < 1:
        raise HEError(
            f"got values of shape {array.shape} and dtype {array.dtype}; expected a row of integers, at least one"
        )
    # Compared as they are: a cast could bring a negative value into range.
    bad = np.flatnonzero((array < 0) | (array > min(scheme.bound, np.iinfo(array.dtype).max)))
    if bad.size:
        raise HEError(f"value {bad[0]} is out of range; expected 0 to {scheme.bound}, the scheme's bound")
    plain = scheme.slots.pack(array.astype(np.uint64))
    public = key.public if isinstance(key, PrivateKey) else key
    return scheme._write(key.encrypt_integers(plain, executor, rng), public)


def _check_key(scheme: Scheme, key: PublicKey) -> None:
    if key.bits != scheme.bits or key.textbook != scheme.textbook:
        raise HEError(
            f"got a key of {key.bits} bits with textbook={key.textbook}; "
            f"the scheme has {scheme.bits} bits and textbook={scheme.textbook}"
        )


@dataclass(frozen=True)
class VectorPublicKey:
    """The public ``key`` under a ``scheme``, for a client. Raises :class:`HEError` if the two do not fit."""

    scheme: Scheme
    key: PublicKey

    def __post_init__(self) -> None:
        _check_key(self.scheme, self.key)

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for the key."""
        return self.key.digest

    def to_bytes(self) -> bytes:
        """The modulus, for :meth:`Scheme.load_public`."""
        return self.key.to_bytes()

    def prepare(self, count: int, executor: Executor | None = None) -> None:
        """Prepare obfuscators for ``count`` ciphertexts (:meth:`Scheme.ciphertexts`) before the update exists.

        The work is split over ``executor``, where threads save time; the default is this thread. The obfuscators
        serve encryptions that draw from ``os.urandom``.
        """
        self.key.prepare(count, executor)

    def encrypt(self, values: Integers, executor: Executor | None = None, rng: Random = os.urandom) -> bytes:
        """``values``, (length,), integers in 0..bound, as :meth:`Scheme.size` bytes.

        The work is split over ``executor``, where threads save time; the default is this thread.
        ``rng(k)`` returns k random bytes, from which the ciphertexts follow whatever the executor; only
        if it is ``os.urandom`` are obfuscators used that :meth:`prepare` made. Raises :class:`HEError`,
        naming the first index, if a value is out of range.
        """
        return _encrypt(self.scheme, self.key, values, executor, rng)


@dataclass(frozen=True)
class VectorPrivateKey:
    """The private ``key`` under a ``scheme``, for the decryptor. Raises :class:`HEError` if the two do not fit."""

    scheme: Scheme
    key: PrivateKey

    def __post_init__(self) -> None:
        _check_key(self.scheme, self.key.public)

    @cached_property
    def public(self) -> VectorPublicKey:
        """The key for clients."""
        return VectorPublicKey(self.scheme, self.key.public)

    def to_bytes(self) -> bytes:
        """The key, secret, for :meth:`Scheme.load_secret`."""
        return self.key.to_bytes()

    def prepare(self, count: int, executor: Executor | None = None) -> None:
        """As :meth:`VectorPublicKey.prepare`, at about half the cost."""
        self.key.prepare(count, executor)

    def encrypt(self, values: Integers, executor: Executor | None = None, rng: Random = os.urandom) -> bytes:
        """As :meth:`VectorPublicKey.encrypt`, at about half the cost."""
        return _encrypt(self.scheme, self.key, values, executor, rng)

    def open(self, total: bytes, length: int, count: int, executor: Executor | None = None) -> NDArray[np.int64]:
        """The sum, (``length``,), of ``count`` vectors, from the server's bytes ``total``.

        The work is split over ``executor``, where threads save time; the default is this thread. Raises
        :class:`CiphertextError` if ``total`` is not an encrypted sum under this key and scheme. Raises
        :class:`OpenError`, and returns nothing, if ``count`` is not 1 to ``max_clients``, if a slot holds more than
        ``count`` times the bound, or if an unused slot or a bit above the slots is not zero. It can't detect a
        ``count`` that is larger than the number of vectors in the sum, or an overflow that leaves every slot in
        range: the adder's own count rules these out.
        """
        scheme = self.scheme
        vectors = whole(count)
        if vectors is None or not 1 <= vectors <= scheme.max_clients:
            raise OpenError(f"got a sum of {count!r} vectors; expected 1 to {scheme.max_clients}")
        numbers = scheme._read(total, length, self.key.public)
        plain = self.key.decrypt_integers(numbers, executor)
        return _checked(scheme, plain, length, vectors)


def _checked(scheme: Scheme, plain: Sequence[int], length: int, count: int) -> NDArray[np.int64]:
    """The slots of ``plain``, once every slot is a possible sum of ``count`` terms."""
    try:
        slots = scheme.slots.unpack(plain)
    except HEError as error:
        raise OpenError("bits above the slots are set: the sum overflowed, or belongs to another key") from error
    if slots[length:].any():
        raise OpenError("an unused slot is not zero; in every sum of vectors of this length it is")
    over = np.flatnonzero(slots > np.uint64(count * scheme.bound))
    if over.size:
        raise OpenError(f"slot {over[0]} is above the largest sum of {count} values up to {scheme.bound}")
    return slots[:length].astype(np.int64)
