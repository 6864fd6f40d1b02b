"""Encryption for :mod:`he.kahe`: c = a s + e + m, group after group."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he import _kahe_kernels
from he._kahe_format import Format, Small, Uniform, Words
from he._rlwe_encryption import values_of
from he._workers import run_all
from he.errors import HEError
from he.kahe_params import Plane, words
from he.ring import LANES, Factor, _lanes, lanes, packing
from he.ring.streams import Stream


@dataclass(frozen=True, eq=False, repr=False)
class Encryption:
    """Encrypts one vector, group by group."""

    scheme: Format
    values: list[NDArray[Any]]
    key: list[Factor]
    errors: Stream
    uniform: Uniform

    def encrypted(self, g: int) -> Words:
        """The packed words of group ``g``."""
        scheme, p = self.scheme, self.scheme.parameters
        sizes = [words(p.rows[g], bits) for bits in p.bits]
        out, group = np.empty((sum(sizes), LANES), dtype=np.uint64), lanes(p.degree)
        error = scheme._binomials(self.errors, g * p.degree * LANES, np.empty(p.rows[g] * LANES, dtype=np.int8))
        at = 0
        for k, size in enumerate(sizes):
            rows = self._masked(g, k, group, error)
            self._add(g, k, rows.reshape(-1))
            scheme._fields[k].reduce(rows)
            packing.pack(rows, p.bits[k], out[at : at + size])
            at += size
        return out

    def _masked(self, g: int, k: int, group: Words, error: Small) -> Words:
        """The rows of a s + e that are sent, modulo prime ``k``, in ``group``."""
        field = self.scheme._fields[k]
        self.uniform.write(g, k, group)
        field.multiply(group, self.key[k])
        field.backward(group)
        rows = group[: error.size // LANES]
        _lanes.add_small(rows, error, np.uint64(field.prime))
        return rows

    def _add(self, g: int, k: int, places: Words) -> None:
        """Add the values to ``places``; the sums stay below 2^64."""
        for segment, first, end, at in self.scheme._spans(g):
            if segment is not None:
                plane, prime = self.scheme.parameters.planes[segment], self.scheme.parameters.primes[k]
                digits = _digits(plane, self.scheme.parameters.shift, prime)
                _kahe_kernels.add_values(self.values[segment], at, plane.places, digits, places[first:end])


def encrypt(
    scheme: Format,
    values: Sequence[NDArray[Any]],
    key: Small,
    streams: tuple[Stream, Uniform],
    executor: Executor | None,
) -> bytes:
    """One vector, encrypted; the work is split over ``executor``. ``streams`` are the errors' and a."""
    factors = [field.factor(values_of(key, field)) for field in scheme._fields]
    work = Encryption(scheme, _checked(scheme, values), factors, *streams)
    calls = [(g,) for g in range(len(scheme.parameters.rows))]
    parts: Iterable[Words]
    if executor is None or len(calls) == 1:
        parts = (work.encrypted(*call) for call in calls)
    else:
        parts = run_all(executor, work.encrypted, calls)
    out = BytesIO()
    for part in parts:
        out.write(part.astype("<u8", copy=False).data)
    return out.getvalue()


def _checked(scheme: Format, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """``values`` in the narrowest words that hold them, once each segment has its length and its range."""
    if len(values) != len(scheme.segments):
        raise HEError(f"got {len(values)} arrays; expected {len(scheme.segments)}, one for each segment")
    checked = []
    for s, (vector, (length, bound)) in enumerate(zip(values, scheme.segments, strict=True)):
        array = np.asarray(vector)
        if array.shape != (length,) or array.dtype.kind not in "iu":
            raise HEError(
                f"got an array of {array.dtype} with shape {array.shape} for segment {s}; expected {length} "
                "integers"
            )
        if array.min() < 0 or array.max() > bound:
            at = int(np.argmax((array < 0) | (array > bound)))
            raise HEError(f"the value at {at} of segment {s} is {array[at]}; expected integers in 0..{bound}")
        checked.append(np.ascontiguousarray(array, dtype=np.min_scalar_type(bound)))
    return checked


def _digits(plane: Plane, shift: int, prime: int) -> Words:
    """The digits of a coefficient's values for :func:`he._kahe_kernels.add_values`, with their multipliers.

    Digits are so short that all of them, times a number below the prime, and a residue stay below 2^64: for n
    of b bits and a prime p, (n (2^b - 1) + 1) (p - 1) is below n 2^b p.
    """
    bits = plane.bound.bit_length()
    length = min(bits, 63 - prime.bit_length())
    while -(-bits // length) * plane.per_coefficient > 1 << 64 - prime.bit_length() - length:
        length -= 1
    return np.array(
        [
            [
                (low, (1 << min(length, bits - low)) - 1, pow(2, shift + plane.width * field + low, prime))
                for low in range(0, bits, length)
            ]
            for field in range(plane.per_coefficient)
        ],
        dtype=np.uint64,
    )
