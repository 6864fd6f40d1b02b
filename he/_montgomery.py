"""Montgomery multiplication of eight numbers at once, by the processor's 52-bit multiply-and-add.

A number modulo N is ``limbs`` limbs of 52 bits, least significant first. The limbs hold the number
times R modulo N, where R = 2^(52 * limbs) > 4N. Limb i of eight numbers is one vector, so that a
*batch* is an array of (limbs + 4) * 8 words: four rows of zeros follow, which the loop below reads.
Values are kept below 2N, not N: then (2N * 2N + RN) / R < 2N again, and no final subtraction is needed
(Walter, "Montgomery exponentiation needs no final subtractions", 1999).

The loop takes a *strip* of four limbs of one factor at a time. Each of the limbs / 4 strips adds at
most 16 half products of 52 bits to a column. A column stays below 2^63 up to 8,000 limbs, so that
carries wait for the end. Call a kernel here only if :func:`available` is true; :mod:`he._powers`
returns the same numbers on every machine.

No branch depends on a number. In :func:`raise_fixed` the table rows that are read depend on secret
exponents. Numba's cache does not notice a change of *this* file in a kernel elsewhere that calls it:
when developing, empty the cache after a change here.
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

STRIP = 4
"""Limbs of one factor that the loop takes at a time; the number of limbs is a multiple of it."""

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
    """Limbs of a number modulo an N of ``bits`` bits, such that R > 4N."""
    return -(-(bits + 2) // (LIMB_BITS * STRIP)) * STRIP


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


@_primitive
def _strip(typing: Any, total: Any, a: Any, b: Any, at: Any, modulus: Any, inverse: Any) -> Any:
    """Add ``a`` times the limbs ``b[at : at + 4]`` to ``total``; drop 4 limbs that a multiple of N clears."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low = _function(builder, "llvm.x86.avx512.vpmadd52l.uq.512")
        high = _function(builder, "llvm.x86.avx512.vpmadd52h.uq.512")
        sums, factor, other, prime = (
            _pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 2, 4)
        )
        size = context.make_array(signature.args[4])(context, builder, arguments[4]).shape
        limbs = builder.sub(builder.extract_value(size, 0), ir.Constant(_i64, STRIP))

        def add(half: Any, column: Any, x: Any, y: Any) -> Any:
            return builder.call(half, [column, x, y])

        def row(pointer: Any, limb: Any) -> Any:
            return builder.load(_vector_at(builder, pointer, limb), align=8)

        def modulus_limb(limb: Any) -> Any:
            return _splat(builder, builder.load(builder.gep(prime, [limb])))

        def store(value: Any, limb: Any) -> None:
            builder.store(value, _vector_at(builder, sums, limb), align=8)

        def fixed(number: int) -> ir.Constant:
            return ir.Constant(_i64, number)

        b_rows = [row(other, builder.add(arguments[3], fixed(r))) for r in range(STRIP)]
        negated = _splat(builder, arguments[5])
        a_rows = [row(factor, fixed(j)) for j in range(STRIP)]
        n_rows = [modulus_limb(fixed(j)) for j in range(STRIP)]
        multiples: list[Any] = []
        carry = _constant(0)
        for j in range(STRIP):
            column = builder.add(row(sums, fixed(j)), carry)
            for r in range(j + 1):
                column = add(low, column, a_rows[j - r], b_rows[r])
                if r < j:
                    column = add(low, column, n_rows[j - r], multiples[r])
                    column = add(high, column, a_rows[j - r - 1], b_rows[r])
                    column = add(high, column, n_rows[j - r - 1], multiples[r])
            multiples.append(add(low, _constant(0), column, negated))
            column = add(low, column, n_rows[0], multiples[j])
            carry = builder.lshr(column, _constant(LIMB_BITS))
        store(builder.add(row(sums, fixed(STRIP)), carry), fixed(STRIP))

        held_a = [cgutils.alloca_once_value(builder, value) for value in a_rows]
        held_n = [cgutils.alloca_once_value(builder, value) for value in n_rows]
        with cgutils.for_range_slice(
            builder, fixed(STRIP), builder.add(limbs, fixed(STRIP)), fixed(STRIP), intp=_i64
        ) as (start, _):
            places = [builder.add(start, fixed(j)) for j in range(STRIP)]
            window_a = [builder.load(held) for held in held_a] + [row(factor, place) for place in places]
            window_n = [builder.load(held) for held in held_n] + [modulus_limb(place) for place in places]
            columns = [row(sums, place) for place in places]
            for r in range(STRIP):
                for j in range(STRIP):
                    columns[j] = add(low, columns[j], window_a[STRIP + j - r], b_rows[r])
                for j in range(STRIP):
                    columns[j] = add(low, columns[j], window_n[STRIP + j - r], multiples[r])
                for j in range(STRIP):
                    columns[j] = add(high, columns[j], window_a[STRIP + j - r - 1], b_rows[r])
                for j in range(STRIP):
                    columns[j] = add(high, columns[j], window_n[STRIP + j - r - 1], multiples[r])
            for j in range(STRIP):
                store(columns[j], builder.sub(places[j], fixed(STRIP)))
                builder.store(window_a[STRIP + j], held_a[j])
                builder.store(window_n[STRIP + j], held_n[j])
        return context.get_dummy_value()

    return types.void(total, a, b, types.intp, modulus, types.uint64), generate


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
def _multiply(out: Words, a: Words, b: Words, modulus: Words, inverse: np.uint64, total: Words) -> None:
    """Write ``a * b / R`` to the batch ``out``, which may be ``a`` or ``b``.

    ``total`` is a batch of zeros before and after; ``modulus`` is N's limbs and four zeros;
    ``inverse`` is -1/N modulo 2^52.
    """
    limbs = modulus.size - STRIP
    for at in range(0, limbs, STRIP):
        _strip(total, a, b, at, modulus, inverse)
    _settle(total, out, limbs)


