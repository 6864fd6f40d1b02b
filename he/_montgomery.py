"""Multiplication modulo the squares of eight times the same number, by the processor's 52-bit multiply-and-add.

A number modulo N² is two *digits* in base N, each of ``limbs`` limbs of 52 bits, least significant first.
The digits x0, x1 stand for (x0 + x1 N) / R modulo N², where R = 2^(52 * limbs) > 16N. Limb i of eight
numbers is one vector, so that a digit of eight numbers is an array of limbs * 8 words. A *batch* is two
such arrays, one after the other.

**Why digits.** Montgomery's reduction of x0 y0 computes a quotient m with x0 y0 + m N = R t. So
(x0 + x1 N) (y0 + y1 N) / R is t + N (x0 y1 + x1 y0 - m) / R modulo N², and only the low digits of the
second fraction, modulo N, count. This is five multiplications of the size of N, and four for a square.
Modulo N² without digits it is eight.

**Ranges.** Digits are kept below 2N, not N. Then t is below (4N² + RN) / R < 2N again, and no final
subtraction is needed (Walter, "Montgomery exponentiation needs no final subtractions", 1999). In place
of -m, a multiple of N below 3R is added, less m: its limbs are all larger than those of m. The second
digit is below (8N² + 3R + RN) / R < 2N.

The loop takes a *strip* of five limbs of one factor at a time. Each of the limbs / 5 strips adds at
most 30 half products of 52 bits to a column. A column stays below 2^64 up to 680 limbs, so that carries
wait for the end. Call a kernel here only if :func:`available` is true; :mod:`he._powers` returns the
same numbers on every machine.

No branch depends on a number. In :func:`raise_fixed` and :func:`raise_all` the table rows that are read
depend on secret exponents. Numba's cache does not notice a change of *this* file in a kernel elsewhere
that calls it: when developing, empty the cache after a change here.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from he._compiling import kernel
from he._ring_kernels import Words

LANES = 8
"""Numbers in a batch."""

LIMB_BITS = 52
"""Bits of a limb."""

STRIP = 5
"""Limbs of one factor that the loop takes at a time; the number of limbs is a multiple of it.

