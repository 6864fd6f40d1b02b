"""Sums for :mod:`he.kahe`: the adder, which needs no key, and the opening with the sum of the keys."""

import hashlib
import struct
import threading
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from he import _kahe_kernels
from he._kahe_format import Format, Integers, Uniform, Words
from he._merging import check_room
from he._numbers import whole
from he._workers import run_all
from he.errors import CiphertextError, HEError, OpenError
from he.kahe_params import MAX_KEY, Plane, error_bound, words
from he.ring import LANES, Factor, lanes, packing
from he.ring.residues import balanced_digits

TAG_BYTES = 16
_COUNT = struct.Struct("<Q")


class Adder:
    """A running sum of encrypted vectors under ``scheme``, for the server, which has no key.

    :meth:`Scheme.adder` makes one. It takes 8 bytes a residue, whatever the number of vectors. It does not
    recognise a vector that it has added already: the caller adds one for each client. Any thread may call it: calls
    take turns.
    """

    def __init__(self, scheme: Format) -> None:
        self.scheme = scheme
        self._count = 0
        self._lock = threading.RLock()
        self._sums = [lanes(len(scheme.parameters.primes), rows) for rows in scheme.parameters.rows]
        for sums in self._sums:
            sums[:] = 0

    @property
    def count(self) -> int:
        """How many vectors are in the sum."""
        return self._count

    def fold(self, upload: bytes) -> None:
        """Add ``upload``, one encrypted vector, from any sender.

        Raises :class:`CiphertextError`, and leaves the sum as it was, on bytes that no encryption produces, and if
        the sum is full. A well-formed vector may still hold anything: that shows when the sum is opened.
        """
        scheme = self.scheme
        with self._lock:
            if self.count >= scheme.max_clients:
                raise CiphertextError(
                    f"the sum holds {self.count} vectors, as many as the scheme allows; begin another"
                )
            groups = scheme._groups(upload, CiphertextError)
            scheme._check(groups, CiphertextError)
            self._add(groups)
            self._count += 1

    def merge(self, other: "Adder") -> None:
        """Add ``other``, another sum of this scheme. The caller sees to it that no vector is in both.

        Raises :class:`HEError`, and leaves both sums, if they hold more vectors than a sum may, or if the two have
        different schemes.
        """
        if not isinstance(other, Adder) or other.scheme != self.scheme or other is self:
            raise HEError("got a running sum of other parameters, or this very sum")
        with other._lock:
            sums, count = [part.copy() for part in other._sums], other.count
        with self._lock:
            check_room(self.count + count, self.scheme.max_clients)
            for ours, theirs in zip(self._sums, sums, strict=True):
                for field, residues, others in zip(self.scheme._fields, ours, theirs, strict=True):
                    field.add(residues, others)
            self._count += count

    def total(self) -> bytes:
        """The sum, for :meth:`Scheme.open`: ``scheme.size`` bytes."""
        p = self.scheme.parameters
        out = []
        with self._lock:
            for sums, rows in zip(self._sums, p.rows, strict=True):
                for residues, bits in zip(sums, p.bits, strict=True):
                    packed = np.empty((words(rows, bits), LANES), dtype=np.uint64)
                    packing.pack(residues, bits, packed)
                    out.append(packed.astype("<u8", copy=False).tobytes())
        return b"".join(out)

    def to_bytes(self) -> bytes:
        """The state, for :meth:`Scheme.load_adder`. It holds no secret."""
        with self._lock:
            return tag(self.scheme) + _COUNT.pack(self.count) + self.total()

    def _add(self, groups: list[list[Words]]) -> None:
        p = self.scheme.parameters
        for sums, packed in zip(self._sums, groups, strict=True):
            for residues, part, prime in zip(sums, packed, p.primes, strict=True):
                packing.fold(part, prime.bit_length(), prime, residues)


def load_adder(scheme: Format, state: bytes) -> Adder:
    """The sum that :meth:`Adder.to_bytes` wrote. Raises :class:`HEError` for any other bytes."""
    front = TAG_BYTES + _COUNT.size
    if type(state) is not bytes or len(state) != front + scheme.size:
        got = f"{len(state)} bytes" if type(state) is bytes else type(state).__name__
        raise HEError(f"got {got} for a running sum; expected {front + scheme.size} bytes, for these parameters")
    if state[:TAG_BYTES] != tag(scheme):
        raise HEError("got a running sum of other parameters: both sides must use the same scheme")
    (count,) = _COUNT.unpack_from(state, TAG_BYTES)
    groups = scheme._groups(state[front:], HEError)
    scheme._check(groups, HEError)
    if count > scheme.max_clients or (count == 0 and state[front:].strip(b"\0")):
        raise HEError(
            f"got a running sum of {count} vectors; expected up to {scheme.max_clients}, and none in an empty"
        )
    adder = Adder(scheme)
    adder._add(groups)
    adder._count = count
    return adder


def tag(scheme: Format) -> bytes:
    """What a running sum begins with."""
    return hashlib.sha256(scheme.digest + b"running sum").digest()[:TAG_BYTES]


