"""The loops of packing. They validate nothing: their callers do.

:func:`pack` and :func:`unpack_add` serve every width and every machine. With the JIT off they run as plain
Python on NumPy's scalars. Their additions may then warn of overflow, which is intended here.

With AVX2 the other two move eight coordinates at a time, which are exactly k bytes. A permutation brings
the 32-bit words that hold bits of a coordinate to its place, and shifts align them. Which words these are,
and how far they are shifted, depends on k alone: it is in a table that is computed once for each k.

No branch and no address depends on a coordinate.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from mpc.kernels import kernel

Lanes = NDArray[np.uint32] | NDArray[np.uint64]
Bytes = NDArray[np.uint8]

EIGHT = 8
"""Coordinates that are moved at a time."""

ROOM = 32
"""Bytes that are read or written at a time: the k bytes of eight coordinates, and what follows them.

What follows is ignored when it is read. When it is written, zeros are, and the next eight coordinates replace them.
"""

_ONE = np.uint64(1)
_64 = np.uint64(64)
_ONES = np.uint64(2**64 - 1)
_GONE = 32  # a shift that leaves no bit of a word
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_WORDS, _PAIRS = ir.VectorType(_I32, 8), ir.VectorType(_I64, 4)
_primitive = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)


@cache
def available() -> bool:
    """Whether loops are compiled here, for a CPU with AVX2."""
    if config.DISABLE_JIT:
        return False
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith("x86_64") and "+avx2" in features.split(",")


@kernel
def pack(lanes: Lanes, bits: int, words: NDArray[np.uint64]) -> np.uint64:
    """Writes the low ``bits`` bits of every lane to ``words``; returns the last word, which is not full."""
    width = np.uint64(bits)
    mask = _ONES >> (_64 - width)
    word, filled, at = np.uint64(0), np.uint64(0), 0
    for i in range(lanes.size):
        value = np.uint64(lanes[i]) & mask
        word |= value << filled
        filled += width
        if filled >= _64:
            words[at] = word
            at += 1
            filled -= _64
            # The bits that did not fit. Two shifts, because one shift by 64 bits is undefined.
            word = (value >> _ONE) >> (width - filled - _ONE)
    return word


@kernel
def unpack_add(words: NDArray[np.uint64], last: np.uint64, bits: int, into: Lanes) -> None:
    """Adds the coordinates in ``words``, and in ``last``, a word that is not full, to ``into``; sums wrap."""
    width = np.uint64(bits)
    mask = _ONES >> (_64 - width)
    word, left, at = np.uint64(0), np.uint64(0), 0  # ``left`` bits of the word read last are still to come
    for i in range(into.size):
        if left >= width:
            value = word
            word >>= width
            left -= width
        else:
            further = words[at] if at < words.size else last
            at += 1
            value = word | (further << left)
            # The bits that remain. Two shifts, because one shift by 64 bits is undefined.
            word = (further >> _ONE) >> (width - left - _ONE)
            left = _64 - (width - left)
        into[i] += into.dtype.type(value & mask)


@cache
def unpacking(bits: int, wide: bool) -> NDArray[np.uint32]:
    """The table of :func:`unpack_add_eights`, for lanes of 32 bits or, if ``wide``, of 64 bits.

    Eight lanes of 32 bits are one vector. Eight lanes of 64 bits are two vectors, and a lane takes two words at
    a time. For each vector the table has four rows: the words in which the coordinates begin, the words that
    follow those, how far the former are shifted down, and how far the latter are shifted up. One more row says
    at which byte each vector begins.
    """
    vectors = 2 if wide else 1
    rows = np.zeros((4 * vectors + 1, EIGHT), np.uint32)
    for vector in range(vectors):
        begin = vector * (EIGHT // vectors) * bits
        rows[-1, vector] = begin // 8
        for lane in range(EIGHT // vectors):
            word, down = divmod(begin % 8 + lane * bits, 32)
            place = vectors * lane
            for half in range(vectors):
                rows[4 * vector : 4 * vector + 2, place + half] = word + half, word + vectors + half
            rows[4 * vector + 2 : 4 * vector + 4, place] = down, 32 * vectors - down
    return rows


@cache
def packing(bits: int) -> NDArray[np.uint32]:
    """The table of :func:`pack_eights`, in pairs of rows: the lane whose bits enter each word, and its shift.

    There are as many pairs as lanes that share a word. The lanes of the first pair are shifted down, all others up.
    """
    overlaps: list[list[tuple[int, int]]] = [[] for _ in range(EIGHT)]
    for lane in range(EIGHT):
        for word in range(lane * bits // 32, (lane * bits + bits - 1) // 32 + 1):
            overlaps[word].append((lane, abs(lane * bits - 32 * word)))
    rows = np.zeros((max(map(len, overlaps)), 2, EIGHT), np.uint32)
    rows[:, 1] = _GONE
    for word, pairs in enumerate(overlaps):
        for term, (lane, shift) in enumerate(pairs):
            rows[term, :, word] = lane, shift
    return rows.reshape(-1, EIGHT)


def _instruction(builder: Any, name: str, kind: ir.VectorType) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind, kind]), name)


def _pointer(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _vector_at(builder: Any, pointer: Any, place: Any, kind: ir.VectorType) -> Any:
    return builder.bitcast(builder.gep(pointer, [place]), kind.as_pointer())


def _spread(builder: Any, number: Any, kind: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, one, zeros)


@_primitive
def _add_eight(typing: Any, data: Any, byte: Any, rows: Any, mask: Any, into: Any, at: Any) -> Any:
    """Add the eight coordinates that begin at ``data[byte]`` to ``into[at:]``."""
    wide = into.dtype == types.uint64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, letter = (_PAIRS, "q") if wide else (_WORDS, "d")
        permute = _instruction(builder, "llvm.x86.avx2.permd", _WORDS)
        down = _instruction(builder, f"llvm.x86.avx2.psrlv.{letter}.256", kind)
        up = _instruction(builder, f"llvm.x86.avx2.psllv.{letter}.256", kind)
        bytes_, table, sums = (_pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 4))
        low = _spread(builder, arguments[3] if wide else builder.trunc(arguments[3], _I32), kind)

        def row(number: int, kind: ir.VectorType) -> Any:
            place = ir.Constant(_I64, EIGHT * number)
            return builder.load(_vector_at(builder, table, place, kind), align=4)

        vectors = EIGHT // kind.count
        for vector in range(vectors):
            begin = builder.load(builder.gep(table, [ir.Constant(_I64, EIGHT * 4 * vectors + vector)]))
            place = builder.add(arguments[1], builder.zext(begin, _I64))
            words = builder.load(_vector_at(builder, bytes_, place, _WORDS), align=1)
            first, next_ = (
                builder.bitcast(builder.call(permute, [words, row(4 * vector + i, _WORDS)]), kind) for i in (0, 1)
            )
            value = builder.or_(
                builder.call(down, [first, row(4 * vector + 2, kind)]),
                builder.call(up, [next_, row(4 * vector + 3, kind)]),
            )
            lane = builder.add(arguments[5], ir.Constant(_I64, vector * kind.count))
            target = _vector_at(builder, sums, lane, kind)
            size = into.dtype.bitwidth // 8
            total = builder.add(builder.load(target, align=size), builder.and_(value, low))
            builder.store(total, target, align=size)
        return context.get_dummy_value()

    return types.void(data, types.intp, rows, types.uint64, into, types.intp), generate


@_primitive
def _write_eight(typing: Any, lanes: Any, at: Any, rows: Any, mask: Any, data: Any, byte: Any) -> Any:
    """Write ``lanes[at : at + 8]``, packed, to ``data[byte:]``, and zeros behind them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        permute = _instruction(builder, "llvm.x86.avx2.permd", _WORDS)
        down = _instruction(builder, "llvm.x86.avx2.psrlv.d.256", _WORDS)
        up = _instruction(builder, "llvm.x86.avx2.psllv.d.256", _WORDS)
        source, table, target = (_pointer(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 4))
        pairs = builder.extract_value(context.make_array(rows)(context, builder, arguments[2]).shape, 0)
        low = _spread(builder, builder.trunc(arguments[3], _I32), _WORDS)
        values = builder.and_(builder.load(_vector_at(builder, source, arguments[1], _WORDS), align=4), low)

        def term(shift: Any, number: Any) -> Any:
            place = builder.mul(number, ir.Constant(_I64, EIGHT))
            after = builder.add(place, ir.Constant(_I64, EIGHT))
            lane, far = (builder.load(_vector_at(builder, table, i, _WORDS), align=4) for i in (place, after))
            return builder.call(shift, [builder.call(permute, [values, lane]), far])

        word = cgutils.alloca_once_value(builder, term(down, ir.Constant(_I64, 0)))
        two = ir.Constant(_I64, 2)
        with cgutils.for_range_slice(builder, two, pairs, two, intp=_I64) as (number, _):
            builder.store(builder.or_(builder.load(word), term(up, number)), word)
        builder.store(builder.load(word), _vector_at(builder, target, arguments[5], _WORDS), align=1)
        return context.get_dummy_value()

    return types.void(lanes, types.intp, rows, types.uint64, data, types.intp), generate


@kernel
def pack_eights(lanes: Lanes, bits: int, rows: NDArray[np.uint32], data: Bytes) -> None:
    """Writes the low ``bits`` bits of every lane to ``data``, which has ROOM from where the last eight begin.

    The lanes have 32 bits. Their number of lanes is a multiple of eight; ``rows`` are those of :func:`packing`.
    """
    mask = _ONES >> (_64 - np.uint64(bits))
    for i in range(lanes.size // EIGHT):
        _write_eight(lanes, EIGHT * i, rows, mask, data, i * bits)


@kernel
def unpack_add_eights(data: Bytes, bits: int, rows: NDArray[np.uint32], into: Lanes) -> None:
    """Adds the coordinates in ``data`` to ``into``; sums wrap.

    ``data`` has ROOM from where the last vector begins, which the table says. The number of lanes is a multiple of
    eight; ``rows`` are those of :func:`unpacking`.
    """
    mask = _ONES >> (_64 - np.uint64(bits))
    for i in range(into.size // EIGHT):
        _add_eight(data, i * bits, rows, mask, into, EIGHT * i)