With five, the usual sizes of keys fill their limbs, and the loop needs few more registers than there are.
"""

_i64 = ir.IntType(64)
_vector = ir.VectorType(_i64, LANES)
_primitive = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)


def available() -> bool:
    """Whether kernels are compiled here, for a CPU with AVX-512 IFMA."""
    if config.DISABLE_JIT:
        return False
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    has = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    return bool(triple.startswith("x86_64")) and {"avx512f", "avx512ifma"} <= has


def limbs_for(bits: int) -> int:
    """Limbs of a digit, for an N of ``bits`` bits: such that R > 16N."""
    return -(-(bits + 4) // (LIMB_BITS * STRIP)) * STRIP


def _splat(builder: Any, scalar: Any) -> Any:
    one = builder.insert_element(ir.Constant(_vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.VectorType(ir.IntType(32), LANES)
    return builder.shuffle_vector(one, one, ir.Constant(lanes, [ir.Constant(ir.IntType(32), 0)] * LANES))


def _constant(number: int) -> ir.Constant:
    return ir.Constant(_vector, [ir.Constant(_i64, number)] * LANES)


def _function(builder: Any, name: str) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(_vector, [_vector] * 3), name)


def _pointer(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _vector_at(builder: Any, pointer: Any, limb: Any) -> Any:
    word = builder.mul(limb, ir.Constant(_i64, LANES))
    return builder.bitcast(builder.gep(pointer, [word]), _vector.as_pointer())


def _write_strip(
    builder: Any, sums: Any, factors: list[tuple[Any, Any]], at: Any, ring: tuple[Any, Any]
) -> list[Any]:
    """Write out the instructions of a strip: ``sums`` plus the products of ``factors`` plus a multiple of N.

    ``factors`` are pairs of pointers to a and b, and ``ring`` is the pointer to N's limbs, with their number. The
    limbs of the multiple are returned.
    """
    low = _function(builder, "llvm.x86.avx512.vpmadd52l.uq.512")
    high = _function(builder, "llvm.x86.avx512.vpmadd52h.uq.512")
    modulus, size = ring
    inverse = builder.load(builder.gep(modulus, [builder.mul(size, ir.Constant(_i64, 2))]))

    def fixed(number: int) -> ir.Constant:
        return ir.Constant(_i64, number)

    def row(pointer: Any, limb: Any) -> Any:
        return builder.load(_vector_at(builder, pointer, limb), align=8)

    def modulus_limb(limb: Any) -> Any:
        return _splat(builder, builder.load(builder.gep(modulus, [limb])))

    def store(value: Any, limb: Any) -> None:
        builder.store(value, _vector_at(builder, sums, limb), align=8)

    quotient: list[Any] = []
    multipliers = [[row(b, builder.add(at, fixed(r))) for r in range(STRIP)] for _, b in factors]
    first = [[row(a, fixed(j)) for j in range(STRIP)] for a, _ in factors]
    columns = [row(sums, fixed(j)) for j in range(STRIP)]
    for j in range(STRIP):
        for window, multiplier in zip(first, multipliers, strict=True):
            for r in range(j + 1):
                columns[j] = builder.call(low, [columns[j], window[j - r], multiplier[r]])
            for r in range(j):
                columns[j] = builder.call(high, [columns[j], window[j - r - 1], multiplier[r]])
    # Each limb of the quotient waits for the one before: all that doesn't is done first.
    negated, carry = _splat(builder, inverse), _constant(0)
    first.append([modulus_limb(fixed(j)) for j in range(STRIP)])
    for j in range(STRIP):
        column = builder.add(columns[j], carry)
        quotient.append(builder.call(low, [_constant(0), column, negated]))
        for later in range(j + 1, STRIP):
            columns[later] = builder.call(low, [columns[later], first[-1][later - j], quotient[j]])
            columns[later] = builder.call(high, [columns[later], first[-1][later - j - 1], quotient[j]])
        carry = builder.lshr(builder.call(low, [column, first[-1][0], quotient[j]]), _constant(LIMB_BITS))
    multipliers.append(quotient)
    store(builder.add(row(sums, fixed(STRIP)), carry), fixed(STRIP))

    def add_products(columns: list[Any], windows: list[list[Any]]) -> None:
        """Add the halves of all products that fall on the columns after the first ``STRIP``."""
        for r in range(STRIP):
            for half, back in ((low, 0), (high, 1)):
                for window, multiplier in zip(windows, multipliers, strict=True):
                    for j in range(STRIP):
                        place = STRIP + j - r - back
                        if place < len(window):
                            columns[j] = builder.call(half, [columns[j], window[place], multiplier[r]])

    held = [[cgutils.alloca_once_value(builder, value) for value in window] for window in first]
    with cgutils.for_range_slice(builder, fixed(STRIP), size, fixed(STRIP), intp=_i64) as (start, _):
        places = [builder.add(start, fixed(j)) for j in range(STRIP)]
        fresh = [[row(a, place) for place in places] for a, _ in factors]
        fresh.append([modulus_limb(place) for place in places])
        columns = [row(sums, place) for place in places]
        windows = [[builder.load(kept) for kept in before] for before in held]
        add_products(columns, [before + after for before, after in zip(windows, fresh, strict=True)])
        for j in range(STRIP):
            store(columns[j], builder.sub(places[j], fixed(STRIP)))
            for kept, after in zip(held, fresh, strict=True):
                builder.store(after[j], kept[j])
    columns = [_constant(0)] * STRIP
    add_products(columns, [[builder.load(kept) for kept in before] for before in held])
    for j in range(STRIP):
        store(columns[j], builder.sub(size, fixed(STRIP - j)))
    return quotient


def _ring(context: Any, builder: Any, kind: Any, array: Any) -> tuple[Any, Any]:
    """The pointer to the first row of an array, and the length of its rows."""
    made = context.make_array(kind)(context, builder, array)
    return made.data, builder.extract_value(made.shape, 1)


@_primitive
def _strip(typing: Any, total: Any, a: Any, b: Any, at: Any, ring: Any, quotient: Any) -> Any:
    """Add ``a`` times the limbs ``b[at : at + 5]`` to ``total``; drop 5 limbs that a multiple of N clears.

    ``a`` and ``b`` are digits. The multiple is written to ``quotient[at : at + 5]``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, factor, other, kept = (
            _pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 2, 5)
        )
        constants = _ring(context, builder, signature.args[4], arguments[4])
        multiple = _write_strip(builder, sums, [(factor, other)], arguments[3], constants)
        for j, value in enumerate(multiple):
            place = builder.add(arguments[3], ir.Constant(_i64, j))
            builder.store(value, _vector_at(builder, kept, place), align=8)
        return context.get_dummy_value()

    return types.void(total, a, b, types.intp, ring, quotient), generate