@dataclass(frozen=True, eq=False, repr=False)
class Opening:
    """Opens groups of a sum of ``count`` vectors with the sum of their keys."""

    scheme: Format
    count: int
    key: list[Factor]
    uniform: Uniform

    def open(self, g: int, packed: list[Words]) -> tuple[list[Integers], bool]:
        """An array (fields, places) for each span of group ``g``, and whether all could be in an honest sum.

        It is returned and not written to the caller's memory, because a worker may be another process.
        """
        scheme, p = self.scheme, self.scheme.parameters
        rows = p.rows[g]
        residues, product = lanes(len(p.primes), rows), lanes(p.degree)
        # A number in [0, q), so that its digits are not signed: minus (q - 1) / 2, balanced_digits has the sign.
        offset = (1 << p.shift - 1) - scheme._middle
        for k, (field, row) in enumerate(zip(scheme._fields, residues, strict=True)):
            self.uniform.write(g, k, product)
            field.multiply(product, self.key[k])
            field.backward(product)
            packing.unpack(packed[k], p.bits[k], row)
            field.subtract(row, product[:rows])
            _kahe_kernels.add_constant(row, np.uint64(offset % field.prime), np.uint64(field.prime))
        digits = balanced_digits(residues, scheme._fields, product[:rows])
        flat = residues.view(np.int64).reshape(len(digits), -1)
        read = [self._read(flat[:, first:end], s, at) for s, first, end, at in scheme._spans(g)]
        return [values for values, _ in read], all(possible for _, possible in read)

    def _read(self, digits: Integers, segment: int | None, at: int) -> tuple[Integers, bool]:
        """Read a part of a segment, or of the empty places: its values, and whether all of it is possible."""
        p, places = self.scheme.parameters, digits.shape[1]
        width = count = bound = 0
        if segment is not None:
            plane = p.planes[segment]
            width, count, bound = plane.width, plane.per_coefficient, plane.bound
        values = np.empty((count, places), dtype=np.int64)
        seen = np.array([1 << 63, 0, 0, 0], dtype=np.uint64)
        work = np.zeros((len(digits) + 2, _kahe_kernels.CHUNK), dtype=np.uint64)
        widths, place = (p.shift, width, count), (0, places)
        _kahe_kernels.read(digits, self.scheme._primes, widths, place, work, values.reshape(-1), seen)
        if segment is not None:
            for row, (_, size) in zip(values, _targets(plane, at, places), strict=True):
                seen[3] |= np.uint64(row[size:].any())
        return values, self._possible(seen, bound)

    def _possible(self, seen: Words, bound: int) -> bool:
        """Whether honest vectors add up to what :func:`he._kahe_kernels.read` has seen."""
        least, most, largest, stray = (int(number) for number in seen)
        zero, error = 1 << self.scheme.parameters.shift - 1, error_bound(self.count)
        return zero - error <= least and most <= zero + error and largest <= self.count * bound and stray == 0


def opening(scheme: Format, keys: NDArray[np.int64], count: int, uniform: Uniform) -> Opening:
    """What opens a sum of ``count`` vectors. Raises :class:`OpenError` unless ``keys`` could be the sum of keys."""
    number = whole(count)
    if number is None or not 1 <= number <= scheme.max_clients:
        raise OpenError(f"got a sum of {count!r} vectors; expected 1 to {scheme.max_clients}")
    array = np.asarray(keys)
    if array.shape != (scheme.degree,) or array.dtype != np.int64:
        raise OpenError(
            f"got a sum of keys of {array.dtype} with shape {array.shape}; expected {scheme.degree} numbers of "
            "int64"
        )
    if array.min() < -MAX_KEY * number or array.max() > MAX_KEY * number:
        raise OpenError(
            f"got a sum of {number} keys with a coefficient beyond {MAX_KEY * number}; no keys add up to it"
        )
    factors = []
    for field in scheme._fields:
        group = lanes(scheme.degree)
        group[:] = np.mod(array, field.prime).astype(np.uint64)[:, None]
        field.forward(group)
        factors.append(field.factor(group[:, 0].copy()))
    return Opening(scheme, number, factors, uniform)


def open_sum(work: Opening, total: bytes, executor: Executor | None) -> list[Integers]:
    """The sums of all segments. Raises :class:`OpenError`, and returns nothing, if some part is not possible."""
    scheme = work.scheme
    groups = scheme._groups(total, OpenError)
    scheme._check(groups, OpenError)
    sums, possible = [np.empty(length, dtype=np.int64) for length, _ in scheme.segments], True
    calls = list(enumerate(groups))
    opened: Iterable[tuple[list[Integers], bool]]
    opened = (work.open(*call) for call in calls) if executor is None else run_all(executor, work.open, calls)
    for g, (parts, fits) in enumerate(opened):
        possible = possible and fits
        for (segment, first, end, at), values in zip(scheme._spans(g), parts, strict=True):
            if segment is not None:
                for row, (start, size) in zip(
                    values, _targets(scheme.parameters.planes[segment], at, end - first), strict=True
                ):
                    sums[segment][start : start + size] = row[:size]
    if not possible:
        raise OpenError(
            f"some coefficient is not a possible sum of {work.count} vectors: the sum of the keys or the count "
            "belongs to another sum, a vector was malformed, or the sum was altered. The sum stays closed"
        )
    return sums


def opens(work: Opening, total: bytes) -> bool:
    """Whether the last group of ``total`` could be in an honest sum."""
    groups = work.scheme._groups(total, OpenError)
    work.scheme._check(groups, OpenError)
    return work.open(len(groups) - 1, groups[-1])[1]


def _targets(plane: Plane, at: int, places: int) -> list[tuple[int, int]]:
    """For each field of ``places`` coefficients from place ``at`` on: where its values begin, and how many exist.

    The others lie after the segment's end.
    """
    starts = [at + k * plane.places for k in range(plane.per_coefficient)]
    return [(start, max(0, min(places, plane.length - start))) for start in starts]
