"""AES-256 in counter mode by the processor's own instructions, for masks and for other kernels.

The stream is that of OpenSSL's AES-256-CTR with a zero initial counter block. A round is one
instruction, on one, two or four blocks at once. There is no table, and no branch and no memory address
depends on the key or the stream. Call a kernel here only if :func:`available` is true;
:mod:`mpc.masks` returns the same bits on every machine.

The CPU's name and features are part of the key of Numba's cache, and nothing else decides which
instructions are used. So a cached kernel never runs on a CPU that it was not compiled for. Numba's
cache does not notice a change of *this* file in a kernel elsewhere that calls it: when developing,
empty the cache after a change here.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from mpc._compiling import kernel

Lanes = NDArray[np.unsignedinteger[Any]]
Words = NDArray[np.uint64]

STRIDE = 64
"""How many 64-bit words of keystream are written at a time: 32 blocks."""

BUFFER = 32 * STRIDE
"""Words in a buffer of keystream: 16 KiB, half of a small first-level cache."""

_ROUNDS = 14
_IN_FLIGHT = 8  # vectors, to hide the latency of a round

_i32, _i64 = ir.IntType(32), ir.IntType(64)
_block = ir.VectorType(_i64, 2)
_primitive = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)


def available() -> bool:
    """Whether kernels are compiled here, for a CPU with AES instructions."""
    return not config.DISABLE_JIT and blocks_in_vector() > 0


def blocks_in_vector(codegen: Any = None) -> int:
    """How many blocks the target CPU, or that of ``codegen``, encrypts at once; 0 without AES instructions."""
    codegen = codegen or cpu_target.target_context.codegen()
    triple, _, features = codegen.magic_tuple()
    has = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    if not triple.startswith("x86_64") or "aes" not in has:
        return 0
    if "vaes" not in has or "avx2" not in has:
        return 1
    return 4 if "avx512f" in has else 2


def _constant(kind: ir.VectorType, values: list[int]) -> ir.Constant:
    return ir.Constant(kind, [ir.Constant(kind.element, value) for value in values])


def _function(builder: Any, name: str, kind: ir.VectorType, arity: int) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind] * arity), name)


@_primitive
def _write_stride(typing: Any, out: Any, at: Any, schedule: Any, block: Any) -> Any:
    """Write the ``STRIDE`` words of keystream from ``block`` on to ``out[at:]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        blocks = blocks_in_vector(context.codegen())
        vector = ir.VectorType(_i64, 2 * blocks)
        suffix = "" if blocks == 1 else f".{128 * blocks}"
        middle = _function(builder, f"llvm.x86.aesni.aesenc{suffix}", vector, 2)
        last = _function(builder, f"llvm.x86.aesni.aesenclast{suffix}", vector, 2)
        swap = _function(builder, f"llvm.bswap.v{2 * blocks}i64", vector, 1)
        pointers = [
            context.make_array(kind)(context, builder, array).data
            for kind, array in zip((out, schedule), (arguments[0], arguments[2]), strict=True)
        ]

        def vector_at(pointer: Any, word: Any, kind: ir.VectorType) -> Any:
            return builder.bitcast(builder.gep(pointer, [word]), kind.as_pointer())

        def spread(pair: Any) -> Any:
            return builder.shuffle_vector(pair, pair, _constant(ir.VectorType(_i32, 2 * blocks), [0, 1] * blocks))

        keys = [
            spread(builder.load(vector_at(pointers[1], ir.Constant(_i64, 2 * i), _block), align=8))
            for i in range(_ROUNDS + 1)
        ]
        # A counter is two big-endian words; the first stays zero.
        first = spread(builder.insert_element(_constant(_block, [0, 0]), arguments[3], ir.Constant(_i32, 1)))
        vectors = STRIDE // (2 * blocks)
        for start in range(0, vectors, _IN_FLIGHT):
            flight = range(start, start + _IN_FLIGHT)
            states = []
            for i in flight:
                numbers = _constant(vector, [v for j in range(blocks) for v in (0, i * blocks + j)])
                states.append(builder.xor(builder.call(swap, [builder.add(first, numbers)]), keys[0]))
            for key in keys[1:-1]:
                states = [builder.call(middle, [state, key]) for state in states]
            for i, state in zip(flight, states, strict=True):
                word = builder.add(arguments[1], ir.Constant(_i64, 2 * blocks * i))
                builder.store(builder.call(last, [state, keys[-1]]), vector_at(pointers[0], word, vector), align=8)
        return context.get_dummy_value()

    return types.void(out, types.intp, schedule, types.int64), generate


@_primitive
def _substitute(typing: Any, word: Any) -> Any:
    """SubWord of FIPS 197: the S-box on each byte of a uint32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # The last round under a key of zeros; shifting the rows of four equal columns changes nothing.
        columns = ir.VectorType(_i32, 4)
        column = builder.insert_element(_constant(columns, [0] * 4), arguments[0], ir.Constant(_i32, 0))
        state = builder.bitcast(builder.shuffle_vector(column, column, _constant(columns, [0] * 4)), _block)
        last = _function(builder, "llvm.x86.aesni.aesenclast", _block, 2)
        state = builder.call(last, [state, _constant(_block, [0, 0])])
        return builder.extract_element(builder.bitcast(state, columns), ir.Constant(_i32, 0))

    return types.uint32(types.uint32), generate


@kernel
def expand(key: NDArray[np.uint32]) -> Words:
    """The key schedule (FIPS 197, section 5.2) of a key of eight little-endian words: 15 round keys."""
    words = np.empty(4 * (_ROUNDS + 1), np.uint32)
    for i in range(key.size):
        words[i] = key[i]
    for i in range(key.size, words.size):
        word = words[i - 1]
        if i % 8 == 0:
            word = _substitute(word >> 8 | word << 24) ^ 1 << i // 8 - 1
        elif i % 8 == 4:
            word = _substitute(word)
        words[i] = words[i - 8] ^ word
    return words.view(np.uint64)


@kernel
def fill(buffer: Words, schedule: Words, block: int) -> None:
    """Fill ``buffer``, a multiple of ``STRIDE`` long, with the stream from ``block`` on."""
    for i in range(buffer.size // STRIDE):
        _write_stride(buffer, i * STRIDE, schedule, block + i * (STRIDE // 2))


@kernel
def add(vector: Lanes, keys: NDArray[np.uint32], flips: NDArray[np.int64], block: int, skipped: int) -> None:
    """Add the streams of ``keys``, a row of words each, from lane ``skipped`` of ``block`` on, to ``vector``.

    A flip is 0, or -1 to subtract the stream: a lane with all bits flipped, plus 1, is its negative.
    """
    schedules = np.empty((keys.shape[0], 2 * (_ROUNDS + 1)), np.uint64)
    for k in range(keys.shape[0]):
        schedules[k] = expand(keys[k])
    buffer = np.empty(BUFFER, np.uint64)
    lanes = buffer.view(vector.dtype)
    done = 0
    while done < vector.size:  # add all streams to one part of the vector, which stays in the cache
        count = min(lanes.size - skipped, vector.size - done)
        strides = -(-(skipped + count) * vector.itemsize // (8 * STRIDE))
        part, mask = vector[done : done + count], lanes[skipped : skipped + count]
        for k in range(keys.shape[0]):
            fill(buffer[: strides * STRIDE], schedules[k], block)
            flip = vector.dtype.type(flips[k])
            for i in range(count):
                part[i] += (mask[i] ^ flip) - flip
        done += count
        skipped = 0
        block += BUFFER // 2
