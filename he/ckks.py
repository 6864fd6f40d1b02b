"""CKKS for sums of integer vectors (J. H. Cheon, A. Kim, M. Kim and Y. Song, ASIACRYPT 2017).

The plaintexts are integers. The decryptor rounds each slot of a sum to an integer before anything
leaves it. The result is the exact sum, which says nothing about the noise and so nothing about the
key: the attack of B. Li and D. Micciancio (EUROCRYPT 2021) needs the noise. Nothing is released
without rounding, so no noise is added to flood it. This is safe only because the noise of a decrypted
sum never leaves the decryptor. :mod:`he.params` derives step, tolerance and ring;
:mod:`he._rlwe_format` has the byte formats.

A ring of degree N has N/2 complex slots; the real and the imaginary part of a slot hold one value
each. Slot j is the polynomial's value at zeta^(4j + 1), where zeta = exp(pi sqrt(-1) / N): one root of
each conjugate pair. Since zeta^(N/2) is sqrt(-1) at all of them, coefficients k and k + N/2 are the
parts of one complex number, and one Fourier transform of N/2 points leads to the slots or back.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from he import _ring, _ring_kernels, _rlwe, params
from he._rlwe_format import Integers, Words
from he._rlwe_keys import Adder, PublicKey, SecretKey
from he.params import CKKSParameters

__all__ = ["Adder", "PublicKey", "Scheme", "SecretKey"]

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Scheme(_rlwe.Scheme):
    """CKKS for sums of up to ``max_clients`` vectors with integers in 0..``bound``, exact.

    Both parts of a complex slot hold a value: the real parts come first, then the imaginary ones.
    :class:`he._rlwe.Scheme` says what ``seeded`` chooses. Raises :class:`he.errors.HEError` if no
    ring of 128 bits of security carries the sums.
    """

    name: ClassVar[str] = "ckks"
    transformed: ClassVar[bool] = True

    @property
    def parameters(self) -> CKKSParameters:
        """Derived in :func:`he.params.ckks`."""
        return params.ckks(self.bound, self.max_clients, self.seeded)

    def _encode(self, values: Words) -> list[Words]:
        coefficients = coefficients_of(values.astype(np.float64))
        rows = []
        for field in self._fields:
            part = np.empty(coefficients.shape, dtype=np.uint64)
            above = np.uint64(_multiple_above(int(field.prime)))
            _ring_kernels.round_up(coefficients.reshape(-1), float(self.parameters.step), above, part.reshape(-1))
            field.reduce(part)
            field.forward(part)
            rows.append(part)
        return rows

    def _decode(self, rows: list[Words], count: int) -> tuple[Integers, bool]:
        p = self.parameters
        middle = count * self.bound // 2
        for field, part in zip(self._fields, rows, strict=True):
            prime = int(field.prime)
            for constant in (0, p.degree // 2):  # of the real parts, of the imaginary parts
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
    """The coefficients (k, N) of real polynomials with ``slots`` (k, N): real parts, then imaginary parts."""
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
    digits, negative = _ring.mixed_radix(rows, p.degree, p.primes)
    value: NDArray[Any] = np.zeros(rows[0].shape)
    weight = 1
    for digit, prime in zip(digits, p.primes, strict=True):
        last = weight * prime == prod(p.primes)
        value += (digit.astype(np.int64) - (prime * negative if last else 0)).astype(np.float64) * float(weight)
        weight *= prime
    return value