@kernel
def _gather(batch: Words, lane: int, number: Words) -> None:
    for i in range(number.size):
        batch[i * LANES + lane] = number[i]


@kernel
def _scatter(batch: Words, lane: int, number: Words) -> None:
    for i in range(number.size):
        number[i] = batch[i * LANES + lane]


@kernel
def multiply(a: Words, b: Words, out: Words, modulus: Words, inverse: np.uint64) -> None:
    """Write ``a[i] * b[i] / R`` to ``out[i]``; one row of ``b`` multiplies all. Arrays are (count, limbs)."""
    left, right, total = np.zeros((3, modulus.size * LANES), np.uint64)
    for start in range(0, a.shape[0], LANES):
        lanes = min(LANES, a.shape[0] - start)
        for lane in range(lanes):
            _gather(left, lane, a[start + lane])
            _gather(right, lane, b[start + lane if b.shape[0] > 1 else 0])
        _multiply(left, left, right, modulus, inverse, total)
        for lane in range(lanes):
            _scatter(left, lane, out[start + lane])


@kernel
def fill_table(table: Words, modulus: Words, inverse: np.uint64) -> None:
    """Fill ``table``, (windows, digits, limbs), with powers of ``table[:, 1]``; ``table[:, 0]`` is 1."""
    base, power, total = np.zeros((3, modulus.size * LANES), np.uint64)
    for start in range(0, table.shape[0], LANES):
        lanes = min(LANES, table.shape[0] - start)
        for lane in range(lanes):
            _gather(base, lane, table[start + lane, 1])
        power[:] = base
        for digit in range(2, table.shape[1]):
            _multiply(power, power, base, modulus, inverse, total)
            for lane in range(lanes):
                _scatter(power, lane, table[start + lane, digit])


@kernel
def raise_fixed(table: Words, digits: NDArray[np.uint16], out: Words, modulus: Words, inverse: np.uint64) -> None:
    """Write the product of ``table[j, digits[i, j]]`` over all windows j to ``out[i]``."""
    power, factor, total = np.zeros((3, modulus.size * LANES), np.uint64)
    for start in range(0, digits.shape[0], LANES):
        lanes = min(LANES, digits.shape[0] - start)
        for lane in range(lanes):
            _gather(power, lane, table[0, digits[start + lane, 0]])
        for window in range(1, digits.shape[1]):
            for lane in range(lanes):
                _gather(factor, lane, table[window, digits[start + lane, window]])
            _multiply(power, power, factor, modulus, inverse, total)
        for lane in range(lanes):
            _scatter(power, lane, out[start + lane])


@kernel
def raise_all(
    bases: Words, one: Words, digits: NDArray[np.uint16], width: int, out: Words, modulus: Words, inverse: np.uint64
) -> None:
    """Raise each of ``bases``, (count, limbs), to one exponent, and write the powers to ``out``.

    ``digits`` is the exponent in base 2^``width``, *most* significant first; ``one`` is R modulo N.
    """
    powers = np.zeros((1 << width, modulus.size * LANES), np.uint64)
    power, total = np.zeros((2, modulus.size * LANES), np.uint64)
    for lane in range(LANES):
        _gather(powers[0], lane, one)
    for start in range(0, bases.shape[0], LANES):
        lanes = min(LANES, bases.shape[0] - start)
        for lane in range(lanes):
            _gather(powers[1], lane, bases[start + lane])
        for digit in range(2, 1 << width):
            _multiply(powers[digit], powers[digit - 1], powers[1], modulus, inverse, total)
        power[:] = powers[digits[0]]
        for i in range(1, digits.size):
            for _ in range(width):
                _multiply(power, power, power, modulus, inverse, total)
            _multiply(power, power, powers[digits[i]], modulus, inverse, total)
        for lane in range(lanes):
            _scatter(power, lane, out[start + lane])
