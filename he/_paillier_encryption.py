"""Paillier's encryption of integers: the random units that hide plaintexts, prepared in advance or on demand."""

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any

import gmpy2  # type: ignore[import-untyped]
import numpy as np
from gmpy2 import mpz

from he.errors import HEError
from he.scheme import Random


class Encryptor(ABC):
    """Encrypts under ``n``: a public key, or a private key, which works modulo the squares of p and q.

    An *obfuscator* is a random n-th power modulo n². A ciphertext is its plaintext times one obfuscator.
    """

    n: int
    textbook: bool

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._ready: deque[mpz] = deque()
        self._owner = os.getpid()

    @property
    def prepared(self) -> int:
        """How many obfuscators wait for a plaintext."""
        return len(self._ready) if self._owner == os.getpid() else 0

    def prepare(self, count: int, executor: Executor | None = None) -> None:
        """Make obfuscators for ``count`` more ciphertexts now; encrypting then costs two multiplications each.

        The work is split over ``executor``, where threads save time; the default is this thread. The obfuscators
        serve encryptions that draw from ``os.urandom``. Each is used once. They stay with this object: a copy, a
        pickle or a forked process has none, because two ciphertexts under one obfuscator reveal the difference of
        their plaintexts.
        """
        if count < 0:
            raise HEError(f"got {count} obfuscators to prepare; expected 0 or more")
        fresh = self._obfuscators(count, executor, os.urandom) if count else []
        with self._lock:
            if self._owner != os.getpid():
                self._ready, self._owner = deque(), os.getpid()
            self._ready.extend(fresh)

    def encrypt_integers(
        self, integers: Iterable[int], executor: Executor | None = None, rng: Random = os.urandom
    ) -> list[int]:
        """One ciphertext, an integer in (1, n²), for each of ``integers``, which are in [0, n).

        ``rng(k)`` returns k random bytes. If it is ``os.urandom``, prepared obfuscators are used first;
        under another generator the ciphertexts follow from what it returns. Obfuscators are made on
        ``executor``, where threads save time, because the interpreter's lock is released. Raises
        :class:`HEError`, naming the index, for anything but an integer in range.
        """
        plain = []
        for i, integer in enumerate(integers):
            if isinstance(integer, bool) or not isinstance(integer, (int, np.integer, type(mpz()))):
                raise HEError(f"plaintext {i} is of {type(integer).__name__}; expected an integer")
            number = mpz(int(integer))
            if not 0 <= number < self.n:
                raise HEError(
                    f"plaintext {i} is out of range; expected 0 to n - 1, where n has {self.n.bit_length()} bits"
                )
            plain.append(number)
        n, square = mpz(self.n), mpz(self.n) ** 2
        factors = self._take(len(plain), executor, rng)
        return [int((1 + m * n) * factor % square) for m, factor in zip(plain, factors, strict=True)]

    def _take(self, count: int, executor: Executor | None, rng: Random) -> list[mpz]:
        if rng is not os.urandom:
            return self._obfuscators(count, executor, rng)
        with self._lock:
            if self._owner != os.getpid():
                self._ready, self._owner = deque(), os.getpid()
            taken = [self._ready.popleft() for _ in range(min(count, len(self._ready)))]
        if len(taken) < count:
            taken += self._obfuscators(count - len(taken), executor, rng)
        return taken

    @abstractmethod
    def _obfuscators(self, count: int, executor: Executor | None, rng: Random) -> list[mpz]:
        """``count`` fresh units modulo n², each the n-th power of a unit."""

    def _exponents(self, count: int, rng: Random) -> Any:
        """``count`` uniform exponents of |n| / 2 bits, as little-endian words."""
        bits = exponent_bits(self.n)
        words = -(-bits // 64)
        exponents = np.frombuffer(rng(8 * words * count), "<u8").astype(np.uint64).reshape(count, words)
        exponents[:, -1] &= np.uint64((1 << 64 - (64 * words - bits)) - 1)
        return exponents

    def _units(self, count: int, rng: Random) -> list[mpz]:
        """``count`` uniform units modulo n, for r of the textbook scheme."""
        units: list[mpz] = []
        n = mpz(self.n)
        while len(units) < count:
            number = mpz.from_bytes(rng(-(-n.bit_length() // 8)), "little") % (mpz(1) << n.bit_length())
            if 0 < number < n and gmpy2.gcd(number, n) == 1:
                units.append(number)
        return units


def exponent_bits(n: int) -> int:
    """Bits of a short exponent under ``n``: half as many as n has."""
    return -(-n.bit_length() // 2)
