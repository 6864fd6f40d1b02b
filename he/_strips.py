"""The instructions of Montgomery's multiplication, eight numbers at once: :mod:`he._montgomery` has the loops.

Limb i of eight numbers is one vector; :data:`LIMB_BITS` bits of each word count. A *strip* multiplies by
:data:`STRIP` limbs of one factor, and clears as many limbs of the sum by a multiple of N. The limbs of
that multiple are the next of Montgomery's quotient. What ``total`` holds is shifted down by these limbs.

No branch and no address depends on a number.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from he._rows import I64, constant, multiply_and_add, pointer, primitive, row_at, spread

LIMB_BITS = 52
"""Bits of a limb."""

STRIP = 5
"""Limbs of one factor that the loop takes at a time; the number of limbs is a multiple of it.

With five, the usual sizes of keys fill their limbs, and the loop needs few more registers than there are.
"""


def _write_strip(
    builder: Any, sums: Any, factors: list[tuple[Any, Any]], at: Any, ring: tuple[Any, Any], over: bool = False
) -> list[Any]:
    """Write out the instructions of a strip: ``sums`` plus the products of ``factors`` plus a multiple of N.

    ``factors`` are pairs of pointers to a and b, and ``ring`` is the pointer to N's limbs, with their number. The
    limbs of the multiple are returned. Five more limbs of the sums are read if they are ``over`` N's.
    """
    low, high = multiply_and_add(builder)
    modulus, size = ring
    inverse = builder.load(builder.gep(modulus, [builder.mul(size, ir.Constant(I64, 2))]))

    def fixed(number: int) -> ir.Constant:
        return ir.Constant(I64, number)

    def row(words: Any, limb: Any) -> Any:
        return builder.load(row_at(builder, words, limb), align=8)

    def modulus_limb(limb: Any) -> Any:
        return spread(builder, builder.load(builder.gep(modulus, [limb])))

    def store(value: Any, limb: Any) -> None:
        builder.store(value, row_at(builder, sums, limb), align=8)

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
    negated, carry = spread(builder, inverse), constant(0)
    first.append([modulus_limb(fixed(j)) for j in range(STRIP)])
    for j in range(STRIP):
        column = builder.add(columns[j], carry)
        quotient.append(builder.call(low, [constant(0), column, negated]))
        for later in range(j + 1, STRIP):
            columns[later] = builder.call(low, [columns[later], first[-1][later - j], quotient[j]])
            columns[later] = builder.call(high, [columns[later], first[-1][later - j - 1], quotient[j]])
        carry = builder.lshr(builder.call(low, [column, first[-1][0], quotient[j]]), constant(LIMB_BITS))
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
    with cgutils.for_range_slice(builder, fixed(STRIP), size, fixed(STRIP), intp=I64) as (start, _):
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
    columns = [row(sums, builder.add(size, fixed(j))) if over else constant(0) for j in range(STRIP)]
    add_products(columns, [[builder.load(kept) for kept in before] for before in held])
    for j in range(STRIP):
        store(columns[j], builder.sub(size, fixed(STRIP - j)))
    return quotient


def _ring(context: Any, builder: Any, kind: Any, array: Any) -> tuple[Any, Any]:
    """The pointer to the first row of an array, and the length of its rows."""
    made = context.make_array(kind)(context, builder, array)
    return made.data, builder.extract_value(made.shape, 1)


def _write_triangle(builder: Any, sums: Any, a: Any, twice: Any, at: Any, size: Any) -> None:
    """Write out: to ``sums``, add the limbs ``a[at : at + 5]`` times those limbs and twice the later ones.

    ``a``, 2 ``a`` and the sums are pointers, and ``size`` is the number of limbs. Five more limbs of the
    sums are overwritten.
    """
    low, high = multiply_and_add(builder)

    def row(words: Any, limb: Any) -> Any:
        return builder.load(row_at(builder, words, limb), align=8)

    def after(limb: Any) -> list[Any]:
        return [builder.add(limb, ir.Constant(I64, j)) for j in range(STRIP)]

    def add_products(places: list[Any], columns: list[Any], window: list[Any], skipped: int) -> None:
        for r in range(STRIP):
            for half, back in ((low, 0), (high, 1)):
                for j in range(STRIP):
                    limb = skipped + j - r - back
                    if 0 <= limb < len(window):
                        columns[j] = builder.call(half, [columns[j], window[limb], multiplier[r]])
        for place, column in zip(places, columns, strict=True):
            builder.store(column, row_at(builder, sums, place), align=8)

    multiplier = [row(a, place) for place in after(at)]
    places = after(at)
    add_products(places, [row(sums, place) for place in places], multiplier, 0)
    held = [cgutils.alloca_once_value(builder, value) for value in multiplier]
    # Bit 0 of the limb of 2 ``a`` after the strip belongs to the strip, whose own products are complete.
    mask = cgutils.alloca_once_value(builder, constant(-2))
    start = builder.add(at, ir.Constant(I64, STRIP))
    with cgutils.for_range_slice(builder, start, size, ir.Constant(I64, STRIP), intp=I64) as (limb, _):
        places = after(limb)
        fresh = [row(twice, place) for place in places]
        fresh[0] = builder.and_(fresh[0], builder.load(mask))
        builder.store(constant(-1), mask)
        window = [builder.load(value) for value in held] + fresh
        add_products(places, [row(sums, place) for place in places], window, STRIP)
        for value, place in zip(fresh, held, strict=True):
            builder.store(value, place)
    add_products(after(size), [constant(0)] * STRIP, [builder.load(value) for value in held], STRIP)


def _keep(builder: Any, quotient: list[Any], kept: Any, at: Any) -> None:
    for j, value in enumerate(quotient):
        builder.store(value, row_at(builder, kept, builder.add(at, ir.Constant(I64, j))), align=8)


@primitive
def strip(typing: Any, total: Any, a: Any, b: Any, at: Any, ring: Any, quotient: Any) -> Any:
    """Add ``a`` times the limbs ``b[at : at + 5]`` to ``total``; drop 5 limbs that a multiple of N clears.

    ``a`` and ``b`` are digits. The multiple is written to ``quotient[at : at + 5]``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, factor, other, kept = (
            pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 2, 5)
        )
        constants = _ring(context, builder, signature.args[4], arguments[4])
        multiple = _write_strip(builder, sums, [(factor, other)], arguments[3], constants)
        _keep(builder, multiple, kept, arguments[3])
        return context.get_dummy_value()

    return types.void(total, a, b, types.intp, ring, quotient), generate


