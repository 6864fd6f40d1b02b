"""The interface of Paillier, CKKS and BFV, as types.

``he.paillier.Scheme``, ``he.ckks.Scheme`` and ``he.bfv.Scheme`` all satisfy :class:`Scheme`, and
their keys and sums the other types here. Code that is written against these types runs with each of
the three. A party's part in a sum:

- the holder of the key calls ``generate`` and publishes ``public.to_bytes()``;
- a client calls ``load_public`` and ``encrypt``;
- the server calls ``adder``, then ``fold`` for each client's bytes and ``total`` at the end;
- the holder of the key calls ``open``.

Random bytes come from ``rng(k)``, which returns k of them: the system's generator, or a stream that
belongs to this one call. Two plaintexts that are encrypted with the same bytes show their difference.
Only the calling thread calls ``rng``, whatever the executor.

Bytes that come from other parties go into ``load_public``, ``fold`` and ``open``. These refuse malformed
bytes with a :class:`he.errors.HEError`.
"""

import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

#: A vector of integers.
Values = NDArray[np.integer[Any]]
#: Called with k, it returns k random bytes.
Random = Callable[[int], bytes]


class PublicKey(Protocol):
    """Encrypts vectors."""

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for the key."""

    def to_bytes(self) -> bytes:
        """The key, for :meth:`Scheme.load_public`."""

    def encrypt(self, values: Values, executor: Executor | None = None, rng: Random = os.urandom) -> bytes:
        """``values``, integers in 0..bound, as :meth:`Scheme.size` bytes.

        The work is split over ``executor``; the default is this thread. :attr:`Scheme.deterministic` says
        whether the bytes follow from what ``rng`` returns.
        """


class SecretKey(Protocol):
    """Opens sums. Keep it secret: its holder can also read the vector of each single client."""

    @property
    def public(self) -> PublicKey | None:
        """The public half; None where clients encrypt with the secret key itself."""

    def to_bytes(self) -> bytes:
        """The key, secret, for :meth:`Scheme.load_secret`."""

    def encrypt(self, values: Values, executor: Executor | None = None, rng: Random = os.urandom) -> bytes:
        """As :meth:`PublicKey.encrypt`."""

    def open(self, total: bytes, length: int, count: int, executor: Executor | None = None) -> NDArray[np.int64]:
        """The sum (``length`` integers) of ``count`` vectors, from an adder's ``total``.

        The work is split over ``executor``, where threads save time; the default is this thread.
        Raises :class:`he.errors.HEError`, and returns nothing, unless ``total`` is a sum and every
        slot holds a possible sum of ``count`` vectors.
        """


class Adder(Protocol):
    """A running sum of encrypted vectors. It holds no secret. Any thread may call it: calls take turns."""

    @property
    def count(self) -> int:
        """How many vectors are in the sum."""

    def fold(self, data: bytes) -> None:
        """Add ``data``, one encrypted vector.

        Other bytes raise :class:`he.errors.CiphertextError` and leave the sum.
        """

    def merge(self, other: "Adder") -> None:
        """Add ``other``, a sum of the same scheme, length and key. Several servers that share the vectors use it.

        The caller sees to it that each sender's vector is in one of the two: a vector that is in both counts twice.
        Raises :class:`he.errors.HEError`, and leaves both sums, if they hold more vectors than a sum may, or if the
        two do not belong together.
        """

    def total(self) -> bytes:
        """The sum, for :meth:`SecretKey.open`: :meth:`Scheme.total_size` bytes."""

    def to_bytes(self) -> bytes:
        """The whole state, for :meth:`Scheme.load_adder`."""


class Scheme(Protocol):
    """How vectors are packed and encrypted. All parties of a sum have an equal one."""

    def __hash__(self) -> int:
        """Equal schemes have equal hashes."""

    @property
    def bound(self) -> int:
        """The largest value in one client's vector."""

    @property
    def max_clients(self) -> int:
        """How many vectors a sum may hold."""

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for all parameters and the formats."""

    @property
    def encrypts_on_threads(self) -> bool:
        """Whether a pool of threads makes encryption faster."""

    @property
    def deterministic(self) -> bool:
        """Whether keys and ciphertexts follow from what ``rng`` returns, whatever the executor."""

    @property
    def public_size(self) -> int:
        """Bytes of a public key; 0 where there is none."""

    def size(self, length: int) -> int:
        """Bytes of an encrypted vector of ``length`` values."""

    def total_size(self, length: int) -> int:
        """Bytes of an encrypted sum of vectors of ``length`` values."""

    def describe(self) -> str:
        """The parameters in one line, for people."""

    def generate(self, rng: Random = os.urandom) -> SecretKey:
        """A fresh key; ``rng(k)`` returns k random bytes."""

    def load_public(self, data: bytes) -> PublicKey:
        """The public key in ``data``, from any sender. Raises :class:`he.errors.HEError` if it is not a key."""

    def load_secret(self, data: bytes) -> SecretKey:
        """The key that :meth:`SecretKey.to_bytes` wrote as ``data``.

        Raises :class:`he.errors.HEError` for other bytes.
        """

    def adder(self, length: int, public: PublicKey | None = None) -> Adder:
        """An empty sum of vectors of ``length`` values. Paillier's sums need ``public``; the others ignore it."""

    def load_adder(self, data: bytes, length: int, public: PublicKey | None = None) -> Adder:
        """The sum of vectors of ``length`` values that :meth:`Adder.to_bytes` wrote as ``data``.

        ``public`` is the key of the vectors, None where there is none. Raises :class:`he.errors.HEError` for other
        bytes.
        """


@runtime_checkable
class SeededScheme(Protocol):
    """A scheme whose secret keys can be derived from a shared seed."""

    def secret_from_seed(self, seed: bytes) -> SecretKey:
        """The secret key of ``seed`` (32 uniform, secret bytes): the same for all who know the seed."""