@_primitive
def _strip_across(typing: Any, total: Any, a: Any, b: Any, at: Any, ring: Any) -> Any:
    """As :func:`_strip`, for each digit of the batch ``a`` times the other digit of ``b``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, a_first, b_first = (_pointer(context, builder, signature.args[i], arguments[i]) for i in range(3))
        constants = _ring(context, builder, signature.args[4], arguments[4])
        a_second, b_second = (_vector_at(builder, first, constants[1]) for first in (a_first, b_first))
        words = a_first.type
        pairs = [(a_first, builder.bitcast(b_second, words)), (builder.bitcast(a_second, words), b_first)]
        _write_strip(builder, sums, pairs, arguments[3], constants)
        return context.get_dummy_value()

    return types.void(total, a, b, types.intp, ring), generate


@_primitive
def _settle(typing: Any, total: Any, out: Any, limbs: Any) -> Any:
    """Carry along the first ``limbs`` limbs of ``total`` into ``out``, and leave zeros."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, target = (_pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 1))
        held = cgutils.alloca_once_value(builder, _constant(0))
        with cgutils.for_range(builder, arguments[2], intp=_i64) as loop:
            place = _vector_at(builder, sums, loop.index)
            column = builder.add(builder.load(place, align=8), builder.load(held))
            builder.store(_constant(0), place, align=8)
            kept = builder.and_(column, _constant((1 << LIMB_BITS) - 1))
            builder.store(kept, _vector_at(builder, target, loop.index), align=8)
            builder.store(builder.lshr(column, _constant(LIMB_BITS)), held)
        return context.get_dummy_value()

    return types.void(total, out, types.intp), generate


@kernel
def _first_digit(a: Words, b: Words, ring: Words, scratch: Words) -> None:
    """Write t of ``a * b`` to ``scratch[0]``, before carries, and what stands for -m to ``scratch[1]``."""
    limbs, half = ring.shape[1], ring.shape[1] * LANES
    for at in range(0, limbs, STRIP):
        _strip(scratch[0], a[:half], b[:half], at, ring, scratch[2])
    for i in range(limbs):
        for lane in range(LANES):
            scratch[1, i * LANES + lane] = ring[1, i] - scratch[2, i * LANES + lane]


@kernel
def _multiply(out: Words, a: Words, b: Words, ring: Words, scratch: Words) -> None:
    """Write ``a * b / R`` to the batch ``out``, which may be ``a`` or ``b``.

    ``ring`` is (3, limbs): N, a multiple of N whose limbs are all above 2^52, and -1/N modulo 2^52 in
    the first word of the third row. ``scratch`` is four digits; the first is zero before and after.
    """
    limbs, half = ring.shape[1], ring.shape[1] * LANES
    _first_digit(a, b, ring, scratch)
    for at in range(0, limbs, STRIP):
        _strip_across(scratch[1], a, b, at, ring)
    _settle(scratch[0], out[:half], limbs)
    _settle(scratch[1], out[half:], limbs)


@kernel
def _square(out: Words, a: Words, ring: Words, scratch: Words) -> None:
    """Write ``a * a / R`` to the batch ``out``, which may be ``a``. See :func:`_multiply`."""
    limbs, half = ring.shape[1], ring.shape[1] * LANES
    _first_digit(a, a, ring, scratch)
    twice = scratch[3]
    for i in range(limbs * LANES):
        twice[i] = a[half + i] << np.uint64(1)
    _settle(twice, twice, limbs)
    for at in range(0, limbs, STRIP):
        _strip(scratch[1], twice, a[:half], at, ring, scratch[2])
    _settle(scratch[0], out[:half], limbs)
    _settle(scratch[1], out[half:], limbs)


