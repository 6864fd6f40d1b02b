"""Many powers modulo the square of an odd number: of one base by tables, or of many bases to one exponent.

:mod:`he._montgomery` computes them where the CPU multiplies eight numbers at once, GMP elsewhere. The
results are the same. GMP's integers and the tables are not constant time: see :mod:`he.paillier`.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import Any, TypeVar

import gmpy2  # type: ignore[import-untyped]
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from he import _montgomery, _slot_kernels
from he._rows import LANES, has_ifma
from he._strips import LIMB_BITS
from he._workers import run_all
from he.errors import HEError

Words = NDArray[np.uint64]

T = TypeVar("T")

MAX_WIDTH = 8
"""Bits of the widest window: 47 MB of table modulo the square of 3072 bits."""

POWER_WIDTH = 5
"""Bits of a window of an exponent that all bases are raised to."""

# Costs in GMP's multiplications and reductions modulo 6144 bits (8.7 us, measured).
_SQUARING = 0.9
_POWER = 1.1  # for each bit of an exponent
_BATCH = 1.6  # one multiplication of eight numbers
_STORE = 0.2  # one entry of a table, in memory that the system must map first


def compiled() -> bool:
    """Whether this process raises eight numbers at once. Results do not depend on it."""
    return has_ifma()


def spread(
    executor: Executor | None, function: Callable[..., Sequence[T]], items: Any, *whole: Any, step: int = 1
) -> list[T]:
    """``function(items, *whole)``, computed in slices of ``items`` on ``executor``, and joined.

    Each slice except the last has a multiple of ``step`` items. Without an executor there is one slice.
    """
    steps = -(-len(items) // step)
    if executor is None or steps == 1:
        return list(function(items, *whole))
    pieces = min(steps, 4 * (os.cpu_count() or 1))  # so that no core waits long for another's last piece
    cuts = [steps * i // pieces * step for i in range(pieces)] + [len(items)]
    parts = run_all(executor, function, [(items[a:b], *whole) for a, b in pairwise(cuts)])
    return [item for part in parts for item in part]


class Ring:
    """Arithmetic modulo the square of the odd ``root``, for both GMP and the kernels."""

    def __init__(self, root: int) -> None:
        self.root = mpz(root)
        self.modulus = self.root**2
        self.limbs = _montgomery.limbs_for(self.root.bit_length())
        radix = mpz(1) << LIMB_BITS * self.limbs
        # A multiple of the root whose limbs are 2^53 and more: from limbs of 2^53 on.
        large = (radix - 1) // ((mpz(1) << LIMB_BITS) - 1) << LIMB_BITS + 1
        self.constants = np.zeros((3, self.limbs), np.uint64)
        self.constants[0], self.constants[1] = self._cut([self.root, -large % self.root])
        self.constants[1] += np.uint64(1 << LIMB_BITS + 1)
        self.constants[2, 0] = int(-gmpy2.invert(self.root, 1 << LIMB_BITS) % (1 << LIMB_BITS))
        self.one, self._radix_squared, self._unit = self.cut(
            [radix % self.modulus, radix * radix % self.modulus, mpz(1)]
        )

    def cut(self, numbers: Sequence[mpz]) -> Words:
        """``numbers`` below the modulus as limbs of their two digits, (count, 2 limbs)."""
        digits = [gmpy2.f_divmod(number, self.root) for number in numbers]
        return self._cut([digit for high, low in digits for digit in (low, high)]).reshape(len(numbers), -1)

    def _cut(self, digits: Sequence[mpz]) -> Words:
        """``digits`` below 2 ** (52 * limbs) as limbs, (count, limbs)."""
        size = 8 * (-(-self.limbs * LIMB_BITS // 64))
        data = b"".join([digit.to_bytes(size, "little") for digit in digits])
        words = np.frombuffer(data, "<u8").astype(np.uint64, copy=False).reshape(len(digits), -1)
        out = np.empty(len(digits) * self.limbs, np.uint64)
        _slot_kernels.unpack(words, self.limbs, LIMB_BITS, out)
        return out.reshape(len(digits), self.limbs)

    def enter(self, numbers: Sequence[mpz]) -> Words:
        """``numbers``, which are below the modulus, in Montgomery's form."""
        limbs = self.cut(numbers)
        _montgomery.multiply(limbs, self._radix_squared[None], limbs, self.constants)
        return limbs

    def leave(self, limbs: Words) -> list[mpz]:
        """The numbers, below the modulus, whose Montgomery form is ``limbs``."""
        plain = np.empty_like(limbs)
        _montgomery.multiply(limbs, self._unit[None], plain, self.constants)
        words = np.zeros((2 * len(limbs), -(-self.limbs * LIMB_BITS // 64)), np.uint64)
        _slot_kernels.pack(plain.ravel(), self.limbs, LIMB_BITS, words)
        digits = [mpz.from_bytes(row.tobytes(), "little") for row in words.astype("<u8", copy=False)]
        return [
            (low + high * self.root) % self.modulus for low, high in zip(digits[::2], digits[1::2], strict=True)
        ]

    def raise_all(self, bases: Sequence[mpz], exponent: mpz, executor: Executor | None = None) -> list[mpz]:
        """Each of ``bases``, which are below the modulus, to the power ``exponent``, which is positive."""
        return spread(executor, _raise_all, bases, self, exponent, step=LANES)


class FixedBase:
    """Powers of ``base`` modulo ``ring`` to exponents of ``bits`` bits, by tables where these save time.

    Window j has a table of base^(d * 2^(j * width)) for all digits d. The last tables are kept; they
    are replaced when another width costs less in all. A pickle does not hold them.
    """

    def __init__(self, ring: Ring, base: mpz, bits: int) -> None:
        self.ring, self.base, self.bits = ring, base, bits
        self.width = 0
        self._table: Words | list[list[mpz]] | None = None
        self._kernel = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"width": 0, "_table": None}

    def raise_base(self, exponents: Words, executor: Executor | None = None) -> list[mpz]:
        """The base to each of ``exponents``, (count, words), little-endian words."""
        if self._kernel != compiled():
            self.width, self._table, self._kernel = 0, None, compiled()
        count = len(exponents)
        width = self._choose(count)
        if width == 0:
            numbers = [mpz.from_bytes(row.astype("<u8").tobytes(), "little") for row in exponents]
            return spread(executor, _raise_one, numbers, self.base, self.ring.modulus)
        if width != self.width:
            self._table, self.width = self._make(width, executor), width
        windows = -(-self.bits // width)
        digits = np.empty(count * windows, np.uint64)
        padded = np.pad(exponents, ((0, 0), (0, 1)))
        padded.flags.writeable = False  # as in Ring._cut, so that one compiled kernel serves both
        _slot_kernels.unpack(padded, windows, width, digits)
        cut = digits.astype(np.uint16).reshape(count, windows)
        return spread(executor, _by_table, cut, self._table, self.ring, step=LANES)

    def _choose(self, count: int) -> int:
        """The width at which ``count`` powers cost least, or 0 if they cost least without a table."""
        costs = {0: _POWER * self.bits * count}
        for width in range(1, MAX_WIDTH + 1):
            windows = -(-self.bits // width)
            entries, factors = float(windows * ((1 << width) - 2)), float(windows * count)
            if self._kernel:
                entries, factors = (_BATCH / LANES + _STORE) * entries, _BATCH * windows * -(-count // LANES)
            costs[width] = factors if width == self.width else factors + entries + _SQUARING * self.bits
        return min(costs, key=costs.__getitem__)

    def _make(self, width: int, executor: Executor | None) -> Words | list[list[mpz]]:
        bases = [self.base]
        for _ in range(-(-self.bits // width) - 1):
            power = bases[-1]
            for _ in range(width):
                power = gmpy2.square(power) % self.ring.modulus  # powmod costs half as much again
            bases.append(power)
        if not self._kernel:
            return spread(executor, _fill_by_gmp, bases, width, self.ring.modulus)
        table = np.empty((len(bases), 1 << width, 2 * self.ring.limbs), np.uint64)
        table[:, 0] = self.ring.one
        table[:, 1] = self.ring.enter(bases)
        # Threads fill their windows in place; other processes return copies.
        rows: list[Words] = spread(executor, _fill, table, self.ring, step=LANES)
        for window, filled in zip(table, rows, strict=True):
            if not np.may_share_memory(window, filled):
                window[:] = filled
        return table


def released() -> Any:
    """A context in which this thread's GMP calls release the interpreter's lock."""
    return gmpy2.context(gmpy2.get_context(), allow_release_gil=True)


def _raise_one(exponents: Sequence[mpz], base: mpz, modulus: mpz) -> list[mpz]:
    with released():
        return list(gmpy2.powmod_exp_list(base, list(exponents), modulus))


def _raise_all(bases: Sequence[mpz], ring: Ring, exponent: mpz) -> list[mpz]:
    batches = -(-len(bases) // LANES)
    if not compiled() or _BATCH * batches > len(bases):
        with released():
            return list(gmpy2.powmod_base_list(list(bases), exponent, ring.modulus))
    length = -(-exponent.bit_length() // POWER_WIDTH)
    digits = [int(exponent >> POWER_WIDTH * i) % (1 << POWER_WIDTH) for i in reversed(range(length))]
    entered = ring.enter(bases)
    out = np.empty_like(entered)
    _montgomery.raise_all(entered, ring.one, np.array(digits, np.uint16), POWER_WIDTH, out, ring.constants)
    return ring.leave(out)


def _need_kernels() -> None:
    """``HEError`` in a worker that cannot use a table which another machine made for its kernels."""
    if not compiled():
        raise HEError(
            "got a table of powers for a CPU with AVX-512 IFMA, which this worker has not; let workers with the "
            "caller's kind of CPU encrypt, or no workers"
        )


def _fill(table: Words, ring: Ring) -> list[Words]:
    _need_kernels()
    _montgomery.fill_table(table, ring.constants)
    return list(table)


def _fill_by_gmp(bases: Sequence[mpz], width: int, modulus: mpz) -> list[list[mpz]]:
    rows = []
    with released():
        for base in bases:
            row = [mpz(1), base]
            for _ in range(2, 1 << width):
                row.append(row[-1] * base % modulus)
            rows.append(row)
    return rows


def _by_table(digits: NDArray[np.uint16], table: Any, ring: Ring) -> list[mpz]:
    if isinstance(table, np.ndarray):
        _need_kernels()
        out = np.empty((len(digits), 2 * ring.limbs), np.uint64)
        _montgomery.raise_fixed(table, digits, out, ring.constants)
        return ring.leave(out)
    powers = []
    with released():
        for row in digits.tolist():
            power = table[0][row[0]]
            for window, digit in zip(table[1:], row[1:], strict=True):
                if digit:
                    power = power * window[digit] % ring.modulus
            powers.append(power)
    return powers
