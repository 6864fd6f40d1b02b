"""Sums for :mod:`he.paillier`: the adder, which has no private key."""

import hashlib
import struct
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from he import scheme as types
from he._merging import united
from he.errors import CiphertextError, HEError
from he.paillier_keys import PublicKey

MARK = 16  # bytes of each digest in an encrypted vector
_HASH = 32


class _Scheme(Protocol):
    """What an adder needs of :class:`he.paillier.Scheme`."""

    @property
    def max_clients(self) -> int: ...
    def ciphertexts(self, length: int) -> int: ...
    def size(self, length: int) -> int: ...
    def _mark(self, key: PublicKey) -> bytes: ...
    def _read(self, data: bytes, length: int, key: PublicKey) -> list[Any]: ...
    def _write(self, ciphertexts: Sequence[int], key: PublicKey) -> bytes: ...


def _checksum(body: bytes) -> bytes:
    """A check against accidents only: anybody who can write the state can also write its checksum."""
    return hashlib.sha256(body).digest()[:MARK]


class Adder:
    """A server's running sum: one encrypted sum, and 32 bytes for each vector in it.

    :meth:`Scheme.adder` makes one, for vectors of ``length`` values under ``scheme`` and the public ``key``. It
    refuses a vector that is in the sum already, byte for byte. Any thread may call it: calls take turns.
    """

    def __init__(self, scheme: _Scheme, length: int, key: PublicKey) -> None:
        self._scheme, self._length, self._key = scheme, length, key
        self._square = self._key.n**2
        self._sum: list[Any] = []
        self._seen: dict[bytes, None] = {}
        self._lock = threading.RLock()
        scheme.ciphertexts(length)

    @property
    def count(self) -> int:
        """How many vectors are in the sum."""
        return len(self._seen)

    def fold(self, data: bytes) -> None:
        """Add the encrypted vector ``data``, from any sender, to the sum.

        Raises :class:`CiphertextError`, and leaves the sum as it was, if the length, the parameters or
        the key are wrong, if a ciphertext is outside (1, n²) or shares a factor with n, if the vector is
        in the sum already, and if the sum is full.
        """
        with self._lock:
            if self.count >= self._scheme.max_clients:
                raise CiphertextError(
                    f"the sum holds {self.count} vectors, as many as its slots allow; begin another"
                )
            numbers = self._scheme._read(data, self._length, self._key)
            name = hashlib.sha256(data).digest()
            if name in self._seen:
                raise CiphertextError("the same encrypted vector is in the sum already")
            if self._sum:
                numbers = [a * b % self._square for a, b in zip(self._sum, numbers, strict=True)]
            self._sum = numbers
            self._seen[name] = None

    def merge(self, other: types.Adder) -> None:
        """Add ``other``, another sum of this scheme, length and key; see :meth:`he.scheme.Adder.merge`."""
        if (
            not isinstance(other, Adder)
            or other is self
            or (other._scheme, other._length, other._key.digest)
            != (
                self._scheme,
                self._length,
                self._key.digest,
            )
        ):
            raise HEError("got a running sum of other parameters or under another key, or this very sum")
        with other._lock:
            numbers, seen = other._sum, dict(other._seen)
        with self._lock:
            names = united(self._seen, seen, self._scheme.max_clients)
            if self._sum and numbers:
                numbers = [a * b % self._square for a, b in zip(self._sum, numbers, strict=True)]
            self._sum = numbers or self._sum
            self._seen = dict.fromkeys(names)

    def total(self) -> bytes:
        """The encrypted sum; :class:`HEError` before the first vector."""
        with self._lock:
            if not self._sum:
                raise HEError("the sum is empty; fold an encrypted vector in first")
            return self._scheme._write([int(number) for number in self._sum], self._key)

    def to_bytes(self) -> bytes:
        """The state, for :meth:`Scheme.load_adder`. It holds ciphertexts only."""
        with self._lock:
            total = self.total() if self._sum else self._scheme._mark(self._key)
            body = struct.pack(">I", self.count) + b"".join(self._seen) + total
        return _checksum(body) + body

    def _restore(self, state: bytes) -> None:
        start = MARK + 4
        if not isinstance(state, bytes) or len(state) < start or _checksum(state[MARK:]) != state[:MARK]:
            raise HEError("the saved sum is damaged; begin the sum again")
        (count,) = struct.unpack(">I", state[MARK:start])
        size = self._scheme.size(self._length) if count else 2 * MARK
        if count > self._scheme.max_clients or len(state) != start + count * _HASH + size:
            raise HEError(
                f"got a saved sum of {count} vectors in {len(state)} bytes, which is damaged; begin the sum again"
            )
        total = state[start + count * _HASH :]
        if count:
            self._sum = self._scheme._read(total, self._length, self._key)
        elif total != self._scheme._mark(self._key):
            raise HEError("the saved sum belongs to other parameters or to another key")
        self._seen = {state[at : at + _HASH]: None for at in range(start, start + count * _HASH, _HASH)}
        if len(self._seen) != count:
            raise HEError("the saved sum names a vector twice; begin the sum again")