@kernel
def _gather(batch: Words, lane: int, number: Words) -> None:
    limbs, half = number.size // 2, batch.size // 2
    for i in range(limbs):
        batch[i * LANES + lane] = number[i]
        batch[half + i * LANES + lane] = number[limbs + i]


@kernel
def _scatter(batch: Words, lane: int, number: Words) -> None:
    limbs, half = number.size // 2, batch.size // 2
    for i in range(limbs):
        number[i] = batch[i * LANES + lane]
        number[limbs + i] = batch[half + i * LANES + lane]


@kernel
def multiply(a: Words, b: Words, out: Words, ring: Words) -> None:
    """Write ``a[i] * b[i] / R`` to ``out[i]``; one row of ``b`` multiplies all. Arrays are (count, 2 limbs)."""
    left, right = np.zeros((2, 2 * ring.shape[1] * LANES), np.uint64)
    scratch = np.zeros((4, ring.shape[1] * LANES), np.uint64)
    for start in range(0, a.shape[0], LANES):
        lanes = min(LANES, a.shape[0] - start)
        for lane in range(lanes):
            _gather(left, lane, a[start + lane])
            _gather(right, lane, b[start + lane if b.shape[0] > 1 else 0])
        _multiply(left, left, right, ring, scratch)
        for lane in range(lanes):
            _scatter(left, lane, out[start + lane])


@kernel
def fill_table(table: Words, ring: Words) -> None:
    """Fill ``table``, (windows, digits, 2 limbs), with powers of ``table[:, 1]``; ``table[:, 0]`` is 1."""
    base, power = np.zeros((2, 2 * ring.shape[1] * LANES), np.uint64)
    scratch = np.zeros((4, ring.shape[1] * LANES), np.uint64)
    for start in range(0, table.shape[0], LANES):
        lanes = min(LANES, table.shape[0] - start)
        for lane in range(lanes):
            _gather(base, lane, table[start + lane, 1])
        power[:] = base
        for digit in range(2, table.shape[1]):
            _multiply(power, power, base, ring, scratch)
            for lane in range(lanes):
                _scatter(power, lane, table[start + lane, digit])


@kernel
def raise_fixed(table: Words, digits: NDArray[np.uint16], out: Words, ring: Words) -> None:
    """Write the product of ``table[j, digits[i, j]]`` over all windows j to ``out[i]``."""
    power, factor = np.zeros((2, 2 * ring.shape[1] * LANES), np.uint64)
    scratch = np.zeros((4, ring.shape[1] * LANES), np.uint64)
    for start in range(0, digits.shape[0], LANES):
        lanes = min(LANES, digits.shape[0] - start)
        for lane in range(lanes):
            _gather(power, lane, table[0, digits[start + lane, 0]])
        for window in range(1, digits.shape[1]):
            for lane in range(lanes):
                _gather(factor, lane, table[window, digits[start + lane, window]])
            _multiply(power, power, factor, ring, scratch)
        for lane in range(lanes):
            _scatter(power, lane, out[start + lane])


@kernel
def raise_all(bases: Words, one: Words, digits: NDArray[np.uint16], width: int, out: Words, ring: Words) -> None:
    """Raise each of ``bases``, (count, 2 limbs), to one exponent, and write the powers to ``out``.

    ``digits`` is the exponent in base 2^``width``, *most* significant first; ``one`` is R modulo N².
    """
    powers = np.zeros((1 << width, 2 * ring.shape[1] * LANES), np.uint64)
    power = np.zeros(2 * ring.shape[1] * LANES, np.uint64)
    scratch = np.zeros((4, ring.shape[1] * LANES), np.uint64)
    for lane in range(LANES):
        _gather(powers[0], lane, one)
    for start in range(0, bases.shape[0], LANES):
        lanes = min(LANES, bases.shape[0] - start)
        for lane in range(lanes):
            _gather(powers[1], lane, bases[start + lane])
        for digit in range(2, 1 << width):
            _multiply(powers[digit], powers[digit - 1], powers[1], ring, scratch)
        power[:] = powers[digits[0]]
        for i in range(1, digits.size):
            for _ in range(width):
                _square(power, power, ring, scratch)
            _multiply(power, power, powers[digits[i]], ring, scratch)
        for lane in range(lanes):
            _scatter(power, lane, out[start + lane])
