"""CKKS for sums of integer vectors, in real slots (J. H. Cheon, A. Kim, M. Kim and Y. Song, ASIACRYPT 2017).

What is encrypted is integers. The decryptor rounds each slot of a sum to the grid of integers before anything
leaves it, so that what leaves is the exact sum and says nothing of the noise, nor through that of the key: the
attack of B. Li and D. Micciancio (EUROCRYPT 2021) needs the noise. There is no release without rounding,
and so no flooding. :mod:`he.params` derives step, tolerance and ring; :mod:`he._rlwe` has the formats.

Real slots make a small encoding: a polynomial whose coefficient N - k is minus coefficient k, which is a cosine
transform of the slots. Slot i is the value at zeta^(2i + 1), zeta = exp(pi sqrt(-1) / N). When a sum is opened
nothing of that is taken for granted: all N/2 complex values are computed, and their imaginary parts must be zero.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from he import _kernels, _rlwe, params
from he._rlwe import Adder, PublicKey, SecretKey
from he.params import CKKSParameters

__all__ = ["Adder", "PublicKey", "Scheme", "SecretKey"]

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Scheme(_rlwe.Scheme):
    """Sums of up to ``max_clients`` vectors with integers in 0..``bound``, exact, in real slots.

    ``seeded=False``: clients encrypt with a public key, whose secret another party holds.
    ``seeded=True``: clients share the secret key, for half the bytes: one client that colludes with the server
    reads every client's vector.

    Raises :class:`he.errors.HEError` where no ring of 128 bits of security carries the sums.
    """

    name: ClassVar[str] = "ckks"
    transformed: ClassVar[bool] = True

    @property
    def parameters(self) -> CKKSParameters:
        """Derived in :func:`he.params.ckks`."""
        return params.ckks(self.bound, self.max_clients, self.seeded)

    @property
    def slots(self) -> int:
        """N/2 real ones."""
        return self.parameters.degree // 2

    def _encode(self, values: Words) -> list[Words]:
        p = self.parameters
        coefficients = _cosines(values.astype(np.float64))
        rows = []
        for field in self._fields:
            prime = int(field.prime)
            part = np.empty(coefficients.shape, dtype=np.uint64)
            above = ((1 << 62) // prime + 1) * prime  # coefficients have either sign, and 62 bits at most
            _kernels.round_up(coefficients.reshape(-1), float(p.step), above, part.reshape(-1))
            field.reduce(part)
            field.forward(part)
            rows.append(part)
        return rows

    def _decode(self, rows: list[Words], count: int) -> tuple[Integers, bool]:
        p = self.parameters
        middle = count * self.bound // 2
        for field, part in zip(self._fields, rows, strict=True):
            prime = int(field.prime)
            part[:, 0] += np.uint64(-p.step * middle % prime)
            field.reduce(part)
        slots = _values(_centred(rows, p))
        nearest = np.rint(slots.real / p.step)
        off = max(float(np.abs(slots.real - nearest * p.step).max()), float(np.abs(slots.imag).max()))
        return nearest.astype(np.int64) + middle, off <= p.tolerance


def _cosines(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients (k, N) of the real polynomials with the slots ``values`` (k, N/2).

    By one real Fourier transform of N/2 points (J. Makhoul, *A fast cosine transform in one and two
    dimensions*, 1980).
    """
    count, slots = values.shape
    turned = np.fft.rfft(np.concatenate([values[:, ::2], values[:, 1::2][:, ::-1]], axis=1)) * _turns(slots)
    half = slots // 2
    out = np.zeros((count, 2 * slots))
    out[:, : half + 1] = turned.real
    out[:, half + 1 : slots] = -turned.imag[:, half - 1 : 0 : -1]
    out[:, slots + 1 :] = -out[:, slots - 1 : 0 : -1]
    return out


def _values(coefficients: NDArray[np.float64]) -> NDArray[np.complex128]:
    """All the values (k, N/2), one of each conjugate pair, of polynomials with ``coefficients`` (k, N)."""
    degree = coefficients.shape[1]
    return np.fft.ifft(coefficients * _twists(degree), norm="forward")[:, : degree // 2]


@lru_cache(maxsize=4)
def _turns(slots: int) -> NDArray[np.complex128]:
    turns: NDArray[np.complex128] = np.exp(-0.5j * np.pi / slots * np.arange(slots // 2 + 1)) / slots
    return turns


@lru_cache(maxsize=4)
def _twists(degree: int) -> NDArray[np.complex128]:
    twists: NDArray[np.complex128] = np.exp(1j * np.pi / degree * np.arange(degree))
    return twists


def _centred(rows: list[Words], p: CKKSParameters) -> NDArray[np.float64]:
    """The numbers in (-q/2, q/2) with the residues ``rows``, one array for each prime, to double precision."""
    digits, negative = _rlwe.digits(rows, p)
    value: NDArray[Any] = np.zeros(rows[0].shape)
    weight = 1
    for digit, prime in zip(digits, p.primes, strict=True):
        last = weight * prime == prod(p.primes)
        value += (digit.astype(np.int64) - (prime * negative if last else 0)).astype(np.float64) * float(weight)
        weight *= prime
    return value