@primitive
def strip_of_square(typing: Any, total: Any, a: Any, twice: Any, at: Any, ring: Any, quotient: Any) -> Any:
    """As :func:`strip`, for ``a * a``, so that each product of two limbs is computed once in all strips.

    ``twice`` is 2 ``a``; ``total`` has five limbs more than ``a``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, factor, doubled, kept = (
            pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 2, 5)
        )
        constants = _ring(context, builder, signature.args[4], arguments[4])
        _write_triangle(builder, sums, factor, doubled, arguments[3], constants[1])
        multiple = _write_strip(builder, sums, [], arguments[3], constants, over=True)
        _keep(builder, multiple, kept, arguments[3])
        return context.get_dummy_value()

    return types.void(total, a, twice, types.intp, ring, quotient), generate


@primitive
def strip_across(typing: Any, total: Any, a: Any, b: Any, at: Any, ring: Any) -> Any:
    """As :func:`strip`, for each digit of the batch ``a`` times the other digit of ``b``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, a_first, b_first = (pointer(context, builder, signature.args[i], arguments[i]) for i in range(3))
        constants = _ring(context, builder, signature.args[4], arguments[4])
        a_second, b_second = (row_at(builder, first, constants[1]) for first in (a_first, b_first))
        words = a_first.type
        pairs = [(a_first, builder.bitcast(b_second, words)), (builder.bitcast(a_second, words), b_first)]
        _write_strip(builder, sums, pairs, arguments[3], constants)
        return context.get_dummy_value()

    return types.void(total, a, b, types.intp, ring), generate


def _keep_limb(builder: Any, column: Any, place: Any, held: Any) -> None:
    """Store the limb of ``column`` at ``place``, and what is carried to the next one in ``held``."""
    builder.store(builder.and_(column, constant((1 << LIMB_BITS) - 1)), place, align=8)
    builder.store(builder.lshr(column, constant(LIMB_BITS)), held)


@primitive
def settle(typing: Any, total: Any, out: Any, limbs: Any) -> Any:
    """Carry along the first ``limbs`` limbs of ``total`` into ``out``, and leave zeros."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, target = (pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 1))
        held = cgutils.alloca_once_value(builder, constant(0))
        with cgutils.for_range(builder, arguments[2], intp=I64) as loop:
            place = row_at(builder, sums, loop.index)
            column = builder.add(builder.load(place, align=8), builder.load(held))
            builder.store(constant(0), place, align=8)
            _keep_limb(builder, column, row_at(builder, target, loop.index), held)
        return context.get_dummy_value()

    return types.void(total, out, types.intp), generate


@primitive
def double(typing: Any, digit: Any, out: Any, limbs: Any) -> Any:
    """Write 2 ``digit``, whose limbs are below 2^52, carried along, to ``out``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, target = (pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 1))
        held = cgutils.alloca_once_value(builder, constant(0))
        with cgutils.for_range(builder, arguments[2], intp=I64) as loop:
            limb = builder.load(row_at(builder, words, loop.index), align=8)
            column = builder.add(builder.shl(limb, constant(1)), builder.load(held))
            _keep_limb(builder, column, row_at(builder, target, loop.index), held)
        return context.get_dummy_value()

    return types.void(digit, out, types.intp), generate


@primitive
def negate(typing: Any, quotient: Any, ring: Any, total: Any) -> Any:
    """Write a multiple of N, the second row of ``ring``, less ``quotient``, limb by limb, to ``total``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, target = (pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 2))
        modulus, limbs = _ring(context, builder, signature.args[1], arguments[1])
        with cgutils.for_range(builder, limbs, intp=I64) as loop:
            multiple = builder.load(builder.gep(modulus, [builder.add(limbs, loop.index)]))
            limb = builder.load(row_at(builder, words, loop.index), align=8)
            less = builder.sub(spread(builder, multiple), limb)
            builder.store(less, row_at(builder, target, loop.index), align=8)
        return context.get_dummy_value()

    return types.void(quotient, ring, total), generate
