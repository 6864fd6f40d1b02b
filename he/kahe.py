"""Sums under one-time keys that add up (*key-additive homomorphic encryption*): c = a s + e + 2^w m.

The ring is that of polynomials modulo x^N + 1 and q. All clients of a sum compute the same uniform polynomials a
from a public seed. A client draws a key s and an error e with small coefficients, and sends c for its vector,
encoded as m. The sum of the c's is a (sum of the s's) + (sum of the e's) + 2^w (sum of the m's). A
server that learns the sum of the *keys*, and nothing else, opens the sum of the vectors, and nothing else. A key
is N numbers of 8 bits, however long the vector is. How the keys are summed without showing one of them is the
caller's business. The cost of opening does not depend on how many vectors are in the sum.

- A client calls :meth:`Scheme.key` and :meth:`Scheme.encrypt`, with a secret seed for this one vector.
- The server calls :meth:`Scheme.adder`, then :meth:`Adder.fold` for each vector, and :meth:`Scheme.open`
  with the sum of the keys.

No party has a key that lasts. The security is that of learning with errors over rings (V. Lyubashevsky,
C. Peikert and O. Regev, EUROCRYPT 2010), with what the opened sum says of the keys and errors counted in;
:mod:`he.kahe_params` derives it, the bound of the errors, and the encoding. Two vectors encrypted with
the same secret and public seed show their difference.

One-time keys that add up, from learning with errors, are in T. Stevens, C. Skalka, C. Vincent, J. Ring, S. Clark
and J. Near, *Efficient differentially private secure aggregation for federated learning via hardness of
learning with errors*, 2021 (arXiv 2112.06872); J. Bell, A. Gascón, T. Lepoint, B. Li, S. Meiklejohn, M. Raykova
and C. Yun, *ACORN*, 2022 (eprint 2022/1461); H. Karthikeyan and A. Polychroniadou, *OPA*, 2024 (arXiv
2410.22303); and J. Bell-Clark, A. Gascón, B. Li, M. Raykova and P. Schoppmann, *Willow*, CRYPTO 2025 (eprint
2024/936).

:mod:`he._kahe_format` has the byte formats.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he import _kahe_encryption, _kahe_sums
from he._kahe_format import SEED_BYTES, Format, Integers, Small
from he._kahe_sums import Adder
from he.kahe_params import MAX_CLIENTS, MAX_KEY

__all__ = ["MAX_CLIENTS", "MAX_KEY", "SEED_BYTES", "Adder", "Scheme"]


@dataclass(frozen=True)
class Scheme(Format):
    """Sums of up to ``max_clients`` vectors, exact, each opened with the sum of one-time keys.

    ``segments`` are pairs (length, bound): a vector is one array for each, with integers in 0..bound. Sums are
    over the integers. ``key_bytes`` is what each coefficient of a key costs the caller elsewhere, all copies
    and shares together, rounded up: the ring is the one with the fewest bytes in all. The default is one word
    of 32 bits.

    Raises :class:`he.errors.HEError` on other arguments, and if a sum takes more than 62 bits.
    """

    def key(self, secret: bytes, public: bytes) -> Small:
        """The one-time key (N), from -64 to 64, of the vector that is encrypted with these two seeds.

        A client runs this. ``secret`` are 32 secret bytes for this one vector, ``public`` the 32 bytes from
        which all clients of the sum compute a. Raises :class:`HEError` on other lengths.
        """
        return self._binomials(self._coins(secret, public, b"key"), 0, np.empty(self.degree, dtype=np.int8))

    def encrypt(
        self, values: Sequence[NDArray[Any]], secret: bytes, public: bytes, executor: Executor | None = None
    ) -> bytes:
        """``values``, an array for each segment, encrypted with the key of :meth:`key`: ``size`` bytes.

        A client runs this. Equal arguments have equal results, whatever the executor. The work is split over
        ``executor``; the default is this thread. Raises :class:`HEError` on values outside their range,
        other lengths and other types.
        """
        key, streams = self.key(secret, public), (self._coins(secret, public, b"error"), self._uniform(public))
        return _kahe_encryption.encrypt(self, values, key, streams, executor)

    def adder(self) -> Adder:
        """An empty sum, for the server."""
        return Adder(self)

    def load_adder(self, state: bytes) -> Adder:
        """The sum that :meth:`Adder.to_bytes` wrote as ``state``. Raises :class:`HEError` for any other bytes."""
        return _kahe_sums.load_adder(self, state)

    def open(
        self, total: bytes, keys: Integers, count: int, public: bytes, executor: Executor | None = None
    ) -> list[Integers]:
        """The sums of ``count`` vectors, an array for each segment, from an adder's ``total``.

        The server runs this. ``keys`` (N) is the sum of the keys of these very vectors, signed, and ``public`` the
        32 bytes of :meth:`key`. The work is split over ``executor``; the default is this thread. Raises
        :class:`OpenError`, and returns nothing, unless the sum of the keys is at most 64 ``count`` in size, every
        error is within its bound for ``count`` vectors, every field is at most ``count`` times the bound of its
        segment, and nothing is above the fields, after the last value or in empty coefficients.
        """
        work = _kahe_sums.opening(self, keys, count, self._uniform(public))
        return _kahe_sums.open_sum(work, total, executor)

    def opens(self, total: bytes, keys: Integers, count: int, public: bytes) -> bool:
        """Whether :meth:`open` would accept the last eight polynomials, in which the empty coefficients are.

        It has the arguments of :meth:`open`. It tells candidates for the sum of the keys apart at a fraction of the
        cost; only :meth:`open` decides. Raises :class:`OpenError` as :meth:`open` does, except for what the
        polynomials hold.
        """
        work = _kahe_sums.opening(self, keys, count, self._uniform(public))
        return _kahe_sums.opens(work, total)
