"""CKKS for sums of integer vectors (J. H. Cheon, A. Kim, M. Kim and Y. Song, ASIACRYPT 2017).

What is encrypted is integers. The decryptor rounds each slot of a sum to the grid of integers before anything
leaves it, so that what leaves is the exact sum and says nothing of the noise, nor through that of the key: the
attack of B. Li and D. Micciancio (EUROCRYPT 2021) needs the noise. There is no release without rounding,
and so no flooding: this is safe only because the noise of what is decrypted never leaves the decryptor.
:mod:`he.params` derives step, tolerance and ring; :mod:`he._rlwe` has the formats.

A ring of degree N has N/2 complex slots, and real and imaginary parts hold a value each: slot j is the
polynomial's value at zeta^(4j + 1), zeta = exp(pi sqrt(-1) / N), which is one root of each conjugate pair. As
zeta^(N/2) is sqrt(-1) at all of them, coefficients k and k + N/2 are the parts of one complex number, and the way
to slots and back is one Fourier transform of N/2 points.
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
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Scheme(_rlwe.Scheme):
    """Sums of up to ``max_clients`` vectors with integers in 0..``bound``, exact, in both parts of complex slots.

    ``seeded=False``: clients encrypt with a public key, whose secret another party holds.
    ``seeded=True``: clients share the secret key, for half the bytes: one client that colludes with the server
    reads every client's vector.

    Raises :class:`he.errors.HEError` where no ring of 128 bits of security, classical and
    quantum, carries the sums.
    """

    name: ClassVar[str] = "ckks"
    transformed: ClassVar[bool] = True

    @property
    def parameters(self) -> CKKSParameters:
        """Derived in :func:`he.params.ckks`."""
        return params.ckks(self.bound, self.max_clients, self.seeded)

    @property
    def slots(self) -> int:
        """N: the real parts, then the imaginary ones."""
        return self.parameters.degree

    def _encode(self, values: Words) -> list[Words]:
        coefficients = coefficients_of(values.astype(np.float64))
        rows = []
        for field in self._fields:
            part = np.empty(coefficients.shape, dtype=np.uint64)
            above = np.uint64(_multiple_above(int(field.prime)))
            _kernels.round_up(coefficients.reshape(-1), float(self.parameters.step), above, part.reshape(-1))
            field.reduce(part)
            field.forward(part)
            rows.append(part)
        return rows

    def _decode(self, rows: list[Words], count: int) -> tuple[Integers, bool]:
        p = self.parameters
        middle = count * self.bound // 2
        for field, part in zip(self._fields, rows, strict=True):
            prime = int(field.prime)
            for constant in (0, p.degree // 2):  # of the real parts, and of the imaginary ones
                part[:, constant] += np.uint64(-p.step * middle % prime)
            field.reduce(part)
        slots = slots_of(_centred(rows, p))
        nearest = np.rint(slots / p.step)
        off = np.abs(slots - nearest * p.step).max()
        return nearest.astype(np.int64) + middle, bool(off <= p.tolerance)


def _multiple_above(prime: int) -> int:
    """The least multiple of ``prime`` above all coefficients; the sum of both stays below 2^64."""
    return (params.MAX_COEFFICIENT // prime + 1) * prime


def coefficients_of(slots: Reals) -> Reals:
    """The coefficients (k, N) of real polynomials with ``slots`` (k, N): real parts, then imaginary ones."""
    half = slots.shape[1] // 2
    joined = np.empty((len(slots), half), dtype=np.complex128)
    joined.real, joined.imag = slots[:, :half], slots[:, half:]
    return _parts(np.fft.fft(joined, norm="forward") * _twists(half).conj())


def slots_of(coefficients: Reals) -> Reals:
    """The slots (k, N) of real polynomials with ``coefficients`` (k, N)."""
    half = coefficients.shape[1] // 2
    joined = (coefficients[:, :half] + 1j * coefficients[:, half:]) * _twists(half)
    return _parts(np.fft.ifft(joined, norm="forward"))


def _parts(numbers: NDArray[np.complex128]) -> Reals:
    return np.concatenate([numbers.real, numbers.imag], axis=1)


@lru_cache(maxsize=4)
def _twists(half: int) -> NDArray[np.complex128]:
    twists: NDArray[np.complex128] = np.exp(0.5j * np.pi / half * np.arange(half))
    return twists


def _centred(rows: list[Words], p: CKKSParameters) -> Reals:
    """The numbers in (-q/2, q/2) with the residues ``rows``, one array for each prime, to double precision."""
    digits, negative = _rlwe.digits(rows, p)
    value: NDArray[Any] = np.zeros(rows[0].shape)
    weight = 1
    for digit, prime in zip(digits, p.primes, strict=True):
        last = weight * prime == prod(p.primes)
        value += (digit.astype(np.int64) - (prime * negative if last else 0)).astype(np.float64) * float(weight)
        weight *= prime
    return value
