"""AES-256 in counter mode by the processor's own instructions, added to a vector.

The stream is that of OpenSSL's AES-256-CTR with a zero initial counter block. A round is one
instruction, on one, two or four blocks at once (vectors of 128, 256 or 512 bits). No buffer holds the
stream: eight vectors of the sum stay in registers while the streams of all keys are added to them, and
are then stored. There is no table, and no branch and no memory address depends on a key or a stream.

The instructions are built here, for LLVM, as one Numba kernel per width of vector. One compilation
serves both kinds of lanes, both signs and any number of keys. :func:`kernel` returns the loop; only
:mod:`mpc.masks` calls it, which first compares its results with OpenSSL's.

Numba's cache keeps kernels apart by the CPU's name and features, and by the width, which is a variable
of the enclosing function. So a kernel from the cache never runs on a CPU that it was not compiled for,
nor in the place of one of another width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from mpc import _compiling

Octets = NDArray[np.uint8]
Kernel = Callable[[Octets, int, Octets, int, int], None]

WIDTHS = (128, 256, 512)
"""Bits of a vector, for the three kinds of instructions."""

_ROUNDS = 14
_KEY_BYTES = 32
_ROW_BYTES = 256  # 15 round keys, and one more that is not used
_LAST_KEY = 16 * _ROUNDS  # where in a row the last round key begins

_IN_FLIGHT = 8  # vectors, to hide the latency of a round

_i8, _i32, _i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_8 = ir.Constant(_i32, 8)
_block = ir.VectorType(_i64, 2)
_columns = ir.VectorType(_i32, 4)
_primitive = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)

# A row as the kernel gets it: the key, zeros, and ones where the last round key of a stream goes that is
# subtracted. The kernel adds this to that round key, which inverts all bits of the stream.
_AFTER_KEY = {
    1: bytes(_ROW_BYTES - _KEY_BYTES),
    -1: bytes(_LAST_KEY - _KEY_BYTES) + b"\xff" * 16 + bytes(_ROW_BYTES - _LAST_KEY - 16),
}


def widest(codegen: Any = None) -> int:
    """The widest vector, in bits, that the target CPU, or that of ``codegen``, encrypts at once.

    It is 0 without AES instructions, and where nothing is compiled.
    """
    if config.DISABLE_JIT:
        return 0
    codegen = codegen or cpu_target.target_context.codegen()
    triple, _, features = codegen.magic_tuple()
    has = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    if not triple.startswith("x86_64") or "aes" not in has:
        return 0
    if "vaes" not in has or "avx2" not in has:
        return 128
    return 512 if "avx512f" in has else 256


def schedules(keyed: Sequence[tuple[bytes, int]]) -> Octets:
    """Room for the key schedules of keys of 32 bytes, with their signs, 1 or -1: the input of a kernel."""
    parts = [part for key, sign in keyed for part in (key, _AFTER_KEY[sign])]
    return np.frombuffer(bytearray().join(parts), np.uint8)


@cache
def kernel(bits: int) -> Kernel:
    """The loop for vectors of ``bits`` bits, which the CPU must have.

    ``add(vector, lane_bytes, schedules, block, skipped)`` adds the streams of :func:`schedules`, from
    byte ``skipped`` (below 16) of ``block`` on, to ``vector``: the bytes of lanes of 4 or 8 bytes each.
    It expands the keys in ``schedules``, so that each array of them serves one call.
    """

    @_compiling.kernel
    def add(vector: Octets, lane_bytes: int, schedules: Octets, block: int, skipped: int) -> None:
        _add_streams(vector, lane_bytes, schedules, block, skipped, bits)

    return add


@_primitive
def _add_streams(
    typing: Any, vector: Any, lane_bytes: Any, schedules: Any, block: Any, skipped: Any, bits: Any
) -> Any:
    """The whole of the kernel for vectors of ``bits`` bits."""
    if not isinstance(bits, types.IntegerLiteral):
        return None  # Numba asks again with the literal

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        part, rows = (
            context.make_array(kind)(context, builder, array)
            for kind, array in ((vector, arguments[0]), (schedules, arguments[2]))
        )
        keys = _Keys(rows.data, builder.udiv(builder.extract_value(rows.shape, 0), _word(_ROW_BYTES)))
        whole = _Octets(part.data, builder.extract_value(part.shape, 0))
        code = _Code(builder, bits.literal_value)
        subtracted = code.expand(keys)
        # Pieces begin at multiples of their length in the stream.
        ahead = builder.and_(arguments[3], _word(code.piece_bytes // 16 - 1))
        begin = builder.sub(arguments[3], ahead)
        with code.pieces(whole, builder.add(arguments[4], builder.mul(ahead, _word(16)))) as (piece, blocks):
            number = builder.add(begin, blocks)
            is_wide = builder.icmp_signed("==", arguments[1], _word(8))
            with builder.if_else(is_wide) as (then, otherwise):
                with then:
                    code.add(piece, number, keys, subtracted)
                with otherwise:
                    code.add(piece, number, keys, builder.trunc(subtracted, _i32))
        return context.get_dummy_value()

    return types.void(vector, types.int64, schedules, types.int64, types.int64, bits), generate


class _Octets(NamedTuple):
    """Bytes in memory, as values of the code that is built."""

    at: Any
    size: Any


class _Keys(NamedTuple):
    """Rows of ``_ROW_BYTES`` each, one for each key."""

    at: Any
    count: Any


def _word(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


def _constant(kind: ir.VectorType, values: Sequence[int]) -> ir.Constant:
    return ir.Constant(kind, [ir.Constant(kind.element, value) for value in values])


class _Code:
    """Builds the instructions of a kernel for vectors of ``bits`` bits, which are pairs of 64-bit words."""

    def __init__(self, builder: Any, bits: int) -> None:
        self.builder, self.bits = builder, bits
        self.vector = ir.VectorType(_i64, bits // 64)
        self.piece_bytes = _IN_FLIGHT * bits // 8
        suffix = "" if bits == 128 else f".{bits}"
        self.middle_round = self._function(f"llvm.x86.aesni.aesenc{suffix}", self.vector, 2)
        self.last_round = self._function(f"llvm.x86.aesni.aesenclast{suffix}", self.vector, 2)

    def expand(self, keys: _Keys) -> Any:
        """Replace each row by its key schedule; return how many streams are subtracted."""
        builder = self.builder
        subtracted = cgutils.alloca_once_value(builder, _word(0))
        with cgutils.for_range(builder, keys.count) as loop:
            row = builder.gep(keys.at, [builder.mul(loop.index, _word(_ROW_BYTES))])
            last = builder.bitcast(builder.gep(row, [_word(_LAST_KEY)]), _block.as_pointer())
            ones = builder.load(last, align=1)
            one = builder.and_(builder.extract_element(ones, ir.Constant(_i32, 0)), _word(1))
            builder.store(builder.add(builder.load(subtracted), one), subtracted)
            self._expand_row(builder.bitcast(row, _i32.as_pointer()))
            builder.store(builder.xor(builder.load(last, align=1), ones), last, align=1)
        return builder.load(subtracted)

    def _expand_row(self, row: Any) -> None:
        """The key schedule (FIPS 197, section 5.2): from each eight words the next eight."""
        builder = self.builder
        with cgutils.for_range(builder, _word(_ROUNDS // 2)) as loop:
            start = builder.gep(row, [builder.mul(loop.index, _word(8))])
            places = [builder.gep(start, [_word(i)]) for i in range(16)]
            words = [builder.load(place, align=1) for place in places[:8]]
            word = builder.call(self._function("llvm.fshr.i32", _i32, 3), [words[7], words[7], _8])
            word = self._substitute(word)
            word = builder.xor(word, builder.shl(ir.Constant(_i32, 1), builder.trunc(loop.index, _i32)))
            for i in range(8):
                if i == 4:
                    word = self._substitute(word)
                word = builder.xor(word, words[i])
                builder.store(word, places[8 + i], align=1)

    def _substitute(self, word: Any) -> Any:
        """SubWord of FIPS 197: the S-box on each byte of a word."""
        # The last round under a key of zeros; shifting the rows of four equal columns changes nothing.
        builder = self.builder
        state = builder.bitcast(self._spread(word, _columns), _block)
        last_round = self._function("llvm.x86.aesni.aesenclast", _block, 2)
        state = builder.call(last_round, [state, _constant(_block, [0, 0])])
        return builder.extract_element(builder.bitcast(state, _columns), ir.Constant(_i32, 0))

    @contextmanager
    def pieces(self, whole: _Octets, skipped: Any) -> Iterator[tuple[Any, Any]]:
        """Go through the pieces of a stream that lie in ``whole``, which begins at its byte ``skipped``.

        The body is built once. It gets the address of a piece, and how many blocks come before the piece. A
        piece that is only partly in ``whole`` is a copy, and that part is copied back.
        """
        builder = self.builder
        length = _word(self.piece_bytes)
        copy = builder.bitcast(
            cgutils.alloca_once(builder, ir.ArrayType(_i8, self.piece_bytes), zfill=True), _i8.as_pointer()
        )
        stop = builder.add(whole.size, skipped)
        with cgutils.for_range_slice(builder, _word(0), stop, length, _i64) as (start, _):
            # From here on, places are counted from the beginning of ``whole``.
            begin = builder.sub(start, skipped)
            end = builder.add(begin, length)
            first = builder.select(builder.icmp_signed("<", begin, _word(0)), _word(0), begin)
            last = builder.select(builder.icmp_signed("<", end, whole.size), end, whole.size)
            count = builder.sub(last, first)
            is_part = builder.icmp_signed("!=", count, length)
            inside = builder.gep(whole.at, [first])
            outside = builder.gep(copy, [builder.sub(first, begin)])
            with builder.if_then(is_part, likely=False):
                cgutils.raw_memcpy(builder, outside, inside, count, 1)
            yield builder.select(is_part, copy, inside), builder.lshr(start, _word(4))
            with builder.if_then(is_part, likely=False):
                cgutils.raw_memcpy(builder, inside, outside, count, 1)

    def add(self, piece: Any, block: Any, keys: _Keys, subtracted: Any) -> None:
        """Add the streams of all ``keys`` to a piece, in lanes of the type of ``subtracted``."""
        builder = self.builder
        lanes = ir.VectorType(subtracted.type, self.bits // subtracted.type.width)
        vectors = range(_IN_FLIGHT)
        places = [builder.gep(builder.bitcast(piece, lanes.as_pointer()), [_word(i)]) for i in vectors]
        first, others = self._counters(block)
        sums = [cgutils.alloca_once(builder, lanes) for _ in vectors]  # LLVM makes registers of these
        states = [cgutils.alloca_once(builder, self.vector) for _ in vectors]
        # A stream that is subtracted comes with all bits inverted, which is its negative less 1.
        ones = self._spread(subtracted, lanes)
        for total, place in zip(sums, places, strict=True):
            builder.store(builder.load(place, align=1), total)
        with builder.if_then(builder.icmp_signed("!=", subtracted, ir.Constant(subtracted.type, 0))):
            for total in sums:
                builder.store(builder.add(builder.load(total), ones), total)
        with cgutils.for_range(builder, keys.count) as loop:
            row = builder.gep(keys.at, [builder.mul(loop.index, _word(_ROW_BYTES))])
            begun = builder.xor(first, self._round_key(row, _word(0)))
            for state, number in zip(states, others, strict=True):
                builder.store(builder.xor(begun, number), state)
            with cgutils.for_range(builder, _word(_ROUNDS - 1)) as rounds:
                key = self._round_key(row, builder.add(rounds.index, _word(1)))
                for state in states:
                    builder.store(builder.call(self.middle_round, [builder.load(state), key]), state)
            last_key = self._round_key(row, _word(_ROUNDS))
            for state, total in zip(states, sums, strict=True):
                stream = builder.call(self.last_round, [builder.load(state), last_key])
                builder.store(builder.add(builder.load(total), builder.bitcast(stream, lanes)), total)
        for total, place in zip(sums, places, strict=True):
            builder.store(builder.load(total), place, align=1)

    def _counters(self, block: Any) -> tuple[Any, list[ir.Constant]]:
        """The first counter of a piece, repeated, and what the counters of each vector differ from it by.

        A counter is two big-endian words, of which the first stays zero. That of the first block ends in
        zeros, so the last byte alone changes, and nothing is carried.
        """
        builder, blocks = self.builder, self.bits // 128
        swapped = builder.call(self._function("llvm.bswap.i64", _i64, 1), [block])
        first = self._repeat(builder.insert_element(_constant(_block, [0, 0]), swapped, ir.Constant(_i32, 1)))
        numbers = [[vector * blocks + i for i in range(blocks)] for vector in range(_IN_FLIGHT)]
        return first, [_constant(self.vector, [word for n in some for word in (0, n << 56)]) for some in numbers]

    def _round_key(self, row: Any, number: Any) -> Any:
        place = self.builder.gep(self.builder.bitcast(row, _block.as_pointer()), [number])
        return self._repeat(self.builder.load(place, align=1))

    def _repeat(self, block: Any) -> Any:
        """A vector of equal blocks."""
        places = _constant(ir.VectorType(_i32, self.bits // 64), [0, 1] * (self.bits // 128))
        return self.builder.shuffle_vector(block, block, places)

    def _spread(self, lane: Any, kind: ir.VectorType) -> Any:
        """A vector of equal lanes."""
        only = self.builder.insert_element(_constant(kind, [0] * kind.count), lane, ir.Constant(_i32, 0))
        return self.builder.shuffle_vector(only, only, _constant(ir.VectorType(_i32, kind.count), [0] * kind.count))

    def _function(self, name: str, kind: Any, arity: int) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(kind, [kind] * arity), name)
